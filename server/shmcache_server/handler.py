"""Every request: from its key to its answer.

    GET, HEAD     a fresh record answers; a stale one too, while one refresh runs;
                  else the key's fetch does (`fetch.py`), streamed while it is stored
    all others, and ranges, bodies on a GET, conditions that are not for a cache:
                  passed through both ways; an unsafe method that succeeds invalidates
                  its URL (RFC 9111 §4.4)

The key
    {origin}{encoding}{length of host}:{host}{target}: a digest of the configured
    origin, a letter for whether the client takes gzip, the host without its port (two
    servers of a fleet may listen on different ones, and the origin is not told it),
    path and query as they came. No two requests share a key by accident: the length
    tells where the host ends. A long key ends in a digest of the whole.

    A request that bears credentials (Authorization, or a Cookie) is answered by what
    stands under that key, too. Where nothing does, it goes by a key of its own, with
    one letter more, so that an answer which is only its client's never has the others
    fetch for themselves.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import AsyncIterator
from hashlib import blake2b

from aiohttp import HttpVersion11, hdrs, web

from shmcache import Cache, CacheError, ComputeFailed, ComputeTimeout, Entry, Overloaded

from . import stored
from .answer import Answer, Stream, abort
from .config import Config
from .fetch import Fetches, Wanted
from .live import LiveResponse, Reader
from .origins import (
    Answering,
    Asking,
    Origin,
    OriginError,
    OriginTimeout,
    request_fields,
)
from .rfc9111 import directives, status, storing, validation, vary
from .stored import StoredResponse
from .upload import Upload

log = logging.getLogger("shmcache")

KEY_MAX = 1024
_KEY_KEPT = 900
_PREFIX = 17
"""Characters of a key before its host: the digest and the encoding's letter."""
_CREDENTIALED = "c"
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]*)(?::[0-9]*)?\Z")
_HOSTS_MAX = 1024
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_RETRY_AFTER = 1
"""Seconds; a flight more is soon to be had."""
_HEALTH, _READY = "/healthz", "/readyz"


class BadRequest(Exception):
    """A request that has no key."""


