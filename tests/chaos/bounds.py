"""Stretches of time, and how old a value may be at one: the checker's arithmetic."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable


class Bounds:
    """For each key the voids, so that one look tells how old a value may be.

    Of all voids whose `known` time is before a read began, the latest begin: what is
    older than that must not be answered.
    """

    def __init__(self) -> None:
        self._points: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._built: dict[str, tuple[list[int], list[int]]] = {}

    def add(self, key: str, known: int, begin: int) -> None:
        self._points[key].append((known, begin))

    def at(self, key: str, begin: int) -> int:
        if key not in self._built:
            points = sorted(self._points.pop(key, ()))
            latest, highest = [], 0
            for _, b in points:
                highest = max(highest, b)
                latest.append(highest)
            self._built[key] = [k for k, _ in points], latest
        known, latest = self._built[key]
        i = bisect_left(known, begin)
        return latest[i - 1] if i else 0


class Windows:
    """Stretches of time, joined where they overlap."""

    def __init__(self, stretches: Iterable[tuple[int, int]]) -> None:
        self.joined: list[tuple[int, int]] = []
        for begin, end in sorted(stretches):
            if self.joined and begin <= self.joined[-1][1]:
                last = self.joined[-1]
                self.joined[-1] = last[0], max(last[1], end)
            else:
                self.joined.append((begin, end))
        self._begins = [b for b, _ in self.joined]

    def touch(self, begin: int, end: int) -> bool:
        """Whether any of them overlaps."""
        i = bisect_left(self._begins, end + 1)
        return i > 0 and self.joined[i - 1][1] >= begin

    def overlap(self, begin: int, end: int) -> int:
        return sum(max(0, min(end, e) - max(begin, b)) for b, e in self.joined)

    def clear_for(self, after: int, length: int) -> int:
        """The first time that ends a stretch of `length` free of them, which begins
        at `after` or later."""
        at = after
        for begin, end in self.joined[max(0, bisect_left(self._begins, at) - 1) :]:
            if begin >= at + length:
                break
            at = max(at, end)
        return at + length

    def free_since(self, at: int) -> int | None:
        """Since when there was none; None: there is one just then."""
        i = bisect_left(self._begins, at + 1)
        if not i:
            return 0
        end = self.joined[i - 1][1]
        return end if end < at else None
