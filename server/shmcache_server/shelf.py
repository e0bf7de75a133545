"""Shelf: where the cache has the answer to a request, or would have it."""

from __future__ import annotations

from typing import NamedTuple

from aiohttp import hdrs

from shmcache import Cache, Entry

from . import parts, pieces, stored, variants
from .key import gzipped
from .pieces import Held, Pieces
from .rfc9111 import ranges, validation, vary
from .rfc9111.fields import of_head, value, values
from .rfc9111.ranges import Span
from .rfc9111.validation import Validators
from .stored import StoredResponse
from .variants import KEPT, Names, Variants
from .wanted import Wanted

JOINED_MAX = 4 * 1024**2
"""Bytes of an answer that is joined of several pieces: they are held meanwhile."""
_TRIES = 3
"""To bring a list up to date that others change, too."""
_JUST_NOW = 1e-3


class Place(NamedTuple):
    """Of one request."""

    key: str
    """Under which its answer is looked for and fetched."""
    entry: Entry | None = None
    response: StoredResponse | None = None
    """What the entry holds; None: nothing that is one."""
    names: Names = ()
    """What the response of this key varies by."""
    variants: Variants | None = None
    """Of its URL, if it has such a list."""

    @property
    def usable(self) -> bool:
        """Whether it answers: fresh, or stale inside its grace."""
        return self.response is not None and self.state != "dead"

    @property
    def stale_for(self) -> float:
        """Seconds since what is there was fresh; negative: it is. What was made stale
        before its time was fresh just now."""
        past = -(self.entry.ttl or 0) if self.entry is not None else 0
        return past if self.state in ("fresh", "") else max(past, _JUST_NOW)

    @property
    def state(self) -> str:
        """fresh, stale or dead; empty: nothing is there."""
        return self.entry.state if self.entry is not None else ""


