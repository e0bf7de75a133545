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

In other workers
    Whoever waits for another worker's fetch asks it for its live response (`relay.py`)
    and reads along here. The marks and notes are of the host's one clock.

Who owns a fetch
    Its task, not the client's connection: a client that leaves stops nothing that may
    be stored. The pump that reads the body is a task of its own, too, so that a
    response that is not stored may flow for longer than a compute may take.

What was stored
    A response that is dead, or asked for in the background, is validated where it can
    be (RFC 9111 §4.3): a 304 brings it up to date, and it is stored anew with its body.
    So does a 200 to a HEAD that was asked in nobody's name and bears its validator.

Elsewhere
    A response that varies by other fields than those of the place it was fetched for
    is stored where it belongs, and the fetch brings the URL's list (`variants.py`) up
    to date, a part's also that of its pieces (`pieces.py`). One that a request with
    credentials got, and that is for all, is stored under the key of those without,
    too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from multidict import CIMultiDict, MultiMapping

from shmcache import Cache, CacheError, Entry, Fill

from . import relay, stored, variants
from .config import Config
from .live import PATIENCE, LiveResponse
from .origins import Answering, Interim, Origin, OriginError
from .pieces import RANGE_MAX, Held, Pieces
from .relay import Relay
from .rfc9111 import fields as lines
from .rfc9111 import freshness, ranges, storing, validation, vary
from .rfc9111.fields import is_token
from .rfc9111.validation import Validators
from .sharing import Shared, Sharing
from .shelf import Place, Shelf
from .stored import StoredResponse
from .tags import hidden, tags_of
from .variants import KEPT, SPOKEN_MAX, Names, Spoken, Variants
from .wanted import NOBODY, Wanted

log = logging.getLogger("shmcache")

_NIL = b"\xc0"
"""The document of an answer that only its own client gets, past the cache."""
_NOT_SHARED = Fill(_NIL, ttl=0, shareable=False)
_NOT_STORED = Fill(_NIL, ttl=0)
"""Leaves no mark either, by which others would fetch for themselves."""
_AT_ONCE = 2e-9
"""Seconds for which what is validated before each use is fresh: it is kept."""
_FAILURES = frozenset({500, 502, 503, 504})
"""RFC 5861 §4: those that a stale response may stand for."""

_CREDENTIALS = frozenset({"authorization", "cookie"})
_BESIDE_BODY = 16 * 1024
_SHORT = 0.02
"""Seconds of a wait for another worker that reading along would not shorten."""


class _Updated(NamedTuple):
    """A stored response after its validation."""

    head: bytes
    shared: Shared | None
    """None: it is its client's alone by now, or belongs elsewhere."""
    tags: tuple[str, ...]


class Joined(NamedTuple):
    """How a miss is answered: by a live response, else by a stored one."""

    live: LiveResponse | None
    entry: Entry | None
    collapsed: bool


Answered = asyncio.Future[Joined]
"""Of one who waits."""


