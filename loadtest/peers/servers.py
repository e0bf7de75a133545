"""How each server of the benchmark is started, known to answer, and ended."""

from __future__ import annotations

import http.client
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from shmcache_server.embedded import die_with_parent
from tests.helpers import SHM, free_port

from . import processes
from .document import document, path
from .wrk import Failed

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
STORAGE = "256MiB"
"""What a cache may keep; nginx.conf says its own."""
SEGMENT = 16 * 1024
"""Bytes that surely go in one write."""
UP_WITHIN, DOWN_WITHIN = 30.0, 15.0


@dataclass(frozen=True)
class Place:
    """Where and for what a server is started."""

    origin: int
    size: int
    workers: int = 1
    cores: frozenset[int] = frozenset()
    l2: str = "none"
    port: int = field(default_factory=free_port)


@dataclass(frozen=True)
class Server:
    """One that runs: its port, its first process, and its folder on tmpfs."""

    port: int
    pid: int
    folder: Path

    def processes(self) -> list[int]:
        return processes.tree(self.pid)

    def memory_bytes(self) -> int:
        """Of its processes, and of what it keeps in files on tmpfs."""
        kept = processes.file_bytes(self.folder / "cache")
        return processes.pss_bytes(self.processes()) + kept


Command = Callable[[Place, Path], list[str]]


@dataclass(frozen=True)
class Peer:
    """What is compared: its command, what it needs, and the files that configure it."""

    title: str
    command: Command
    program: str = ""
    modules: tuple[str, ...] = ()
    package: str = ""
    """Of Debian, that has the program."""
    files: tuple[str, ...] = ()

    def lacks(self) -> str:
        """What must be installed for it; empty if nothing."""
        if self.program and not which(self.program):
            return f"no {self.program} on PATH (Debian: apt install {self.package})"
        gone = [m for m in self.modules if importlib.util.find_spec(m) is None]
        return f"no module {', '.join(gone)} (the extra `bench`)" if gone else ""


def which(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin")


def module(name: str, *more: str) -> Command:
    """A module of this package: NAME PORT, and what `more` asks of the place."""
    return lambda place, folder: [
        *(sys.executable, "-m", f"loadtest.peers.{name}", str(place.port)),
        *(str(getattr(place, each)) for each in more),
    ]


def ours(place: Place, folder: Path) -> list[str]:
    """Its defaults, but that a busy machine shall not have L2 miss its deadline."""
    file = folder / "shmcache.toml"
    file.write_text("[l2]\ndeadline = 5.0\n")
    return [
        *(sys.executable, "-m", "shmcache_server", "serve", "--config", str(file)),
        *("--origin", f"http://127.0.0.1:{place.origin}"),
        *("--bind", f"127.0.0.1:{place.port}", "--workers", str(place.workers)),
        *("--l1-name", folder.name, "--l1-size", STORAGE, "--l2", place.l2),
    ]


def nginx(place: Place, folder: Path) -> list[str]:
    """As its manual has it."""
    nopush = "on" if place.size < SEGMENT else "off"
    return _nginx(place, folder, SENDFILE="on", NOPUSH=nopush, OPEN_FILES="off")


def nginx_tuned(place: Place, folder: Path) -> list[str]:
    """As one who has measured small answers has it: files stay open, and are read."""
    held = "max=200000 inactive=60m"
    return _nginx(place, folder, SENDFILE="off", NOPUSH="off", OPEN_FILES=held)


def _nginx(place: Place, folder: Path, **files: str) -> list[str]:
    file = filled("nginx.conf", place, folder, **files)
    return [which("nginx") or "nginx", "-p", str(folder), "-c", str(file)]


def varnish(place: Place, folder: Path) -> list[str]:
    """In the foreground, as who we are, its log in shared memory on tmpfs; all else by
    default: two thread pools of 100 to 5,000 threads."""
    file = filled("default.vcl", place, folder)
    return [
        *(which("varnishd") or "varnishd", "-F", "-j", "none"),
        *("-n", str(folder / "work")),
        *("-f", str(file), "-a", f"127.0.0.1:{place.port}"),
        *("-s", f"malloc,{STORAGE.removesuffix('iB').lower()}"),
    ]


def fastapi(place: Place, folder: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "uvicorn", "loadtest.peers.fastapi_cashews:app"),
        *("--port", str(place.port), "--loop", "uvloop", "--http", "httptools"),
        *("--no-access-log", "--log-level", "warning"),
    ]


