"""Calls that the simulated vendors got: how many, of what, when, and answered how."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

LOG_MAX = 200_000
"""Times that are kept of a vendor; the oldest are forgotten first."""


@dataclass
class Key:
    """One path and query of a vendor."""

    name: str
    seconds: Counter[int] = field(default_factory=Counter)
    """Arrivals by the second of the simulation."""
    statuses: Counter[str] = field(default_factory=Counter)
    """Ends: a status, `reset`, or `left` by the client before an answer."""


class Calls:
    """A log of arrivals by vendor, and counts that forget nothing."""

    def __init__(self, vendors: Iterable[str], log_max: int = LOG_MAX) -> None:
        self._keys: dict[str, dict[str, Key]] = {vendor: {} for vendor in vendors}
        self._logs: dict[str, deque[tuple[float, Key]]] = {
            vendor: deque(maxlen=log_max) for vendor in self._keys
        }

    def arrived(self, vendor: str, name: str, at: float, second: int) -> Key:
        """Count a call that came at `at` of the monotonic clock; its end goes to the
        key's statuses."""
        keys = self._keys[vendor]
        if (key := keys.get(name)) is None:
            key = keys[name] = Key(name)
        key.seconds[second] += 1
        self._logs[vendor].append((at, key))
        return key

    def counts(self, window: float) -> dict[str, Any]:
        """By vendor, and by key of each; `busiest` is the most calls in any `window`
        seconds, of those whose time is not `forgotten`."""
        return {vendor: self._of(vendor, window) for vendor in self._keys}

    def _of(self, vendor: str, window: float) -> dict[str, Any]:
        times: dict[str, list[float]] = defaultdict(list)
        for at, key in self._logs[vendor]:
            times[key.name].append(at)
        keys = {
            name: {
                "calls": key.seconds.total(),
                "busiest": busiest(times[name], window),
                "seconds": dict(key.seconds),
                "statuses": dict(key.statuses),
            }
            for name, key in self._keys[vendor].items()
        }
        calls = sum(key.seconds.total() for key in self._keys[vendor].values())
        log = [at for at, _ in self._logs[vendor]]
        return {
            "calls": calls,
            "busiest": busiest(log, window),
            "forgotten": calls - len(log),
            "keys": keys,
        }


class PerMinute:
    """What was spent in the calendar's minute, as Binance counts weight."""

    def __init__(self) -> None:
        self._minute = self._spent = 0

    def spend(self, weight: int, now: float) -> int:
        """Of the minute so far, this included; `now` is Unix time."""
        if (minute := int(now // 60)) != self._minute:
            self._minute, self._spent = minute, 0
        self._spent += weight
        return self._spent


def busiest(times: Sequence[float], window: float) -> int:
    """The most of these times, in order, less than `window` seconds apart."""
    most = first = 0
    for last, at in enumerate(times):
        while at - times[first] >= window:
            first += 1
        most = max(most, last - first + 1)
    return most
