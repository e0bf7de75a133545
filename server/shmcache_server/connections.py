"""Connections to the origin: each carries one answer at a time, asked for by us.

What an origin sends unasked (the rest of a body longer than announced, the body of a
304) must never be taken for the answer to the next request. So a connection that
receives anything while nobody asks is closed, one on which something waits to be read
is not taken from the pool, and one whose last answer may have a body that its head
denies is not put back.
"""

from __future__ import annotations

import asyncio
import select
from functools import partial
from typing import Any

from aiohttp import HttpVersion11, TCPConnector
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey

NO_BODY = frozenset({204, 304})


class Connection(ResponseHandler):
    """One connection; `asked` while it is somebody's."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.asked = False

    def is_connected(self) -> bool:
        """Whether it may be used: asked when it is taken from the pool."""
        return super().is_connected() and (self.asked or not self._unread())

    def set_response_params(self, **params: Any) -> None:
        """From here on an answer is expected."""
        self.asked = True
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        """Bytes from the origin; empty where the parser goes on with those it has."""
        if data and not self.asked:
            self.force_close()
            self.close()
            return
        super().data_received(data)

    def feed_data(self, data: Any, size: int = 0) -> None:
        """A head: RFC 9112 §6.3 says when nothing may follow it, and §6.1 that the
        framing of HTTP/1.0 may be wrong."""
        message = data[0]
        empty = self._skip_payload or message.code in NO_BODY
        if empty or message.version < HttpVersion11:
            self.force_close()
        super().feed_data(data, size)

    def _unread(self) -> bool:
        """Whether bytes, or the end, have come that the loop has not looked at."""
        transport = self.transport
        number = transport.get_extra_info("socket").fileno() if transport else -1
        if number < 0:
            return True
        poll = select.poll()
        poll.register(number, select.POLLIN)
        return bool(poll.poll(0))


class Connector(TCPConnector):
    """The pool."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit=limit)
        factory: Any = partial(Connection, loop=self._loop)
        self._factory = factory

    def _release(
        self,
        key: ConnectionKey,
        protocol: ResponseHandler,
        *,
        should_close: bool = False,
    ) -> None:
        if isinstance(protocol, Connection):
            protocol.asked = False
        super()._release(key, protocol, should_close=should_close)
