"""What the rows say of each other: ratios, by what they were decided, and targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..report import Target, median, ratio
from .scenes import CONNECTIONS, KB, KEYS, Ask, Row

BUSY = 0.9
"""wrk's share of its core above which it, not the server, may set the rate."""
BY_RATE, BY_CPU = "by rate", "by CPU"


@dataclass(frozen=True)
class Compared:
    """A ratio of speeds; None where a row is missing or failed."""

    ratio: float | None
    by: str


class Rows:
    """All rows, found by what they are."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = {self._key(row.scene.name, row.ask): row for row in rows}

    @staticmethod
    def _key(scene: str, ask: Ask) -> tuple[str, str, int, int]:
        return scene, ask.peer, ask.connections, ask.keys

    def find(
        self, scene: str, peer: str, connections: int = CONNECTIONS, keys: int = 1
    ) -> Row | None:
        return self._rows.get((scene, peer, connections, keys))

    def beside(self, row: Row, peer: str) -> Row | None:
        """The row that asks another server for the same."""
        return self.find(row.scene.name, peer, row.ask.connections, row.ask.keys)


def speeds(rows: Sequence[Row | None]) -> tuple[list[list[float]], str]:
    """Each row's speed by rounds, all by one measure: answers a second; or, where wrk
    was too busy in one of them, answers a second of the server's CPU."""
    found = [row or None for row in rows]
    busy = [median(row.all("client_busy")) or 0 for row in found if row]
    if max(busy, default=0) > BUSY:
        each = [
            [1 / c for c in row.all("server_cpu") if c] if row else [] for row in found
        ]
        return each, BY_CPU
    return [row.all("rate") if row else [] for row in found], BY_RATE


def compared(over: Row | None, under: Row | None) -> Compared:
    (a, b), by = speeds([over, under])
    return Compared(ratio(a, b), by)


def held(many: Sequence[Row | None], few: Sequence[Row | None]) -> Compared:
    """How much of one ratio is left in another: (a / b) over (c / d)."""
    each, by = speeds([*many, *few])
    left, right = (
        [a / b for a, b in zip(over, under, strict=False)]
        for over, under in (each[:2], each[2:])
    )
    return Compared(ratio(left, right), by)


def targets(rows: Rows) -> Iterator[Target]:
    yield from _side_by_side(rows)
    yield from _many(rows)
    yield _speed("64 KB, ours / nginx", _pair(rows, "64KB", "nginx"), 0.8)
    yield from _connections(rows)
    yield _speed("misses, ours / aiohttp proxy", _pair(rows, "misses", "proxy"), 0.7)


def _side_by_side(rows: Rows) -> Iterator[Target]:
    bounds = (("nginx", 1.4), ("varnish", 2), ("aiohttp", 3), ("fastapi", 10))
    for peer, bound in (*bounds, ("floor", 0.9)):
        yield _speed(f"1 KB, ours / {peer}", _pair(rows, "1KB", peer), bound)
    ours, nginx = (rows.find("1KB", peer) for peer in ("ours", "nginx"))
    p99 = ratio(*(row.all("p99") if row else [] for row in (ours, nginx)))
    yield Target("1 KB, p99 of ours / nginx", p99, 1)
    two = compared(*(rows.find("two", peer, 200) for peer in ("ours", "nginx")))
    yield _speed("two workers, ours / nginx", two, 1.15)


def _many(rows: Rows) -> Iterator[Target]:
    zipf = compared(rows.find("keys", "ours", keys=KEYS), rows.find("keys", "ours"))
    yield _speed(f"ours, {KEYS:,} keys by Zipf / one key", zipf, 0.85)
    few = [rows.find("connections", peer) for peer in ("ours", "floor")]
    for count in (500, 2000):
        many = [rows.find("connections", peer, count) for peer in ("ours", "floor")]
        what = f"ours / floor, {count:,} connections over {CONNECTIONS}"
        yield _speed(what, held(many, few), 0.9)


def _connections(rows: Rows) -> Iterator[Target]:
    burst = rows.find("burst", "ours", 500)
    slowest = max(burst.figures, default=None) if burst else None
    yield Target("500 new connections, all answered, s", slowest, 0.5)
    idle = rows.find("idle", "ours", 2000)
    each = median(idle.figures) if idle else None
    yield Target(
        "an idle connection, KB", None if each is None else each / KB, 12, form=".1f"
    )


def _pair(rows: Rows, scene: str, peer: str) -> Compared:
    return compared(rows.find(scene, "ours"), rows.find(scene, peer))


def _speed(what: str, found: Compared, bound: float) -> Target:
    by = "" if found.ratio is None else f", {found.by}"
    return Target(f"{what}{by}", found.ratio, bound, least=True)