PEERS: Mapping[str, Peer] = {
    "floor": Peer("bare uvloop protocol", module("floor", "size"), files=("floor.py",)),
    "ours": Peer("shmcache serve", ours),
    "nginx": Peer(
        "nginx proxy_cache", nginx, "nginx", package="nginx", files=("nginx.conf",)
    ),
    "nginx-tuned": Peer(
        "nginx, tuned (servers.py)", nginx_tuned, "nginx", package="nginx"
    ),
    "varnish": Peer(
        "Varnish", varnish, "varnishd", package="varnish", files=("default.vcl",)
    ),
    "aiohttp": Peer(
        "aiohttp Application", module("constant", "size"), files=("constant.py",)
    ),
    "fastapi": Peer(
        "FastAPI + cashews",
        fastapi,
        modules=("fastapi", "cashews", "uvicorn", "httptools"),
        files=("fastapi_cashews.py",),
    ),
    "proxy": Peer(
        "aiohttp reverse proxy, no cache",
        module("proxy", "origin"),
        files=("proxy.py",),
    ),
}


def filled(name: str, place: Place, folder: Path, **more: str) -> Path:
    """A peer's configuration with its names set, in its folder."""
    text = (HERE / name).read_text()
    values = {
        "PORT": place.port,
        "ORIGIN": place.origin,
        "WORKERS": place.workers,
        "FOLDER": folder,
        **more,
    }
    for word, value in values.items():
        text = text.replace(f"@{word}@", str(value))
    file = folder / name
    file.write_text(text)
    return file


@contextmanager
def running(name: str, place: Place) -> Iterator[Server]:
    """A peer that answers the very document, on its cores; ended with all it started.

    `Failed` says why it does not.
    """
    with tempfile.TemporaryDirectory(prefix="bench-", dir=SHM) as text:
        folder = Path(text)
        try:
            with started(PEERS[name].command(place, folder), place, folder) as server:
                yield server
        finally:
            for left in SHM.glob(f"shmcache.*.{folder.name}*"):  # it was killed
                left.unlink()


@contextmanager
def started(command: list[str], place: Place, folder: Path) -> Iterator[Server]:
    log = folder / "output"
    with log.open("wb") as output:
        parent = os.getpid()

        def prepare() -> None:
            die_with_parent(parent)
            if place.cores:
                os.sched_setaffinity(0, place.cores)

        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=output,
            stderr=output,
            env=os.environ | {"BENCH_ORIGIN": f"http://127.0.0.1:{place.origin}"},
            preexec_fn=prepare,
        )
    try:
        wait_for(process, place, log)
        yield Server(place.port, process.pid, folder)
    finally:
        end(process)


def wait_for(process: subprocess.Popen[bytes], place: Place, log: Path) -> None:
    deadline = time.monotonic() + UP_WITHIN
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError, http.client.HTTPException):
            if fetch(place.port, path(place.size)) == document(place.size):
                return
        time.sleep(0.02)
    said = log.read_text(errors="replace").strip()[-300:]
    raise Failed(f"it does not answer with the document: {said or 'it said nothing'}")


def fetch(port: int, target: str) -> bytes:
    """The body of a 200; empty for anything else."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", target, headers={"Host": "127.0.0.1"})
        answer = connection.getresponse()
        body = answer.read()
        return body if answer.status == 200 else b""
    finally:
        connection.close()


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end; what of it still runs then is killed."""
    family = {pid: processes.identity(pid) for pid in processes.tree(process.pid)[1:]}
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(DOWN_WITHIN)
    process.kill()
    process.wait()
    for pid, identity in family.items():
        if identity is not None and processes.identity(pid) == identity:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
