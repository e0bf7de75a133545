"""Every request: from its key to its answer.

GET, HEAD     a fresh record answers; a stale one too, while one refresh runs;
              else the key's fetch does (`fetch.py`), streamed while it is stored
all others, and ranges, bodies on a GET, conditions that are not for a cache:
              passed through both ways (`passing.py`); an unsafe method that succeeds
              invalidates its URL (`changes.py`)
"""

from __future__ import annotations

import math
import time

from aiohttp import hdrs, web
from multidict import CIMultiDict

from shmcache import Cache, CacheError

from . import stored, tunnel
from .answer import Answer, Stream
from .answering import OriginError
from .answers import Streams, age_of, hit, interim, of_stored, plain
from .changes import Changes
from .config import Config
from .failures import Failures
from .fetch import Fetches
from .key import (
    Fields,
    Keyed,
    Keys,
    Lead,
    Refused,
    conditional,
    credentialed,
    credentials,
    directed,
    for_a_cache,
)
from .lives import Joined
from .origins import Origin
from .passing import Passing
from .purges import Purges
from .request import Request
from .rfc9111 import directives, freshness, status, vary
from .sharing import Sharing, said_by
from .shelf import Place, Shelf
from .wanted import NOBODY, Wanted

NO_WISHES = freshness.Wishes()
_LISTS_MOST = 3
"""Times that a request looks for its variant anew."""
_DIGITS_MAX = 18
_HEALTH, _READY = "/healthz", "/readyz"


