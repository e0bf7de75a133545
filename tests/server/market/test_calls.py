"""Calls of vendors: sent once, and in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from shmcache_server.market.answers import Answer, Unasked, Unusable
from shmcache_server.market.calls import BODY_MOST, Calls
from shmcache_server.market.parts import Request

PAYLOAD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Vendor:
    """Answers so many requests of a connection, and breaks off behind the next."""

    def __init__(self, answers: int) -> None:
        self.calls = 0
        self.url = ""
        self._answers = answers

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            for number in range(self._answers + 1):
                await reader.readuntil(b"\r\n\r\n")
                self.calls += 1
                if number < self._answers:
                    writer.write(PAYLOAD)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.transport.abort()


@asynccontextmanager
async def vending(answers: int) -> AsyncIterator[tuple[Vendor, Calls]]:
    vendor = Vendor(answers)
    server = await asyncio.start_server(vendor.serve, "127.0.0.1", 0)
    vendor.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, Calls() as calls:
        yield vendor, calls


async def granted() -> None:
    pass


async def ask(
    vendor: Vendor, calls: Calls, sending: Callable[[], Awaitable[None]] = granted
) -> Answer:
    limit = asyncio.get_running_loop().time() + 5
    return await calls.get(vendor.url, "", limit, sending, Request("/"))


@pytest.mark.parametrize("answered", [0, 1], ids=["new", "kept"])
async def test_connection_that_breaks_off_is_no_second_call(answered) -> None:
    """1. A vendor reads, and counts, a request. 2. Its connection ends. 3. Sent anew,
    it would be a call that nobody granted."""
    async with vending(answered) as (vendor, calls):
        for _ in range(answered):
            assert (await ask(vendor, calls)).body == b"{}"
        with pytest.raises(Unusable) as raised:
            await ask(vendor, calls)
        assert raised.value.again and vendor.calls == answered + 1


async def test_late_call_without_a_grant_is_not_sent() -> None:
    async def refused() -> None:
        raise Unasked("over budget")

    async with vending(9) as (vendor, calls):
        with pytest.raises(Unasked):
            await ask(vendor, calls, refused)
        assert not vendor.calls
        await ask(vendor, calls)
        with pytest.raises(Unasked):  # by a connection that was kept, too
            await ask(vendor, calls, refused)
        assert vendor.calls == 1


async def test_long_payload_is_cut_off(vendors) -> None:
    vendors.refusals["/"] = (200, {}, b" " * (BODY_MOST + 1))
    async with Calls() as calls:
        with pytest.raises(Unusable, match="longer than a payload may be"):
            await ask(vendors, calls)
