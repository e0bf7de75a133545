"""Every request: from its key to its answer.

GET, HEAD     a fresh record answers; a stale one too, while one refresh runs;
              else the key's fetch does (`fetch.py`), streamed while it is stored
all others, and ranges, bodies on a GET, conditions that are not for a cache:
              passed through both ways; an unsafe method that succeeds invalidates
              its URL (RFC 9111 §4.4)
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator
from functools import lru_cache

from aiohttp import HttpVersion11, hdrs, web
from multidict import CIMultiDict

from shmcache import Cache, CacheError, ComputeFailed, ComputeTimeout, Overloaded

from . import stored, tunnel
from .answer import Answer, Stream, abort, from_store
from .config import Config
from .fetch import Fetches
from .key import (
    Fields,
    Keyed,
    Keys,
    Lead,
    Refused,
    conditional,
    cookies_beside,
    credentialed,
    credentials,
    directed,
    for_a_cache,
)
from .live import LiveResponse, Reader
from .lives import Joined
from .origins import (
    Answering,
    Asking,
    Interim,
    Origin,
    OriginDown,
    OriginError,
    OriginTimeout,
    OverBudget,
)
from .purges import Purges
from .request import Request
from .rfc9111 import directives, freshness, invalidating, status, storing, vary
from .sharing import Sharing, said_by
from .shelf import Place, Shelf, fits
from .stored import StoredResponse
from .tags import hidden
from .upload import Upload
from .wanted import NOBODY, Wanted

log = logging.getLogger("shmcache")

NO_WISHES = freshness.Wishes()
_LISTS_MOST = 3
"""Times that a request looks for its variant anew."""
_PER_DELETE = 2
"""By which the invalidation clock goes on for each key that is deleted here."""
_RETRY_AFTER = 1
"""Seconds; a flight more is soon to be had."""
_ASKED = {
    (authorization, cookie): storing.Asked(authorization=authorization, cookie=cookie)
    for authorization in (False, True)
    for cookie in (False, True)
}
_DIGITS_MAX = 18
_HEALTH, _READY = "/healthz", "/readyz"


class Handler:
    """The answers of one worker. Called with each request."""

    def __init__(self, cache: Cache, origin: Origin, config: Config) -> None:
        self.ready = False
        """What /readyz tells: set once started, cleared while draining."""
        self._cache = cache
        self._origin = origin
        self._stall = config.origin.timeout
        self.keys = Keys(config)
        self._base = config.origin.base
        self._purges = Purges(cache, self.keys, config)
        self._hidden = hidden(config.purge)
        self._shelf = Shelf(cache)
        self._sharing = Sharing(config)
        self._fetches = Fetches(cache, origin, self._sharing, config)
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
            return _plain(e.status, status.BYPASS, str(e), close=True)
        if lead is None:
            if method == "PURGE":
                return await self._purges.on_main(request, keyed.host)
            if method not in ("GET", "HEAD"):
                return await self._pass(request, status.METHOD)
            if tunnel.wanted(request):
                return await self._tunnel(request)
            # A body on a GET or HEAD has no defined meaning: RFC 9110 §9.3.1.
            if request.body_exists or not _for_a_cache(request):
                return await self._past(request)
        if not keyed.route.cache:
            return await self._past(request)
        place = self._shelf.plain(keyed.key)
        wished = self._heeds and directed(request.headers)
        if place is not None and place.usable and place.state == "fresh" and not wished:
            return _hit(request, place)
        wanted = self._wanted(keyed, request.headers, request.remote, request.scheme)
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
        return _hit(request, place)

    def refresh(self, keyed: Keyed, fields: Fields, remote: str, scheme: str) -> None:
        """See that one background refresh of a stale response runs, for a client at
        `remote` that asked by `scheme`."""
        wanted = self._wanted(keyed, fields, remote, scheme)
        self._fetches.refresh(wanted, Place(keyed.key))

    async def start(self) -> None:
        """Be ready for the other workers."""
        await self._fetches.start()

    async def close(self) -> None:
        """End what is being fetched."""
        await self._fetches.close()

    def _own_path(self, target: str) -> Answer:
        if target == _READY and not self.ready:
            return _plain(503, status.BYPASS, "not ready")
        return _plain(200, status.BYPASS, "ok")

    def _lead(self, request: web.BaseRequest) -> Lead:
        """What a request's header block says of keys; `Refused`."""
        trusted = self.keys.forwarding.trusts(request.remote)
        return self.keys.lead(request.headers, trusted=trusted)

    def _wanted(
        self, keyed: Keyed, fields: Fields, remote: str | None, scheme: str
    ) -> Wanted:
        forwarding = self.keys.forwarding
        return Wanted(
            key=keyed.key,
            plain=keyed.key,
            target=keyed.target,
            fields=fields,
            letter=vary.letter(fields.get(hdrs.ACCEPT_ENCODING)),
            forwarded=forwarding.written(fields, remote, scheme),
            asked=_ASKED[
                hdrs.AUTHORIZATION in fields, cookies_beside(fields, keyed.cookie)
            ],
            ranges=_range(fields) if hdrs.RANGE in fields else None,
            cookie=keyed.cookie,
            route=keyed.route,
            host=keyed.host,
            forwarding=forwarding,
        )

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
            return _hit(request, place)
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
            return _plain(504, status.REQUEST)
        if request.method == "HEAD":
            return await self._head(request, wanted, place, status.REQUEST)
        return await self._pass(request, status.REQUEST, (wanted, place))

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
            return await self._pass(request, status.BYPASS, (wanted, place))
        if request.method == "HEAD":
            return await self._head(request, wanted, place, status.forwarded(reason))
        if hdrs.IF_RANGE in headers:
            told = status.forwarded(reason)
            return await self._pass(request, told, (wanted, place))
        for _ in range(_LISTS_MOST):
            try:
                joined = await self._fetches.join(wanted, place, _interim(request))
                if joined.live is not None:
                    return await self._stream(request, joined, place, reason)
            except (OriginError, CacheError) as e:
                return self._instead(request, wanted, place, e) or self._failed(
                    e, status.forwarded(reason)
                )
            entry = joined.entry
            found = stored.unpack(entry.value) if entry else None
            if entry is not None and found is not None:
                if entry.source in ("l1", "l2"):
                    place = place._replace(entry=entry, response=found)
                    if not self._satisfies(wished, place):
                        return await self._beside(request, wanted, place, wished)
                    return _hit(request, place)
                told = status.forwarded(reason, collapsed=joined.collapsed)
                return _from_store(request, entry.age, told, found)
            # the URL turned out to vary: its list is what the flight brought
            found_now = self._shelf.find(wanted.key, wanted)
            if found_now.variants is None:
                break
            place = found_now
            if self._satisfies(wished, place):
                return _hit(request, place)
        return await self._pass(request, status.forwarded(reason), (wanted, place))

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
                return _hit(request, place)
        return _plain(504, status.forwarded(reason))

    async def _head(
        self, request: web.BaseRequest, wanted: Wanted, place: Place, told: str
    ) -> web.StreamResponse:
        """A HEAD's answer from the origin. It may tell of what stood here, if it is
        what anybody would be answered: it is asked as the GET would be then."""
        shared = wanted.asked == NOBODY and not conditional(request.headers)
        if place.response is None or not shared:
            return await self._pass(request, told, (wanted, place))
        mark, sent = self._cache.note(), time.monotonic()
        asking = wanted.asking("HEAD")
        try:
            answering = await self._origin.ask(asking, _interim(request))
        except OriginError as e:
            return self._instead(request, wanted, place, e) or self._failed(e, told)
        try:
            if self._fetches.failed(answering, place):
                error = OriginError(f"origin: {answering.status} in place of an answer")
                if stale := self._instead(request, wanted, place, error):
                    return stale
            self._fetches.told_by_head(wanted, place, answering, sent, mark)
            head = self._visible(answering.head) + _age(answering) + _told(told)
            return await self._sent(request, answering, head, None)
        finally:
            answering.close()

    def _instead(
        self, request: web.BaseRequest, wanted: Wanted, place: Place, error: Exception
    ) -> Answer | None:
        """A stale response in place of an error: RFC 9111 §4.2.4, RFC 5861 §4. To a
        request with credentials what is stored for all, where it has none of its own,
        as if it were fresh."""
        place = self._shelf.again(place)
        if place.response is None and wanted.key != wanted.plain:
            place = self._shelf.find(wanted.plain, wanted)
        found = place.response
        if found is None or not fits(found, wanted):
            return None
        window = self._sharing.windows(CIMultiDict(found.fields())).if_cut_off
        if place.stale_for > window:
            return None
        if _kind(error) not in _COUNTED:
            log.info("stale in place of an error: %s", error)
        return _hit(request, place)

    def _failed(self, error: Exception, told: str) -> Answer:
        """No answer to be had: 503 where too many wait, the origin is down or over its
        budget, 504 where it came too late, else 502."""
        if isinstance(error, Overloaded):  # counted; the log has no room for each
            return _plain(503, told, retry_after=_RETRY_AFTER)
        kind = _kind(error)
        if kind in _COUNTED:
            due = math.ceil(self._origin.due(kind))
            return _plain(503, told, retry_after=max(_RETRY_AFTER, due))
        log.warning("%s", error)
        if isinstance(error, OriginError):
            return _plain(error.status, told)
        return _plain(_STATUSES.get(kind, 502), told)

    # -- passed through

    async def _pass(
        self,
        request: web.BaseRequest,
        told: str,
        stood: tuple[Wanted, Place] | None = None,
    ) -> web.StreamResponse:
        """Ask the origin for this client alone, streaming both ways. What `stood` in
        the place of what is wanted may stand for an origin that cannot be reached."""
        if hdrs.TRANSFER_ENCODING in request.headers:
            if request.version < HttpVersion11:  # RFC 9112 §6.1: its framing is faulty
                return _plain(400, told, close=True)
            if request.headers.getall(hdrs.TRANSFER_ENCODING) != ["chunked"]:
                return _plain(501, told, close=True)
        upload = Upload(request, self._stall)
        mark, sent = self._cache.note(), time.monotonic()
        try:
            asking = await self._asking(request, upload)
            answering = await self._origin.ask(asking, _interim(request))
        except OriginError as e:
            if upload.refusal:
                return _plain(upload.refusal, told, close=True)
            stale = self._instead(request, *stood, e) if stood else None
            return stale or self._failed(e, told)
        live = None
        try:
            if invalidating.invalidates(request.method, answering.status):
                live = await self._changed(request, answering, sent, mark)
                if live is not None:
                    return await self._streamed(request, live, _age(answering), told)
            head = self._visible(answering.head) + _age(answering) + _told(told)
            body = None if answering.empty else answering.chunks()
            return await self._sent(request, answering, head, body)
        finally:
            if live is None:  # else it is read on without its client
                answering.close()

    async def _past(self, request: web.BaseRequest) -> web.StreamResponse:
        """Pass a request that the cache has no part in."""
        if "only-if-cached" in _said(request.headers):  # RFC 9111 §5.2.1.7
            return _plain(504, status.BYPASS)
        return await self._pass(request, status.BYPASS)

    async def _tunnel(self, request: web.BaseRequest) -> web.StreamResponse:
        """A WebSocket, if the origin makes one of it."""
        upload = Upload(request, self._stall)
        try:
            asking = await self._asking(request, upload)
            answer = await tunnel.tunnel(request, self._origin, asking)
        except OriginError as e:
            return self._failed(e, status.BYPASS)
        if not isinstance(answer, Answering):
            return answer
        try:
            head = self._visible(answer.head) + _age(answer) + _told(status.BYPASS)
            body = None if answer.empty else answer.chunks()
            return await self._sent(request, answer, head, body)
        finally:
            answer.close()

    async def _asking(self, request: web.BaseRequest, upload: Upload) -> Asking:
        """The request as it is passed through, body and conditions included."""
        headers, forwarding = request.headers, self.keys.forwarding
        fields = forwarding.fields(headers)
        if hdrs.ACCEPT_ENCODING in headers:
            fields[hdrs.ACCEPT_ENCODING] = ", ".join(
                headers.getall(hdrs.ACCEPT_ENCODING)
            )
        fields.extend(forwarding.written(headers, request.remote, request.scheme))
        body = None
        if request.body_exists:
            body = upload.chunks()
            if hdrs.CONTENT_LENGTH in headers:
                fields[hdrs.CONTENT_LENGTH] = headers[hdrs.CONTENT_LENGTH]
            expected = headers.get(hdrs.EXPECT, "").lower()
            # RFC 9110 §10.1.1: HTTP/1.0 does not know it.
            if expected == "100-continue" and request.version >= HttpVersion11:
                with contextlib.suppress(ConnectionError):  # reading will tell
                    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                request.writer.output_size = 0  # no part of the answer has been sent
        return Asking(request.method, request.raw_path, fields, body)

    async def _changed(
        self, request: web.BaseRequest, answering: Answering, sent: float, mark: int
    ) -> LiveResponse | None:
        """See that what a change at the origin makes void is (RFC 9111 §4.4). The
        response as it comes, where it is being stored: that of a POST may be."""
        headers, fields, remote = request.headers, answering.fields, request.remote
        host, scheme = self.keys.forwarding.asked(headers, remote, request.scheme)
        url = f"{scheme}://{host}{request.raw_path}"
        trusted = self.keys.forwarding.trusts(remote)
        keys = self.keys.all(headers, request.raw_path, trusted=trusted)
        wanted = self._of_post(request, url, fields)
        tags = self._fetches.fills.tags(wanted, fields) if wanted else ()
        known = any(self._cache.raised(key, mark, tags, soft=True) for key in keys)
        before = self._cache.note()
        others = invalidating.targets(
            url,
            fields.getall("Location", ()),
            fields.getall("Content-Location", ()),
            also=(self._base,),
        )
        await self._cache.delete_many(keys)
        after = self._cache.note()
        known |= after != before + _PER_DELETE * len(keys)  # more was made void
        for target in others:
            await self._cache.delete_many(
                self.keys.all(headers, target, trusted=trusted)
            )
        await self._purges.changed(
            self._lead(request).host,
            request.method,
            (request.raw_path, *others),
            fields,
        )
        if wanted is None or known:  # it may be older than who made it void meanwhile
            return None
        return self._fetches.elsewhere.adopt(wanted, answering, sent, after)

    def _of_post(
        self, request: web.BaseRequest, url: str, fields: Fields
    ) -> Wanted | None:
        """The GET that these fields answer, too, if the request is a POST."""
        location = fields.getall("Content-Location", ())
        if request.method != "POST" or not invalidating.same_target(
            *(url, location), also=(self._base,)
        ):
            return None
        keyed = self._lead(request).keyed(request.raw_path)
        if not keyed.route.cache or keyed.target != request.raw_path:
            return None  # what is not in the key may be in the answer
        return self._wanted(keyed, request.headers, request.remote, request.scheme)

    # -- streams

    async def _stream(
        self, request: web.BaseRequest, joined: Joined, place: Place, reason: str
    ) -> Answer | Stream:
        """A live response as it comes, of a fetch."""
        live, collapsed = joined.live, joined.collapsed
        assert live is not None
        fills = not collapsed and self._fetches.will_store(place.key, live)
        told = status.forwarded(reason, stored=fills, collapsed=collapsed)
        if not collapsed:
            return await self._streamed(request, live, _age(live.answering), told)
        age = b"Age: %d\r\n" % int(live.age())
        return await self._streamed(request, live, age, told, live.head_for_all)

    async def _streamed(
        self,
        request: web.BaseRequest,
        live: LiveResponse,
        age: bytes,
        told: str,
        head: bytes = b"",
    ) -> Answer | Stream:
        """A live response as it comes; at once, where all of it is here. `head`: if it
        is not the one that the origin sent."""
        reader = Reader(live, lambda: abort(request))
        try:
            if live.error is not None:
                raise live.error
            answering = live.answering
            head = self._visible(head or answering.head) + age + _told(told)
            if answering.empty:
                return await self._sent(request, answering, head, None)
            begun = reader.at_hand()
            if reader.has_all:
                head += b"Content-Length: %d\r\n" % len(begun)
                return Answer(answering.status, head, begun)
            return await self._sent(request, answering, head, reader.chunks(), begun)
        finally:
            reader.close()

    def _visible(self, head: bytes) -> bytes:
        """What clients get of a head."""
        return stored.without(head, self._hidden)[0] if self._hidden else head

    async def _sent(
        self,
        request: web.BaseRequest,
        answering: Answering,
        head: bytes,
        body: AsyncIterator[bytes] | None,
        begun: bytes = b"",
    ) -> Stream:
        """A stream that was sent as far as it came; if it broke off, so did the
        client's connection."""
        length, stall = answering.length, self._stall
        stream = Stream(answering.status, head, length, body, stall, begun)
        try:
            await stream.send(request)
        except OriginError as e:
            log.warning("%s", e)
        except ConnectionError:
            pass  # the client left: nothing to tell anybody
        return stream


