"""The admin listener: the host's counters, told to this machine alone."""

from __future__ import annotations

import http.client
import json

import pytest

from shmcache_server.config import loopback
from tests.helpers import free_port, get, served


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("example.org", False),
        ("", False),
    ],
)
def test_loopback_is_this_machine_only(host, own) -> None:
    assert loopback(host) is own


def test_admin_tells_the_counters_of_the_host(tmp_path) -> None:
    port = free_port()
    flags = ("--admin", f"127.0.0.1:{port}")
    with served(tmp_path / "log", "http://127.0.0.1:1", flags=flags) as server:
        assert server.get("/nowhere").status == 502
        stats = json.loads(get(port, "/stats").body)
        assert stats["counters"]["compute_errors"] == 1
        assert (stats["processes"], stats["l2"]) == (2, "none")
        assert get(port, "/healthz").status == 200
        assert get(port, "/nowhere").status == 404
        assert server.get("/stats").status == 502  # the origin's, not ours

        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/stats", headers={"Host": "example.org"})
        assert connection.getresponse().status == 421
        connection.close()
