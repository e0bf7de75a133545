"""Hosts, workers, two redis-servers and the proxy before them, all real processes.

A host is a segment's name, and a front of the proxy of its own: so a host can be cut
off while another is not. The second redis-server is a replica of the first; a failover
makes it the master, points the fronts at it, and starts the other anew as its replica.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.chaos.clockstep import ClockStep
from tests.chaos.journal import Fault, History, dump, load, now
from tests.chaos.proxy import PASS, ProxyProcess
from tests.chaos.schedule import LINK, Event
from tests.chaos.worker import Settings
from tests.helpers import SHM, free_port, python, segment_name, shm_names, until
from tests.redis_server import RedisServer

STOP_SECONDS = 40.0
"""For all workers to stop."""
SMALL = 1 << 20
"""maxmemory, below what an empty redis-server has taken already."""


class WorkerProcess:
    """One worker, and those that took its place one after another."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self._folder = folder
        self._lives = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.journals: list[tuple[Path, str, str]] = []

    @property
    def name(self) -> str:
        """Of the present life."""
        return self.journals[-1][2]

    def start(self) -> None:
        self._lives += 1
        name = f"{self._settings.worker}.{self._lives}"
        path = self._folder / f"{name}.jsonl"
        self.journals.append((path, self._settings.host, name))
        life = asdict(self._settings) | {
            "worker": name,
            "journal": str(path),
            "seed": self._settings.seed + self._lives,
        }
        with (self._folder / f"{name}.log").open("wb") as log:
            self.process = python(
                *("-m", "tests.chaos.worker", json.dumps(life)),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def ready(self) -> bool:
        return b"ready" in (self._folder / f"{self.name}.log").read_bytes()

    @property
    def log(self) -> str:
        return (self._folder / f"{self.name}.log").read_text()

    def kill(self) -> int:
        """SIGKILL; when it was surely dead."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self._hang_up()
        return now()

    def tell_to_stop(self) -> None:
        assert self.process is not None and self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()

    def wait(self, seconds: float) -> int | None:
        """Its exit code; None: it had to be killed."""
        assert self.process is not None
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def signal(self, number: int) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def _hang_up(self) -> None:
        assert self.process is not None and self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()


class Fleet:
    """The processes of one run, and what befalls them, written down."""

    def __init__(
        self, folder: Path, *, hosts: int, workers: int, seed: int, **settings: Any
    ) -> None:
        self.folder = folder
        self.history = History()
        self.step = ClockStep.build(folder)
        self.hosts = [segment_name() for _ in range(hosts)]
        self._stack = ExitStack()
        self._seed = seed
        self._per_host = workers
        self._settings = settings
        self._stopped: dict[tuple[int, int], str] = {}

    # -- life

    def start(self) -> None:
        """Everything, until every worker works."""
        self.master, self.spare = (self._redis(str(i)) for i in range(2))
        self.spare.command("REPLICAOF", "127.0.0.1", self.master.port)
        self.proxy = ProxyProcess()
        self._stack.callback(self.proxy.close)
        for host in self.hosts:
            self.proxy.open(self._address(self.master))
            self._stack.callback(self._remove, host)
        app = self.hosts[0]
        self.workers = [
            [self._worker(i, j, app) for j in range(self._per_host)]
            for i in range(len(self.hosts))
        ]
        every = self._every()
        for worker in every:
            worker.start()
            self._stack.callback(worker.wait, 0)
        until(lambda: all(w.ready for w in every), 30, "every worker ready")

    def stop(self) -> None:
        """Tell all workers to stop, wait, and read their journals."""
        for worker in self._every():
            worker.tell_to_stop()
        deadline = time.monotonic() + STOP_SECONDS
        for worker in self._every():
            code = worker.wait(max(0.0, deadline - time.monotonic()))
            if code != 0:
                self.history.ended.discard(worker.name)
                print(f"worker {worker.name}: exit code {code}\n{worker.log}")
        for worker in self._every():
            load(worker.journals, self.history)
        dump(self.history, self.folder / "faults.jsonl")

    def close(self) -> None:
        self._stack.close()

    def missing(self) -> list[str]:
        """Workers that did not stop as they should."""
        return [w.name for w in self._every() if w.name not in self.history.ended]

    def _every(self) -> list[WorkerProcess]:
        return [worker for host in self.workers for worker in host]

    def _redis(self, name: str) -> RedisServer:
        folder = self.folder / f"redis{name}"
        folder.mkdir()
        flags = ("--maxmemory-policy", "noeviction", "--repl-diskless-sync", "yes",
                 "--repl-diskless-sync-delay", "0")  # fmt: skip
        server = RedisServer(folder, free_port(), *flags)
        self._stack.callback(server.kill)
        with self.step.preloaded():
            server.start()
        return server

    def _worker(self, host: int, worker: int, app: str) -> WorkerProcess:
        number = host * self._per_host + worker
        settings = Settings(
            host=self.hosts[host],
            worker=f"{'abcdefgh'[host]}{worker}",
            app=app,
            l2=f"redis://127.0.0.1:{self.proxy.ports[host]}/0",
            journal="",
            seed=(self._seed * 1000 + number) * 1000,
            **self._settings,
        )
        return WorkerProcess(settings, self.folder)

    @staticmethod
    def _address(redis: RedisServer) -> str:
        return str(redis.socket)

    @staticmethod
    def _remove(segment: str) -> None:
        for name in shm_names(segment):
            (SHM / name).unlink(missing_ok=True)

    # -- faults

    def begin(self, event: Event) -> None:
        """What an event does first."""
        match event.kind:
            case "kill":
                self._kill(event.host, event.worker)
            case "kill_host":
                self._kill_host(event.host)
            case "stop":
                self.workers[event.host][event.worker].signal(signal.SIGSTOP)
                where = event.host, event.worker
                self._stopped[where] = self.workers[event.host][event.worker].name
            case "redis_stop":
                self.master.stop()
            case "redis_restart":
                self.master.kill()
            case "flushall":
                self.master.command("FLUSHALL")
            case "script_flush":
                self.master.command("SCRIPT", "FLUSH")
            case "client_kill":
                for kind in ("normal", "pubsub"):
                    self.master.command("CLIENT", "KILL", "TYPE", kind)
            case "failover":
                self._failover()
            case "maxmemory":
                self.master.command("CONFIG", "SET", "maxmemory", SMALL)
            case "clock":
                self.step.set(event.amount)
            case kind:
                for front in self._fronts(event):
                    self.proxy.fault(front, kind, event.amount)

    def end(self, event: Event, began: int) -> None:
        """What it does last; it is written down."""
        touched, target = 0, f"host {event.host}" if event.host >= 0 else "all"
        match event.kind:
            case "stop":
                where = event.host, event.worker
                target = self._stopped.pop(where)
                if self.workers[event.host][event.worker].name == target:
                    self.workers[event.host][event.worker].signal(signal.SIGCONT)
            case "redis_stop":
                self.master.cont()
            case "redis_restart":
                with self.step.preloaded():
                    self.master.start()
                self.spare.command("REPLICAOF", "127.0.0.1", self.master.port)
            case "maxmemory":
                self.master.command("CONFIG", "SET", "maxmemory", 0)
            case "clock":
                self.step.set(0.0)
            case kind if kind not in _AT_ONCE:
                fronts = self._fronts(event)
                touched = sum(self.proxy.fault(front, PASS) for front in fronts)
        link = event.kind in LINK or event.kind == "kill_host"
        self.history.faults.append(
            Fault(event.kind, target, began, now(), link, touched)
        )

    def _fronts(self, event: Event) -> list[int]:
        return list(range(len(self.hosts))) if event.host < 0 else [event.host]

    def _kill(self, host: int, index: int) -> None:
        worker = self.workers[host][index]
        self.history.deaths[worker.name] = worker.kill()
        worker.start()

    def _kill_host(self, host: int) -> None:
        """All of its workers at once, then others in their place: the segment stays,
        and nobody has followed the stream meanwhile."""
        for worker in self.workers[host]:
            self.history.deaths[worker.name] = worker.kill()
        for worker in self.workers[host]:
            worker.start()

    def _failover(self) -> None:
        """The replica is promoted, as it stands; the old master comes back as its
        replica."""
        self.spare.command("REPLICAOF", "NO", "ONE")
        for front in range(len(self.hosts)):
            self.proxy.point(front, self._address(self.spare))
        self.master, self.spare = self.spare, self.master
        self.spare.command("REPLICAOF", "127.0.0.1", self.master.port)


_AT_ONCE = {"kill", "kill_host", "flushall", "script_flush", "client_kill", "failover"}


@contextmanager
def fleet(folder: Path, **settings: Any) -> Iterator[Fleet]:
    """A running fleet; whatever happens, nothing of it is left."""
    running = Fleet(folder, **settings)
    try:
        running.start()
        yield running
    finally:
        running.close()
