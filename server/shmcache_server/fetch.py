"""Fetches: misses on their way to the origin, shared by all who wait for them.

A miss goes through the cache's flight, which elects one fetcher a key; the others wait
for what it fills. In the fetcher's own process they need not wait for the end: as soon
as the head is here and says that the response may be shared, all of them read the live
body along with the one whose fetch it is.

Who may read along
    1. A client's request arrives: the invalidation clock is its note.
    2. A fetch begins: the clock is its mark. What it brings is at least as new.
    3. A purge that returned before 1 may have come after 2.
    So a client reads along only if its note is not above the mark, or nothing that
    the key bears was raised since the mark. It is the rule of the flight, and who may
    not is answered by the flight.

Who owns a fetch
    Its task, not the client's connection: a client that leaves stops nothing that may
    be stored. The pump that reads the body is a task of its own, too, so that a
    response that is not stored may flow for longer than a compute may take.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from multidict import CIMultiDictProxy

from shmcache import Cache, Entry, Fill

from . import stored
from .config import Config
from .live import LiveResponse
from .origins import (
    CONDITIONS,
    Answering,
    Asking,
    Origin,
    OriginError,
    request_fields,
)
from .rfc9111 import freshness, storing, vary

_NIL = b"\xc0"
"""The document of an answer that only its own client gets, past the cache."""
_NOT_SHARED = CONDITIONS | {"cache-control", "pragma"}
"""One client's wishes, left out of a request whose answer is for many."""
_CREDENTIALS = frozenset({"authorization", "cookie"})
_NOBODY = storing.Asked()

_BESIDE_BODY = 16 * 1024


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a client asked for, kept beyond the life of its connection."""

    key: str
    target: str
    fields: CIMultiDictProxy[str]
    letter: str
    """Of the key's encoding."""
    forwarded: tuple[tuple[str, str], ...]
    """X-Forwarded fields."""
    asked: storing.Asked

    def asking(self) -> Asking:
        """The GET that the origin is sent, fit to be shared."""
        nobody = self.asked == _NOBODY
        drop = _NOT_SHARED | _CREDENTIALS if nobody else _NOT_SHARED
        fields = request_fields(self.fields, drop=drop)
        fields["Accept-Encoding"] = vary.asked(self.letter)
        fields.extend(self.forwarded)
        return Asking("GET", self.target, fields)


class Joined(NamedTuple):
    """How a miss is answered: by a live response, else by a stored one."""

    live: LiveResponse | None
    entry: Entry | None
    collapsed: bool


Answered = asyncio.Future[Joined]
"""Of one who waits."""


