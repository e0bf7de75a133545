"""What tests share: ports, deadlines, /proc, an origin, a running server."""

from __future__ import annotations

import asyncio
import http.client
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parent.parent
SHM = Path("/dev/shm")
T = TypeVar("T")


def until(probe: Callable[[], T], within: float = 5.0, what: str = "") -> T:
    """The first truthy answer of `probe`, asked every 5 ms; fails after `within`."""
    deadline = time.monotonic() + within
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s: {what or probe}")
        time.sleep(0.005)


class Origin:
    """A compute function that counts its calls; with `hold` it answers when it is
    let, by `gate`. An exception is raised; of several answers the last one stays."""

    def __init__(self, *answers: Any, hold: bool = False) -> None:
        self.answers = list(answers)
        self.calls = 0
        self.started = asyncio.Event()
        self.gate = asyncio.Event()
        if not hold:
            self.gate.set()

    async def __call__(self) -> Any:
        self.calls += 1
        self.started.set()
        await self.gate.wait()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def free_port() -> int:
    """A port of the loopback that nobody listens on just now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def segment_name() -> str:
    """A name that no other test, run or user has."""
    return f"test-{os.getpid()}-{secrets.token_hex(4)}"


def shm_names(segment: str) -> set[str]:
    """What stands in /dev/shm for a segment: itself and its wake sockets."""
    return {p.name for p in SHM.iterdir() if segment in p.name}


def attached(segment: str) -> int:
    """How many processes have a wake socket there: workers that run their loop, and
    hear a signal. Those of segments beside it are not counted."""
    return sum(f"{segment}~" in name for name in shm_names(segment))


# --- /proc ------------------------------------------------------------------------


def children(pid: int) -> list[int]:
    """Direct children, zombies left out."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except FileNotFoundError:
        return []
    return [int(p) for p in text.split() if alive(int(p))]


def alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def descendants(pid: int) -> list[int]:
    """Children, their children, and so on."""
    found = children(pid)
    return found + [p for child in found for p in descendants(child)]


def connections(pid: int, *, local: int = 0, remote: int = 0) -> set[int]:
    """The far (`local` given) or near (`remote` given) ports of a process' established
    TCP connections at its port `local`, or to the port `remote`."""
    inodes = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(os.readlink(fd))
        except FileNotFoundError:
            continue
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        columns = line.split()
        near, far = (int(columns[i].split(":")[1], 16) for i in (1, 2))
        if columns[3] != "01" or f"socket:[{columns[9]}]" not in inodes:
            continue
        if local and near == local:
            found.add(far)
        if remote and far == remote:
            found.add(near)
    return found


# --- HTTP -------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float

    @property
    def cache_status(self) -> str:
        return self.headers.get("cache-status", "")

    @property
    def hit(self) -> bool:
        return "; hit" in self.cache_status


def get(port: int, path: str, timeout: float = 10.0, **headers: str) -> Answer:
    """GET over a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    began = time.monotonic()
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    fields = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, fields, body, time.monotonic() - began)


def answers(port: int, path: str) -> bool:
    try:
        return get(port, path, timeout=1).status == 200
    except (OSError, http.client.HTTPException):
        return False


# --- processes --------------------------------------------------------------------


def python(*args: str, **options: Any) -> subprocess.Popen[Any]:
    """This Python with the project importable, in a session of its own."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "server")])
    env = {**os.environ, "PYTHONPATH": path}
    env.pop("SHMCACHE_L2", None)
    env.update(options.pop("env", {}))
    return subprocess.Popen(
        [sys.executable, *args], cwd=ROOT, env=env, start_new_session=True, **options
    )


def end(process: subprocess.Popen[Any], within: float = 10.0) -> int:
    """SIGTERM, then SIGKILL to the whole session if it outlives `within`."""
    if process.poll() is None:
        process.terminate()
    try:
        return process.wait(within)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise


@dataclass
class Server:
    """`shmcache serve` with its workers, on a port and a segment of its own."""

    origin: str
    workers: int = 2
    l2: str = "none"
    flags: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)
    name: str = field(default_factory=segment_name)

    def start(self, log: Path) -> None:
        self.log = log
        with log.open("wb") as out:
            self.process = python(
                *("-m", "shmcache_server", "serve", "--origin", self.origin),
                *("--bind", f"127.0.0.1:{self.port}", "--workers", str(self.workers)),
                *("--l1-size", "64MiB", "--l1-name", self.name, "--l2", self.l2),
                *self.flags,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        try:
            until(self._up, 20, "the server and all its workers ready")
        except BaseException as e:  # Ctrl-C, too
            family = descendants(self.process.pid)
            self.process.kill()
            self.process.wait()
            self.clean(family)
            if not isinstance(e, AssertionError):
                raise
            raise AssertionError(f"{e}\n{log.read_text()}") from None

    def _up(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"exit code {self.process.returncode}")
        return answers(self.port, "/readyz") and attached(self.name) == self.workers

    def pids(self) -> list[int]:
        """The workers: children of the master that run Python."""
        return [p for p in children(self.process.pid) if "redis" not in _comm(p)]

    def get(self, path: str, **headers: str) -> Answer:
        return get(self.port, path, **headers)

    def warm(self, path: str) -> Answer:
        """The first hit: an answer reaches its client before it is stored."""
        return until(lambda: (a := self.get(path)).hit and a, 5, "a hit")

    def stop(self) -> None:
        """SIGTERM; fails if it takes long or leaves anything, which is removed."""
        family = descendants(self.process.pid)
        try:
            code = end(self.process)
            assert code == 0, f"exit code {code}"
            assert not any(map(alive, family))
            left = shm_names(self.name)
            assert not {name for name in left if not name.endswith(".limits")}
        finally:
            self.clean(family)

    def clean(self, family: list[int]) -> None:
        """Remove what a killed server leaves."""
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for name in shm_names(self.name):
            (SHM / name).unlink(missing_ok=True)


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


@contextmanager
def served(log: Path, origin: str, **settings: Any) -> Iterator[Server]:
    """A running `Server`, stopped at the end; its log is shown if the test fails."""
    server = Server(origin, **settings)
    server.start(log)
    try:
        yield server
        server.stop()
    except BaseException:
        print(f"--- log of the server on port {server.port}\n{log.read_text()}")
        if server.process.poll() is None:
            server.stop()
        raise
