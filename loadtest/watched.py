"""Watched: a redis-server of our own, and what it tells of what it was asked.

Each host has a user of its own, so that its connections can be told from the others'.
INFO says what Redis spent; MONITOR says which host asked for what. It slows Redis, so
that what is timed is not counted with it.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import redis

from shmcache_server.embedded import die_with_parent, find_server

from .fleet import user

_USERS = 64
_READY_WITHIN = 10.0
_LINE = re.compile(rb'\+?[\d.]+ \[\d+ (\S+)\] "((?:[^"\\]|\\.)*)"(?: "([^"]*)")?')


_ALONG = {"get", "mget"}
_CONNECTING = {"auth", "client", "hello", "info", "select"}
CONNECTING = "connecting"
"""What a new connection says of itself, and asks; once in its life."""


@dataclass(frozen=True)
class Spent:
    """What Redis did between two looks."""

    seconds: float = 0.0
    cpu_us: float = 0.0
    reads: float = 0.0
    """Times it read from a connection: at least one for each round trip."""
    bytes_in: float = 0.0
    bytes_out: float = 0.0
    connections: float = 0.0
    calls: Counter[str] = field(default_factory=Counter)
    """By command; those inside scripts too."""

    def __sub__(self, other: Spent) -> Spent:
        return self.plus(other, -1)

    def plus(self, other: Spent, times: float) -> Spent:
        calls = {
            name: self.calls[name] + times * other.calls[name]
            for name in self.calls.keys() | other.calls.keys()
        }
        fields = ("seconds", "cpu_us", "reads", "bytes_in", "bytes_out", "connections")
        sums = {f: getattr(self, f) + times * getattr(other, f) for f in fields}
        return Spent(**sums, calls=Counter(calls))


class Server:
    """A redis-server on a port of the loopback, and a connection to it."""

    def __init__(self, folder: str, *flags: str) -> None:
        self.port = _free_port()
        self._folder = Path(folder)
        self._flags = flags
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"redis://{{user}}:none@127.0.0.1:{self.port}/0"
        """With the host's user to be filled in."""

    def start(self) -> None:
        """Until it answers."""
        parent = os.getpid()
        acl = self._folder / "users.acl"
        users = [f"user {user(n)} on nopass ~* &* +@all" for n in range(_USERS)]
        acl.write_text("\n".join(["user default on nopass ~* &* +@all", *users, ""]))
        self._process = subprocess.Popen(
            [
                *(find_server(), "--port", str(self.port), "--bind", "127.0.0.1"),
                *("--dir", str(self._folder), "--save", "", "--appendonly", "no"),
                *("--logfile", "redis.log", "--aclfile", str(acl), *self._flags),
            ],
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            preexec_fn=lambda: die_with_parent(parent, signal.SIGKILL),
        )
        deadline = monotonic() + _READY_WITHIN
        while not self._answers():
            if self._process.poll() is not None or monotonic() > deadline:
                log = (self._folder / "redis.log").read_text()
                raise RuntimeError(f"redis-server did not start\n{log}")
            sleep(0.005)
        self._client = redis.Redis(port=self.port, protocol=2, socket_timeout=10)

    def kill(self) -> None:
        if self._process is not None:
            self._client.close()
            self._process.kill()
            self._process.wait()
            self._process = None

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """It hangs: accepts, never answers."""
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)

    def command(self, *words: bytes | str | int) -> Any:
        return self._client.execute_command(*words)

    def users(self) -> dict[str, str]:
        """Of the connections there are, by address; those of subscribers left out."""
        clients = self._client.client_list()
        return {one["addr"]: one["user"] for one in clients if one["sub"] == "0"}

    def following(self, user: str) -> set[str]:
        """Addresses from which a host waits for the stream just now."""
        return {
            str(one["addr"])
            for one in self._client.client_list()
            if (one["user"], one["cmd"]) == (user, "xread")
        }

    def connections(self) -> int:
        """Accepted since its start."""
        return int(self.command("INFO", "stats")["total_connections_received"])

    def _answers(self) -> bool:
        with (
            suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), 1) as probe,
        ):
            probe.sendall(b"PING\r\n")
            return probe.recv(16).startswith(b"+PONG")
        return False

    # -- what it spent

    def look(self) -> Spent:
        """Since its start."""
        info = self.command("INFO", "all")
        return Spent(
            seconds=monotonic(),
            cpu_us=1e6 * (info["used_cpu_user"] + info["used_cpu_sys"]),
            reads=info["total_reads_processed"],
            bytes_in=info["total_net_input_bytes"],
            bytes_out=info["total_net_output_bytes"],
            connections=info["total_connections_received"],
            calls=Counter(
                {
                    name.removeprefix("cmdstat_"): told["calls"]
                    for name, told in info.items()
                    if name.startswith("cmdstat_")
                }
            ),
        )

    def spent(self, work: Callable[[], Any], idle: Spent | None = None) -> Spent:
        """While `work` ran, without what the looks cost; and without what an idle
        fleet costs in that time, where `idle` says what that is."""
        first = self.look()
        second = self.look()
        work()
        spent = (self.look() - second) - (second - first)
        if idle is None or not idle.seconds:
            return spent
        net = spent.plus(idle, -spent.seconds / idle.seconds)
        return replace(net, seconds=spent.seconds)


