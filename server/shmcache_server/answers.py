"""Answers: by what stands here, by a response as it comes, or in words of our own."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from functools import lru_cache

from aiohttp import HttpVersion11, hdrs, web

from . import stored
from .answer import Answer, Stream, abort, from_store, own
from .answering import Answering, Interim, OriginError
from .config import Config
from .live import LiveResponse, Reader
from .rfc9111 import directives, status
from .shelf import Place
from .stored import StoredResponse
from .tags import hidden

log = logging.getLogger("shmcache")


def hit(request: web.BaseRequest, place: Place) -> Answer:
    """What stands in a place."""
    entry, found = place.entry, place.response
    assert entry is not None and found is not None
    return of_stored(request, entry.age, status.hit(-place.stale_for), found)


def of_stored(
    request: web.BaseRequest, age: float, told: str, found: StoredResponse
) -> Answer:
    """A stored response, or 304 where the client's own copy still holds."""
    ours = (status.FIELDS % (age, told)).encode()
    return from_store(request.method, request.headers, found, ours)


def plain(
    code: int, told: str, words: str = "", *, close: bool = False, retry_after: int = 0
) -> Answer:
    """One line of text, never cached."""
    fields = f"Cache-Status: {told}\r\n"
    if retry_after:
        fields += f"Retry-After: {retry_after}\r\n"
    return own(code, "text/plain", words, fields, close=close)


def interim(request: web.BaseRequest) -> Interim | None:
    """What passes the origin's interim answers on to the client (RFC 9110 §15.2);
    HTTP/1.0 has none."""
    if request.version < HttpVersion11:
        return None

    def write(code: int, head: bytes) -> None:
        transport = request.transport
        if transport is not None and not transport.is_closing():
            transport.write(head)

    return write


class Streams:
    """Answers of the origin, as they come."""

    def __init__(self, config: Config) -> None:
        self._hidden = hidden(config.purge)
        self._stall = config.origin.timeout

    async def alone(
        self, request: web.BaseRequest, answering: Answering, told: str
    ) -> Stream:
        """An answer that is this client's alone."""
        head = self._visible(answering.head) + age_of(answering) + _told(told)
        body = None if answering.empty else answering.chunks()
        return await self._sent(request, answering, head, body)

    async def live(
        self,
        request: web.BaseRequest,
        live: LiveResponse,
        age: bytes,
        told: str,
        head: bytes = b"",
    ) -> Answer | Stream:
        """A live response; at once, where all of it is here. `age`: the line that says
        it; `head`: if it is not the one that the origin sent."""
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


def age_of(answering: Answering) -> bytes:
    """The Age that the origin gave, where it gave one."""
    age = answering.fields.get(hdrs.AGE, "")
    if not (age.isascii() and age.isdigit()):
        return b""
    return b"Age: %d\r\n" % min(int(age[:12]), directives.DELTA_MAX)


@lru_cache(64)
def _told(cache_status: str) -> bytes:
    return f"Cache-Status: {cache_status}\r\n".encode()
