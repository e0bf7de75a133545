"""Each change of the dashboard, to the clients of /ws."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from aiohttp import WSMsgType, WSServerHandshakeError, web
from aiohttp.test_utils import TestClient, TestServer

from shmcache_server.market import live as lives
from shmcache_server.market.live import QUEUED, SAID_BYTES, SAID_MOST, Client, Live
from shmcache_server.market.parts import PARTS
from tests.redis_server import eventually
from tests.server.market.vendor import CALLED, PRICE, RSI


@pytest.fixture
async def serve(opened):
    """A client of a worker's /ws; the worker, its `Live`."""
    started = []

    async def start(settings, most: int = 100, **options):
        one = await opened(settings, **options)
        live = Live(one.dashboard, most)
        app = web.Application()
        app.router.add_get("/ws", live.serve)
        client = TestClient(TestServer(app))
        await client.start_server()
        started.append((client, live))
        return client, one, live

    yield start
    for client, live in started:
        await live.close()
        await client.close()


async def told(socket) -> dict[str, object]:
    return json.loads(await socket.receive_str(timeout=5))


async def test_client_gets_the_dashboard_and_each_change(vendors, serve) -> None:
    settings = vendors.settings(real_time={"ttl": 1.0, "jitter": 0.0})
    client, _, _ = await serve(settings)
    async with client.ws_connect("/ws") as one:
        first = await told(one)
        assert first["btc_price_usd"] == 112884.0
        async with client.ws_connect("/ws") as other:
            assert await told(other) == first
            vendors.bodies[PRICE]["bitcoin"]["usd"] = 7.5
            changes = [await told(one), await told(other)]
    while changes[0]["btc_price_usd"] != 7.5:  # parts may come one after the other
        changes = changes[1:]
    assert changes[0]["btc_price_usd"] == 7.5


async def test_what_does_not_change_is_not_repeated(vendors, serve) -> None:
    settings = vendors.settings(real_time={"ttl": 1.0, "jitter": 0.0})
    when = 1_700_000_000
    vendors.bodies[PRICE]["bitcoin"]["last_updated_at"] = when
    vendors.bodies["/api/v3/global"]["data"]["updated_at"] = when
    client, _, _ = await serve(settings)
    async with client.ws_connect("/ws") as one:
        await told(one)
        await eventually(lambda: vendors.calls[PRICE] >= 3)
        with pytest.raises(TimeoutError):
            await one.receive(timeout=0.5)


async def test_anothers_change_is_seen_in_memory(vendors, serve, opened) -> None:
    """Nobody is asked for it."""
    client, one, _ = await serve(vendors.settings())
    async with client.ws_connect("/ws") as socket:
        await told(socket)
        entry = one.dashboard.standing()
        shown = {**entry.value["shown"], "rsi_14": 1.25}
        other = await opened(vendors.settings(), name=one.cache.config.name)
        await other.cache.set("latest_market_data", {"shown": shown, "grace": 9}, ttl=9)
        assert (await told(socket))["rsi_14"] == 1.25
    assert vendors.calls == dict.fromkeys(CALLED, 1)


async def test_without_clients_nobody_is_asked(vendors, serve) -> None:
    settings = vendors.settings(real_time={"ttl": 1.0, "jitter": 0.0})
    client, _, live = await serve(settings)
    async with client.ws_connect("/ws") as one:
        await told(one)
    await eventually(lambda: live._task is None)
    calls = vendors.calls.copy()
    await asyncio.sleep(1.5)
    assert vendors.calls == calls


async def test_clients_of_a_failing_market_are_told_when_it_is_back(
    vendors, serve
) -> None:
    vendors.refuse(*vendors.bodies, status=404)
    client, _, _ = await serve(vendors.settings(taapi={"calls": 9}))
    async with client.ws_connect("/ws") as one:
        await eventually(lambda: vendors.calls[RSI])
        vendors.refusals.clear()
        shown = await told(one)
        while shown["partial_failure"]:  # its parts come back one by one
            shown = await told(one)
        assert shown["rsi_14"] == 42.3291744124084