class Fetches:
    """This worker's misses."""

    def __init__(self, cache: Cache, origin: Origin, config: Config) -> None:
        self._cache = cache
        self._origin = origin
        self._default_ttl = config.origin.default_ttl
        # The head stands in the record's value with the body.
        longest = cache.stats().value_max - _BESIDE_BODY
        self._store_max = max(0, min(config.limits.stored_body, longest))
        self._stall = config.origin.timeout
        self._lives: dict[str, LiveResponse] = {}
        self._joining: dict[str, dict[Answered, int]] = {}
        """By key, those who wait, with their notes."""
        self._tasks: set[asyncio.Future[Any]] = set()

    async def join(self, wanted: Wanted) -> Joined:
        """Answer a miss by the key's fetch, ours or another's; raises what it did."""
        key, note = wanted.key, self._cache.note()
        live = self._lives.get(key)
        if live is not None and self._may_join(key, live, note):
            return Joined(live, None, True)
        answered: Answered = asyncio.get_running_loop().create_future()
        joining = self._joining.setdefault(key, {})
        joining[answered] = note
        compute = self._compute(wanted, answered)
        try:
            entry = await self._cache.resolve(key, compute, ttl=0, until=answered)
        finally:
            del joining[answered]
            if not joining and self._joining.get(key) is joining:
                del self._joining[key]
            answered.cancel()  # whatever is still computed is not awaited
        if entry is None:
            return answered.result()
        return Joined(None, entry, entry.source == "flight")

    def refresh(self, wanted: Wanted) -> None:
        """See that one background refresh of a stale response runs. It is nobody's
        request: it bears nobody's credentials."""
        nobodys = replace(wanted, asked=_NOBODY)
        self._cache.refresh(wanted.key, self._compute(nobodys, None), ttl=0)

    async def close(self) -> None:
        """End what is under way."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- the fetch

    def _compute(
        self, wanted: Wanted, own: Answered | None
    ) -> Callable[[], Awaitable[Fill]]:
        """The compute of a flight; `own` is whose request it serves, None a refresh."""

        async def compute() -> Fill:
            mark, sent = self._cache.note(), time.monotonic()
            answering = await self._origin.ask(wanted.asking())
            if own is None and _refused(answering.status):
                answering.close()
                raise OriginError(f"origin: {answering.status} to a refresh")
            age = _Age(answering, sent)
            lifetime = self._lifetime(wanted, answering, age)
            live = LiveResponse(
                answering,
                self._store_max,
                mark=mark,
                age=age,
                stored=lifetime is not None,
                awaited=own is not None and not own.done(),
            )
            pump = None
            if not live.take_at_hand():
                pump = self._keep(live.pump(self._stall))
            if own is not None:
                self._announce(wanted.key, live, own, shared=lifetime is not None)
            if lifetime is None or not live.stored:
                return Fill(_NIL, ttl=0, shareable=False)
            return await self._stored(live, pump, lifetime)

        return compute

    async def _stored(
        self, live: LiveResponse, pump: asyncio.Future[None] | None, lifetime: float
    ) -> Fill:
        """The fill of a response, once it is whole."""
        try:
            if pump is not None:
                await asyncio.shield(pump)
        except asyncio.CancelledError:
            live.forget()  # too slow to be stored; its readers may go on
            raise
        if live.error is not None:
            raise live.error
        if not live.stored:
            return Fill(_NIL, ttl=0, shareable=False)
        answering, body, age = live.answering, live.body(), live.age()
        head = answering.head
        if not answering.empty:
            head += b"Content-Length: %d\r\n" % len(body)
        return Fill(
            stored.pack(head, answering.status, body),
            ttl=lifetime if age < lifetime else 0,
            grace=freshness.grace(answering.directives),
            age=age,
        )

    def _lifetime(
        self, wanted: Wanted, answering: Answering, age: _Age
    ) -> float | None:
        """Seconds for which the answer may be shared, None if it may not be."""
        fields = answering.fields
        answered = storing.Answered(
            status=answering.status,
            directives=answering.directives,
            lifetime=freshness.lifetime(
                answering.directives,
                fields.get("Expires"),
                fields.get("Date"),
                time.time(),
            ),
            set_cookie="Set-Cookie" in fields,
            vary_shareable=vary.shareable(fields.getall("Vary", ())),
        )
        lifetime = storing.lifetime(wanted.asked, answered, self._default_ttl)
        if lifetime is None or lifetime <= age() or not answering.whole:
            return None
        return lifetime

    def _announce(
        self,
        key: str,
        live: LiveResponse,
        own: Answered,
        *,
        shared: bool,
    ) -> None:
        """Let its own client read, and where it is shared those who wait here."""
        if not own.done():
            own.set_result(Joined(live, None, False))
        if not shared:
            return
        for answered, note in self._joining.get(key, {}).items():
            if not answered.done() and self._may_join(key, live, note):
                answered.set_result(Joined(live, None, True))
        if not live.done:
            self._lives[key] = live
            live.ended = lambda: self._forget(key, live)

    def _forget(self, key: str, live: LiveResponse) -> None:
        """Who comes after the end finds the response in the cache, or fetches anew."""
        if self._lives.get(key) is live:
            del self._lives[key]

    # -- invalidations

    def _may_join(self, key: str, live: LiveResponse, note: int) -> bool:
        if not live.joinable:
            return False
        return note <= live.mark or not self._cache.raised(key, live.mark)

    def _keep(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task that is held until it ends, and whose failure may go unheard."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Future[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()


def _refused(status: int) -> bool:
    """Whether a refresh failed, and the stale response stays: an error, or one that
    asks for the credentials which a refresh has not."""
    return status >= 400 and status not in storing.STORABLE


class _Age:
    """How old a response is now: RFC 9111 §4.2.3."""

    def __init__(self, answering: Answering, sent: float) -> None:
        fields = answering.fields
        self._received = time.monotonic()
        self._initial = freshness.initial_age(
            fields.get("Age"), fields.get("Date"), self._received - sent, time.time()
        )

    def __call__(self) -> float:
        return self._initial + time.monotonic() - self._received
