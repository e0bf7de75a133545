"""Elsewhere: responses stored under other keys than their fetch was for.

A response that varies by other fields than those of the place it was fetched for is
stored where it belongs, and the fetch brings the URL's list (`variants.py`) up to date,
a part's also that of its pieces (`pieces.py`). One that a request with credentials got,
and that is for all, is stored under the key of those without, too; and the answer to a
POST, where it is what a GET of the URL gets, under that of the GET.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

from shmcache import Cache, CacheError, Fill

from . import variants
from .answering import Answering
from .config import Config
from .fills import NOT_SHARED, NOT_STORED, Age, Fills
from .live import LiveResponse
from .lives import Answered, Lives
from .pieces import RANGE_MAX, Held, Pieces
from .rfc9111 import fields as lines
from .rfc9111 import ranges, validation, vary
from .rfc9111.fields import is_token
from .rfc9111.validation import Validators
from .sharing import Shared
from .shelf import Place, Shelf
from .tasks import Tasks
from .variants import KEPT, SPOKEN_MAX, Names, Spoken, Variants
from .wanted import Wanted


class Elsewhere:
    """Stores by flights of their own."""

    def __init__(
        self, cache: Cache, lives: Lives, fills: Fills, tasks: Tasks, config: Config
    ) -> None:
        self._cache = cache
        self._shelf = Shelf(cache)
        self._lives = lives
        self._fills = fills
        self._tasks = tasks
        self._languages = config.caching.match_languages

    async def store(
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
        of = place.variants or Variants.begun(shared.names, spoken)
        sent = wanted.sent()
        key = of.key(wanted.key, shared.names, lambda n: sent.getall(n, ()))
        self._lives.announce(key, live, own, shared)

        async def work() -> Fill:
            if not await self._holds(key, live):
                return NOT_STORED
            fill = await self._fills.of_live(live, pump, shared)
            self._list(wanted, of, shared, live)
            return fill

        self._tasks.keep(self._cache.resolve(key, work, ttl=0))
        if begun:
            return Fill(of.pack(), ttl=KEPT, grace=KEPT, tags=live.tags)
        await self._relist(wanted.key, of.mark, shared.names, spoken)
        return NOT_SHARED

    def listed(
        self, wanted: Wanted, of: Variants, shared: Shared, live: LiveResponse
    ) -> None:
        """See that what is known of a variant which was stored in its place stands in
        the URL's lists: its span if it is a part, and its language."""
        self._list(wanted, of, shared, live)
        spoken = self._spoken(wanted, shared, live)
        if spoken is not None and spoken not in of.spoken:
            self._tasks.keep(self._relist(wanted.key, of.mark, shared.names, spoken))

    def for_all(self, wanted: Wanted, live: LiveResponse, fill: Fill) -> None:
        """Store what a request with credentials got, and is for all."""

        async def again() -> Fill:
            if not await self._holds(wanted.plain, live):
                return NOT_STORED
            return replace(fill, age=live.age())

        self._tasks.keep(self._cache.resolve(wanted.plain, again, ttl=0))

    def adopt(
        self, wanted: Wanted, answering: Answering, sent: float, mark: int
    ) -> LiveResponse | None:
        """Store the response to a POST that is what a GET of the URL gets (RFC 9110
        §9.3.3), while its client reads it; None if it may not be."""
        age = Age(answering, sent)
        shared = self._fills.shared(wanted, answering, age, of_target=True)
        if shared is None or shared.names or "Content-Encoding" in answering.fields:
            return None
        tags = self._fills.tags(wanted, answering.fields)
        live, pump = self._lives.begin(
            answering, mark=mark, age=age, shared=shared, tags=tags
        )
        live.expect()

        async def work() -> Fill:
            if not await self._holds(wanted.key, live):
                return NOT_STORED
            return await self._fills.of_live(live, pump, shared)

        if live.stored:
            self._tasks.keep(self._cache.resolve(wanted.key, work, ttl=0))
        return live

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

    # -- the URL's lists

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
            self._tasks.keep(self._shelf.listed(wanted, of, shared.names, new))

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