def _refusal(request: web.BaseRequest) -> Answer | None:
    """The answer to a request that is none of ours, whatever its target."""
    method = request.method
    if request.version[0] != 1:
        return _plain(505, status.BYPASS, close=True)
    if method in ("TRACE", "CONNECT"):
        # One would echo the fields of the way, the other needs a tunnel.
        return _plain(405 if method == "TRACE" else 501, status.METHOD, close=True)
    length = request.headers.get(hdrs.CONTENT_LENGTH, "")
    if len(length) > _DIGITS_MAX:  # who counts by signed 64 bits reads another
        return _plain(400, status.BYPASS, close=True)
    return None


def _hit(request: web.BaseRequest, place: Place) -> Answer:
    entry, found = place.entry, place.response
    assert entry is not None and found is not None
    return _from_store(request, entry.age, status.hit(-place.stale_for), found)


def _from_store(
    request: web.BaseRequest, age: float, told: str, found: StoredResponse
) -> Answer:
    """A stored response, or 304 where the client's own copy still holds."""
    ours = (status.FIELDS % (age, told)).encode()
    return from_store(request.method, request.headers, found, ours)


def _range(fields: Fields) -> str | None:
    """The part that is wanted. Several lines are no Range, for it is no list (RFC 9110
    §5.3, §14.2): the whole is the answer, as of what is here."""
    lines = fields.getall(hdrs.RANGE)
    return lines[0] if len(lines) == 1 else None


