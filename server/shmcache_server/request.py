"""Request: aiohttp's, and what is known of its header block."""

from __future__ import annotations

from aiohttp import web

from .key import Lead


class Request(web.BaseRequest):
    """A request as the handler gets it."""

    ATTRS = web.BaseRequest.ATTRS | frozenset(["lead"])

    lead: Lead | None = None
    """Of a GET or HEAD with a header block that was judged before: such a request is
    HTTP/1.1, has no body, and a cache may answer it."""
