"""Dashboard: the parts of the market in one value, under one key.

It lives just as long as its shortest-lived part, and dies with the first one, so no
number is shown longer than its part allows. Parts are asked for through the cache, in
parallel; whoever asks, each is fetched once in the fleet. One that stands, stale, is
not waited for as long as one that does not.

From the stream
    Where neither the host nor the fleet's Redis has a dashboard, the stream's last
    entry is the first answer, at its true age: stale, and refreshed at once.

To the stream
    1. We compute. 2. We are stopped; the lease goes to another, who computes, stores
    and appends. 3. We go on: our store is refused, and our value is not what stands.
    So who computed appends only what stands after its store. Stopped once more between
    that look and the append, it brings what is older than the stream's last entry,
    which the stream refuses (`stream.py`).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from shmcache import Cache, CacheError, Entry, Fill

from .feed import Failed, Feed, Unavailable
from .parts import DASHBOARD
from .settings import Settings
from .stream import Stream

KEY = "latest_market_data"
RETRY = 1.0
"""Seconds until a part that is served stale is tried again, at the earliest."""
PATIENCE = 2.0
"""Seconds for which a fresh value is waited for in place of a stale one."""
_LEAST = 0.05
"""Seconds that a dashboard lives: a part may have ended while others were fetched."""


_SHOWN = {
    *(field for part in DASHBOARD.values() for field in part.names),
    *("parts", "partial_failure", "fetch_duration_ms", "last_updated"),
}
"""What each dashboard has."""


class Dashboard:
    """The dashboard, for one worker."""

    def __init__(
        self, cache: Cache, feed: Feed, stream: Stream, settings: Settings
    ) -> None:
        self._cache = cache
        self._feed = feed
        self._stream = stream
        self._settings = settings
        self._told = 0
        """The version that was appended last."""
        self._asking: set[asyncio.Task[Entry]] = set()
        self._telling: set[asyncio.Task[bool]] = set()
        self._grace = min(settings.lives(name).grace for name in DASHBOARD)

    async def close(self) -> None:
        """Nobody waits any more; what is being appended is appended."""
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)
        await asyncio.gather(*self._telling)

    def standing(self) -> Entry | None:
        """What this host's memory has; no I/O."""
        entry = self._cache.look(KEY)
        return None if entry is None or entry.state == "dead" else entry

    async def entry(self) -> Entry:
        """The dashboard, fresh or stale: a dict of `shown`, which is what clients get,
        and `grace`, seconds. Raises `Failed` or `CacheError`. Who is cancelled leaves;
        what is computed is appended all the same."""
        return await asyncio.shield(self._ask())

    def _ask(self) -> asyncio.Task[Entry]:
        task = asyncio.get_running_loop().create_task(self._entry())
        self._asking.add(task)
        task.add_done_callback(self._answered)
        return task

    def _answered(self, task: asyncio.Task[Entry]) -> None:
        self._asking.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits gets it, and perhaps nobody does

    async def _entry(self) -> Entry:
        entry = await self._cache.get_or_set_entry(
            KEY, self._begin, errors=Unavailable, error_ttl=RETRY
        )
        if entry.source == "compute":
            if entry.state == "stale":  # the stream's
                self._ask()
            self._tell(entry)
        return entry

    async def _begin(self) -> Fill:
        """The first value of a host that finds none is the stream's last."""
        if self._cache.look(KEY) is None:
            last = await self._stream.latest()
            if last is not None and last.keys() >= _SHOWN:  # another version's may not
                age = max(RETRY, time.time() - last["last_updated"])
                if age < self._grace:
                    return _fill(last, RETRY, self._grace, age)
        return await self._fill()

    async def _fill(self) -> Fill:
        loop = asyncio.get_running_loop()
        began = loop.time()
        tasks = {name: loop.create_task(self._part(name)) for name in DASHBOARD}
        try:
            await asyncio.wait(tasks.values(), timeout=self._settings.deadline)
            found = {name: self._outcome(name, task) for name, task in tasks.items()}
        finally:  # also where the fill itself is cancelled
            for task in tasks.values():
                task.cancel()
        failures = [one for one in found.values() if isinstance(one, Failed)]
        if len(failures) == len(found):
            raise self._unavailable(failures)
        lives = [self._life(name, one) for name, one in found.items()]
        ttl = max(_LEAST, min(ttl for ttl, _ in lives))
        dead = min(dead for _, dead in lives)
        shown = composed(found, time.time(), loop.time() - began)
        return _fill(shown, ttl, max(0.0, dead - ttl))

    async def _part(self, name: str) -> Seen | Failed:
        limit = None if self._feed.standing(name) is None else PATIENCE
        try:
            async with asyncio.timeout(limit):
                return _seen(await self._feed.entry(name))
        except (CacheError, Failed) as e:
            return Failed.of(e)
        except TimeoutError:
            return self._stale(name)

    def _outcome(self, name: str, task: asyncio.Task[Seen | Failed]) -> Seen | Failed:
        if task.done():
            return task.result()
        return self._stale(name)

    def _stale(self, name: str) -> Seen | Failed:
        """What stands, where the fresh value takes too long."""
        if (entry := self._feed.standing(name)) is None:
            return Failed("too late", time.time() + RETRY)
        return _seen(entry)

    def _life(self, name: str, one: Seen | Failed) -> tuple[float, float]:
        """Seconds until a part is fetched again, and until it may not be shown."""
        if isinstance(one, Failed):
            return max(RETRY, one.until - time.time()), math.inf
        since = asyncio.get_running_loop().time() - one.at
        ttl = (one.entry.ttl or 0.0) - since
        grace = self._settings.lives(name).grace
        return (ttl if one.entry.state == "fresh" else RETRY), ttl + grace

    def _unavailable(self, failures: list[Failed]) -> Failed:
        until = min(one.until for one in failures)
        why = "; ".join(dict.fromkeys(one.why for one in failures))
        kind = Unavailable if self.standing() is None else Failed
        return kind(why, until)

    def _tell(self, entry: Entry) -> None:
        """Append what was computed here, if it stands."""
        standing = self._cache.look(KEY)
        if standing is None or standing.version != entry.version:
            return
        if self._told != entry.version:
            self._told = entry.version
            append = self._stream.append(entry.value["shown"])
            task = asyncio.get_running_loop().create_task(append)
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)