def _said(headers: Fields) -> directives.Directives:
    """What the client says of caching."""
    lines = headers.getall(hdrs.CACHE_CONTROL, ())
    return directives.parse(lines) if lines else {}


def _interim(request: web.BaseRequest) -> Interim | None:
    """What passes the origin's interim answers on to the client (RFC 9110 §15.2);
    HTTP/1.0 has none."""
    if request.version < HttpVersion11:
        return None

    def write(code: int, head: bytes) -> None:
        transport = request.transport
        if transport is not None and not transport.is_closing():
            transport.write(head)

    return write


def _for_a_cache(request: web.BaseRequest) -> bool:
    """Whether a GET or HEAD may be answered here. A part may be (RFC 9110 §14.2); what
    of it depends on a copy that the client has is the origin's, if not ours."""
    return for_a_cache(request.headers) or (
        hdrs.RANGE in request.headers
        and hdrs.IF_MATCH not in request.headers
        and hdrs.IF_UNMODIFIED_SINCE not in request.headers
    )


def _age(answering: Answering) -> bytes:
    """The Age that the origin gave, where it gave one."""
    age = answering.fields.get(hdrs.AGE, "")
    if not (age.isascii() and age.isdigit()):
        return b""
    return b"Age: %d\r\n" % min(int(age[:12]), directives.DELTA_MAX)


