"""Processes that open one Cache by name, as a test orders them about."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.helpers import python, segment_name, shm_names

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
