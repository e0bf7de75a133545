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
from collections.abc import Mapping
from functools import partial
from typing import Any, Self

import aiohttp
from yarl import URL

from shmcache import Cache, CacheError, ComputeFailed, Entry, Fill

from .answers import Answer, Unusable
from .gates import Gate
from .parts import KEY, PARTS, USER_AGENT, Part, Request, Source
from .settings import Settings
from .vendors import Reading

BODY_MOST = 256 * 1024
"""Bytes of a payload; CoinGecko's longest has 3 KB."""
PAUSE = 0.25
"""Seconds before a second round, half of them by chance."""

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
        self, cache: Cache, settings: Settings, gates: Mapping[str, Gate]
    ) -> None:
        self._cache = cache
        self._settings = settings
        self._gates = gates
        self._keys = {name: row.key for name, row in settings.vendors.items()}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            headers={"User-Agent": USER_AGENT},
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def entry(self, name: str) -> Entry:
        """The part of this name, fresh or stale: a dict of `values`, `as_of` (seconds
        of the epoch) and `source`. Raises `Failed` or `CacheError`: it is unavailable.
        """
        part = PARTS[name]
        lives = self._settings.classes[part.lives]
        return await self._cache.get_or_set_entry(
            part.key,
            partial(self._fill, part),
            ttl=lives.ttl,
            grace=lives.grace,
            errors=Unavailable,
            error_ttl=lives.negative_ttl,
        )

    def standing(self, name: str) -> Entry | None:
        """What this host's memory has of a part; no I/O."""
        entry = self._cache.look(PARTS[name].key)
        return None if entry is None or entry.state == "dead" else entry

    async def _fill(self, part: Part) -> Fill:
        lives = self._settings.classes[part.lives]
        source, reading = await self._read(part)
        now = time.time()
        value = {
            "values": reading.values,
            "as_of": min(now, now if reading.as_of is None else reading.as_of),
            "source": source.vendor,
        }
        return Fill(value, ttl=lives.ttl * (1 - lives.jitter * random.random()))

    async def _read(self, part: Part) -> tuple[Source, Reading]:
        """The first source that can be used, and what it says."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + self._settings.deadline
        failures: dict[str, Unusable] = {}
        for turn in range(self._settings.rounds):
            if turn and not await self._paused(failures, ends):
                break
            for source in part.sources:
                try:
                    return source, await self._ask(source, ends)
                except Unusable as e:
                    failures[source.vendor] = e
                    log.info("%s: %s: %s", part.key, source.vendor, e.why)
        raise self._failure(part, failures)

    async def _paused(self, failures: Mapping[str, Unusable], ends: float) -> bool:
        """Wait before the next round; whether there is to be one."""
        pause = PAUSE * (1 + random.random()) / 2
        late = asyncio.get_running_loop().time() + pause >= ends
        if late or not any(e.again for e in failures.values()):
            return False
        await asyncio.sleep(pause)
        return True

    def _failure(self, part: Part, failures: Mapping[str, Unusable]) -> Failed:
        soon = time.time() + self._settings.classes[part.lives].negative_ttl
        until = min(max(soon, e.until or 0.0) for e in failures.values())
        why = "; ".join(f"{vendor}: {e.why}" for vendor, e in failures.items())
        standing = self._cache.look(part.key)
        if standing is None or standing.state == "dead":
            return Unavailable(why, until)
        return Failed(why, until)

    async def _ask(self, source: Source, ends: float) -> Reading:
        """What the source says; raises `Unusable`. The vendor's gate hears of it."""
        vendor = self._settings.vendors[source.vendor]
        if vendor.key_env and not self._keys[source.vendor]:
            raise Unusable(f"{vendor.key_env} is not set", until=math.inf)
        gate = self._gates[source.vendor]
        async with gate.passing(source.cost * len(source.requests)):
            answers = await asyncio.gather(
                *(self._get(source, request, ends) for request in source.requests)
            )
            return source.parse(answers, time.time())

    async def _get(self, source: Source, request: Request, ends: float) -> Answer:
        """One request, within its time."""
        assert self._session is not None
        key, vendor = self._keys[source.vendor], self._settings.vendors[source.vendor]
        url = URL(vendor.url.rstrip("/") + request.path)
        loop = asyncio.get_running_loop()
        limit = min(ends, loop.time() + self._settings.attempt_timeout)
        try:
            async with (
                asyncio.timeout_at(limit),
                self._session.get(
                    url.with_query(_with_key(request.query, key)),
                    headers=_with_key(request.fields, key),
                    allow_redirects=False,  # it would be told the key
                ) as answer,
            ):
                body = bytearray()
                async for chunk in answer.content.iter_chunked(64 * 1024):
                    body += chunk
                    if len(body) > BODY_MOST:
                        raise Unusable("longer than a payload may be")
                return Answer(answer.status, answer.headers, bytes(body))
        except TimeoutError:
            raise Unusable("no answer in time", again=True) from None
        except (aiohttp.ClientError, OSError) as e:
            # its text, and what it was raised from, may have the URL with the key
            raise Unusable(type(e).__name__, again=True) from None


def _with_key(given: Mapping[str, str], key: str) -> dict[str, Any]:
    return {name: key if value == KEY else value for name, value in given.items()}