class Fetches:
    """This worker's misses."""

    def __init__(
        self, cache: Cache, origin: Origin, sharing: Sharing, config: Config
    ) -> None:
        self._cache = cache
        self._shelf = Shelf(cache)
        self._origin = origin
        self._sharing = sharing
        # The head stands in the record's value with the body.
        longest = cache.stats().value_max - _BESIDE_BODY
        self._store_max = max(0, min(config.limits.stored_body, longest))
        self._stall = config.origin.timeout
        self._prefixes = config.purge.prefixes
        self._hidden = hidden(config.purge)
        self._languages = config.caching.match_languages
        self._lives: dict[str, LiveResponse] = {}
        self._joining: dict[str, dict[Answered, int]] = {}
        """By key, those who wait, with their notes."""
        self._tasks: set[asyncio.Future[Any]] = set()
        self._segment = cache.config.name
        self._relay = Relay(self._segment, cache.slot, self._live_of)
        self._asking: dict[str, asyncio.Future[None]] = {}
        """By key, who asks another worker for its live response."""

    async def start(self) -> None:
        """Give to other workers what is read here."""
        await self._relay.start()

    async def join(
        self, wanted: Wanted, place: Place, interim: Interim | None = None
    ) -> Joined:
        """Answer a miss by its place's fetch, ours or another's; raises what it did.
        `interim` gets the interim answers to a fetch of its own."""
        key, note = place.key, self._cache.note()
        live = self._lives.get(key)
        if live is not None and self._may_join(key, live, note):
            return _joined(live, collapsed=True)
        answered: Answered = asyncio.get_running_loop().create_future()
        joining = self._joining.setdefault(key, {})
        joining[answered] = note
        compute = self._compute(wanted, place, answered, interim)
        reads = False
        try:
            entry = await self._cache.resolve(
                *(key, compute),
                ttl=0,
                until=answered,
                on_wait=partial(self._ask, key),
            )
            reads = entry is None
        finally:
            self._leave(key, joining, answered, reads)
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

    def tags(self, wanted: Wanted, answering: Answering) -> tuple[str, ...]:
        """What an answer is purged by, if it is stored under the URL's key."""
        return self._tags(wanted, answering.fields, False)

    def adopt(
        self, wanted: Wanted, answering: Answering, sent: float, mark: int
    ) -> LiveResponse | None:
        """Store the response to a POST that is what a GET of the URL gets (RFC 9110
        §9.3.3), while its client reads it; None if it may not be."""
        age = _Age(answering, sent)
        shared = self._shared(wanted, answering, age, of_target=True)
        if shared is None or shared.names or "Content-Encoding" in answering.fields:
            return None
        live, pump = self._live(wanted, Place(wanted.key), answering, age, mark, shared)
        live.expect()

        async def work() -> Fill:
            if not await self._holds(wanted.key, live):
                return _NOT_STORED
            return await self._stored(live, pump, shared)

        if live.stored:
            self._keep(self._cache.resolve(wanted.key, work, ttl=0))
        return live

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
                self._keep(self._cache.expire(place.key))
            return
        age = _Age(answering, sent)
        if "Set-Cookie" in answering.fields or not validation.head_validates(
            fields, answer
        ):
            return
        fresh = self._updated(wanted, place, old, answering)
        if fresh.shared is None or fresh.shared.lifetime <= age():
            return
        shared = fresh.shared

        async def work() -> Fill:
            caught_up = await self._cache.caught_up()
            if not caught_up or self._cache.note() != mark or not self._stands(place):
                return _NOT_STORED
            return self._fill(fresh.head, 200, old.body, shared, age(), fresh.tags)

        self._keep(self._cache.resolve(place.key, work, ttl=0))

    def will_store(self, key: str, live: LiveResponse) -> bool:
        """Whether a live response is going to be stored, as far as is known: its fill
        is refused if it was made void since it was asked for."""
        if not live.stored or self._cache.note() == live.mark:
            return live.stored
        return not self._cache.raised(key, live.mark, live.tags)

    async def close(self) -> None:
        """End what is under way."""
        await self._relay.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

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
            age = _Age(answering, sent)
            if old is not None and answering.status == 304:
                answering.close()
                return self._brought_up_to_date(wanted, place, old, answering, age)
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

    def _brought_up_to_date(
        self,
        wanted: Wanted,
        place: Place,
        old: StoredResponse,
        answering: Answering,
        age: _Age,
    ) -> Fill:
        """The fill of a stored response that the origin says still holds."""
        fresh = self._updated(wanted, place, old, answering)
        shared = fresh.shared
        if shared is None or (shared.lifetime <= age() and wanted.asked != NOBODY):
            document = stored.pack(
                fresh.head, old.status, old.body, hidden=self._hidden
            )
            return Fill(document, ttl=0, shareable=False)
        return self._fill(fresh.head, old.status, old.body, shared, age(), fresh.tags)

    def _updated(
        self,
        wanted: Wanted,
        place: Place,
        old: StoredResponse,
        answering: Answering,
    ) -> _Updated:
        """A stored response with the fields of an answer that says it still holds."""
        new = validation.updated(old.fields(), lines.of_head(answering.head))
        fields = CIMultiDict(new)
        shared = self._sharing.of(
            wanted.asked, old.status, fields, time.time(), route=wanted.route
        )
        head = old.status_line + lines.to_lines(new)
        if shared is None or shared.names != place.names:
            return _Updated(head, None, ())
        if shared.drop:  # they are of this answer's client
            head, _ = stored.without(head, shared.drop)
        tags = self._tags(wanted, fields, place.variants is not None)
        return _Updated(head, shared, tags)

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
        age: _Age,
        mark: int,
    ) -> Fill:
        """The fill of a new response; its readers have it from the head on."""
        shared = self._shared(wanted, answering, age)
        live, pump = self._live(wanted, place, answering, age, mark, shared)
        here = shared is not None and shared.names == place.names
        if shared is None or not live.stored:
            # who waits here may ask for another variant, or part
            self._announce(place.key, live, own, shared if here else None)
            return _NOT_SHARED
        if not here:
            return await self._elsewhere(wanted, place, own, live, shared, pump)
        self._announce(place.key, live, own, shared)
        fill = await self._stored(live, pump, shared)
        if place.variants is not None:
            self._list(wanted, place.variants, shared, live)
            self._speak(wanted, place.variants, shared, live)
        if shared.names == () and wanted.plain != wanted.key:
            self._for_all(wanted, place, live, fill)
        return fill

    def _live(
        self,
        wanted: Wanted,
        place: Place,
        answering: Answering,
        age: _Age,
        mark: int,
        shared: Shared | None,
    ) -> tuple[LiveResponse, asyncio.Future[None] | None]:
        """It, and what reads it; None: it has been read."""
        drop: frozenset[str] = frozenset()
        tags: tuple[str, ...] = ()
        if shared is not None:
            drop, listed = shared.drop, bool(shared.names or place.variants)
            tags = self._tags(wanted, answering.fields, listed)
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
            drop=drop,
        )
        if live.take_at_hand():
            return live, None
        return live, self._keep(live.pump(self._stall))

    async def _elsewhere(
        self,
        wanted: Wanted,
        place: Place,
        own: Answered | None,
        live: LiveResponse,
        shared: Shared,
        pump: asyncio.Future[None] | None,
    ) -> Fill:
        """Store it where it belongs. The fill of the place it was fetched for: the
        URL's list if that is what stands there, else nothing."""
        begun, spoken = place.variants is None, self._spoken(wanted, shared, live)
        listed = place.variants or Variants.begun(shared.names, spoken)
        sent = wanted.sent()
        key = listed.key(wanted.key, shared.names, lambda n: sent.getall(n, ()))
        self._announce(key, live, own, shared)

        async def work() -> Fill:
            if not await self._holds(key, live):
                return _NOT_STORED
            fill = await self._stored(live, pump, shared)
            self._list(wanted, listed, shared, live)
            return fill

        self._keep(self._cache.resolve(key, work, ttl=0))
        if begun:
            return Fill(listed.pack(), ttl=KEPT, grace=KEPT, tags=live.tags)
        await self._relist(wanted.key, listed.mark, shared.names, spoken)
        return _NOT_SHARED

    async def _relist(
        self, key: str, mark: str, names: Names, spoken: Spoken | None
    ) -> None:
        """Note in a URL's list that this set of names was seen, too.

        1. A variant is fetched. 2. The URL is purged, and another list made. 3. The
        first, stored again, would have what was purged be found. So only the list that
        was looked at is replaced; if another came, the set is seen again.
        """
        entry = self._cache.look(key)
        listed = variants.unpack(entry.value) if entry is not None else None
        if entry is None or listed is None or listed.mark != mark:
            return
        seen = listed.seen(names, spoken)
        if seen == listed:
            return
        with contextlib.suppress(CacheError):  # then it is seen again, too
            await self._cache.compare_and_set(
                *(key, seen.pack()), version=entry.version, ttl=KEPT, grace=KEPT
            )

    def _spoken(
        self, wanted: Wanted, shared: Shared, live: LiveResponse
    ) -> Spoken | None:
        """The language of a variant, where it varies by that and tells one."""
        if not self._languages or "accept-language" not in shared.names:
            return None
        told = live.answering.fields.getall("Content-Language", ())
        accepted = wanted.sent().getall("Accept-Language", ())
        said = vary.normalised("accept-language", accepted)
        if len(told) != 1 or not is_token(told[0]) or not said:
            return None
        long = len(told[0]) + len(said) > SPOKEN_MAX or live.answering.status == 206
        return None if long else Spoken(shared.names, said, told[0])

    def _speak(
        self, wanted: Wanted, of: Variants, shared: Shared, live: LiveResponse
    ) -> None:
        """See that the language of a variant which is being stored is known."""
        spoken = self._spoken(wanted, shared, live)
        if spoken is not None and spoken not in of.spoken:
            self._keep(self._relist(wanted.key, of.mark, shared.names, spoken))

    def _list(
        self, wanted: Wanted, of: Variants, shared: Shared, live: LiveResponse
    ) -> None:
        """See that a part which is being stored is listed among the pieces."""
        answering, text = live.answering, (wanted.ranges or "").strip(" \t")
        if answering.status != 206 or not live.stored or len(text) > RANGE_MAX:
            return
        specs = ranges.parse([text])
        told = answering.fields.getall("Content-Range", ())
        held = ranges.held(told, live.size) if specs and len(specs) == 1 else None
        if held is not None:
            span, length = held
            validator = validation.strong(Validators.of(lines.of_head(answering.head)))
            new = Pieces(validator, length, (Held(*span, text),))
            self._keep(self._shelf.listed(wanted, of, shared.names, new))

    def _for_all(
        self, wanted: Wanted, place: Place, live: LiveResponse, fill: Fill
    ) -> None:
        """What a request with credentials got, and is for all."""

        async def again() -> Fill:
            if not await self._holds(wanted.plain, live):
                return _NOT_STORED
            return replace(fill, age=live.age())

        if place.variants is None and fill.shareable:
            self._keep(self._cache.resolve(wanted.plain, again, ttl=0))

    async def _stored(
        self, live: LiveResponse, pump: asyncio.Future[None] | None, shared: Shared
    ) -> Fill:
        """The fill of a response, once it is whole; none, once it is too large: who
        waits for it shall not wait for its readers, nor be told that they left."""
        if pump is not None and live.stored:
            settled = asyncio.get_running_loop().create_future()

            def settle(_: object = None) -> None:
                if not settled.done():
                    settled.set_result(None)

            live.outgrew = settle
            pump.add_done_callback(settle)
            try:
                await settled
            except asyncio.CancelledError:
                live.forget()  # too slow to be stored; its readers may go on
                raise
        if not live.stored:
            return _NOT_SHARED
        if live.error is not None:
            raise live.error
        answering, body, head = live.answering, live.body(), live.head_for_all
        if not answering.empty:
            head += b"Content-Length: %d\r\n" % len(body)
        return self._fill(head, answering.status, body, shared, live.age(), live.tags)

    def _fill(
        self,
        head: bytes,
        status: int,
        body: bytes,
        shared: Shared,
        age: float,
        tags: tuple[str, ...],
    ) -> Fill:
        """A whole response's. One that is to be validated before each use, or was too
        old when it came, is dead at once, and kept."""
        fresh = age < shared.lifetime
        return Fill(
            stored.pack(head, status, body, to_validate=not fresh, hidden=self._hidden),
            ttl=shared.lifetime or _AT_ONCE,
            grace=shared.grace if fresh else 0,
            age=age,
            tags=tags,
        )

    def _shared(
        self,
        wanted: Wanted,
        answering: Answering,
        age: _Age,
        *,
        of_target: bool = False,
    ) -> Shared | None:
        """How the answer may be stored for all, None if it may not be. `of_target`:
        it is that of a POST."""
        if not answering.whole:
            return None
        asked = wanted.asked
        shared = self._sharing.of(
            replace(asked, method="POST") if of_target else asked,
            answering.status,
            answering.fields,
            time.time(),
            of_target=of_target,
            route=wanted.route,
        )
        if shared is None or shared.lifetime > age():
            return shared
        # Who waits for it would get it without being asked about: with others'
        # credentials the origin may say something else.
        return shared if shared.validated and asked == NOBODY else None

    def _announce(
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

    def _leave(
        self,
        key: str,
        joining: dict[Answered, int],
        answered: Answered,
        reads: bool,
    ) -> None:
        """Wait no more; `reads`: what came is going to be read."""
        del joining[answered]
        if not joining and self._joining.get(key) is joining:
            del self._joining[key]
            if (asking := self._asking.get(key)) is not None:
                asking.cancel()
        # whatever is still computed is not awaited
        if not answered.cancel() and not answered.cancelled() and not reads:
            live = answered.result().live
            assert live is not None
            live.forgo()

    # -- other workers

    def _ask(self, key: str, slot: int) -> None:
        """The flight of a key waits for the worker in `slot`."""
        if slot != self._cache.slot and key not in self._asking:
            asking = self._asking[key] = self._keep(self._read_along(key, slot))
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
        self._keep(live.pump(self._stall))
        self._share(key, live)

    async def _live_of(self, key: str) -> LiveResponse | None:
        """For another worker, which judges by itself who may read along."""
        live = self._lives.get(key)
        if live is not None and live.joinable:
            live.expect()
            return live
        answered: Answered = asyncio.get_running_loop().create_future()
        joining = self._joining.setdefault(key, {})
        joining[answered] = 0
        reads = False
        try:
            live = (await answered).live
            reads = True
            return live
        finally:
            self._leave(key, joining, answered, reads)

    # -- invalidations

    def _may_join(self, key: str, live: LiveResponse, note: int) -> bool:
        if not live.joinable:
            return False
        return note <= live.mark or not self._cache.raised(key, live.mark, live.tags)

    async def _holds(self, key: str, live: LiveResponse) -> bool:
        """Whether nothing made void or stale what was fetched before the flight began.

        1. A fetch begins. 2. What it brings is purged. 3. The flight that is to store
        it begins, and is younger than both. Here a purge of before 3 shows, on
        whatever host it was: Redis was told then, and is asked after 3. One of after 3
        has the store refused, as any.
        """
        caught_up = await self._cache.caught_up()
        key_and_tags = key, live.mark, live.tags
        return caught_up and not self._cache.raised(*key_and_tags, soft=True)

    def _tags(
        self, wanted: Wanted, fields: MultiMapping[str], listed: bool
    ) -> tuple[str, ...]:
        """What a response to it is purged by, beside its key. `listed`: it stands
        among variants."""
        route = wanted.route
        return tags_of(
            *(wanted.host, route.selected(wanted.target), fields, self._prefixes),
            url=listed or bool(route.fields or route.cookies),
        )

    def _keep(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task that is held until it ends. That a fetch failed may go unheard, for
        its readers were told; any other failure is a fault of ours."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Future[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, CacheError | OriginError):
            log.error("a fetch ended unexpectedly", exc_info=error)


def _joined(live: LiveResponse, *, collapsed: bool) -> Joined:
    """Who is told so is on its way to read it."""
    live.expect()
    return Joined(live, None, collapsed)


class _Age:
    """How old a response is now: RFC 9111 §4.2.3."""

    def __init__(self, answering: Answering, sent: float) -> None:
        fields = answering.fields
        self._received = time.monotonic()
        self._initial = freshness.arrival_age(
            fields.getall("Age", ()),
            fields.get("Date"),
            self._received - sent,
            time.time(),
        )

    def __call__(self) -> float:
        return self._initial + time.monotonic() - self._received
