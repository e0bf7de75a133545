"""Servers of the benchmark: they answer, are asked by a crowd, and end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from loadtest.peers import processes
from loadtest.peers.crowd import crowd
from loadtest.peers.document import document, path
from loadtest.peers.rounds import stage
from loadtest.peers.servers import Place, fetch, filled, running
from loadtest.peers.wrk import Failed
from tests.helpers import free_port, until


def test_floor_answers_a_crowd_and_ends() -> None:
    with running("floor", Place(origin=0, size=100)) as server:
        with crowd(server.port, path(100), 50, 100) as seconds:
            assert 0 < seconds < 20
        assert server.memory_bytes() > 1 << 20
        assert processes.cpu_seconds(server.processes()) > 0
    assert not Path(f"/proc/{server.pid}").exists() and not server.folder.exists()


def test_origin_counts_all_but_the_count() -> None:
    allowed = os.sched_getaffinity(0)
    assert len(allowed) > 1, "needs two cores, as the benchmark does"
    with stage(rounds=1, seconds=1) as at:
        before = at.count()
        assert fetch(at.origin, path(1024, "k7")) == document(1024)
        assert fetch(at.origin, "/none") == b""
        until(lambda: at.count() == before + 2)
    assert os.sched_getaffinity(0) == allowed


def test_crowd_that_is_refused_fails() -> None:
    with pytest.raises(Failed), crowd(free_port(), "/", 1, 1):
        pass


@pytest.mark.parametrize("name", ["nginx.conf", "default.vcl"])
def test_configuration_is_filled(name: str, tmp_path: Path) -> None:
    files = dict(SENDFILE="on", NOPUSH="on", OPEN_FILES="off")
    text = filled(name, Place(origin=81, size=100), tmp_path, **files).read_text()
    assert "@" not in text.replace("@NAMES@", "").replace("@ORIGIN@ is set", "")
    assert "81" in text
