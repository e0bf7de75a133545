"""Live: each change of the dashboard to the clients of /ws.

One loop a worker, while it has clients: it looks at what this host's memory has a few
times a second, which asks nobody, and awaits the dashboard itself when its life has
ended, which is one fetch for the fleet however many workers do. Without clients it does
not run, and nobody is asked for its sake.

A slow client has a short queue whose oldest message goes first: what it gets next is
the latest. Only one that has taken nothing for long is disconnected.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from shmcache import CacheError, Entry

from .dashboard import Dashboard
from .feed import Failed

LOOK = 0.2
"""Seconds between two looks at the memory..."""
ASK = 0.5
"""and between two questions for what is over."""
QUEUED = 4
"""Messages that wait for a slow client."""
STALLED = 60.0
"""Seconds after which one that takes nothing is disconnected."""
HEARTBEAT = 20.0
"""Seconds between pings; a client without a pong in half of it is gone."""
GOODBYE = 2.0
"""Seconds to wait for the other's goodbye."""
MESSAGE_MOST = 1024
"""Bytes of what a client sends, which nobody reads."""
SAID_MOST, SAID_SECONDS = 20, 10.0
"""Messages that a client may send, and in which time..."""
SAID_BYTES = SAID_MOST * (MESSAGE_MOST + 14)
"""and bytes in that time, frames' heads among them."""

log = logging.getLogger("shmcache.market")


class Client:
    """One connection, and what waits for it."""

    def __init__(self, transport: asyncio.Transport | None = None) -> None:
        self._transport = transport
        self.socket = web.WebSocketResponse(
            timeout=GOODBYE,
            heartbeat=HEARTBEAT,
            max_msg_size=MESSAGE_MOST,
            compress=False,
            autoping=False,
        )
        self._queue: deque[str] = deque(maxlen=QUEUED)
        self._filled = asyncio.Event()

    def bound(self, protocol: asyncio.Protocol) -> None:
        """Of what it sends; `protocol` is the connection's."""
        if self._transport is not None:
            self._transport.set_protocol(_Bounded(self._transport, protocol))

    def put(self, text: str) -> None:
        """Never waits: the oldest goes where the queue is full."""
        self._queue.append(text)
        self._filled.set()

    async def write(self) -> None:
        """Send what is put, as fast as the client takes it."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            while self._queue:
                async with asyncio.timeout(STALLED):
                    await self.socket.send_str(self._queue.popleft())

    async def read(self) -> None:
        """Until the client leaves, or says too much."""
        loop = asyncio.get_running_loop()
        said: deque[float] = deque(maxlen=SAID_MOST)
        async for message in self.socket:
            if message.type not in _SAID:
                return
            if len(said) == SAID_MOST and loop.time() - said[0] < SAID_SECONDS:
                await self.socket.close(code=WSCloseCode.POLICY_VIOLATION)
                return
            said.append(loop.time())
            if message.type is WSMsgType.PING:
                await self.socket.pong(message.data)

    async def close(self) -> None:
        """Say goodbye; cut off who does not take it."""
        try:
            async with asyncio.timeout(GOODBYE):
                await self.socket.close(code=WSCloseCode.GOING_AWAY)
        except (TimeoutError, RuntimeError):  # RuntimeError: before its handshake
            self.abort()

    def abort(self) -> None:
        """Cut it off: what takes nothing would not take a goodbye."""
        if self._transport is not None:
            self._transport.abort()


class _Bounded(asyncio.Protocol):
    """Before a connection's protocol: cuts off who sends too many bytes. Frames that
    end no message are seen by nobody else, and empty ones are in no message's size."""

    def __init__(self, transport: asyncio.Transport, protocol: Any) -> None:
        self._transport = transport
        self._protocol = protocol
        self._bytes = 0
        self._since = 0.0

    def data_received(self, data: bytes) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._since >= SAID_SECONDS:
            self._since, self._bytes = now, 0
        self._bytes += len(data)
        if self._bytes > SAID_BYTES:
            self._transport.abort()
        else:
            self._protocol.data_received(data)

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received()  # type: ignore[no-any-return]

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.connection_lost(exc)


