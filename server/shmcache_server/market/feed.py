"""Feed: a part through the cache; what fills it is one call of one of its vendors.

Filling
    1. The part's sources are tried in their order, each only if its breaker is closed
       and its budget has room: neither is ever waited for.
    2. Where all have failed and one of them may do better (429 without a time, 5xx, no
       connection), they are gone through once more after a short pause.
    3. All of it is within one deadline.
    A vendor that says when it wants to be asked again is not asked before.

Failing
    Where a value stands, stale, the failure is the library's: the value is served on,
    with its age, and the next refresh waits. Where none does, the failure is stored in
    its place for `negative_ttl`: else each request would call a dead vendor.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Mapping, Sequence
from functools import partial

from shmcache import Cache, CacheError, ComputeFailed, Entry, Fill

from .answers import Answer, Unasked, Unserved, Unusable
from .calls import Calls
from .gates import Gate
from .parts import PARTS, Source
from .settings import Settings
from .vendors import Reading

PAUSE = 0.25
"""Seconds before a second round, half of them by chance."""
ELSEWHERE = 3600.0
"""Seconds for which a vendor that does not serve from here is asked elsewhere."""
LEAST = 0.25
"""Seconds of the deadline that a next source must have: cut short at once, it would be
called in vain, and taken for one that fails."""

log = logging.getLogger("shmcache.market")


class Failed(Exception):
    """No source could be used; a stale value stands.

    Its text is what other processes get to know of it: the time, seconds of the epoch,
    before which asking again is of no use, and why."""

    def __init__(self, why: str, until: float) -> None:
        super().__init__(f"{until:.3f} {why}")
        self.why = why
        self.until = until

    @classmethod
    def of(cls, error: CacheError | Failed) -> Failed:
        """A failure as it was when it was raised, perhaps in another process."""
        if isinstance(error, Failed):
            return error
        if isinstance(error, ComputeFailed) and error.kind in ("Failed", "Unavailable"):
            until, _, why = error.message.partition(" ")
            return cls(why, float(until))
        log.warning("%s: %s", type(error).__name__, error)
        return cls(type(error).__name__, time.time() + 1)

    @property
    def seconds(self) -> int:
        """Whole seconds from now, at least 1; for Retry-After."""
        return max(1, math.ceil(min(self.until - time.time(), 3600)))


class Unavailable(Failed):
    """No source could be used, and nothing stands."""


class Feed:
    """The parts, for one worker."""

    def __init__(
        self,
        cache: Cache,
        settings: Settings,
        gates: Mapping[str, Gate],
        calls: Calls,
    ) -> None:
        self._cache = cache
        self._settings = settings
        self._gates = gates
        self._keys = {name: row.key for name, row in settings.vendors.items()}
        self._calls = calls
        self._told: dict[tuple[str, str], set[str]] = {}
        """Of a part and a vendor, why it has failed since it answered last."""
        self._elsewhere: dict[str, float] = {}
        """By vendor, until when by `time.monotonic` it is asked there."""

    async def entry(self, name: str) -> Entry:
        """The part of this name, fresh or stale: a dict of `values`, `as_of` (seconds
        of the epoch) and `source`. Raises `Failed` or `CacheError`: it is unavailable.
        """
        part = PARTS[name]
        lives = self._settings.lives(name)
        return await self._cache.get_or_set_entry(
            part.key,
            partial(self._fill, name),
            ttl=lives.ttl,
            grace=lives.grace,
            errors=Unavailable,
            error_ttl=lives.negative_ttl,
        )

    def standing(self, name: str) -> Entry | None:
        """What this host's memory has of a part; no I/O."""
        entry = self._cache.look(PARTS[name].key)
        return None if entry is None or entry.state == "dead" else entry

    async def _fill(self, name: str) -> Fill:
        lives = self._settings.lives(name)
        source, reading = await self._read(name)
        now = time.time()
        value = {
            "values": reading.values,
            "as_of": min(now, now if reading.as_of is None else reading.as_of),
            "source": source.vendor,
        }
        return Fill(value, ttl=lives.ttl * (1 - lives.jitter * random.random()))

    async def _read(self, name: str) -> tuple[Source, Reading]:
        """The first source that can be used, and what it says."""
        part = PARTS[name]
        loop = asyncio.get_running_loop()
        ends = loop.time() + self._settings.deadline
        failures: dict[str, Unusable] = {}
        for turn in range(self._settings.rounds):
            if turn and not await self._paused(failures, ends):
                break
            for source in part.sources:
                if failures and loop.time() + LEAST > ends:
                    break
                try:
                    reading = await self._ask(source, ends)
                except Unusable as e:
                    failures[source.vendor] = e
                    self._tell(part.key, source.vendor, e.why)
                else:
                    self._told.pop((part.key, source.vendor), None)
                    return source, reading
        raise self._failure(name, failures)

    def _tell(self, key: str, vendor: str, why: str) -> None:
        """Once for each reason: a key that is missing is so at each fetch, and one that
        is refused is so between others, when the vendor is left alone."""
        told = self._told.setdefault((key, vendor), set())
        if why not in told:
            told.add(why)
            url = self._settings.vendors[vendor].url
            log.info("%s: %s at %s: %s", key, vendor, url, why)

    async def _paused(self, failures: Mapping[str, Unusable], ends: float) -> bool:
        """Wait before the next round; whether there is to be one."""
        pause = PAUSE * (1 + random.random()) / 2
        late = asyncio.get_running_loop().time() + pause >= ends
        if late or not any(e.again for e in failures.values()):
            return False
        await asyncio.sleep(pause)
        return True

    def _failure(self, name: str, failures: Mapping[str, Unusable]) -> Failed:
        soon = time.time() + self._settings.lives(name).negative_ttl
        until = min(max(soon, e.until or 0.0) for e in failures.values())
        why = "; ".join(f"{vendor}: {e.why}" for vendor, e in failures.items())
        kind = Unavailable if self.standing(name) is None else Failed
        return kind(why, until)

    async def _ask(self, source: Source, ends: float) -> Reading:
        """What the source says; raises `Unusable`. A vendor that does not serve from
        here is asked elsewhere for a while, and each time is a call of its budget."""
        vendor, now = self._settings.vendors[source.vendor], time.monotonic()
        if not vendor.elsewhere or now < self._elsewhere.get(source.vendor, 0.0):
            return await self._asked(source, vendor.elsewhere or vendor.url, ends)
        try:
            return await self._asked(source, vendor.url, ends)
        except Unserved as e:
            log.info("%s: %s: asked elsewhere now", source.vendor, e.why)
        self._elsewhere[source.vendor] = now + ELSEWHERE
        return await self._asked(source, vendor.elsewhere, ends)

    async def _asked(self, source: Source, url: str, ends: float) -> Reading:
        """What it says there; the vendor's gate hears of it."""
        name = source.vendor
        vendor, key = self._settings.vendors[name], self._keys[name]
        if vendor.key_env and not key:
            raise Unasked(f"{vendor.key_env} is not set", until=math.inf)
        cost = source.cost * len(source.requests)
        async with self._gates[name].passing(cost) as sending:
            limit = asyncio.get_running_loop().time() + self._settings.attempt_timeout
            sent = partial(sending, source.cost)
            get = partial(self._calls.get, url, key, min(ends, limit), sent)
            # all of them are within the gate, also those that come after one that fails
            told = await asyncio.gather(
                *map(get, source.requests), return_exceptions=True
            )
            return _reading(source, told)


def _reading(source: Source, told: Sequence[Answer | BaseException]) -> Reading:
    """What the answers say. No payload is more than a failure, whatever is in it."""
    answers = []
    for one in told:
        if isinstance(one, BaseException):
            raise one
        answers.append(one)
    try:
        return source.parse(answers, time.time())
    except Unusable:
        raise
    except Exception as e:
        log.warning("%s: no parser took it: %s", source.vendor, type(e).__name__)
        raise Unusable("not to be read") from None
