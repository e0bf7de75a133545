"""Stream: the dashboard's changes, in Redis, for any reader.

The key is `shmcache:APP:market_data_stream`, where APP is the cache's name in Redis
(`l2.app` and `.app`). Each entry has `data`, the dashboard as JSON, and `as_of`, its
`last_updated`. Readers take the latest by XREVRANGE, or follow by XREAD on a
connection of their own.

Appending
    1. We read the last entry: older than ours, and with other numbers. 2. Another
    appends. 3. We would append what is older than the last, or no change of it. So the
    script appends only if the entry that was read is still the last.

An entry of the future is by a clock that is wrong, and one that is no dashboard is
another program's: neither is a start, nor newer than anything.

Without Redis there is no stream, and nobody fails for it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

from shmcache import CacheConfig

AHEAD = 1.0
"""Seconds by which the clocks of hosts may differ."""
TRIES = 3
"""Times that the last entry is read anew because another was appended."""

# KEYS the stream; ARGV the id of its last entry, or "", entries to keep, data, as_of.
# Returns 1, or 0 where another entry is the last by now.
_APPEND = """
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if (last and last[1] or '') ~= ARGV[1] then return 0 end
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*',
           'data', ARGV[3], 'as_of', ARGV[4])
return 1
"""

log = logging.getLogger("shmcache.market")


class Last(NamedTuple):
    """The stream's last entry."""

    id: str
    data: dict[str, Any]
    as_of: float


class Stream:
    """This process' connection to it."""

    def __init__(
        self,
        cache: CacheConfig,
        length: int,
        news: Callable[[Mapping[str, Any]], object],
    ) -> None:
        """`news` of a dashboard is what makes an entry when it changes."""
        self.key = f"shmcache:{cache.app or cache.name}:market_data_stream"
        self._redis: Any = None
        self._sentinels: list[Any] = []
        if cache.l2 is not None:
            from shmcache_server.tally import clients  # takes a while to load

            self._redis, self._sentinels = clients(cache.l2)
        self._deadline = cache.l2_deadline
        self._length = length
        self._news = news

    async def close(self) -> None:
        for one in (self._redis, *self._sentinels):
            if one is not None:
                await one.aclose()

    async def latest(self) -> dict[str, Any] | None:
        """The last dashboard; None if there is none, or no Redis that answers."""
        try:
            last = await self._last()
        except Exception as e:  # the client raises TypeError for a lost peer, too
            log.info("stream: not read: %s", type(e).__name__)
            return None
        return None if last is None else last.data or None

    async def append(self, dashboard: Mapping[str, Any]) -> bool:
        """Append it, if it is newer than the last and its numbers are others. Whether
        it was."""
        if self._redis is None:
            return False
        try:
            for _ in range(TRIES):
                last = await self._last()
                if last is not None and (
                    last.as_of >= dashboard["last_updated"]
                    or self._news(last.data) == self._news(dashboard)
                ):
                    return False
                if await self._append(last, dashboard):
                    return True
        except Exception as e:
            log.info("stream: not appended: %s", type(e).__name__)
        return False

    async def _append(self, last: Last | None, dashboard: Mapping[str, Any]) -> bool:
        as_of, data = repr(dashboard["last_updated"]), json.dumps(dashboard)
        words = ("" if last is None else last.id, self._length, data, as_of)
        async with asyncio.timeout(self._deadline):
            return bool(await self._redis.eval(_APPEND, 1, self.key, *words))

    async def _last(self) -> Last | None:
        if self._redis is None:
            return None
        async with asyncio.timeout(self._deadline):
            entries = await self._redis.xrevrange(self.key, count=1)
        if not entries:
            return None
        ((name, fields),) = entries
        data, as_of = _read(fields, time.time())
        return Last(name.decode(), data, as_of)


def _read(fields: Mapping[bytes, bytes], now: float) -> tuple[dict[str, Any], float]:
    """What an entry says; one that is none of ours says nothing, and is older than
    all."""
    try:
        data = json.loads(fields[b"data"], parse_constant=_no_number)
        as_of = float(fields[b"as_of"])
    except (KeyError, ValueError, RecursionError):
        return {}, 0.0
    known = type(data) is dict and type(data.get("last_updated")) is float
    return (data, as_of) if known and _past(data, as_of, now) else ({}, 0.0)


def _past(data: Mapping[str, Any], as_of: float, now: float) -> bool:
    return all(0 < at <= now + AHEAD for at in (data["last_updated"], as_of))


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
