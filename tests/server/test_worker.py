"""A worker that cannot start, beside one that can."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
from pathlib import Path

import pytest
import uvloop

from shmcache_server.worker import Worker, often
from tests.helpers import children, end, free_port, get, python, segment_name, until

CONF = """
from shmcache_server.arbiter import settings
from shmcache_server.config import load

ours = settings(load({toml!r}))
hand_in = ours["post_fork"]

def post_fork(server, worker):
    hand_in(server, worker)
    if worker.age in {broken}:
        worker.settings = ("not a", "configuration")

globals().update(ours | {{"post_fork": post_fork}})
"""


def start(tmp_path: Path, broken: object, loop: str = "uvloop"):
    """A server of two workers; those of these ages are given no settings."""
    port = free_port()
    toml, conf = tmp_path / "s.toml", tmp_path / "gunicorn.conf.py"
    toml.write_text(
        f'[server]\nbind = "127.0.0.1:{port}"\nloop = "{loop}"\n[l2]\nurl = "none"\n'
        f'[origin]\nurl = "http://127.0.0.1:1"\n[l1]\nname = "{segment_name()}"\n'
    )
    conf.write_text(CONF.format(toml=str(toml), broken=broken))
    log = tmp_path / "log"
    with log.open("w") as out:
        process = python(
            "-m", "gunicorn", "-c", str(conf), stdout=out, stderr=subprocess.STDOUT
        )
    return process, port, log


def ready(port: int) -> bool:
    try:
        return get(port, "/readyz", timeout=1).status == 200
    except OSError:
        return False


def test_worker_that_fails_to_start_leaves_the_others(tmp_path) -> None:
    process, port, log = start(tmp_path, broken=(1,))
    try:
        until(lambda: "exited with code 1" in log.read_text(), 20, "its end")
        assert ready(port)
        until(lambda: "Booting" in log.read_text().split("code 1")[1], 5, "a new one")
        until(lambda: len(children(process.pid)) == 2, 5)
    finally:
        assert end(process) == 0
    text = log.read_text()
    assert text.count("failed to start: AttributeError") == 1
    assert "Traceback" not in text and "Shutting down: Master" in text


def test_workers_that_all_fail_do_not_spin(tmp_path) -> None:
    process, _, log = start(tmp_path, broken=range(1, 1000))
    try:
        until(lambda: log.read_text().count("failed to start") >= 4, 20, "two rounds")
        # Two workers, each a second apart: a hot loop would have made hundreds.
        assert log.read_text().count("failed to start") <= 8
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_worker_on_asyncio_serves_too(tmp_path) -> None:
    process, port, log = start(tmp_path, broken=(), loop="asyncio")
    try:
        until(lambda: ready(port), 20)
        assert "PlainWorker" in log.read_text()
        assert get(port, "/").status == 502
    finally:
        assert end(process) == 0


def test_stop_during_the_start_is_prompt(tmp_path) -> None:
    """1. a worker is forked; 2. the stop arrives before its loop hears signals."""
    process, _, log = start(tmp_path, broken=())
    until(lambda: children(process.pid), 20, "the first worker")
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 0
    assert "Traceback" not in log.read_text()


async def taken_in_turns(turns: int, times: int) -> list[int]:
    """How many of the connections that wait are taken in each turn of the loop."""
    taken = 0

    class Taken(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            nonlocal taken
            taken += 1

    loop, found = asyncio.get_running_loop(), []
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        where = listener.getsockname()
        servers = [
            await loop.create_server(Taken, sock=one) for one in often(listener, times)
        ]
        clients = [socket.create_connection(where) for _ in range(64)]
        for _ in range(turns):
            before = taken
            await asyncio.sleep(0)
            found.append(taken - before)
        for one in (*servers, *clients):
            one.close()
    return found


@pytest.mark.parametrize("times", [1, Worker.accepts])
def test_waiting_connections_are_taken_several_in_a_turn(times: int) -> None:
    """uvloop takes one of a descriptor; a turn beside a busy crowd is milliseconds."""
    found = uvloop.run(taken_in_turns(6, times))
    assert found[1:] == [times] * 5
