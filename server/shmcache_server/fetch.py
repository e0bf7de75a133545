"""Fetches: misses on their way to the origin, shared by all who wait for them.

A miss goes through the cache's flight, which elects one fetcher a key; the others wait
for what it fills. In the fetcher's own process they need not wait for the end: as soon
as the head is here and says that the response may be shared, all of them read the live
body along with the one whose fetch it is (`lives.py`).

Who owns a fetch
    Its task, not the client's connection: a client that leaves stops nothing that may
    be stored. The pump that reads the body is a task of its own, too, so that a
    response that is not stored may flow for longer than a compute may take.

What was stored
    A response that is dead, or asked for in the background, is validated where it can
    be (RFC 9111 §4.3): a 304 brings it up to date, and it is stored anew with its body.
    So does a 200 to a HEAD that was asked in nobody's name and bears its validator.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial

from multidict import CIMultiDict

from shmcache import Cache, Fill

from .answering import Answering, Interim, OriginError
from .config import Config
from .elsewhere import Elsewhere
from .fills import NOT_SHARED, NOT_STORED, Age, Fills
from .live import LiveResponse
from .lives import Answered, Joined, Lives
from .origins import Origin
from .rfc9111 import fields as lines
from .rfc9111 import storing, validation
from .sharing import Sharing
from .shelf import Place, Shelf
from .tasks import Tasks
from .wanted import NOBODY, Wanted

_FAILURES = frozenset({500, 502, 503, 504})
"""RFC 5861 §4: those that a stale response may stand for."""
_CREDENTIALS = frozenset({"authorization", "cookie"})


class Fetches:
    """This worker's misses."""

    def __init__(
        self, cache: Cache, origin: Origin, sharing: Sharing, config: Config
    ) -> None:
        self._cache = cache
        self._shelf = Shelf(cache)
        self._origin = origin
        self._sharing = sharing
        self._tasks = Tasks()
        self._lives = Lives(cache, self._tasks, config)
        self.fills = Fills(sharing, config)
        self.elsewhere = Elsewhere(
            *(cache, self._lives, self.fills, self._tasks, config)
        )

    async def start(self) -> None:
        """Give to other workers what is read here."""
        await self._lives.start()

    async def join(
        self, wanted: Wanted, place: Place, interim: Interim | None = None
    ) -> Joined:
        """Answer a miss by its place's fetch, ours or another's; raises what it did.
        `interim` gets the interim answers to a fetch of its own."""
        key = place.key
        answered = self._lives.wait(key, self._cache.note())
        if answered.done():
            return answered.result()
        compute = self._compute(wanted, place, answered, interim)
        reads = False
        try:
            entry = await self._cache.resolve(
                *(key, compute),
                ttl=0,
                until=answered,
                on_wait=partial(self._lives.ask, key),
            )
            reads = entry is None
        finally:
            self._lives.leave(key, answered, reads=reads)
        if entry is None:
            return answered.result()
        return Joined(None, entry, entry.source == "flight")

    def refresh(self, wanted: Wanted, place: Place) -> None:
        """See that one background refresh of a stale response runs. It is nobody's
        request: it bears nobody's credentials, but for those that the response varies
        by, and asks for a part only where the response is one."""
        if _CREDENTIALS.isdisjoint(place.names):
            wanted = wanted._replace(asked=NOBODY)
        if "range" not in place.names:
            wanted = wanted._replace(ranges=None)
        compute = self._compute(wanted, place, None)
        self._cache.refresh(place.key, compute, ttl=0)

    def told_by_head(
        self, wanted: Wanted, place: Place, answering: Answering, sent: float, mark: int
    ) -> None:
        """What an answer to a HEAD, asked in nobody's name, tells of what stands in its
        place: it is brought up to date, or made stale (RFC 9111 §4.3.5).

        1. The HEAD is sent. 2. What stands is purged, or another fetch takes its place.
        3. The answer tells of what was before. So the store takes place in a flight of
        its own, under claim and lease, and only where the same response still stands
        and nothing at all was invalidated since 1.
        """
        old, entry = place.response, place.entry
        if old is None or entry is None or {old.status, answering.status} != {200}:
            return
        fields, answer = old.fields(), list(answering.fields.items())
        if not validation.head_agrees(fields, answer):
            if entry.state != "dead" and self._stands(place):
                self._tasks.keep(self._cache.expire(place.key))
            return
        age = Age(answering, sent)
        if "Set-Cookie" in answering.fields or not validation.head_validates(
            fields, answer
        ):
            return
        fresh = self.fills.updated(wanted, place, old, answering)
        if fresh.shared is None or fresh.shared.lifetime <= age():
            return
        shared = fresh.shared

        async def work() -> Fill:
            caught_up = await self._cache.caught_up()
            if not caught_up or self._cache.note() != mark or not self._stands(place):
                return NOT_STORED
            return self.fills.of(fresh.head, 200, old.body, shared, age(), fresh.tags)

        self._tasks.keep(self._cache.resolve(place.key, work, ttl=0))

    def will_store(self, key: str, live: LiveResponse) -> bool:
        """Whether a live response is going to be stored, as far as is known: its fill
        is refused if it was made void since it was asked for."""
        if not live.stored or self._cache.note() == live.mark:
            return live.stored
        return not self._cache.raised(key, live.mark, live.tags)

    async def close(self) -> None:
        """End what is under way."""
        await self._lives.close()
        await self._tasks.close()

    # -- the fetch

    def _compute(
        self,
        wanted: Wanted,
        place: Place,
        own: Answered | None,
        interim: Interim | None = None,
    ) -> Callable[[], Awaitable[Fill]]:
        """The compute of a flight; `own` is whose request it serves, None a refresh."""

        def passed_on(code: int, head: bytes) -> None:
            if interim is not None and own is not None and not own.done():
                interim(code, head)

        async def compute() -> Fill:
            mark, sent = self._cache.note(), time.monotonic()
            stood = Place(place.key)
            if own is None or place.response is not None:
                stood = self._shelf.again(place)
            old = stood.response
            asking = wanted.asking()
            if old is not None:
                asking.fields.extend(old.conditions())
            answering = await self._origin.ask(asking, interim and passed_on)
            if old is not None and answering.status == 304:
                told = lines.of_head(answering.head)
                if validation.of_another(old.fields(), told):
                    answering.close()
                    old, sent = None, time.monotonic()
                    asking = wanted.asking()
                    answering = await self._origin.ask(asking, interim and passed_on)
            age = Age(answering, sent)
            if old is not None and answering.status == 304:
                answering.close()
                return self.fills.validated(wanted, place, old, answering, age)
            refresh = own is None
            if own is not None and own.cancelled():
                # its client was answered: by what is stale, and came from another host
                stood = self._shelf.again(place)
                refresh = stood.usable
            if self.failed(answering, stood, refresh=refresh):
                answering.close()
                raise OriginError(f"origin: {answering.status} in place of an answer")
            return await self._taken(wanted, place, own, answering, age, mark)

        return compute

    def _stands(self, place: Place) -> bool:
        """Whether the very response of a place still stands there."""
        now = self._shelf.again(place).entry
        return now is not None and now.version == (place.entry and place.entry.version)

    def failed(
        self, answering: Answering, stood: Place, *, refresh: bool = False
    ) -> bool:
        """Whether a stale response stands for this answer: to a refresh, an error or
        one that asks for the credentials which it has not."""
        status = answering.status
        if refresh:
            return status >= 400 and status not in storing.LASTING
        old = stood.response
        if old is None or status not in _FAILURES:
            return False
        window = self._sharing.windows(CIMultiDict(old.fields())).if_error
        return window > 0 and stood.stale_for <= window

    async def _taken(
        self,
        wanted: Wanted,
        place: Place,
        own: Answered | None,
        answering: Answering,
        age: Age,
        mark: int,
    ) -> Fill:
        """The fill of a new response; its readers have it from the head on."""
        shared = self.fills.shared(wanted, answering, age)
        tags: tuple[str, ...] = ()
        if shared is not None:
            listed = bool(shared.names or place.variants)
            tags = self.fills.tags(wanted, answering.fields, listed=listed)
        live, pump = self._lives.begin(
            answering, mark=mark, age=age, shared=shared, tags=tags
        )
        here = shared is not None and shared.names == place.names
        if shared is None or not live.stored:
            # who waits here may ask for another variant, or part
            self._lives.announce(place.key, live, own, shared if here else None)
            return NOT_SHARED
        if not here:
            return await self.elsewhere.store(wanted, place, own, live, shared, pump)
        self._lives.announce(place.key, live, own, shared)
        fill = await self.fills.of_live(live, pump, shared)
        if place.variants is not None:
            self.elsewhere.listed(wanted, place.variants, shared, live)
        elif not shared.names and wanted.plain != wanted.key and fill.shareable:
            self.elsewhere.for_all(wanted, live, fill)
        return fill
