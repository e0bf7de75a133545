"""A client's body on its way to the origin.

Beside it an origin connection waits, of which there are few: a client that sends
nothing for too long gives it up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web


class BrokenUpload(Exception):
    """The body will not come whole."""


class Upload:
    """The body of one request."""

    def __init__(self, request: web.BaseRequest, stall: float) -> None:
        self.refusal = 0
        """What the client is answered where the fault was its own: 400 or 408."""
        self._content = request.content
        self._stall = stall

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes; `BrokenUpload` if it breaks off."""
        while chunk := await self._next():
            yield chunk

    async def _next(self) -> bytes:
        try:
            async with asyncio.timeout(self._stall):
                return await self._content.readany()
        except TimeoutError:
            self.refusal = 408
            raise BrokenUpload("the client sends nothing") from None
        except Exception as e:
            self.refusal = 400
            raise BrokenUpload(f"the client broke off: {e}") from e
