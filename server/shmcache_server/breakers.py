"""Breakers: vendors that are left alone after failures in a row, by a whole host.

Closed, every attempt is made. So many failures in a row open it for a while; half-open
then, one attempt of the fleet at a time is made, as a probe, and so many of them that
succeed close it. One that fails opens it anew. Attempts that were under way as it
opened decide nothing.

One probe
    It is a key of the cache, added where none stands, with a life: a probe that died
    with its process is followed by another one. One that is older than that decides
    nothing.
    1. A worker finds the breaker half-open. 2. Another one's probe fails, opens it and
    frees the key. 3. The first adds the key. So it looks once more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from shmcache import Cache

from .ledger import Ledger

log = logging.getLogger("shmcache")

PROBE_LIFE = 30.0
"""Seconds after which a probe is taken for dead."""
_AGAIN = 1.0
"""Seconds after which it is worth to look whether a probe has ended."""
_PROBED = b"\xc3"


class Attempt(NamedTuple):
    """Whether to ask the vendor."""

    wait: float
    """Seconds for which it is left alone; 0.0: ask it, and tell what became of it."""
    probe_until: float = 0.0
    """By `time.monotonic`, until when it is the fleet's probe; 0.0: it is none."""

    @property
    def allowed(self) -> bool:
        return self.wait == 0


class _State(NamedTuple):
    """As the ledger has it."""

    failures: int = 0
    """In a row."""
    open_until: float = 0.0
    """By `time.monotonic`; 0.0: closed."""
    successes: int = 0
    """Of probes, in a row."""


class Breaker:
    """The breaker of one vendor, on this host."""

    def __init__(
        self,
        name: str,
        ledger: Ledger,
        cache: Cache,
        *,
        failures: int,
        successes: int,
        seconds: float,
        probe_life: float = PROBE_LIFE,
    ) -> None:
        """`probe_life`: longer than an attempt may take."""
        self.name = name
        self._ledger = ledger
        self._cache = cache
        self._threshold = failures
        self._successes = successes
        self._seconds = seconds
        self._life = probe_life
        self._key = f"breaker:{name}"
        self._probe_key = f"shmcache-probe:{name}"

    @property
    def state(self) -> str:
        """closed, open or half-open."""
        until = self._state().open_until
        if not until:
            return "closed"
        return "open" if time.monotonic() < until else "half-open"

    @property
    def open_until(self) -> float:
        """By `time.monotonic`; 0.0: it is closed."""
        return self._state().open_until

    async def attempt(self) -> Attempt:
        """Whether to ask the vendor now; what became of it is told by `succeeded` or
        `failed`."""
        until = self._state().open_until
        if not until:
            return Attempt(0.0)
        now = time.monotonic()
        if now < until:
            return Attempt(until - now)
        if not await self._added():
            return Attempt(_AGAIN)
        if self._state().open_until != until:
            await self._cache.delete(self._probe_key)
            return Attempt(_AGAIN)
        return Attempt(0.0, now + self._life)

    async def succeeded(self, attempt: Attempt) -> None:
        """The vendor answered."""
        probe = _alive(attempt)

        def step(state: _State) -> _State:
            if not state.open_until:
                return _State()
            if not probe:
                return state
            successes = state.successes + 1
            if successes >= self._successes:
                return _State()
            return state._replace(successes=successes)

        old, new = await self._step(step)
        if old.open_until and not new.open_until:
            log.info("breaker %s: closed", self.name)
        if probe:
            await self._cache.delete(self._probe_key)

    async def failed(self, attempt: Attempt) -> None:
        """It did not, or said that it cannot."""
        probe = _alive(attempt)

        def step(state: _State) -> _State:
            if state.open_until:
                return _State(open_until=self._later(state)) if probe else state
            failures = state.failures + 1
            if failures < self._threshold:
                return _State(failures=failures)
            return _State(open_until=self._later(state))

        old, new = await self._step(step)
        if new.open_until and not old.open_until:
            log.warning("breaker %s: open", self.name)
        if probe:
            await self._cache.delete(self._probe_key)

    async def left(self, attempt: Attempt) -> None:
        """Nothing came of it, by no fault of the vendor: if it was the probe, another
        one may be made at once."""
        if _alive(attempt):
            await self._cache.delete(self._probe_key)

    async def open_for(self, seconds: float) -> None:
        """Leave the vendor alone for so long: it said so."""
        until = time.monotonic() + seconds
        await self._step(lambda s: _State(open_until=max(s.open_until, until)))

    # -- inside

    def _later(self, state: _State) -> float:
        return max(state.open_until, time.monotonic() + self._seconds)

    async def _added(self) -> bool:
        try:
            # Redis' answer, or that of the host where there is none; the fleet may be
            # at odds over the key for longer
            async with asyncio.timeout(2 * self._cache.config.l2_deadline):
                return await self._cache.add(self._probe_key, _PROBED, ttl=self._life)
        except TimeoutError:
            return False

    def _state(self) -> _State:
        record = self._ledger.look(self._key)
        return _State() if record is None else _State(*record)

    async def _step(self, step: Callable[[_State], _State]) -> tuple[_State, _State]:
        """Change what the ledger has; what it was, and is."""

        def change(record: Any) -> tuple[Any, tuple[_State, _State]]:
            old = _State() if record is None else _State(*record)
            new = step(old)
            return (record if new == old else list(new)), (old, new)

        return await self._ledger.change(self._key, change)


def _alive(attempt: Attempt) -> bool:
    """Whether it is the fleet's probe, and not taken for dead."""
    return time.monotonic() < attempt.probe_until