class Live:
    """The clients of one worker."""

    def __init__(self, dashboard: Dashboard, most: int) -> None:
        self._dashboard = dashboard
        self._most = most
        self._clients: set[Client] = set()
        self._task: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[None] | None = None
        self._version = 0
        self._shown: object = None
        self._text = ""
        """What the clients were sent last."""

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """One client, from its handshake to its end."""
        if len(self._clients) >= self._most:
            raise web.HTTPServiceUnavailable(
                text='{"error": "as many clients as may be"}',
                content_type="application/json",
                headers={"Retry-After": "10", "Cache-Control": "no-store"},
            )
        client = Client(request.transport)
        self._clients.add(client)
        try:
            await client.socket.prepare(request)
            client.bound(request.protocol)
            self._greet(client)
            if not await self._tied(client):
                client.abort()
        finally:
            self._clients.discard(client)
            if not self._clients and self._task is not None:
                self._task.cancel()
                self._task = None
        return client.socket

    async def close(self) -> None:
        """Tell the clients that we go."""
        await asyncio.gather(*(client.close() for client in self._clients))

    def _greet(self, client: Client) -> None:
        """What stands, at once; the loop goes on from there. What was sent last may
        have died since, or was sent to clients of long ago."""
        if self._task is None:
            self._shown, self._version, self._text = None, 0, ""
            self._task = asyncio.get_running_loop().create_task(self._follow())
        elif self._text and self._dashboard.standing() is not None:
            client.put(self._text)

    @staticmethod
    async def _tied(client: Client) -> bool:
        """Reader and writer; the end of one is the end of both. Whether the client was
        the one to leave."""
        writer = asyncio.get_running_loop().create_task(client.write())
        reader = asyncio.get_running_loop().create_task(client.read())
        try:
            done, _ = await asyncio.wait(
                (writer, reader), return_when=asyncio.FIRST_COMPLETED
            )
            return reader in done
        finally:  # also where we are cancelled, at the end of a drain
            writer.cancel()
            reader.cancel()
            await asyncio.gather(writer, reader, return_exceptions=True)

    async def _follow(self) -> None:
        """The loop. It ends with the last client; its question does not, so that
        clients who come and go do not ask one each."""
        loop = asyncio.get_running_loop()
        again = 0.0
        while True:
            over = self._look()
            asked = self._asking is not None and not self._asking.done()
            if over and not asked and loop.time() >= again:
                again = loop.time() + ASK
                self._asking = loop.create_task(self._ask())
            await asyncio.sleep(LOOK)

    def _look(self) -> bool:
        """Show what stands; whether its life is over."""
        try:
            entry = self._dashboard.standing()
            if entry is not None:
                self._show(entry)
        except Exception as e:  # the next look may do better; the clients stay
            log.warning("live: %s: %s", type(e).__name__, e)
            return True
        return entry is None or (entry.ttl or 0.0) <= 0

    async def _ask(self) -> None:
        try:
            entry = await self._dashboard.entry()
            # what was computed here may be older than what another has stored since
            self._show(self._dashboard.standing() or entry)
        except (CacheError, Failed):
            pass  # the last one stands
        except Exception as e:
            log.warning("live: %s: %s", type(e).__name__, e)

    def _show(self, entry: Entry) -> None:
        """To all clients, if it is another than the last."""
        if entry.version == self._version:
            return
        self._version = entry.version
        shown = entry.value["shown"]
        news = {name: value for name, value in shown.items() if name not in _TIMES}
        if news == self._shown:
            return
        self._shown, self._text = news, json.dumps(shown)
        for client in self._clients:
            client.put(self._text)


_SAID = {WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.PING, WSMsgType.PONG}
_TIMES = {"last_updated", "fetch_duration_ms"}
"""What differs in each dashboard, and is no change."""
