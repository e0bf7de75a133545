"""Calls: GETs of vendors, each within its time and what it was granted.

Sent once
    A client may send a GET anew where its connection ends before the answer. The vendor
    has counted the first one, and the budget would know of one only: so ours does not.

On its way
    1. A call is granted. 2. To connect takes longer than a call may be on its way
    (`limits.py`). 3. Sent by now it would be counted in a window that has no room for
    it. So it takes another grant, behind the connection and before the request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any, Self

import aiohttp
from aiohttp.connector import Connection
from yarl import URL

from .answers import Answer, Unusable
from .parts import KEY, USER_AGENT, Request

BODY_MOST = 256 * 1024
"""Bytes of a payload; CoinGecko's longest has 3 KB."""

Sending = Callable[[], Awaitable[None]]
"""Awaited before a request is sent; raises `Unasked` where it may not be."""

_sending: ContextVar[Sending] = ContextVar("sending")


class Calls:
    """A worker's connections to all vendors."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=_Connector(),
            headers={"User-Agent": USER_AGENT},
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            middlewares=(_once,),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def get(
        self, url: str, key: str, limit: float, sending: Sending, request: Request
    ) -> Answer:
        """The vendor's answer, by the loop's time `limit`; `url` and `key` are the
        vendor's. Raises `Unusable`, whose words have neither."""
        assert self._session is not None
        target = URL(url.rstrip("/") + request.path)
        _sending.set(sending)
        try:
            async with (
                asyncio.timeout_at(limit),
                self._session.get(
                    target.with_query(_with_key(request.query, key)),
                    headers=_with_key(request.fields, key),
                    allow_redirects=False,  # it would be told the key
                ) as answer,
            ):
                body = bytearray()
                async for chunk in answer.content.iter_chunked(64 * 1024):
                    body += chunk
                    if len(body) > BODY_MOST:
                        raise Unusable("longer than a payload may be")
                return Answer(answer.status, answer.headers, bytes(body))
        except TimeoutError:
            raise Unusable("no answer in time", again=True) from None
        except (aiohttp.ClientError, OSError) as e:
            raise _broken(e) from None


class _Connector(aiohttp.TCPConnector):
    async def connect(self, *given: Any, **how: Any) -> Connection:
        connection = await super().connect(*given, **how)
        try:
            await _sending.get()()
        except BaseException:
            connection.close()
            raise
        return connection


async def _once(
    request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """The client sends anew after errors of its own, and knows nothing of ours."""
    try:
        return await send(request)
    except TimeoutError:
        raise
    except (aiohttp.ClientError, OSError) as e:
        raise _broken(e) from None


def _broken(error: Exception) -> Unusable:
    """Its text, and what it was raised from, may have the URL with the key."""
    return Unusable(type(error).__name__, again=True)


def _with_key(given: Mapping[str, str], key: str) -> dict[str, Any]:
    return {name: key if value == KEY else value for name, value in given.items()}
