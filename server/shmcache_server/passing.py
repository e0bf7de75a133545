"""Passing through: a request and its answer, each as it comes, for one client alone."""

from __future__ import annotations

import contextlib
import time

from aiohttp import HttpVersion11, hdrs, web

from shmcache import Cache

from . import tunnel
from .answering import Answering, OriginError
from .answers import Streams, age_of, interim, plain
from .changes import Changes
from .config import Config
from .failures import Failures
from .forwarded import Forwarding
from .origins import Asking, Origin
from .rfc9111 import invalidating, status
from .shelf import Place
from .upload import Upload
from .wanted import Wanted


class Passing:
    """What the cache has no answer to, or no part in."""

    def __init__(
        self,
        cache: Cache,
        origin: Origin,
        forwarding: Forwarding,
        changes: Changes,
        failures: Failures,
        streams: Streams,
        config: Config,
    ) -> None:
        self._cache = cache
        self._origin = origin
        self._forwarding = forwarding
        self._changes = changes
        self._failures = failures
        self._streams = streams
        self._stall = config.origin.timeout

    async def answer(
        self,
        request: web.BaseRequest,
        told: str,
        stood: tuple[Wanted, Place] | None = None,
    ) -> web.StreamResponse:
        """Ask the origin for this client alone, streaming both ways. What `stood` in
        the place of what is wanted may stand for an origin that cannot be reached."""
        if hdrs.TRANSFER_ENCODING in request.headers:
            if request.version < HttpVersion11:  # RFC 9112 §6.1: its framing is faulty
                return plain(400, told, close=True)
            if request.headers.getall(hdrs.TRANSFER_ENCODING) != ["chunked"]:
                return plain(501, told, close=True)
        upload = Upload(request, self._stall)
        mark, sent = self._cache.note(), time.monotonic()
        try:
            asking = await self._asking(request, upload)
            answering = await self._origin.ask(asking, interim(request))
        except OriginError as e:
            if upload.refusal:
                return plain(upload.refusal, told, close=True)
            return self._failures.instead(request, stood, e, told)
        live = None
        try:
            if invalidating.invalidates(request.method, answering.status):
                live = await self._changes.made(request, answering, sent, mark)
                if live is not None:
                    age = age_of(answering)
                    return await self._streams.live(request, live, age, told)
            return await self._streams.alone(request, answering, told)
        finally:
            if live is None:  # else it is read on without its client
                answering.close()

    async def tunnel(self, request: web.BaseRequest) -> web.StreamResponse:
        """A WebSocket, if the origin makes one of it."""
        upload = Upload(request, self._stall)
        try:
            asking = await self._asking(request, upload)
            answer = await tunnel.tunnel(request, self._origin, asking)
        except OriginError as e:
            return self._failures.answer(e, status.BYPASS)
        if not isinstance(answer, Answering):
            return answer
        try:
            return await self._streams.alone(request, answer, status.BYPASS)
        finally:
            answer.close()

    async def _asking(self, request: web.BaseRequest, upload: Upload) -> Asking:
        """The request as it is passed through, body and conditions included."""
        headers = request.headers
        fields = self._forwarding.fields(headers)
        if hdrs.ACCEPT_ENCODING in headers:
            fields[hdrs.ACCEPT_ENCODING] = ", ".join(
                headers.getall(hdrs.ACCEPT_ENCODING)
            )
        fields.extend(self._forwarding.written(headers, request.remote, request.scheme))
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