class Seen(NamedTuple):
    """A part, and the loop's time at which it was looked at."""

    entry: Entry
    at: float


def _seen(entry: Entry) -> Seen:
    return Seen(entry, asyncio.get_running_loop().time())


def _fill(shown: dict[str, Any], ttl: float, grace: float, age: float = 0.0) -> Fill:
    return Fill({"shown": shown, "grace": grace}, ttl=ttl, grace=grace, age=age)


def composed(
    found: Mapping[str, Seen | Failed], now: float, took: float
) -> dict[str, Any]:
    """The dashboard of these parts; values of one that failed are None."""
    values: dict[str, Any] = {}
    parts: dict[str, Any] = {}
    for name, one in found.items():
        if isinstance(one, Failed):
            values |= dict.fromkeys(DASHBOARD[name].names)
            parts[name] = {"as_of": None, "source": None, "state": "unavailable"}
            continue
        part, state = one.entry.value, one.entry.state
        values |= {field: part["values"][field] for field in DASHBOARD[name].names}
        about = {"as_of": part["as_of"], "source": part["source"], "state": state}
        parts[name] = about
    return {
        **values,
        "parts": parts,
        "partial_failure": any(isinstance(one, Failed) for one in found.values()),
        "fetch_duration_ms": took * 1000,
        "last_updated": now,
    }


def numbers(dashboard: Mapping[str, Any]) -> dict[str, Any]:
    """What of a dashboard is news when it changes."""
    names = [field for part in DASHBOARD.values() for field in part.names]
    return {name: dashboard.get(name) for name in (*names, "partial_failure")}
