"""Samples: what is offered at fixed times, and what each request of it took."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, field

from .fates import FATES
from .report import percentile
from .runs import Second


@dataclass(frozen=True)
class Plan:
    """What is offered. Rates are requests a second, `first` at the start and `rate` at
    the end; so are clients, each a connection of its own that stays open."""

    rate: float
    seconds: float
    first: float | None = None
    clients: int = 64
    first_clients: int | None = None

    @property
    def _first(self) -> float:
        return self.rate if self.first is None else self.first

    @property
    def total(self) -> int:
        return round((self._first + self.rate) / 2 * self.seconds)

    def due(self) -> array[float]:
        """Seconds from the start for each request: as many are due by then as the
        rate's integral says."""
        first, rise = self._first, (self.rate - self._first) / self.seconds
        if not rise:
            return array("d", (i / self.rate for i in range(self.total)))
        roots = (math.sqrt(first**2 + 2 * rise * i) for i in range(self.total))
        return array("d", ((root - first) / rise for root in roots))

    def clients_at(self, since: float) -> int:
        if self.first_clients is None:
            return self.clients
        share = min(1.0, max(0.0, since / self.seconds))
        return self.first_clients + round(share * (self.clients - self.first_clients))


@dataclass
class Samples:
    """One figure for each request, in the order of answers."""

    plan: Plan
    due: array[float] = field(default_factory=lambda: array("d"))
    """Seconds from the start."""
    took: array[float] = field(default_factory=lambda: array("d"))
    """Seconds since then; NaN: no answer, or a wrong one."""
    late: array[float] = field(default_factory=lambda: array("d"))
    """Seconds of them that are the generator's."""
    kinds: array[int] = field(default_factory=lambda: array("b"))
    """Index of `FATES`; -1: the answer does not say."""
    why: dict[str, int] = field(default_factory=dict)
    """Failures."""
    cpu: float = 0.0
    """Seconds of CPU of the generator, for `lasted` seconds."""
    lasted: float = 0.0

    def totals(self) -> dict[str, float]:
        """As those of `Outcome`, and: `mean`, `p999` (ms), `offered` (requests/s),
        `late_mean`, `late_p99`, `late_max` (ms), `generator_cpu` (percent)."""
        good = sorted(one * 1e3 for one in self.took if one == one)
        late = sorted(one * 1e3 for one in self.late)
        told = {
            "requests": len(self.due),
            "failures": len(self.due) - len(good),
            "requests_per_second": len(good) / self.lasted,
            "offered": self.plan.total / self.plan.seconds,
        }
        if good:
            told["mean"] = math.fsum(good) / len(good)
        told |= _percentiles(good, p50=0.5, p95=0.95, p99=0.99, p999=0.999, max=1.0)
        told |= {kind: self.kinds.count(n) for n, kind in enumerate(FATES)}
        if late:
            told["late_mean"] = math.fsum(late) / len(late)
        told |= _percentiles(late, late_p99=0.99, late_max=1.0)
        return told | {"generator_cpu": 100 * self.cpu / self.lasted}

    def seconds(self) -> list[Second]:
        """By the second in which requests were due."""
        groups: dict[int, list[int]] = {}
        for i, due in enumerate(self.due):
            groups.setdefault(int(due), []).append(i)
        return [self._second(at, groups.get(at, [])) for at in range(max(groups) + 1)]

    def _second(self, at: int, chosen: list[int]) -> Second:
        good = [self.took[i] * 1e3 for i in chosen if self.took[i] == self.took[i]]
        kinds = array("b", (self.kinds[i] for i in chosen))
        second = Second(
            float(at),
            clients=self.plan.clients_at(at),
            requests=len(chosen),
            failures=len(chosen) - len(good),
        )
        told = _percentiles(good, p50=0.5, p95=0.95, p99=0.99, max=1.0)
        told |= {kind: kinds.count(n) for n, kind in enumerate(FATES)}
        for name, figure in told.items():
            setattr(second, name, figure)
        return second


def _percentiles(figures: list[float], **shares: float) -> dict[str, float]:
    found = {name: percentile(figures, share) for name, share in shares.items()}
    return {name: figure for name, figure in found.items() if figure is not None}