@lru_cache(64)
def _told(cache_status: str) -> bytes:
    return f"Cache-Status: {cache_status}\r\n".encode()


def _kind(error: Exception) -> str:
    """Its class by name, also of one that another process told of."""
    return error.kind if isinstance(error, ComputeFailed) else type(error).__name__


_COUNTED = {OriginDown.__name__, OverBudget.__name__}
"""Of these the breaker has told, or the budget counts: the log has no room for each."""
_STATUSES = {
    OriginTimeout.__name__: OriginTimeout.status,
    ComputeTimeout.__name__: 504,
}
"""Of failures that were told by another process."""


_REASONS = {
    200: "OK",
    400: "Bad Request",
    405: "Method Not Allowed",
    408: "Request Timeout",
    421: "Misdirected Request",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
}


def _plain(
    code: int, told: str, words: str = "", *, close: bool = False, retry_after: int = 0
) -> Answer:
    """An answer of our own: one line of text, never cached."""
    body = (words or _REASONS[code]).encode() + b"\n"
    head = (
        f"HTTP/1.1 {code} {_REASONS[code]}\r\n"
        "Content-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\n"
        f"Cache-Status: {told}\r\n"
    )
    if retry_after:
        head += f"Retry-After: {retry_after}\r\n"
    if code == 405:
        head += "Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"
    return Answer(code, head.encode(), body, close=close)
