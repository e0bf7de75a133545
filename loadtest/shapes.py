"""Shapes: how many clients a scenario has at a time. Pure, so that locust, which
changes the standard library when it is imported, is needed only where it runs."""

from __future__ import annotations

from dataclasses import dataclass

Tick = tuple[int, float] | None
"""Clients, and how many may come in a second; None: it is over."""
_PATIENCE = 60.0
"""Seconds beyond its own after which a shape that waits for answers ends."""


@dataclass(frozen=True)
class Ramp:
    """From some clients to more, or as many throughout."""

    first: int
    clients: int
    seconds: float

    @property
    def least(self) -> int:
        """Requests there are at least, however slow everything is."""
        return self.clients

    def tick(self, at: float, answers: int) -> Tick:
        """`at`: seconds since the load began; `answers` so far."""
        if at >= self.seconds:
            return None
        more = round((self.clients - self.first) * at / self.seconds)
        return self.first + more, self.clients


@dataclass(frozen=True)
class Waves:
    """Clients that ask once each, all at one moment; and again."""

    clients: int
    count: int
    every: float
    """Seconds."""

    @property
    def seconds(self) -> float:
        return self.count * self.every

    @property
    def least(self) -> int:
        return self.clients * self.count

    def dues(self) -> list[float]:
        """Seconds after the first wave."""
        return [number * self.every for number in range(self.count)]

    def tick(self, at: float, answers: int) -> Tick:
        over = answers >= self.least or at > self.seconds + _PATIENCE
        return None if over else (self.clients, self.clients)


def steady(clients: int, seconds: float) -> Ramp:
    return Ramp(clients, clients, seconds)


Shape = Ramp | Waves
