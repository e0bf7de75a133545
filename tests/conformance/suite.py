"""The public suite http-cache-tests, installed from npm and run through our server.

The origin, the client and the verdicts are the suite's own. By these a test whose setup
or dependency fails is not passed. package.json puts a small package in the place of npm
itself, on which the suite depends and which nothing of it imports.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.helpers import ROOT, answers, end, free_port, served, until

HERE = Path(__file__).resolve().parent
INSTALLED = ROOT / "build" / "conformance"
PINNED = ("package.json", "package-lock.json", ".npmrc")
KINDS = ("required", "optimal", "check")
SECONDS = 90
"""After which npm or the suite's client is given up."""
AGAIN_MOST = 10
"""Tests that are asked again; where more fail something is broken."""


class Unavailable(Exception):
    """The suite cannot be had on this machine; says what is missing."""


@dataclass(frozen=True)
class Result:
    """What became of one test."""

    suite: str
    id: str
    kind: str
    verdict: str
    message: str

    @property
    def passed(self) -> bool:
        return self.verdict == "pass"

    def __str__(self) -> str:
        return f"{self.id} ({self.kind}) {self.verdict}: {self.message}"


def counts(results: Sequence[Result]) -> str:
    """How many are passed of each kind, in a line."""
    told = []
    for kind in KINDS:
        of_kind = [result.passed for result in results if result.kind == kind]
        told.append(f"{kind} {sum(of_kind)} of {len(of_kind)}")
    return ", ".join(told)


def install() -> None:
    """The pinned suite into build/, if it is not there; raises `Unavailable`."""
    for program in ("node", "npm"):
        if not shutil.which(program):
            raise Unavailable(f"no {program} on PATH (Debian: nodejs, npm)")
    INSTALLED.mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / "client.mjs", INSTALLED)
    pins = b"".join((HERE / name).read_bytes() for name in PINNED)
    stamp = INSTALLED / ".stamp-installed"
    if not stamp.exists() or stamp.read_bytes() != pins:
        for name in PINNED:
            shutil.copy(HERE / name, INSTALLED)
        _npm_ci()
        stamp.write_bytes(pins)


def _npm_ci() -> None:
    try:
        subprocess.run(
            ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=INSTALLED, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=SECONDS, check=True,
        )  # fmt: skip
    except subprocess.CalledProcessError as failed:
        raise Unavailable(f"npm cannot install the suite:\n{failed.stderr}") from None
    except subprocess.TimeoutExpired as slow:
        raise Unavailable(f"npm cannot install the suite: {slow}") from None


def judged(folder: Path, known: Collection[str]) -> list[Result]:
    """All tests, of which a hundred run at once: what one of them makes void, or lists
    anew, costs another the store of its answer now and then. So those that fail and
    are not known to are asked again, one by one."""
    results = run(folder)
    failing = [r.id for r in results if not r.passed and r.id not in known]
    if not 0 < len(failing) <= AGAIN_MOST:
        return results
    (folder / "again").mkdir()
    alone = {result.id: result for result in run(folder / "again", *failing)}
    return [alone.get(result.id, result) for result in results]


def run(folder: Path, *only: str, loud: bool = False) -> list[Result]:
    """All tests, or those of the ids `only`, one by one; `loud`: with their requests
    and answers on stdout. The server's log is in the folder as server.log."""
    told = folder / "results.json"
    with _origin(folder, loud=loud) as url, _serving(folder, url) as base:
        subprocess.run(
            ["node", "client.mjs", base, url, told, "loud" if loud else "", *only],
            cwd=INSTALLED, stdin=subprocess.DEVNULL, timeout=SECONDS, check=True,
        )  # fmt: skip
    return [Result(**result) for result in json.loads(told.read_text())]


@contextmanager
def _serving(folder: Path, origin: str) -> Iterator[str]:
    with served(folder / "server.log", origin) as server:
        yield f"http://127.0.0.1:{server.port}"


@contextmanager
def _origin(folder: Path, loud: bool) -> Iterator[str]:
    """The suite's own server; it takes its settings the way npm hands them on."""
    port = free_port()
    settings = {"protocol": "http", "port": str(port), "pidfile": str(folder / "pid")}
    with (folder / "origin.log").open("wb") as log:
        process = subprocess.Popen(
            ["node", "server/server.mjs"],
            cwd=INSTALLED / "node_modules" / "http-cache-tests",
            env=os.environ | {f"npm_config_{k}": v for k, v in settings.items()},
            stdin=subprocess.DEVNULL,
            stdout=None if loud else log,
            start_new_session=True,
        )
    try:
        until(lambda: answers(port, "/LICENSE"), 20, "the suite's origin")
        yield f"http://127.0.0.1:{port}"
    finally:
        end(process)