class Handler:
    """The answers of one worker. Called with each request."""

    def __init__(self, cache: Cache, origin: Origin, config: Config) -> None:
        self.ready = False
        """What /readyz tells: set once started, cleared while draining."""
        self._cache = cache
        self._origin = origin
        self.keys = Keys(config)
        self._purges = Purges(cache, self.keys, config)
        self._shelf = Shelf(cache)
        self._sharing = Sharing(config)
        self._fetches = Fetches(cache, origin, self._sharing, config)
        self._failures = Failures(cache, origin, self._sharing)
        self._streams = Streams(config)
        changes = Changes(cache, self.keys, self._purges, self._fetches, config)
        self._passing = Passing(
            *(cache, origin, self.keys.forwarding, changes),
            *(self._failures, self._streams, config),
        )
        self._heeds = config.caching.request_directives

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to a request; whatever happens there is one."""
        method, target = request.method, request.raw_path
        lead = request.lead if isinstance(request, Request) else None
        refusal = _refusal(request) if lead is None else None
        if refusal is not None:
            return refusal
        if target in (_HEALTH, _READY) and method != "PURGE":
            return self._own_path(target)
        try:
            keyed = (lead or self._lead(request)).keyed(target, method)
        except Refused as e:
            return plain(e.status, status.BYPASS, str(e), close=True)
        if lead is None:
            if method == "PURGE":
                return await self._purges.on_main(request, keyed.host)
            if method not in ("GET", "HEAD"):
                return await self._passing.answer(request, status.METHOD)
            if tunnel.wanted(request):
                return await self._passing.tunnel(request)
            # A body on a GET or HEAD has no defined meaning: RFC 9110 §9.3.1.
            if request.body_exists or not _for_a_cache(request):
                return await self._past(request)
        if not keyed.route.cache:
            return await self._past(request)
        place = self._shelf.plain(keyed.key)
        wished = self._heeds and directed(request.headers)
        if place is not None and place.usable and place.state == "fresh" and not wished:
            return hit(request, place)
        wanted = Wanted.of(
            *(keyed, request.headers, request.remote, request.scheme),
            self.keys.forwarding,
        )
        if method == "HEAD":  # RFC 9110 §14.2: Range is of a GET alone
            wanted = wanted._replace(ranges=None)
        if place is None:
            place = await self._shelf.found(keyed.key, wanted)
        if not place.usable and wanted.ranges and wanted.letter == vary.IDENTITY:
            place = self._shelf.unencoded(keyed.key) or place
        if not place.usable and credentials(request.headers, keyed.cookie):
            wanted = wanted._replace(key=credentialed(keyed.key))
            place = await self._shelf.found(wanted.key, wanted)
        if wished:
            return await self._as_wished(request, wanted, place)
        if not place.usable:
            return await self._miss(request, wanted, place)
        if place.state == "stale":
            self._fetches.refresh(wanted, place)
        return hit(request, place)

    def refresh(self, keyed: Keyed, fields: Fields, remote: str, scheme: str) -> None:
        """See that one background refresh of a stale response runs, for a client at
        `remote` that asked by `scheme`."""
        wanted = Wanted.of(keyed, fields, remote, scheme, self.keys.forwarding)
        self._fetches.refresh(wanted, Place(keyed.key))

    async def start(self) -> None:
        """Be ready for the other workers."""
        await self._fetches.start()

    async def close(self) -> None:
        """End what is being fetched."""
        await self._fetches.close()

    def _own_path(self, target: str) -> Answer:
        if target == _READY and not self.ready:
            return plain(503, status.BYPASS, "not ready")
        return plain(200, status.BYPASS, "ok")

    def _lead(self, request: web.BaseRequest) -> Lead:
        """What a request's header block says of keys; `Refused`."""
        trusted = self.keys.forwarding.trusts(request.remote)
        return self.keys.lead(request.headers, trusted=trusted)

    # -- where a client's directives are heeded

    async def _as_wished(
        self, request: web.BaseRequest, wanted: Wanted, place: Place
    ) -> web.StreamResponse:
        """The answer to a request that says something of caching: RFC 9111 §5.2.1. What
        is here and is not as wished leaves the others what they have: the origin is
        asked for this client alone."""
        lines = request.headers.getall
        said = directives.of_request(
            lines(hdrs.CACHE_CONTROL, ()), lines(hdrs.PRAGMA, ())
        )
        wished = freshness.wishes(said)
        if self._satisfies(wished, place):
            if place.state == "stale":
                self._fetches.refresh(wanted, place)
            return hit(request, place)
        if not place.usable:
            return await self._miss(request, wanted, place, wished)
        return await self._beside(request, wanted, place, wished)

    async def _beside(
        self,
        request: web.BaseRequest,
        wanted: Wanted,
        place: Place,
        wished: freshness.Wishes,
    ) -> web.StreamResponse:
        """The origin's answer, beside one in the cache that is not as wished."""
        if wished.only_if_cached:
            return plain(504, status.REQUEST)
        if request.method == "HEAD":
            return await self._head(request, wanted, place, status.REQUEST)
        return await self._passing.answer(request, status.REQUEST, (wanted, place))

    def _satisfies(self, wished: freshness.Wishes, place: Place) -> bool:
        """Whether what stands in the place is what the client wished for."""
        entry, found = place.entry, place.response
        if wished == NO_WISHES or entry is None or found is None:
            return place.usable
        left, grace = entry.ttl or 0, 0.0
        if entry.state == "stale":  # before its time, where it was made so by a purge
            left, grace = min(left, 0), math.inf
        elif entry.state == "dead" and left > 0:
            return False
        said = said_by(CIMultiDict(found.fields()))
        return freshness.satisfies(wished, entry.age, entry.age + left, said, grace)

    # -- a miss

    async def _miss(
        self,
        request: web.BaseRequest,
        wanted: Wanted,
        place: Place,
        wished: freshness.Wishes = NO_WISHES,
    ) -> web.StreamResponse:
        headers = request.headers
        reason = "stale" if place.state else "miss"
        said = _said(headers)
        if "only-if-cached" in said:  # RFC 9111 §5.2.1.7
            return await self._of_the_fleet(request, wanted, reason, wished)
        if "no-store" in said:
            return await self._passing.answer(request, status.BYPASS, (wanted, place))
        if request.method == "HEAD":
            return await self._head(request, wanted, place, status.forwarded(reason))
        if hdrs.IF_RANGE in headers:
            told = status.forwarded(reason)
            return await self._passing.answer(request, told, (wanted, place))
        for _ in range(_LISTS_MOST):
            try:
                joined = await self._fetches.join(wanted, place, interim(request))
                if joined.live is not None:
                    return await self._stream(request, joined, place, reason)
            except (OriginError, CacheError) as e:
                told = status.forwarded(reason)
                return self._failures.instead(request, (wanted, place), e, told)
            entry = joined.entry
            found = stored.unpack(entry.value) if entry else None
            if entry is not None and found is not None:
                if entry.source in ("l1", "l2"):
                    place = place._replace(entry=entry, response=found)
                    if not self._satisfies(wished, place):
                        return await self._beside(request, wanted, place, wished)
                    return hit(request, place)
                told = status.forwarded(reason, collapsed=joined.collapsed)
                return of_stored(request, entry.age, told, found)
            # the URL turned out to vary: its list is what the flight brought
            found_now = self._shelf.find(wanted.key, wanted)
            if found_now.variants is None:
                break
            place = found_now
            if self._satisfies(wished, place):
                return hit(request, place)
        told = status.forwarded(reason)
        return await self._passing.answer(request, told, (wanted, place))

    async def _of_the_fleet(
        self,
        request: web.BaseRequest,
        wanted: Wanted,
        reason: str,
        wished: freshness.Wishes,
    ) -> Answer:
        """The answer to who wants a stored one alone: also one that another host has
        stored, else 504."""
        for key in dict.fromkeys((wanted.plain, wanted.key)):
            place = self._shelf.find(key, wanted)
            for _ in range(2):  # the URL's list, then the variant
                if not place.usable:
                    await self._cache.get(place.key)
                    place = self._shelf.find(key, wanted)
            if self._satisfies(wished, place):
                return hit(request, place)
        return plain(504, status.forwarded(reason))

    async def _head(
        self, request: web.BaseRequest, wanted: Wanted, place: Place, told: str
    ) -> web.StreamResponse:
        """A HEAD's answer from the origin. It may tell of what stood here, if it is
        what anybody would be answered: it is asked as the GET would be then."""
        shared = wanted.asked == NOBODY and not conditional(request.headers)
        if place.response is None or not shared:
            return await self._passing.answer(request, told, (wanted, place))
        mark, sent = self._cache.note(), time.monotonic()
        asking = wanted.asking("HEAD")
        try:
            answering = await self._origin.ask(asking, interim(request))
        except OriginError as e:
            return self._failures.instead(request, (wanted, place), e, told)
        try:
            if self._fetches.failed(answering, place):
                error = OriginError(f"origin: {answering.status} in place of an answer")
                if stale := self._failures.stale(request, wanted, place, error):
                    return stale
            self._fetches.told_by_head(wanted, place, answering, sent, mark)
            return await self._streams.alone(request, answering, told)
        finally:
            answering.close()

    async def _past(self, request: web.BaseRequest) -> web.StreamResponse:
        """Pass a request that the cache has no part in."""
        if "only-if-cached" in _said(request.headers):  # RFC 9111 §5.2.1.7
            return plain(504, status.BYPASS)
        return await self._passing.answer(request, status.BYPASS)

    async def _stream(
        self, request: web.BaseRequest, joined: Joined, place: Place, reason: str
    ) -> Answer | Stream:
        """A live response as it comes, of a fetch."""
        live, collapsed = joined.live, joined.collapsed
        assert live is not None
        fills = not collapsed and self._fetches.will_store(place.key, live)
        told = status.forwarded(reason, stored=fills, collapsed=collapsed)
        if not collapsed:
            return await self._streams.live(request, live, age_of(live.answering), told)
        age = b"Age: %d\r\n" % int(live.age())
        return await self._streams.live(request, live, age, told, live.head_for_all)


def _refusal(request: web.BaseRequest) -> Answer | None:
    """The answer to a request that is none of ours, whatever its target."""
    method = request.method
    if request.version[0] != 1:
        return plain(505, status.BYPASS, close=True)
    if method in ("TRACE", "CONNECT"):
        # One would echo the fields of the way, the other needs a tunnel.
        return plain(405 if method == "TRACE" else 501, status.METHOD, close=True)
    length = request.headers.get(hdrs.CONTENT_LENGTH, "")
    if len(length) > _DIGITS_MAX:  # who counts by signed 64 bits reads another
        return plain(400, status.BYPASS, close=True)
    return None


def _said(headers: Fields) -> directives.Directives:
    """What the client says of caching."""
    lines = headers.getall(hdrs.CACHE_CONTROL, ())
    return directives.parse(lines) if lines else {}


def _for_a_cache(request: web.BaseRequest) -> bool:
    """Whether a GET or HEAD may be answered here. A part may be (RFC 9110 §14.2); what
    of it depends on a copy that the client has is the origin's, if not ours."""
    return for_a_cache(request.headers) or (
        hdrs.RANGE in request.headers
        and hdrs.IF_MATCH not in request.headers
        and hdrs.IF_UNMODIFIED_SINCE not in request.headers
    )
