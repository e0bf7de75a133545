"""Lives: the live responses of this worker, and who waits to read along.

Who may read along
    1. A client's request arrives: the invalidation clock is its note.
    2. A fetch begins: the clock is its mark. What it brings is at least as new.
    3. A purge that returned before 1 may have come after 2.
    So a client reads along only if its note is not above the mark, or nothing that
    the key bears was raised since the mark. It is the rule of the flight, and who may
    not is answered by the flight.

In other workers
    Whoever waits for another worker's fetch asks it for its live response (`relay.py`)
    and reads along here. The marks and notes are of the host's one clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from shmcache import Cache, Entry

from . import relay
from .answering import Answering
from .config import Config
from .live import PATIENCE, LiveResponse
from .relay import Relay
from .sharing import Shared
from .tasks import Tasks

_BESIDE_BODY = 16 * 1024
"""Bytes of a record's value that its body leaves to the head."""
_SHORT = 0.02
"""Seconds of a wait for another worker that reading along would not shorten."""


class Joined(NamedTuple):
    """How a miss is answered: by a live response, else by a stored one."""

    live: LiveResponse | None
    entry: Entry | None
    collapsed: bool


Answered = asyncio.Future[Joined]
"""Of one who waits."""


class Lives:
    """Those that may be joined, and those who wait, by key."""

    def __init__(self, cache: Cache, tasks: Tasks, config: Config) -> None:
        self._cache = cache
        self._tasks = tasks
        longest = cache.stats().value_max - _BESIDE_BODY
        self._store_max = max(0, min(config.limits.stored_body, longest))
        self._stall = config.origin.timeout
        self._lives: dict[str, LiveResponse] = {}
        self._joining: dict[str, dict[Answered, int]] = {}
        """Who waits, with their notes."""
        self._segment = cache.config.name
        self._relay = Relay(self._segment, cache.slot, self._live_of)
        self._asking: dict[str, asyncio.Future[None]] = {}
        """Who asks another worker for its live response."""

    async def start(self) -> None:
        """Give to other workers what is read here."""
        await self._relay.start()

    async def close(self) -> None:
        """Give no more."""
        await self._relay.close()

    # -- those who wait

    def wait(self, key: str, note: int) -> Answered:
        """What is told of a live response that answers who has this note; at once, if
        there is one. Who is not told yet is to `leave`."""
        answered: Answered = asyncio.get_running_loop().create_future()
        live = self._lives.get(key)
        if live is not None and self._may_join(key, live, note):
            answered.set_result(_joined(live, collapsed=True))
        else:
            self._joining.setdefault(key, {})[answered] = note
        return answered

    def leave(self, key: str, answered: Answered, *, reads: bool) -> None:
        """Wait no more; `reads`: what came is going to be read."""
        joining = self._joining[key]
        del joining[answered]
        if not joining:
            del self._joining[key]
            if (asking := self._asking.get(key)) is not None:
                asking.cancel()
        # whatever is still computed is not awaited
        if not reads and not answered.cancel() and not answered.cancelled():
            live = answered.result().live
            assert live is not None
            live.forgo()

    def _may_join(self, key: str, live: LiveResponse, note: int) -> bool:
        if not live.joinable:
            return False
        return note <= live.mark or not self._cache.raised(key, live.mark, live.tags)

    # -- those that are read

    def begin(
        self,
        answering: Answering,
        *,
        mark: int,
        age: Callable[[], float],
        shared: Shared | None,
        tags: tuple[str, ...],
    ) -> tuple[LiveResponse, asyncio.Future[None] | None]:
        """An answer's, and what reads it; None: it has been read."""
        most, beside = self._store_max, 2 * len(answering.head)  # its tag is kept twice
        if beside > _BESIDE_BODY:
            most -= beside
        live = LiveResponse(
            answering,
            most,
            mark=mark,
            age=age,
            stored=shared is not None,
            tags=tags,
            drop=frozenset() if shared is None else shared.drop,
        )
        if live.take_at_hand():
            return live, None
        return live, self._tasks.keep(live.pump(self._stall))

    def announce(
        self, key: str, live: LiveResponse, own: Answered | None, shared: Shared | None
    ) -> None:
        """Let its own client read, and where it is shared those who wait here."""
        if own is None:
            return
        if not own.done():
            own.set_result(_joined(live, collapsed=False))
        if shared is not None:
            live.whoever_comes = live.age() < shared.lifetime
            self._share(key, live)

    def _share(self, key: str, live: LiveResponse) -> None:
        """Let who waits here read along, and who comes."""
        for answered, note in self._joining.get(key, {}).items():
            if not answered.done() and self._may_join(key, live, note):
                answered.set_result(_joined(live, collapsed=True))
        if live.whoever_comes and not live.done:
            self._lives[key] = live
            live.ended = lambda: self._forget(key, live)

    def _forget(self, key: str, live: LiveResponse) -> None:
        """Who comes after the end finds the response in the cache, or fetches anew."""
        if self._lives.get(key) is live:
            del self._lives[key]

    # -- other workers

    def ask(self, key: str, slot: int) -> None:
        """The flight of a key waits for the worker in `slot`."""
        if slot != self._cache.slot and key not in self._asking:
            asking = self._asking[key] = self._tasks.keep(self._read_along(key, slot))
            asking.add_done_callback(lambda _: self._asking.pop(key, None))

    async def _read_along(self, key: str, slot: int) -> None:
        await asyncio.sleep(_SHORT)
        relayed = await relay.ask(self._segment, slot, key)
        if relayed is None:
            return
        relayed.stall = self._stall + PATIENCE
        live = LiveResponse(
            relayed,
            self._store_max,
            mark=relayed.mark,
            age=relayed.age_now,
            stored=True,
            tags=relayed.tags,
        )
        live.whoever_comes = relayed.whoever_comes
        self._tasks.keep(live.pump(self._stall))
        self._share(key, live)

    async def _live_of(self, key: str) -> LiveResponse | None:
        """For another worker, which judges by itself who may read along."""
        answered = self.wait(key, 0)
        if answered.done():
            return answered.result().live
        reads = False
        try:
            live = (await answered).live
            reads = True
            return live
        finally:
            self.leave(key, answered, reads=reads)


def _joined(live: LiveResponse, *, collapsed: bool) -> Joined:
    """Who is told so is on its way to read it."""
    live.expect()
    return Joined(live, None, collapsed)