async def test_slow_client_gets_the_latest(vendors, serve) -> None:
    """What it is sent waits in a short queue, whose oldest goes first."""
    async with asyncio.timeout(20):
        client, _, live = await serve(vendors.settings())
        async with client.ws_connect("/ws") as one:
            await told(one)
            (slow,) = live._clients
            transport = one._response.connection.transport
            transport.pause_reading()
            text = "x" * 200_000
            for i in range(100):
                slow.put(f"{i} {text}")
                await asyncio.sleep(0)
            transport.resume_reading()
            got = []
            while not got or not got[-1].startswith("99 "):
                got.append(await one.receive_str())
    assert len(got) < 100 and got == sorted(got, key=lambda m: int(m.split()[0]))


async def test_client_that_takes_nothing_is_disconnected(
    vendors, serve, monkeypatch
) -> None:
    monkeypatch.setattr(lives, "STALLED", 0.2)
    client, _, live = await serve(vendors.settings())
    async with client.ws_connect("/ws") as one:
        await told(one)
        (slow,) = live._clients
        one._response.connection.transport.pause_reading()

        async def filled() -> bool:
            slow.put("x" * 1_000_000)
            return not live._clients

        await eventually(filled, 10)
        one._response.connection.transport.resume_reading()


def test_queue_keeps_the_latest() -> None:
    client = Client()
    for i in range(20):
        client.put(str(i))
    assert [*client._queue] == [str(i) for i in range(20 - QUEUED, 20)]


async def test_talkative_client_is_disconnected(vendors, serve) -> None:
    client, _, live = await serve(vendors.settings())
    async with client.ws_connect("/ws") as one:
        await told(one)
        for _ in range(SAID_MOST + 1):
            await one.send_str("hello")
        message = await one.receive(timeout=5)
        assert message.type is WSMsgType.CLOSE and message.data == 1008
    await eventually(lambda: not live._clients)


