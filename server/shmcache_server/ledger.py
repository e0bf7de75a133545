"""Ledger: small records that a host's processes change one step at a time.

A segment beside the cache's, which no other host and no Redis knows of. It outlives a
stop of the server: a restart must not forget what was granted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from shmcache import Cache, TierUnavailable

T = TypeVar("T")
SIZE = "1MiB"
TRIES = 64
"""Times that a change is begun anew because another process made one."""


class Ledger:
    """The records of one host; they are made of lists, numbers and text."""

    def __init__(self, segment: str) -> None:
        """Beside the segment of that name."""
        self._cache = Cache.open(f"{segment}.limits", size=SIZE, keep=True)

    async def close(self) -> None:
        """Leave it to the other processes."""
        await self._cache.close()

    def look(self, key: str) -> Any:
        """The record, or None."""
        entry = self._cache.look(key)
        return None if entry is None else entry.value

    async def change(self, key: str, step: Callable[[Any], tuple[Any, T]]) -> T:
        """Replace the record by what `step` makes of it, and return what it says
        beside that. It gets None where there is no record, and may return the very
        record to leave it; it is called again where another process was faster.
        `TierUnavailable` where others were each time."""
        for _ in range(TRIES):
            entry = self._cache.look(key)
            if entry is None:
                record, said = step(None)
                if record is None or await self._cache.add(key, record):
                    return said
                continue
            record, said = step(entry.value)
            if record is entry.value or await self._cache.compare_and_set(
                key, record, version=entry.version
            ):
                return said
        raise TierUnavailable(f"ledger: {key} was changed by others {TRIES} times")

    async def turn(self, key: str, life: float) -> bool:
        """Whether it is this process' turn: one in `life` seconds gets it."""
        return await self._cache.add(key, 1, ttl=life)
