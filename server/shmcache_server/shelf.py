"""Shelf: where the cache has the answer to a request, or would have it."""

from __future__ import annotations

from typing import NamedTuple

from shmcache import Cache, Entry

from . import stored, variants
from .stored import StoredResponse
from .variants import Names, Variants
from .wanted import Wanted

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
            place = self.again(Place(which, None, None, names, listed))
            if place.usable and (not names or "range" not in names or wanted.ranges):
                return place
            places.append(place)
        return next((p for p in places if p.response is not None), places[0])