async def test_frames_of_no_message_are_bounded(vendors, serve) -> None:
    """A message that begins and never ends: its frames are empty, and no message."""
    client, _, live = await serve(vendors.settings())
    async with client.ws_connect("/ws") as one:
        await told(one)
        transport = one._response.connection.transport
        begun, empty = b"\x01\x80mask", b"\x00\x80mask"
        transport.write(begun + empty * 1000)
        with pytest.raises(TimeoutError):
            await one.receive(timeout=0.2)
        assert live._clients
        transport.write(empty * (SAID_BYTES // len(empty)))
        await eventually(lambda: not live._clients)
        assert (await one.receive(timeout=5)).type is WSMsgType.CLOSED


async def test_cancelled_client_leaves_no_task(vendors, serve, monkeypatch) -> None:
    """As the drain of a worker ends."""
    serving, inner = [], Live.serve

    async def noted(live: Live, request: web.Request) -> web.StreamResponse:
        serving.append(asyncio.current_task())
        return await inner(live, request)

    def tied() -> list[str]:
        names = [repr(task.get_coro()) for task in asyncio.all_tasks()]
        return [name for name in names if "Client.write" in name or ".read" in name]

    monkeypatch.setattr(Live, "serve", noted)
    client, _, live = await serve(vendors.settings())
    async with client.ws_connect("/ws") as one:
        await told(one)
        assert len(tied()) == 2
        serving[0].cancel()
        await eventually(lambda: not live._clients and not tied())


async def test_clients_who_come_and_go_ask_once(vendors, serve) -> None:
    client, one, live = await serve(vendors.settings())
    vendors.open.clear()
    for _ in range(10):
        async with client.ws_connect("/ws"):
            await eventually(lambda: live._asking is not None)
        await eventually(lambda: live._task is None)
    assert len(one.dashboard._asking) == 1
    vendors.open.set()


async def test_nobody_is_greeted_with_what_has_ended(vendors, serve) -> None:
    client, one, live = await serve(vendors.settings())
    async with client.ws_connect("/ws") as first:
        await told(first)
        vendors.open.clear()
        for key in ("latest_market_data", *(part.key for part in PARTS.values())):
            await one.cache.delete(key)
        async with client.ws_connect("/ws") as second:
            with pytest.raises(TimeoutError):
                await second.receive(timeout=0.3)
    await eventually(lambda: live._task is None)
    async with client.ws_connect("/ws"):  # the loop begins anew, and has nothing yet
        await one.cache.set("latest_market_data", "foreign", ttl=9)
        async with client.ws_connect("/ws") as second:
            with pytest.raises(TimeoutError):
                await second.receive(timeout=0.3)
    vendors.open.set()


async def test_older_answer_is_not_sent_behind_a_newer_one(vendors, serve) -> None:
    """1. We ask. 2. Another stores a newer one, which is sent. 3. Our answer comes."""
    client, one, _ = await serve(vendors.settings())
    vendors.open.clear()
    async with client.ws_connect("/ws") as socket:
        await eventually(lambda: {*vendors.calls} == {*CALLED})
        shown = {"last_updated": time.time() + 5, "rsi_14": 1.5}
        await one.cache.set("latest_market_data", {"shown": shown, "grace": 9}, ttl=30)
        assert await told(socket) == shown
        vendors.open.set()
        with pytest.raises(TimeoutError):
            await socket.receive(timeout=0.7)


async def test_long_message_is_refused(vendors, serve) -> None:
    client, _, _ = await serve(vendors.settings())
    async with client.ws_connect("/ws") as one:
        await told(one)
        await one.send_bytes(b"x" * 2000)
        message = await one.receive(timeout=5)
        assert message.type is WSMsgType.CLOSE and message.data == 1009


async def test_clients_are_bounded(vendors, serve) -> None:
    client, _, live = await serve(vendors.settings(), most=1)
    async with client.ws_connect("/ws") as one:
        await told(one)
        with pytest.raises(WSServerHandshakeError) as raised:
            await client.ws_connect("/ws")
        assert raised.value.status == 503
    await eventually(lambda: not live._clients)
    async with client.ws_connect("/ws") as one:
        await told(one)


async def test_goodbye_is_said_at_the_end(vendors, serve) -> None:
    client, _, live = await serve(vendors.settings())
    async with client.ws_connect("/ws") as one:
        await told(one)
        closing = asyncio.ensure_future(live.close())
        message = await one.receive(timeout=5)
        assert message.type is WSMsgType.CLOSE and message.data == 1001
        await closing


@pytest.mark.parametrize("what", [WSMsgType.PING, WSMsgType.PONG], ids=["ping", "pong"])
async def test_pings_without_end_are_talk_too(vendors, serve, what) -> None:
    """Each would be answered, at the cost of all who share the worker."""
    client, _, live = await serve(vendors.settings())
    async with client.ws_connect("/ws", autoping=False) as one:
        await told(one)
        for _ in range(SAID_MOST + 1):
            await one._writer.send_frame(b"", what)
        message = await one.receive(timeout=5)
        for _ in range(SAID_MOST):
            if message.type is WSMsgType.PONG:
                message = await one.receive(timeout=5)
        assert message.type is WSMsgType.CLOSE and message.data == 1008
    await eventually(lambda: not live._clients)


async def test_client_that_answers_pings_stays(vendors, serve, monkeypatch) -> None:
    monkeypatch.setattr(lives, "HEARTBEAT", 0.3)
    client, _, live = await serve(vendors.settings())
    async with client.ws_connect("/ws") as socket:
        await told(socket)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                await socket.receive()
        assert live._clients


async def test_client_that_takes_nothing_holds_up_no_goodbye(vendors, serve) -> None:
    client, _, live = await serve(vendors.settings())
    async with client.ws_connect("/ws") as one:
        await told(one)
        (slow,) = live._clients
        transport = one._response.connection.transport
        transport.pause_reading()
        slow.put("x" * 20_000_000)
        async with asyncio.timeout(10), client.ws_connect("/ws") as other:
            await told(other)
            closing = asyncio.ensure_future(live.close())
            assert (await other.receive()).data == 1001
            await asyncio.wait((closing,), timeout=lives.GOODBYE + 1)
            assert closing.done()
        await eventually(lambda: not live._clients)
        transport.resume_reading()


async def test_look_that_fails_ends_nobodys_updates(
    vendors, serve, monkeypatch, caplog
) -> None:
    """As where another program has written under the same key."""
    client, one, _ = await serve(vendors.settings())
    async with client.ws_connect("/ws") as socket:
        await told(socket)
        shown = one.dashboard.standing().value["shown"]
        await one.cache.set("latest_market_data", "foreign", ttl=9)
        await eventually(lambda: "live: TypeError" in caplog.text)
        news = {"shown": {**shown, "rsi_14": 1.25}, "grace": 9.0}
        await one.cache.set("latest_market_data", news, ttl=9)
        assert (await told(socket))["rsi_14"] == 1.25
