"""A clean stop leaves nothing: no segment, no socket, no process."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.helpers import (
    ROOT,
    Server,
    alive,
    attached,
    descendants,
    end,
    free_port,
    get,
    python,
    shm_names,
    until,
)
from tests.processes.conftest import Origin


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT], ids=["term", "int"])
@pytest.mark.parametrize("l2", ["none", "embedded"])
def test_clean_stop_leaves_nothing(tmp_path, origin: Origin, how, l2) -> None:
    server = Server(origin.url, l2=l2)
    server.start(tmp_path / "server.log")
    family = descendants(server.process.pid)
    try:
        assert server.get(origin.path()).status == 200
        assert shm_names(server.name)
        # Two workers; the embedded Redis and its keeper.
        assert len(family) == (4 if l2 == "embedded" else 2)
        os.kill(server.process.pid, how)
        assert server.process.wait(10) == 0
        until(lambda: not any(map(alive, family)), 2, "no process left")
        assert not shm_names(server.name)
    finally:
        end(server.process)
        server.clean(family)


def test_stop_breaks_off_what_does_not_end(tmp_path, origin: Origin) -> None:
    settings = tmp_path / "shmcache.toml"
    settings.write_text("[server]\ngraceful_timeout = 2\n")
    server = Server(origin.url, flags=("--config", str(settings)))
    server.start(tmp_path / "server.log")
    path = origin.path(delay=6)
    with ThreadPoolExecutor(1) as clients:
        asked = clients.submit(server.get, path)
        until(lambda: origin.count(path), 5, "the request under way")
        server.stop()
        with pytest.raises(http.client.RemoteDisconnected):
            asked.result(5)
    log = server.log.read_text()
    assert log.count("Worker exiting") == 2 and "Traceback" not in log


def test_make_serve_ends_at_ctrl_c_and_leaves_nothing(origin: Origin) -> None:
    """What `make serve ORIGIN=...` runs."""
    port = free_port()
    segment = f"-127.0.0.1-{port}"
    script, bind = str(ROOT / "loadtest" / "serve.py"), f"127.0.0.1:{port}"
    command = (script, "--origin", origin.url, "--bind", bind)
    with python(*command, stdout=subprocess.PIPE, text=True) as process:
        try:
            told = "".join(iter(process.stdout.readline, "  Ctrl-C stops it.\n"))
            path = origin.path()
            until(lambda: get(port, path).hit, 5, "a hit")
            until(lambda: attached(segment) == 2, 5, "both workers")
            family = descendants(process.pid)
            process.send_signal(signal.SIGINT)
            assert process.wait(15) == 0
        finally:
            process.kill()
    assert f"curl -i http://{bind}" in told
    until(lambda: not any(map(alive, family)), 2, "no process left")
    assert not shm_names(segment)


def test_killed_master_leaves_no_process(tmp_path, origin: Origin) -> None:
    server = Server(origin.url, l2="embedded")
    server.start(tmp_path / "server.log")
    family = descendants(server.process.pid)
    try:
        server.process.kill()
        server.process.wait()
        until(lambda: not any(map(alive, family)), 5, "no process left")
    finally:
        server.clean(family)
