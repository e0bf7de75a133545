"""One server of two workers before a scripted origin, for the whole corpus."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers import Server, free_port, served
from tests.helpers import get as get_stats
from tests.security.client import Client, get
from tests.security.origin import Origin, origin, said
from tests.security.wire import Message


class Front:
    """The running server, and what stands behind it."""

    def __init__(self, server: Server, behind: Origin) -> None:
        self.server = server
        self.port = server.port
        self.origin = behind

    def ask(self, data: bytes, method: str = "GET") -> Message:
        """The answer to one request, which there must be."""
        with Client(self.port) as client:
            client.send(data)
            found = client.answer(method)
        assert found is not None, "closed without an answer"
        return found

    def fast_hits(self) -> int:
        """Hits of the fast lane so far, of both workers."""
        admin = int(self.server.flags[-1].rpartition(":")[2])
        found: int = json.loads(get_stats(admin, "/stats").body)["counters"][
            "fast_hits"
        ]
        return found

    def memory(self) -> int:
        """Bytes that the workers have to themselves."""
        total = 0
        for pid in self.server.pids():
            status = Path(f"/proc/{pid}/status").read_text()
            total += int(status.split("RssAnon:")[1].split()[0]) * 1024
        return total

    def unambiguous(self) -> None:
        """Fails if the origin got what is no request, or not written by the server."""
        faults, self.origin.faults = self.origin.faults, []
        assert faults == []

    def echoes(self, target: str) -> None:
        """Fails unless a target of that beginning is answered with what is its own,
        whatever was said on the connections before."""
        self.origin.answer = lambda asked: said(asked.target)
        for n in range(4):
            answered = self.get(f"{target}/{n}")
            assert answered.body.decode() == f"{target}/{n}", "another's answer"

    def get(self, target: str | bytes, *lines: str | bytes) -> Message:
        return self.ask(get(target, *lines))

    def victims(self, target: str | bytes, *lines: str | bytes) -> list[Message]:
        """What others are answered: on connections that reach either worker, each
        asking thrice, the last time what the fast lane knows."""
        found = []
        for _ in range(3):
            with Client(self.port) as client:
                for _ in range(3):
                    client.send(get(target, *lines))
                    answered = client.answer()
                    assert answered is not None
                    found.append(answered)
        return found


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with fronting(tmp_path_factory.mktemp("security")) as front:
        yield front


@pytest.fixture(scope="session")
def naming(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    hosts = '[server]\nhosts = ["shop.example", "127.0.0.1"]\n'
    with fronting(tmp_path_factory.mktemp("hosts"), hosts) as front:
        yield front


@contextmanager
def fronting(folder: Path, settings: str = "") -> Iterator[Front]:
    """A server of its own, with these settings."""
    (folder / "shmcache.toml").write_text(settings)
    log, admin = folder / "log", free_port()
    # Not of a single test: it would be taken for what that test left.
    name = f"security-{os.getpid()}-{secrets.token_hex(4)}"
    flags = ("--config", str(folder / "shmcache.toml"), "--admin", f"127.0.0.1:{admin}")
    with origin() as behind, served(log, behind.url, name=name, flags=flags) as server:
        workers = server.pids()
        yield Front(server, behind)
        assert server.pids() == workers, "a worker was lost"
    assert "Traceback" not in log.read_text()


def watched(front: Front) -> Iterator[Front]:
    """What reaches the origin must be unambiguous, and the server's own."""
    front.origin.reset()
    yield front
    front.unambiguous()


@pytest.fixture
def front(running: Front) -> Iterator[Front]:
    """The server that answers every host."""
    yield from watched(running)


@pytest.fixture
def shop(naming: Front) -> Iterator[Front]:
    """The server that answers shop.example only, and 127.0.0.1."""
    yield from watched(naming)


@pytest.fixture
def path() -> str:
    """A path that no other test asks for."""
    return f"/{secrets.token_hex(6)}"
