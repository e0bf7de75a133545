"""A client's body on its way to the origin.

Beside it an origin connection waits, of which there are few: a client that sends
nothing for too long gives it up, and so does one that drips.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

RATE = 500
"""Bytes a second that a client is to send at least, on the whole: Apache's MinRate."""


class BrokenUpload(Exception):
    """The body will not come whole."""


class Upload:
    """The body of one request."""

    def __init__(self, request: web.BaseRequest, stall: float) -> None:
        self.refusal = 0
        """What the client is answered where the fault was its own: 400 or 408."""
        self._content = request.content
        self._stall = stall
        self._left = stall
        """Seconds that it may still be awaited: each byte earns some."""

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes; `BrokenUpload` if it breaks off."""
        while chunk := await self._next():
            yield chunk

    async def _next(self) -> bytes:
        now = asyncio.get_running_loop().time
        began = now()
        try:
            async with asyncio.timeout(self._left):
                chunk = await self._content.readany()
        except TimeoutError:
            self.refusal = 408
            raise BrokenUpload("the client sends next to nothing") from None
        except Exception as e:
            self.refusal = 400
            raise BrokenUpload(f"the client broke off: {e}") from e
        left = self._left + len(chunk) / RATE - (now() - began)
        self._left = min(self._stall, left)
        return chunk
