"""The bundled origin as a process, for tests of whole servers."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import ROOT, answers, end, free_port, get, python, until
from tests.processes.peers import Hosts

SITE = ROOT / "loadtest" / "site"


class Origin:
    """loadtest/origin.py on a port of its own; it counts what it is asked for."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def path(self, delay: float = 0.0, max_age: int = 60) -> str:
        """A URL that was never asked for, answered after `delay` seconds."""
        name = secrets.token_hex(8)
        return f"/prices.json?delay={delay}&max_age={max_age}&name={name}"

    def body(self, path: str) -> bytes:
        """What it answers there."""
        return Path(SITE, path.partition("?")[0].lstrip("/")).read_bytes()

    def count(self, path: str) -> int:
        """How often it was asked for a path."""
        return int(self._counts()["paths"].get(path, 0))

    def requests(self) -> int:
        return int(self._counts()["total"])

    def _counts(self) -> dict:
        return json.loads(get(self.port, "/__count").body)


@pytest.fixture(scope="session")
def origin() -> Iterator[Origin]:
    running = Origin()
    script = str(ROOT / "loadtest" / "origin.py")
    process = python(script, "--bind", f"127.0.0.1:{running.port}", "--delay", "0")
    try:
        until(lambda: answers(running.port, "/__count"), 10, "the origin")
        yield running
    finally:
        end(process)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    hosts = Hosts()
    yield hosts
    hosts.end()