class Shelf:
    """What the cache holds for the server."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def plain(self, key: str) -> Place | None:
        """The place of any request whose URL has this key, None if the URL varies; a
        hit or a miss is counted."""
        entry = self._cache.entry(key)
        if entry is None:
            return Place(key)
        found = stored.unpack(entry.value)
        if found is None and variants.unpack(entry.value) is not None:
            return None
        return Place(key, entry, found)

    def find(self, key: str, wanted: Wanted) -> Place:
        """The place of a request whose URL has this key; nothing is counted."""
        entry = self._cache.look(key)
        if entry is None:
            return Place(key)
        listed = variants.unpack(entry.value)
        if listed is None:
            return Place(key, entry, stored.unpack(entry.value))
        if entry.state == "dead":
            return Place(key)
        return self._variant(key, listed, wanted)

    async def found(self, key: str, wanted: Wanted) -> Place:
        """The place, as `find` has it; else what stored parts are joined to."""
        place = self.find(key, wanted)
        if place.variants is None or place.usable:
            return place
        for names in place.variants.sets:
            if "range" in names:
                joined = await self._joined(place, key, names, wanted)
                if joined is not None:
                    return joined
        return place

    def unencoded(self, key: str) -> Place | None:
        """The place of a fresh whole response that was stored for who takes gzip, for
        who does not: it says nothing of codings, so it answers both (RFC 9111 §4.1).
        By the Fetch standard clients ask for parts without any."""
        other = gzipped(key)
        place = self.again(Place(other)) if other is not None else None
        if place is None or place.response is None or place.state != "fresh":
            return None
        said = of_head(place.response.head)
        named = vary.names(values(said, "Vary")) or ()
        coded = values(said, "Content-Encoding") or "accept-encoding" in named
        return None if coded or place.response.status != 200 else place

    def again(self, place: Place) -> Place:
        """The same place as it is by now; nothing is counted."""
        entry = self._cache.look(place.key)
        response = stored.unpack(entry.value) if entry is not None else None
        return place._replace(entry=entry, response=response)

    def _variant(self, key: str, listed: Variants, wanted: Wanted) -> Place:
        """The newest that answers, else where it would be."""
        sent = wanted.sent()
        places = []
        for names in listed.sets:
            which = listed.key(key, names, lambda name: sent.getall(name, ()))
            bare = Place(which, None, None, names, listed)
            place = self.again(bare)
            if not fits(place.response, wanted):
                place = bare
            if place.usable:
                return place
            places.append(place)
        place = next((p for p in places if p.response is not None), places[0])
        return self._spoken(place, key, listed, wanted) if listed.spoken else place

    def _spoken(self, place: Place, key: str, of: Variants, wanted: Wanted) -> Place:
        """The place, with a fresh variant in the language that the client prefers to
        all others, if there is one. What is fetched is its own."""
        sent = wanted.sent()
        accepted = sent.getall(hdrs.ACCEPT_LANGUAGE, ())
        for names, said, language in of.spoken:
            if vary.prefers(accepted, language):
                sent[hdrs.ACCEPT_LANGUAGE] = said
                which = of.key(key, names, lambda name: sent.getall(name, ()))
                found = self.again(Place(which, names=names))
                if found.state == "fresh" and _speaks(found.response, language):
                    return place._replace(
                        entry=found.entry, response=found.response, names=names
                    )
        return place

    # -- parts

    async def listed(
        self, wanted: Wanted, of: Variants, names: Names, new: Pieces
    ) -> None:
        """List a part of what is wanted that is stored, or about to be."""
        key = _list_key(wanted.key, of, names, wanted)
        for _ in range(_TRIES):
            (entry,) = await self._had(key)
            known = pieces.unpack(entry.value) if entry is not None else None
            document = (new if known is None else known.seen(new)).pack()
            if entry is None:
                done = await self._cache.add(key, document, ttl=KEPT)
            else:
                done = await self._cache.compare_and_set(
                    key, document, ttl=KEPT, version=entry.version
                )
            if done:
                return

    async def _joined(
        self, place: Place, key: str, names: Names, wanted: Wanted
    ) -> Place | None:
        """The place with what the parts of a variant are joined to; None if they do
        not hold what is wanted."""
        of = place.variants
        assert of is not None
        (entry,) = await self._had(_list_key(key, of, names, wanted))
        listed = pieces.unpack(entry.value) if entry is not None else None
        span = _span(wanted, listed.length) if listed is not None else None
        if listed is None or span is None or span.stop - span.start > JOINED_MAX:
            return None
        for _ in range(_TRIES):
            cover = listed.cover(span)
            if cover is None:
                return None
            keys = [_piece_key(key, of, names, wanted, held) for held in cover]
            found = dict(zip(cover, await self._had(*keys), strict=True))
            here = {h: r for h, e in found.items() if (r := _response(listed, h, e))}
            if len(here) < len(cover):
                listed = listed.less(set(cover) - here.keys())
                continue
            newest = min(cover, key=listed.held.index)
            response = parts.joined(
                [(held.start, here[held]) for held in cover],
                here[newest],
                span,
                listed.length,
                whole=wanted.ranges is None,
            )
            if not fits(response, wanted):
                return None
            return place._replace(entry=found[newest], response=response, names=names)
        return None

    async def _had(self, *keys: str) -> list[Entry | None]:
        """What this host or the fleet has, None where it is fit for nothing."""
        found = [self._cache.look(key) for key in keys]
        absent = [k for k, e in zip(keys, found, strict=True) if not _lives(e)]
        if absent and self._cache.config.l2 is not None:
            await self._cache.get_many(absent)
            found = [self._cache.look(key) for key in keys]
        return [entry if _lives(entry) else None for entry in found]


def _lives(entry: Entry | None) -> bool:
    return entry is not None and entry.state != "dead"


def fits(response: StoredResponse | None, wanted: Wanted) -> bool:
    """Whether it is no part, or one of what is wanted: of the representation that
    If-Range names, where it names one (RFC 9110 §13.1.5)."""
    if response is None or response.status != 206:
        return True
    if_range = wanted.fields.get(hdrs.IF_RANGE)
    return wanted.ranges is not None and ranges.holds(
        if_range, Validators.of(response.fields())
    )


def _speaks(response: StoredResponse | None, language: str) -> bool:
    if response is None or response.status == 206:
        return False
    return value(response.fields(), "Content-Language") == language


def _span(wanted: Wanted, length: int | None) -> Span | None:
    """What is wanted of a representation: all of it, where that is no part."""
    if wanted.ranges is not None:
        return ranges.one(ranges.parse([wanted.ranges]), length)
    return Span(0, length) if length else None


def _response(listed: Pieces, held: Held, entry: Entry | None) -> StoredResponse | None:
    """The part that is listed, if that is what the entry holds, and fresh."""
    if entry is None or entry.state != "fresh":
        return None
    response = stored.unpack(entry.value)
    if response is None or response.status != 206:
        return None
    fields = response.fields()
    told = ranges.held(values(fields, "Content-Range"), len(response.body))
    if told is None or told[0] != held.span or told[1] not in (None, listed.length):
        return None
    same = validation.strong(Validators.of(fields)) == listed.validator
    return response if same else None


def _list_key(key: str, of: Variants, names: Names, wanted: Wanted) -> str:
    """Of the list of the parts of a variant."""
    others = (name for name in names if name != "range")
    sent = wanted.sent()
    return of.key(key, (*others, pieces.NAME), lambda name: sent.getall(name, ()))


def _piece_key(key: str, of: Variants, names: Names, wanted: Wanted, held: Held) -> str:
    """Of a part that is listed."""
    sent = wanted.sent()
    sent[hdrs.RANGE] = held.ranges
    return of.key(key, names, lambda name: sent.getall(name, ()))
