"""Processes that open one Cache by name: one segment, one compute a key."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import python, segment_name, shm_names, until
from tests.redis_server import redis_server

PEER = Path(__file__).with_name("peer.py")


class Peer:
    """A process with the cache open; an order is answered in the background."""

    def __init__(self, name: str, *l2: str) -> None:
        self.process = python(
            str(PEER),
            name,
            *l2,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid
        self._pool = ThreadPoolExecutor(1)

    def read(self) -> Any:
        return json.loads(self.process.stdout.readline() or '"DIED"')

    def start(self, verb: str, **order: Any) -> Future[Any]:
        print(json.dumps({"do": verb, **order}), file=self.process.stdin, flush=True)
        return self._pool.submit(self.read)

    def do(self, verb: str, **order: Any) -> Any:
        return self.start(verb, **order).result(10)

    def end(self) -> int:
        """Exit code of a process that was told that there is no more."""
        if self.process.stdin.closed:
            return self.process.returncode
        self.process.stdin.close()
        try:
            return self.process.wait(10)
        finally:
            self.process.kill()
            self._pool.shutdown()
            self.process.stdout.close()


class Hosts:
    """Processes on segments of their own, as on hosts of their own."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.peers: list[Peer] = []

    def start(self, n: int, *fleet: str) -> list[Peer]:
        """So many processes on one more segment; `fleet` is L2's URL and the app."""
        name = segment_name()
        self.names.append(name)
        started = [Peer(name, *fleet) for _ in range(n)]
        self.peers += started
        assert [peer.read() for peer in started] == ["ready"] * n
        return started

    def end(self) -> None:
        """The last process to close a segment removes it."""
        codes = {peer.end() for peer in self.peers}
        assert codes <= {0, -signal.SIGKILL}
        assert not any(shm_names(name) for name in self.names)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    hosts = Hosts()
    yield hosts
    hosts.end()


class Compute:
    """The file and the FIFO by which a compute function is watched and held."""

    def __init__(self, folder: Path) -> None:
        self.started, self.gate = folder / "started", folder / "gate"
        os.mkfifo(self.gate)
        self.order = {"started": str(self.started), "gate": str(self.gate)}

    def pids(self) -> list[int]:
        if not self.started.exists():
            return []
        return [int(line) for line in self.started.read_text().split()]

    def let_go(self) -> None:
        """Waits for the compute to come to the gate, then opens it."""
        self.gate.open("w").close()


def test_set_in_one_process_peek_in_another(hosts) -> None:
    one, other = hosts.start(2)
    assert other.do("peek", key="btc") == "MISSING"
    one.do("set", key="btc", value={"price": 1})
    assert other.do("peek", key="btc") == {"price": 1}


def test_delete_in_one_process_is_a_miss_in_another(hosts) -> None:
    one, other = hosts.start(2)
    one.do("set", key="btc", value=1)
    assert other.do("peek", key="btc") == 1
    one.do("delete", key="btc")
    assert other.do("peek", key="btc") == "MISSING"
    assert other.do("get", key="btc") == "MISSING"


def test_cold_key_in_four_processes_one_compute(hosts, tmp_path) -> None:
    compute = Compute(tmp_path)
    four = hosts.start(4)
    answers = [p.start("get_or_set", key="btc", **compute.order) for p in four]
    until(compute.pids, 5, "the compute")
    compute.let_go()
    assert [a.result(10) for a in answers] == [{"computed by": compute.pids()[0]}] * 4
    assert len(compute.pids()) == 1


def test_killed_computing_process_another_goes_on(hosts, tmp_path, measured) -> None:
    compute = Compute(tmp_path)
    four = hosts.start(4)
    answers = {p: p.start("get_or_set", key="btc", **compute.order) for p in four}
    first = until(compute.pids, 5, "the compute")[0]
    os.kill(first, signal.SIGKILL)
    killed = time.monotonic()
    until(lambda: len(compute.pids()) == 2, 1, "another process computing")
    took = time.monotonic() - killed
    measured(f"computing process killed, another took over after {took:.3f} s")
    compute.let_go()
    rest = [a.result(10) for p, a in answers.items() if p.pid != first]
    assert rest == [{"computed by": compute.pids()[1]}] * 3
    assert len(compute.pids()) == 2


def test_cold_key_on_two_hosts_one_compute(hosts, tmp_path) -> None:
    compute = Compute(tmp_path)
    with redis_server() as redis:
        fleet = (redis.url, segment_name())
        four = [*hosts.start(2, *fleet), *hosts.start(2, *fleet)]
        answers = [p.start("get_or_set", key="btc", **compute.order) for p in four]
        compute.let_go()
        came = [a.result(10) for a in answers]
        hosts.end()
    assert came == [{"computed by": compute.pids()[0]}] * 4
    assert len(compute.pids()) == 1


def test_delete_on_one_host_reaches_the_other(hosts) -> None:
    with redis_server() as redis:
        fleet = (redis.url, segment_name())
        (one,), (other,) = hosts.start(1, *fleet), hosts.start(1, *fleet)
        one.do("set", key="btc", value=1)
        assert other.do("get", key="btc") == 1
        one.do("delete", key="btc")
        until(lambda: other.do("peek", key="btc") == "MISSING", 2, "the delete")
        hosts.end()