class Monitor:
    """What each host asks Redis for."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._socket = socket.create_connection(("127.0.0.1", server.port), 10)
        self._socket.sendall(b"MONITOR\r\n")
        self._left = b""
        self._marks = 0
        self._background: set[str] = set()
        """Connections of followers."""

    def close(self) -> None:
        self._socket.close()

    def commands(self) -> list[tuple[str, str, str]]:
        """(address, command, first argument) since the last look, in order, without
        those inside scripts."""
        self._marks += 1
        mark = f'"mark-{self._marks}"'.encode()
        self._server.command("ECHO", mark.strip(b'"'))
        lines, marked = [], False
        while not marked:
            more = self._socket.recv(1 << 20)
            if not more:
                raise RuntimeError("MONITOR ended")
            *whole, self._left = (self._left + more).split(b"\r\n")
            marked = any(mark in line for line in whole)
            lines += whole
        found = filter(None, map(_LINE.match, lines))
        return [
            (m[1].decode(), m[2].decode().lower(), (m[3] or b"").decode("latin-1"))
            for m in found
            if m[1] != b"lua"
        ]

    def round_trips(self) -> dict[str, Counter[str]]:
        """By host's user: its exchanges since the last look, by script or command.

        A script and the GETs behind it travel as one. Connections that ever waited
        for the stream or for wake-ups are left out: they cost the same without any
        wave.
        """
        commands = self.commands()
        for address, command, _ in commands:
            if command == "xread":
                self._background.add(address)
        users = self._server.users()
        found: dict[str, Counter[str]] = {}
        for address, command, argument in commands:
            known = users.get(address, "default")
            if known == "default" or address in self._background:
                continue
            if command in _ALONG:
                continue
            if command in _CONNECTING:
                command = CONNECTING
            if command == "evalsha":
                command = scripts().get(argument, argument)
            found.setdefault(known, Counter())[command] += 1
        return found


@cache
def scripts() -> dict[str, str]:
    """The library's scripts: digest to name."""
    found = {}
    for path in files("shmcache.lua").iterdir():
        if path.name.endswith(".lua"):
            digest = hashlib.sha1(path.read_bytes(), usedforsecurity=False)
            found[digest.hexdigest()] = path.name.removesuffix(".lua")
    return found


@contextmanager
def server(*flags: str) -> Iterator[Server]:
    """A running redis-server, killed at the end; `flags` as on its command line."""
    with tempfile.TemporaryDirectory(prefix="shmr-") as folder:
        running = Server(folder, *flags)
        try:
            running.start()
            yield running
        finally:
            running.kill()


@contextmanager
def monitor(of: Server) -> Iterator[Monitor]:
    watching = Monitor(of)
    try:
        yield watching
    finally:
        watching.close()


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port
