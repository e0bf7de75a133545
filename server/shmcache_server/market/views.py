"""Views: what the server in front asks for, and for how long it may keep the answers.

A browser is told whole seconds, the server thousandths. What is left of the value's
life is told, and no `Age`: the server counts an answer's age from the moment it asked,
so the time since then is added, and its record ends just when the value does.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from shmcache import CacheError, Entry, TierUnavailable

from .dashboard import Dashboard
from .feed import Failed, Feed
from .gates import Gate
from .parts import PARTS
from .settings import Settings
from .stream import Stream

BRIEF = 1.0
"""Seconds that an answer lives which is nobody's value: an error, the limits, the
stream's last entry, and a value that is stale."""


class Views:
    """Of one worker."""

    def __init__(
        self,
        settings: Settings,
        feed: Feed,
        dashboard: Dashboard,
        stream: Stream,
        gates: Mapping[str, Gate],
    ) -> None:
        self._settings = settings
        self._feed = feed
        self._dashboard = dashboard
        self._stream = stream
        self._gates = gates

    async def dashboard(self, request: web.Request) -> web.Response:
        """The dashboard; 503 where there is none."""
        began = _now()
        try:
            entry = await self._dashboard.entry()
        except (CacheError, Failed) as e:
            return _unavailable(Failed.of(e))
        return _answer(entry.value["shown"], entry, began, entry.value["grace"])

    async def part(self, request: web.Request) -> web.Response:
        """One part, with its time, source and state; 503 where there is none."""
        began, name = _now(), request.match_info["name"]
        if name not in PARTS:
            raise web.HTTPNotFound(headers={"Cache-Control": "max-age=1"})
        try:
            entry = await self._feed.entry(name)
        except (CacheError, Failed) as e:
            return _unavailable(Failed.of(e))
        part = entry.value
        said = {**part["values"], "as_of": part["as_of"], "source": part["source"]}
        grace = self._settings.lives(name).grace
        return _answer(said | {"state": entry.state}, entry, began, grace)

    async def latest(self, request: web.Request) -> web.Response:
        """The stream's last entry; 503 where there is none, or no Redis."""
        last = await self._stream.latest()
        if last is None:
            return _unavailable(Failed("no entry in the stream", time.time() + BRIEF))
        return _json(last, _fields(BRIEF, BRIEF))

    async def rate_limits(self, request: web.Request) -> web.Response:
        """How each vendor's budget and breaker stand."""
        try:
            rows = await asyncio.gather(*map(_row, self._gates.values()))
        except TierUnavailable as e:
            return _unavailable(Failed.of(e))
        return _json(dict(zip(self._gates, rows, strict=True)), _fields(BRIEF, BRIEF))


async def _row(gate: Gate) -> dict[str, Any]:
    stands = await gate.budget.standing()
    blocked = time.time() + stands.blocked if stands.blocked else None
    return {
        "budget": stands.calls,
        "used": stands.used,
        "left": stands.left,
        "blocked_until": blocked,
        "fleet": stands.fleet,
        "breaker": gate.breaker.state,
    }


def _answer(said: Any, entry: Entry, began: float, grace: float) -> web.Response:
    """A value with what is left of its life."""
    ttl = entry.ttl or 0.0
    stale = entry.state != "fresh"
    rest = grace + ttl if stale else grace
    left = min(BRIEF, max(0.0, rest)) if stale else ttl
    return _json(said, _fields(left, left + _now() - began, rest))


def _fields(left: float, counted: float, grace: float = 0.0) -> dict[str, str]:
    """`left` seconds from now, `counted` from the question; stale for `grace` more."""
    fine = f"public, max-age-ms={max(0, int(counted * 1000))}"
    if grace >= 1:
        seconds = int(grace)
        fine += f", stale-while-revalidate={seconds}, stale-if-error={seconds}"
    return {
        "Cache-Control": f"public, max-age={max(0, int(left))}",
        "Shmcache-Cache-Control": fine,
    }


def _json(said: Any, fields: Mapping[str, str], status: int = 200) -> web.Response:
    body = json.dumps(said, allow_nan=False).encode()
    tag = hashlib.blake2b(body, digest_size=8).hexdigest()
    return web.Response(
        body=body,
        status=status,
        content_type="application/json",
        headers={**fields, "ETag": f'"{tag}"'},
    )


def _unavailable(failed: Failed) -> web.Response:
    said = {"error": failed.why, "retry_after": failed.seconds}
    wait = {"Retry-After": str(failed.seconds)}
    return _json(said, _fields(BRIEF, BRIEF) | wait, status=503)


def _now() -> float:
    return asyncio.get_running_loop().time()