class Handler:
    """The answers of one worker. Called with each request."""

    def __init__(self, cache: Cache, origin: Origin, config: Config) -> None:
        self.ready = False
        """What /readyz tells: set once started, cleared while draining."""
        self._entry = cache.entry
        self._cache = cache
        self._origin = origin
        self._stall = config.origin.timeout
        self._fetches = Fetches(cache, origin, config)
        digest = blake2b(config.origin.base.encode(), digest_size=8).hexdigest()
        self._prefix = digest
        self._prefixes: dict[tuple[str, str | None], str] = {}

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to a request; whatever happens there is one."""
        method, target = request.method, request.raw_path
        if request.version[0] != 1:
            return _plain(505, status.BYPASS, close=True)
        if method in ("TRACE", "CONNECT"):
            # One would echo the fields of the way, the other needs a tunnel.
            return _plain(405 if method == "TRACE" else 501, status.METHOD, close=True)
        if target in (_HEALTH, _READY):
            return self._own_path(target)
        try:
            key = self._key(request, target)
        except BadRequest as e:
            return _plain(400, status.BYPASS, str(e), close=True)
        if method not in ("GET", "HEAD"):
            return await self._pass(request, status.METHOD)
        if _not_for_a_cache(request):
            return await self._pass(request, status.BYPASS)
        answer = self._stored(request, key)
        if isinstance(answer, str) and _credentials(request):
            key = _credentialed(key)
            answer = self._stored(request, key)
        if isinstance(answer, str):
            return await self._miss(request, key, answer)
        return answer

    def _stored(self, request: web.BaseRequest, key: str) -> Answer | str:
        """The answer that the cache has, else the reason why it has none."""
        entry = self._entry(key)
        if entry is None:
            return "miss"
        found = stored.unpack(entry.value)
        if entry.state == "dead" or found is None:
            return "stale"
        if entry.state == "stale":
            self._fetches.refresh(self._wanted(request, key))
        return _hit(request, entry, found)

    async def close(self) -> None:
        """End what is being fetched."""
        await self._fetches.close()

    def _own_path(self, target: str) -> Answer:
        if target == _READY and not self.ready:
            return _plain(503, status.BYPASS, "not ready")
        return _plain(200, status.BYPASS, "ok")

    # -- the key

    def _key(self, request: web.BaseRequest, target: str) -> str:
        headers = request.headers
        which = (headers.get(hdrs.HOST, ""), headers.get(hdrs.ACCEPT_ENCODING))
        prefix = self._prefixes.get(which)
        if prefix is None:
            prefix = self._prefix_of(*which)
        # aiohttp takes the host of an absolute target over the Host field's: one of
        # the two would be outside the key.
        if target[:1] != "/" or not target.isascii() or "#" in target:
            raise BadRequest("the target must be a path, in ASCII")
        return _shortened(prefix + target)

    def _prefix_of(self, host: str, accept: str | None) -> str:
        name = _host(host)
        if name is None:
            raise BadRequest("Host is not a host")
        made = f"{self._prefix}{vary.letter(accept)}{len(name)}:{name}"
        if len(self._prefixes) >= _HOSTS_MAX:
            self._prefixes.clear()
        self._prefixes[host, accept] = made
        return made

    def _keys(self, request: web.BaseRequest) -> list[str]:
        """The keys of a request's URL: either encoding, with credentials or without."""
        host = _host(request.headers.get(hdrs.HOST, "")) or ""
        rest = f"{len(host)}:{host}{request.raw_path}"
        keys = [_shortened(f"{self._prefix}{e}{rest}") for e in vary.LETTERS]
        return keys + [_credentialed(key) for key in keys]

    def _wanted(self, request: web.BaseRequest, key: str) -> Wanted:
        headers = request.headers
        return Wanted(
            key=key,
            target=request.raw_path,
            fields=headers,
            letter=vary.letter(headers.get(hdrs.ACCEPT_ENCODING)),
            forwarded=_forwarded(request),
            asked=storing.Asked(
                authorization=hdrs.AUTHORIZATION in headers,
                cookie=hdrs.COOKIE in headers,
            ),
        )

    # -- a miss

    async def _miss(
        self, request: web.BaseRequest, key: str, reason: str
    ) -> web.StreamResponse:
        headers = request.headers
        said = directives.parse(headers.getall(hdrs.CACHE_CONTROL, ()))
        if "only-if-cached" in said:  # RFC 9111 §5.2.1.7
            return _plain(504, status.forwarded(reason))
        if "no-store" in said:
            return await self._pass(request, status.BYPASS)
        if request.method == "HEAD":
            return await self._pass(request, status.forwarded(reason))
        try:
            joined = await self._fetches.join(self._wanted(request, key))
            if joined.live is not None:
                return await self._stream(
                    request, joined.live, reason, joined.collapsed
                )
        except (OriginError, CacheError) as e:
            return _failed(e, status.forwarded(reason))
        entry = joined.entry
        found = stored.unpack(entry.value) if entry else None
        if entry is None or found is None:
            return await self._pass(request, status.forwarded(reason))
        if joined.collapsed:
            told = status.forwarded(reason, collapsed=True)
            return _from_store(request, entry.age, told, found)
        return _hit(request, entry, found)

    # -- passed through

    async def _pass(self, request: web.BaseRequest, told: str) -> web.StreamResponse:
        """Ask the origin for this client alone, streaming both ways."""
        if hdrs.TRANSFER_ENCODING in request.headers:
            if request.version < HttpVersion11:  # RFC 9112 §6.1: its framing is faulty
                return _plain(400, told, close=True)
            if request.headers.getall(hdrs.TRANSFER_ENCODING) != ["chunked"]:
                return _plain(501, told, close=True)
        upload = Upload(request, self._stall)
        try:
            answering = await self._origin.ask(await _asking(request, upload))
        except OriginError as e:
            if upload.refusal:
                return _plain(upload.refusal, told, close=True)
            return _failed(e, told)
        try:
            if request.method not in _SAFE and answering.status < 400:
                for key in self._keys(request):
                    await self._cache.delete(key)
            age = _age(answering)
            body = None if answering.empty else answering.chunks()
            return await self._sent(request, answering, age + _told(told), body)
        finally:
            answering.close()

    # -- streams

    async def _stream(
        self, request: web.BaseRequest, live: LiveResponse, reason: str, collapsed: bool
    ) -> Stream:
        """A live response as it comes."""
        reader = Reader(live, lambda: abort(request))
        try:
            if live.error is not None:
                raise live.error
            answering = live.answering
            told = status.forwarded(
                reason, stored=live.stored and not collapsed, collapsed=collapsed
            )
            age = b"Age: %d\r\n" % int(live.age()) if collapsed else _age(answering)
            body = None if answering.empty else reader.chunks()
            return await self._sent(request, answering, age + _told(told), body)
        finally:
            reader.close()

    async def _sent(
        self,
        request: web.BaseRequest,
        answering: Answering,
        ours: bytes,
        body: AsyncIterator[bytes] | None,
    ) -> Stream:
        """A stream that was sent as far as it came; if it broke off, so did the
        client's connection."""
        head = answering.head + ours
        stream = Stream(answering.status, head, answering.length, body, self._stall)
        try:
            await stream.send(request)
        except OriginError as e:
            log.warning("%s", e)
        except ConnectionError:
            pass  # the client left: nothing to tell anybody
        return stream


