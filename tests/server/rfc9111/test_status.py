from __future__ import annotations

import http_sf
import pytest

from shmcache_server.rfc9111 import status


@pytest.mark.parametrize(
    ("told", "parameters"),
    [
        (status.hit(29.9), {"hit": True, "ttl": 29}),
        (status.hit(-0.1), {"hit": True, "ttl": -1}),
        (status.hit(-5), {"hit": True, "ttl": -5}),
        (status.forwarded("miss"), {"fwd": "miss"}),
        (status.BYPASS, {"fwd": "bypass"}),
        (status.METHOD, {"fwd": "method"}),
        (status.forwarded(stored=True), {"fwd": "miss", "stored": True}),
        (status.forwarded(collapsed=True), {"fwd": "miss", "collapsed": True}),
        (status.forwarded("stale", stored=True), {"fwd": "stale", "stored": True}),
    ],
)
def test_status_is_a_structured_field(told, parameters) -> None:
    ((name, found),) = http_sf.parse(told.encode(), name="cache-status", tltype="list")
    assert str(name) == "shmcache"
    assert {
        k: v if isinstance(v, (bool, int)) else str(v) for k, v in found.items()
    } == (parameters)
    written = http_sf.ser([(http_sf.Token("shmcache"), dict(found))])
    assert told.replace("; ", ";") == written
