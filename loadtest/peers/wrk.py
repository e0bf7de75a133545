"""wrk with `keys.lua`: one run, and what it found."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("keys.lua")
TIMEOUT = 10
"""Seconds after which wrk calls an answer late."""


class Failed(Exception):
    """A server that does not start, or answers something else: why."""


@dataclass(frozen=True)
class Asked:
    """What a run asks for; see `keys.lua`."""

    prefix: str
    keys: int = 1
    connections: int = 64
    each: bool = False
    first: int = 0

    def arguments(self) -> list[str]:
        mode = "each" if self.each else "zipf"
        return [mode, self.prefix, str(self.keys), str(self.first)]


@dataclass(frozen=True)
class Found:
    """What wrk told: milliseconds within which a share of the answers came, and
    `busy`, the CPU seconds that it took itself."""

    requests: int
    seconds: float
    busy: float
    bytes: int
    p50: float
    p99: float
    p999: float
    errors: dict[str, int]

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


def run(port: int, asked: Asked, seconds: int, cores: set[int]) -> Found:
    """`Failed` if an answer was an error, or did not come."""
    command = [
        *("wrk", "-t1", f"-c{asked.connections}", f"-d{seconds}s"),
        *("--timeout", f"{TIMEOUT}s", "--script", str(SCRIPT)),
        *(f"http://127.0.0.1:{port}/", "--", *asked.arguments()),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    found = read(done.stdout)
    if found is None:
        raise Failed(f"wrk said: {(done.stderr or done.stdout).strip()[-200:]}")
    wrong = ", ".join(f"{n} {kind}" for kind, n in found.errors.items() if n)
    if wrong or not found.requests:
        raise Failed(f"wrk counted {found.requests} answers; errors: {wrong or 'none'}")
    return found


ERRORS = ("connect", "read", "write", "status", "timeout")


def read(out: str) -> Found | None:
    """The last line that `keys.lua` printed; None if there is none."""
    last = out.strip().rpartition("\n")[2]
    if not last.startswith("{"):
        return None
    told = json.loads(last)
    return Found(errors={kind: told.pop(kind) for kind in ERRORS}, **told)