def _hit(request: web.BaseRequest, entry: Entry, found: StoredResponse) -> Answer:
    return _from_store(request, entry.age, status.hit(entry.ttl or 0), found)


def _from_store(
    request: web.BaseRequest, age: float, told: str, found: StoredResponse
) -> Answer:
    """A stored response, or 304 where the client's own copy still holds."""
    headers = request.headers
    ours = f"Age: {int(age)}\r\nCache-Status: {told}\r\n".encode()
    conditional = hdrs.IF_NONE_MATCH in headers or hdrs.IF_MODIFIED_SINCE in headers
    # RFC 9110 §13.2.1: only where the answer without the condition would be a 2xx.
    if (
        conditional
        and found.status == 200
        and validation.not_modified(
            headers.getall(hdrs.IF_NONE_MATCH, ()),
            headers.get(hdrs.IF_MODIFIED_SINCE),
            found.etag,
            found.last_modified,
        )
    ):
        return Answer(304, found.not_modified_head() + ours)
    body = b"" if request.method == "HEAD" else found.body
    return Answer(found.status, found.head + ours, body)


async def _asking(request: web.BaseRequest, upload: Upload) -> Asking:
    """The request as it is passed through, body and conditions included."""
    headers = request.headers
    fields = request_fields(headers)
    if hdrs.ACCEPT_ENCODING in headers:
        fields[hdrs.ACCEPT_ENCODING] = ", ".join(headers.getall(hdrs.ACCEPT_ENCODING))
    fields.extend(_forwarded(request))
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


def _not_for_a_cache(request: web.BaseRequest) -> bool:
    """A body on a GET or HEAD has no defined meaning (RFC 9110 §9.3.1); ranges, and
    conditions on the state at the origin, are the origin's to answer."""
    headers = request.headers
    return (
        hdrs.RANGE in headers
        or request.body_exists
        or hdrs.IF_MATCH in headers
        or hdrs.IF_UNMODIFIED_SINCE in headers
    )


def _forwarded(request: web.BaseRequest) -> tuple[tuple[str, str], ...]:
    """Whom we ask for. Without the port, which is not in the key."""
    return (
        ("X-Forwarded-For", request.remote or "unknown"),
        ("X-Forwarded-Host", _host(request.headers.get(hdrs.HOST, "")) or ""),
        ("X-Forwarded-Proto", request.scheme),
    )


def _host(field: str) -> str | None:
    """The host of a Host field in lower case, without its port; None if it is none."""
    match = _HOST.match(field)
    return match[1].lower() if match else None


def _credentials(request: web.BaseRequest) -> bool:
    return hdrs.COOKIE in request.headers or hdrs.AUTHORIZATION in request.headers


def _credentialed(key: str) -> str:
    """The key of requests with credentials, beside that of those without."""
    return _shortened(f"{key[:_PREFIX]}{_CREDENTIALED}{key[_PREFIX:]}")


def _shortened(key: str) -> str:
    """A key that fits. A shortened one holds a `#`, which no target does."""
    if len(key) <= KEY_MAX:
        return key
    digest = blake2b(key.encode(), digest_size=32).hexdigest()
    return f"{key[:_KEY_KEPT]}#{digest}"


def _age(answering: Answering) -> bytes:
    """The Age that the origin gave, where it gave one."""
    age = answering.fields.get(hdrs.AGE, "")
    if not (age.isascii() and age.isdigit()):
        return b""
    return b"Age: %d\r\n" % min(int(age[:12]), directives.DELTA_MAX)


def _told(cache_status: str) -> bytes:
    return f"Cache-Status: {cache_status}\r\n".encode()


def _failed(error: Exception, told: str) -> Answer:
    """No answer to be had: 503 where too many wait, 504 where it came too late, else
    502."""
    if isinstance(error, Overloaded):  # counted; the log has no room for each
        return _plain(503, told, retry_after=_RETRY_AFTER)
    log.warning("%s", error)
    late = isinstance(error, OriginTimeout | ComputeTimeout) or (
        isinstance(error, ComputeFailed)
        and error.kind in (OriginTimeout.__name__, ComputeTimeout.__name__)
    )
    return _plain(504 if late else 502, told)


_REASONS = {
    200: "OK",
    400: "Bad Request",
    405: "Method Not Allowed",
    408: "Request Timeout",
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
