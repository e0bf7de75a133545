"""What a worker writes down of its operations, a JSON line each, and reads again.

A line is one `write` to a file opened for appending, so a worker that is killed loses
nothing of what it had written. Times are nanoseconds of CLOCK_BOOTTIME, which all
processes of the machine share. What may change a value is written before it is begun
(`Void`, `Fetch`) and once more when it has ended; a read is written at its end.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

NO, SOFT, HARD = "no", "soft", "hard"
"""What an operation does to older values of its keys: nothing, makes stale, removes."""


def now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Read:
    """A call that answered with a value, or with none."""

    host: str
    worker: str
    begin: int
    end: int
    verb: str
    key: str
    value: str | None = None
    """Id of the value; None: a miss."""
    bears: str = ""
    """The key that stands in the value."""
    state: str = ""
    """fresh or stale, where the verb tells."""
    source: str = ""


@dataclass(slots=True)
class Void:
    """A call that ends the life of its keys' older values; it may write a new one."""

    host: str
    worker: str
    begin: int
    verb: str
    keys: tuple[str, ...]
    force: str
    """NO, SOFT or HARD."""
    value: str | None = None
    """Id of the value it writes."""
    end: int | None = None
    done: bool = False
    """It returned, and did what its verb says."""


@dataclass(slots=True)
class Fetch:
    """A compute function's call."""

    host: str
    worker: str
    begin: int
    key: str
    value: str
    end: int | None = None
    done: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """A call that raised, or one that had not ended when its worker was to stop."""

    host: str
    worker: str
    begin: int
    end: int
    verb: str
    key: str
    error: str
    """Class of the exception and its message; `hung`."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a worker saw of its host's L2: up or down."""

    host: str
    at: int
    l2: str


@dataclass(frozen=True, slots=True)
class Fault:
    """What was injected, from its begin to its end."""

    kind: str
    target: str
    begin: int
    end: int
    link: bool
    """Whether invalidations may be held up meanwhile."""
    touched: int = 0
    """How often it acted, where that is counted."""


@dataclass
class History:
    """All that was written down in one run."""

    reads: list[Read] = field(default_factory=list)
    voids: list[Void] = field(default_factory=list)
    fetches: list[Fetch] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    deaths: dict[str, int] = field(default_factory=dict)
    """When each killed worker was known to be dead."""
    counters: dict[str, dict[str, int]] = field(default_factory=dict)
    """Of each host, as its last worker saw them."""
    ended: set[str] = field(default_factory=set)
    """Workers that stopped when they were told."""


class Journal:
    """A worker's file."""

    def __init__(self, path: Path, host: str, worker: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._count = 0
        self.host, self.worker = host, worker

    def name(self) -> str:
        """An id that no other value, call or worker has."""
        self._count += 1
        return f"{self.worker}:{self._count}"

    def read(self, *fields: Any) -> None:
        self._write("read", *fields)

    def begin_void(self, call: str, *fields: Any) -> None:
        self._write("void", call, *fields)

    def begin_fetch(self, call: str, *fields: Any) -> None:
        self._write("fetch", call, *fields)

    def end(self, call: str, done: bool) -> None:
        self._write("end", call, now(), done)

    def failure(self, *fields: Any) -> None:
        self._write("failure", *fields)

    def sample(self, l2: str) -> None:
        self._write("sample", now(), l2)

    def counters(self, counters: dict[str, int]) -> None:
        """The last line of a worker that stops as it should."""
        self._write("counters", now(), counters)

    def _write(self, *fields: Any) -> None:
        os.write(self._fd, json.dumps(fields).encode() + b"\n")


def load(files: Iterable[tuple[Path, str, str]], into: History) -> None:
    """Read the journals of (path, host, worker)."""
    for path, host, worker in files:
        if path.exists():
            _load(_lines(path), host, worker, into)


def _lines(path: Path) -> Iterator[list[Any]]:
    """Whole lines; a kill may have cut the last one."""
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            yield json.loads(line)


def _load(lines: Iterable[list[Any]], host: str, worker: str, history: History) -> None:
    open_calls: dict[str, Void | Fetch] = {}
    for what, *rest in lines:
        match what:
            case "read":
                history.reads.append(Read(host, worker, *rest))
            case "void":
                call, begin, verb, keys, force, value = rest
                void = Void(host, worker, begin, verb, tuple(keys), force, value)
                history.voids.append(void)
                open_calls[call] = void
            case "fetch":
                call, begin, key, value = rest
                fetch = Fetch(host, worker, begin, key, value)
                history.fetches.append(fetch)
                open_calls[call] = fetch
            case "end":
                call, end, done = rest
                open_calls[call].end, open_calls[call].done = end, done
            case "failure":
                history.failures.append(Failure(host, worker, *rest))
            case "sample":
                history.samples.append(Sample(host, *rest))
            case "counters":
                history.counters[host] = rest[1]
                history.ended.add(worker)


def dump(history: History, path: Path) -> None:
    """The faults and deaths beside the journals, for who looks into a violation."""
    with path.open("w") as out:
        for fault in sorted(history.faults, key=lambda f: f.begin):
            out.write(json.dumps(asdict(fault)) + "\n")
        for worker, at in history.deaths.items():
            out.write(json.dumps({"died": worker, "at": at}) + "\n")
