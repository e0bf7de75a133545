"""Witness: a client that reads what it is answered, and compares it with what the
vendors had to say.

Locust's clients are many and count; this one asks ten times a second, host by host, and
takes its answers apart.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from shmcache_server.market.parts import DASHBOARD
from tests.helpers import Answer, get

from .death import Ask
from .fates import FAILED, REFUSED, fate
from .truth import truth
from .vendors import Vendors

_EVERY = 0.1
_LATE = 4
"""Seconds from a vendor's answer to its arrival, on a busy machine."""
_WRONG_MOST = 20
Check = Callable[[Answer], str]
"""What is wrong with a body; empty: nothing."""


@dataclass
class Seen:
    """One answer: when it came, what it is."""

    at: float
    states: set[str]
    """Of a dashboard's parts."""


@dataclass
class Witness:
    """While it is entered it asks, on a thread of its own."""

    ports: Sequence[int]
    paths: Sequence[str]
    check: Check
    refusals: bool = False
    """Whether 503 with Retry-After is an answer."""
    waves: Iterable[float] = ()
    """Seconds after the first, at which it asks; none: ten times a second."""
    first: float | None = None
    """When the first wave is due, seconds of the epoch; None: not known yet."""
    seen: list[Seen] = field(default_factory=list)
    fates: Counter[str] = field(default_factory=Counter)
    asks: list[Ask] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __enter__(self) -> Witness:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def since(self, when: float) -> list[Seen]:
        return [one for one in list(self.seen) if one.at > when]

    def _run(self) -> None:
        for turn, due in enumerate(self._dues()):
            if self._over.wait(max(0.0, due - time.time())):
                return
            paths, ports = self.paths, self.ports
            began, failed = time.time(), self.fates[FAILED]
            self._ask(ports[turn % len(ports)], paths[turn // len(ports) % len(paths)])
            self.asks.append(Ask(began, time.time(), self.fates[FAILED] > failed))

    def _dues(self) -> Iterator[float]:
        if not self.waves:
            while True:
                yield time.time() + _EVERY
        while self.first is None:
            if self._over.wait(_EVERY):
                return
        for after in self.waves:
            yield self.first + after

    def _ask(self, port: int, path: str) -> None:
        try:
            answer = get(port, path, timeout=20.0)
        except (OSError, http.client.HTTPException) as e:
            self._failed(f"{path}: {type(e).__name__}: {e}")
            return
        if self.refusals and answer.status == 503 and "retry-after" in answer.headers:
            self.fates[REFUSED] += 1
        elif answer.status != 200:
            self._failed(f"{path}: {answer.status}")
        else:
            self.fates[fate(answer.cache_status)] += 1
            self._judge(answer)

    def _failed(self, why: str) -> None:
        self.fates[FAILED] += 1
        print(f"witness: {why}", flush=True)

    def _judge(self, answer: Answer) -> None:
        try:
            wrong = self.check(answer)
        except (ValueError, LookupError, TypeError, AttributeError) as e:
            wrong = f"{type(e).__name__}: {e} in {answer.body[:200]!r}"
        if wrong and len(self.wrong) < _WRONG_MOST:
            self.wrong.append(wrong)
        parts = json.loads(answer.body).get("parts", {}) if not wrong else {}
        states = {part["state"] for part in parts.values()}
        self.seen.append(Seen(time.time(), states))


def of_dashboard(vendors: Vendors) -> Check:
    """Each number is what its source said at the second that the answer tells."""

    def check(answer: Answer) -> str:
        shown = json.loads(answer.body)
        return "; ".join(filter(None, (_wrong(vendors, shown, n) for n in DASHBOARD)))

    return check


def _wrong(vendors: Vendors, shown: dict[str, Any], name: str) -> str:
    part, names = shown["parts"][name], DASHBOARD[name].names
    if part["state"] not in ("fresh", "stale"):
        return f"{name}: {part['state']}"
    vendor = part["source"].removesuffix("_global")
    second = int(part["as_of"]) - vendors.began
    said = [shown[field] for field in names]
    for at in range(second, second - _LATE, -1):
        then = truth(vendor, at)
        if said == [getattr(then, field) for field in names]:
            return ""
    return f"{name}: {said} is not what {vendor} said at second {second}"


def of_fear_and_greed(vendors: Vendors) -> Check:
    """The vendor's own payload, passed on."""

    def check(answer: Answer) -> str:
        newest = json.loads(answer.body)["data"][0]
        second = int(newest["timestamp"]) - vendors.began
        said, then = newest["value"], str(truth("alternative", second).fng_value)
        return "" if said == then else f"{said} in place of {then}"

    return check
