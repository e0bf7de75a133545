"""The upstreams of an origin: which one is asked, and which ones are left alone.

Choice
    Of two taken by chance the one with fewer requests under way. Each worker knows its
    own requests only: were all to take the least busy, they would take the same one
    together; in turn, a slow one would get as many as the others.

Breaker
    Each upstream has one, in each worker. Failures in a row open it; after a pause one
    request is let through as a probe, and what becomes of it closes the breaker or
    begins a longer pause. A probe need not report: the next pause begins with it.
    While it is open nothing counts as a failure: the many requests that were under
    way as it opened must not lengthen the pause. Any answer closes it.
    Where a path is checked, checks are the probes, and no client's request is.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Collection, Sequence
from typing import Any

import aiohttp
from aiohttp.http import HttpProcessingError
from multidict import CIMultiDict

from .config import Config
from .pool import Pool

log = logging.getLogger("shmcache")

PAUSE_MIN, PAUSE_MAX = 0.5, 10.0
"""Seconds, shortened by chance, so that the workers of a fleet do not come as one."""
FAILURES = (aiohttp.ClientError, HttpProcessingError, OSError, ValueError)
"""What asking raises that is the origin's fault, or the network's."""
RESERVE = 10
"""Retries that a budget holds at most."""
SHARE = 0.1
"""Of a request, by which each adds to the budget."""


class Upstream:
    """One server of the origin: connections to it, and whether it is well."""

    def __init__(self, base: str, config: Config) -> None:
        self.base = base
        self.pool = Pool(base, config)
        self.asked = 0
        self.failures = 0
        """In a row."""
        self.errors = 0
        """In all: what counts for the breaker."""
        self.opened = 0
        """Times that its breaker opened."""
        self.probe_at = 0.0
        """When the next probe is due; 0.0: it is well."""
        self._pauses = 0
        self._threshold = config.origin.breaker_failures

    def succeeded(self) -> None:
        """It answered."""
        if self.probe_at:
            log.info("origin %s: answers again", self.base)
        self.failures = self._pauses = 0
        self.probe_at = 0.0

    def failed(self) -> None:
        """It cannot be reached, or was silent for too long."""
        self.errors += 1
        if self.probe_at or not self._threshold:
            return
        self.failures += 1
        if self.failures >= self._threshold:
            self.opened += 1
            self._pause(time.monotonic())
            log.warning("origin %s: down, and left alone for a while", self.base)

    def probe(self, now: float) -> bool:
        """Whether a probe is due; it is the caller's then."""
        if now < self.probe_at:
            return False
        self._pause(now)
        return True

    @property
    def state(self) -> str:
        """Of its breaker."""
        if not self.probe_at:
            return "closed"
        return "half-open" if time.monotonic() >= self.probe_at else "open"

    def _pause(self, now: float) -> None:
        pause = min(PAUSE_MAX, PAUSE_MIN * 2 ** min(self._pauses, 10))
        self._pauses += 1
        self.probe_at = now + pause * random.uniform(0.5, 1)


class Upstreams:
    """All of them; must be made and closed within a loop."""

    def __init__(self, config: Config) -> None:
        origin = config.origin
        self.all: Sequence[Upstream] = [Upstream(b, config) for b in origin.bases]
        self.only = self.all[0] if len(self.all) == 1 else None
        self._path, self._interval = origin.health_path, origin.health_interval
        self._patience = origin.patience
        self._checks = [
            asyncio.get_running_loop().create_task(self._check(upstream))
            for upstream in (self.all if self._path else ())
        ]

    async def close(self) -> None:
        """Close every connection."""
        for check in self._checks:
            check.cancel()
        await asyncio.gather(*self._checks, return_exceptions=True)
        for upstream in self.all:
            await upstream.pool.close()

    def choose(
        self, tried: Collection[Upstream] = (), *, probing: bool = True
    ) -> Upstream | None:
        """The one to ask, None where all are tried or down. One that is down is probed
        instead of asking a healthy one only if `probing`."""
        rest = [upstream for upstream in self.all if upstream not in tried]
        well = [upstream for upstream in rest if not upstream.probe_at]
        if not self._path and (probing or not well):
            now = time.monotonic()
            for upstream in rest:
                if upstream.probe_at and upstream.probe(now):
                    return upstream
        if len(well) > 1:
            well = random.sample(well, 2)
        return min(well, key=lambda one: one.pool.taken, default=None)

    def due(self) -> float:
        """Seconds until somebody looks whether one that is down is well again."""
        if self._path:
            return self._interval
        down = [one.probe_at for one in self.all if one.probe_at]
        return min(down) - time.monotonic() if down else 0.0

    def stats(self) -> list[dict[str, Any]]:
        """Of each: its URL, its breaker and its connections."""
        return [
            {
                "url": upstream.base,
                "breaker": upstream.state,
                "failures": upstream.failures,
                "errors": upstream.errors,
                "opened": upstream.opened,
                "asked": upstream.asked,
                "under_way": upstream.pool.taken,
                "idle": len(upstream.pool),
            }
            for upstream in self.all
        ]

    # -- checks

    async def _check(self, upstream: Upstream) -> None:
        """Ask for the path every so often, on a connection of its own each time: to
        connect is half of being well."""
        while True:
            await asyncio.sleep(self._interval * random.uniform(0.8, 1.2))
            if await self._answers(upstream):
                upstream.succeeded()
            else:
                upstream.failed()

    async def _answers(self, upstream: Upstream) -> bool:
        pool = upstream.pool
        fields = CIMultiDict({"Host": pool.host, "Connection": "close"})
        try:
            connection = await pool.open(self._patience)
            try:
                message, _ = await connection.ask(
                    "GET", self._path, fields, None, self._patience
                )
            finally:
                connection.discard()
        except FAILURES:
            return False
        except Exception:  # with the checks ended it would be left alone for ever
            log.exception("origin %s: a check", upstream.base)
            return False
        return 200 <= message.code < 400


class Budget:
    """Retries in proportion to requests, so that an outage is not asked twice as much
    as usual. What was not spent is kept, up to a reserve."""

    def __init__(self) -> None:
        self._tokens = float(RESERVE)
        self._seen = 0

    def spend(self, asked: int) -> bool:
        """Whether there is one retry to be had, now that so many were asked in all."""
        earned = (asked - self._seen) * SHARE
        self._seen = asked
        self._tokens = min(RESERVE, self._tokens + earned)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
