"""Both lanes give the same answer, byte for byte; what the fast one leaves alone."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import trustme
from aiohttp import web

from shmcache import Fill
from shmcache_server import stored
from shmcache_server.fastlane import FIELDS_MAX, VERDICTS, Memo
from tests.server.lanes import HOST, STORED, Kept, Lanes, lanes

LARGE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n"
LARGE_BYTES = 800_000


@pytest.fixture
async def both() -> AsyncIterator[Lanes]:
    async with lanes() as made:
        yield made


def request(target: str = "/", *fields: str, method: str = "GET") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", f"Host: {HOST}", *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1")


BLOCKS: dict[str, tuple[str, ...]] = {
    "bare": (),
    "browser": (
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64)",
        "Accept: text/html,*/*;q=0.8",
        "Accept-Language: en",
        "Connection: keep-alive",
        "Pragma: no-cache",
        "Cache-Control: no-cache",
    ),
    "gzip": ("Accept-Encoding: gzip, deflate, br",),
    "no gzip": ("accept-encoding: identity",),
    "cookie": ("Cookie: a=b; c=d",),
    "authorization": ("Authorization: Bearer x",),
    "etag": ('If-None-Match: "abc"',),
    "etags": ('if-none-match: W/"x", W/"abc"',),
    "two etags": ('If-None-Match: "x"', 'If-None-Match: "abc"'),
    "another etag": ('If-None-Match: "abcd"',),
    "any etag": ("If-None-Match: *",),
    "since": ("If-Modified-Since: Mon, 30 Nov 2026 01:00:00 GMT",),
    "long since": ("If-Modified-Since: Sat, 28 Nov 2026 01:00:00 GMT",),
    "no date": ("If-Modified-Since: yesterday",),
    "range": ("Range: bytes=0-1",),
    "if-range": ("Range: bytes=0-1", 'If-Range: "abc"'),
    "if-match": ('If-Match: "abc"',),
    "unmodified": ("If-Unmodified-Since: Mon, 30 Nov 2026 01:00:00 GMT",),
    "close": ("Connection: close",),
    "te": ("TE: trailers",),
    "upgrade": ("Connection: Upgrade", "Upgrade: websocket"),
    "h2c": ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"),
    "expect": ("Expect: 100-continue",),
    "empty body": ("Content-Length: 0",),
    "two lengths": ("Content-Length: 0", "Content-Length: 1"),
    "chunked": ("Transfer-Encoding: chunked",),
    "both framings": ("Transfer-Encoding: chunked", "Content-Length: 3"),
    "folded": ("X: a", " b"),
    "no colon": ("X",),
    "space before colon": ("X : a",),
    "no name": (": a",),
    "NUL": ("X: a\0b",),
    "bare CR": ("X: a\rb",),
    "bare LF": ("X: a\nY: b",),
    "latin-1": ("X: \xe9",),
    "second host": ("Host: example.com",),
    "only-if-cached": ("Cache-Control: only-if-cached",),
    "no-store": ("Cache-Control: no-store",),
    "long": ("X: " + "y" * 5000,),
    "too long": ("X: " + "y" * 9000,),
    "many": tuple(f"X-{i}: {i}" for i in range(200)),
}
TARGETS = [
    *STORED, "/unknown", "/#part", "/a b", "*", "", "a", "http://example.org/",
    "http://example.com/", "//example.com/", "/\xe9", "/\x7f", "/\t", "/%zz", "/%00",
    "/..", "/a?b=c%20d;e#", "/healthz", "/readyz", "/" + "x" * 2000, "/" + "x" * 9000,
]  # fmt: skip
METHODS = [
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "get",
    "G\0T",
]
ODD = {
    "HTTP/1.0": b"GET / HTTP/1.0\r\n\r\n",
    "HTTP/1.0 kept": b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "empty host": b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
    "host with port": b"GET / HTTP/1.1\r\nHost: example.org:8080\r\n\r\n",
    "host in capitals": b"GET / HTTP/1.1\r\nHOST: EXAMPLE.ORG\r\n\r\n",
    "odd host": b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "line feeds": b"GET / HTTP/1.1\nHost: example.org\n\n",
    "blank lines before": b"\r\n\r\nGET / HTTP/1.1\r\nHost: example.org\r\n\r\n",
    "two spaces": b"GET  / HTTP/1.1\r\nHost: example.org\r\n\r\n",
    "tab": b"GET\t/ HTTP/1.1\r\nHost: example.org\r\n\r\n",
    "space behind": b"GET / HTTP/1.1 \r\nHost: example.org\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "nothing": b"\r\n",
    "body": request("/", "Content-Length: 3", method="POST") + b"abc",
    "body of GET": request("/", "Content-Length: 3") + b"abc",
    "chunks": request("/", "Transfer-Encoding: chunked", method="POST")
    + b"3\r\nabc\r\n0\r\n\r\n",
}
CORPUS = {
    **{f"{n}": request("/", *fields) for n, fields in BLOCKS.items()},
    **{
        f"HEAD {n}": request("/", *fields, method="HEAD")
        for n, fields in BLOCKS.items()
    },
    **{f"gone, {n}": request("/gone", *fields) for n, fields in BLOCKS.items()},
    **{f"target {t[:20]!r} {len(t)}": request(t) for t in TARGETS},
    **{f"HEAD {t[:20]!r} {len(t)}": request(t, method="HEAD") for t in TARGETS},
    **{m: request("/", method=m) for m in METHODS},
    **ODD,
}


@pytest.mark.parametrize("data", CORPUS.values(), ids=CORPUS)
async def test_lanes_agree(both: Lanes, data: bytes) -> None:
    """Met for the first time, known, known as a whole, and behind another one."""
    slow, fast = await both.both([data, data, data, request("/"), data])
    assert slow == fast


@pytest.mark.parametrize("name", ["bare", "browser", "etag", "cookie"])
async def test_known_request_takes_the_fast_lane(both: Lanes, name: str) -> None:
    data = request("/", *BLOCKS[name])
    await both.both([data])
    before = both.fast_hits
    await both.both([data, data])
    assert both.fast_hits == before + 2


@pytest.mark.parametrize(
    "name", ["bare", "HEAD etag", "gone, browser", "POST", "body", "chunks", "no colon"]
)
async def test_lanes_agree_whatever_the_cuts(both: Lanes, name: str) -> None:
    data = request("/none") + CORPUS[name] + request("/")
    await both.both([request("/none"), request("/")])
    for at in range(1, len(data)):
        slow, fast = await both.both([data[:at], data[at:], request("/")])
        assert slow == fast
    slow, fast = await both.both([bytes([byte]) for byte in data])
    assert slow == fast


@pytest.mark.parametrize("count", [2, 3, 40, 70, 200])
async def test_pipelined_requests_are_answered_in_their_order(
    both: Lanes, count: int
) -> None:
    targets = ["/", "/none", "/a?b=c%20d;e", "/gone", "/moved"]
    data = b"".join(request(targets[i % 5]) for i in range(count))
    await both.both([request("/")])
    slow, fast = await both.both([data, data])
    assert slow == fast and slow.count(b"HTTP/1.1 ") == 2 * count


@pytest.mark.parametrize("at", range(4))
async def test_pipeline_with_a_miss_keeps_its_order(both: Lanes, at: int) -> None:
    requests = [request("/")] * 4
    requests[at] = request("/unknown")
    await both.both([request("/")])
    slow, fast = await both.both([b"".join(requests), request("/none")])
    assert slow == fast and slow.count(b"HTTP/1.1 ") == 5


async def test_half_a_request_keeps_its_connection_slow(both: Lanes) -> None:
    """1. Half a field is in aiohttp's parser, and the handler is idle. 2. The rest of
    its value looks like a whole request."""
    await both.both([request("/")])
    begun = b"GET /gone HTTP/1.1\r\nHost: example.org\r\nX: "
    slow, fast = await both.both([begun, request("/").replace(b"Host", b"Y")])
    assert slow == fast
    assert b"410 Gone" in fast and b"hello" not in fast


async def test_half_a_request_leaves_no_verdict(both: Lanes) -> None:
    """Fields of its first half are not in the chunk that ended it."""
    rest = request("/", "X-New: 1")
    await both.restore()
    await both.talk(both.fast, [b'GET / HTTP/1.1\r\nIf-None-Match: "abc"\r\nX: ', rest])
    slow, fast = await both.both([rest, rest])
    assert slow == fast and fast.count(b"hello") == 2


async def test_what_the_parser_keeps_for_later_is_not_forgotten(both: Lanes) -> None:
    """1. The queue is full, and more is in aiohttp's parser, half a request last. 2. A
    slot is free, and the next chunk brings exactly one request out of it."""
    await both.both([request("/")])
    half = b"GET /gone HTTP/1.1\r\nX: "
    for server in (both.slow, both.fast):
        transport = both.open(server)
        await both.settle(transport)
        connection = transport._connection
        connection.data_received(request("/unknown") + request("/none") * 40 + half)
        await turns(lambda c=connection: len(c._messages) != 32)
        connection.data_received(request("/"))
        await both.settle(transport)
        connection.data_received(request("/"))
        await both.settle(transport)
        assert transport.out.count(b"410 Gone") == 1
        assert transport.out.count(b"hello") == 1
        transport.close()


@pytest.mark.parametrize("overlap", [b"\r\nG", b"\r\nP", b"\r\n", b"\r", b"G", b""])
async def test_few_bytes_are_no_whole_request(both: Lanes, overlap: bytes) -> None:
    """1. A request lacks its last bytes. 2. They come with the first of the next."""
    await both.both([request("/"), request("/none")])
    chunks = [request("/none")[:-2], overlap, request("/"), request("/")]
    slow, fast = await both.both(chunks)
    assert slow == fast


@pytest.mark.parametrize("length", [2**64 - 1, 2**64, 2**63, 10])
async def test_body_of_whatever_length_is_no_request(both: Lanes, length: int) -> None:
    await both.both([request("/")])
    first = request("/none", f"Content-Length: {length}")
    slow, fast = await both.both([first, request("/"), request("/")])
    assert slow == fast


async def turns(done: Any, most: int = 20_000) -> None:
    """Turns of the loop until `done`."""
    for _ in range(most):
        if done():
            return
        await asyncio.sleep(0)
    raise AssertionError("it does not come")


async def held_back(both: Lanes, server: Any, many: bytes) -> Kept:
    """A connection whose parser keeps some of `many` requests, unpaused: aiohttp
    counts a request whose body came late once more than it is there."""
    transport = both.open(server)
    await both.settle(transport)
    received = transport._connection.data_received
    received(request("/unknown", "Content-Length: 3", method="POST"))
    for _ in range(20):
        await asyncio.sleep(0)
    received(b"abc")
    await both.settle(transport)
    transport.out.clear()
    received(many)
    return transport


@pytest.mark.parametrize("evil", ["If-None-Match: *", "Host: evil.example"])
async def test_requests_held_back_leave_no_verdict(both: Lanes, evil: str) -> None:
    """1. The parser keeps some of one client's requests. 2. A chunk brings another
    client's header block, and one of the first kind out of the parser."""
    await both.restore()
    bad = request("/unknown", evil).replace(f"Host: {HOST}\r\n".encode(), b"", 1)
    bad = bad if b"Host" in bad else request("/unknown", evil)
    transport = await held_back(both, both.fast, bad * 60)
    connection = transport._connection
    for _ in range(4):
        waiting = len(connection._messages)
        await turns(lambda n=waiting: len(connection._messages) != n)
        connection.data_received(request("/unknown"))
    transport.close()
    slow, fast = await both.both([request("/"), request("/")])
    assert slow == fast and fast.count(b"hello") == 2


async def test_requests_held_back_keep_their_order(both: Lanes) -> None:
    """aiohttp holds up the last of them; the fast lane must not pass them by."""
    await both.both([request("/"), request("/")])
    answers = []
    for server in (both.slow, both.fast):
        many = request("/unknown") + request("/none") * 34
        transport = await held_back(both, server, many)
        connection = transport._connection
        await turns(lambda c=connection: len(c._messages) != 31)
        connection.data_received(request("/gone"))
        await both.settle(transport)
        connection.data_received(request("/"))
        for _ in range(2000):
            await asyncio.sleep(0)
        answers.append(bytes(transport.out))
        transport.close()
    assert answers[0] == answers[1]


async def test_connection_is_fast_again_behind_a_body(both: Lanes) -> None:
    await both.both([request("/")])
    before = both.fast_hits
    body = CORPUS["body"].replace(b"POST /", b"POST /unknown")
    chunks = [body[:-1], body[-1:], request("/"), request("/"), request("/")]
    slow, fast = await both.both(chunks)
    assert slow == fast and both.fast_hits == before + 2


async def test_hit_behind_a_slow_request_waits_for_it(both: Lanes) -> None:
    await both.both([request("/")])
    transport = both.open(both.fast)
    await both.settle(transport)
    transport._connection.data_received(request("/unknown"))
    transport._connection.data_received(request("/"))
    assert not transport.out
    await turns(lambda: transport.out.count(b"HTTP/1.1") == 2)
    assert transport.out.index(b"origin") < transport.out.index(b"hello")
    transport.close()


async def test_nothing_received_is_for_aiohttp(both: Lanes) -> None:
    """It asks its own protocol so to go on with what its parser has kept."""
    transport = both.open(both.fast)
    await both.settle(transport)
    lane = both.fast._lane
    assert lane.known.answer(b"", transport._connection.sender) is None
    assert not lane.answer(transport._connection, b"", None)
    transport.close()


async def test_client_that_does_not_read_goes_the_slow_lane(both: Lanes) -> None:
    await both.both([request("/")])
    transport = both.open(both.fast)
    await both.settle(transport)
    connection, before = transport._connection, both.fast_hits
    connection.pause_writing()
    for _ in range(100):
        connection.data_received(request("/"))
    await asyncio.sleep(0)
    assert transport.paused and both.fast_hits == before
    connection.resume_writing()
    await turns(lambda: transport.out.count(b"HTTP/1.1") == 100)
    assert not transport.paused
    transport.close()


async def test_stale_hit_hands_on_one_refresh(both: Lanes) -> None:
    await both.both([request("/stale")])
    before = both.cache.stats().refreshes
    both.runner.clock.advance(60)
    both.runner.clock.advance(-60)
    slow, fast = await both.both([request("/stale"), request("/stale")])
    assert slow == fast and b"ttl=-7" in fast
    assert both.cache.stats().refreshes == before  # the last one failed a moment ago


async def test_expired_record_is_stale_in_both_lanes(both: Lanes) -> None:
    await both.both([request("/stale")])
    await both.cache.expire(both.key("/"))
    for server in (both.slow, both.fast):
        assert b"hello" in await both.talk(server, [request("/")])


async def test_deleted_record_is_a_miss_in_the_fast_lane(both: Lanes) -> None:
    await both.both([request("/")])
    await both.cache.delete(both.key("/"))
    assert b"origin" in await both.talk(both.fast, [request("/")])


async def test_other_hosts_are_misdirected() -> None:
    async with lanes(hosts=(HOST,)) as both:
        slow, fast = await both.both([request("/"), request("/")])
        assert slow == fast and fast.count(b"hello") == 2
        other = request("/").replace(b"example.org", b"example.com")
        slow, fast = await both.both([other, other])
        assert slow == fast and fast.startswith(b"HTTP/1.1 421 ")


async def test_closing_connection_answers_no_more(both: Lanes) -> None:
    await both.both([request("/")])
    transport = both.open(both.fast)
    await both.settle(transport)
    transport._connection.close()
    transport._connection.data_received(request("/"))
    assert not transport.out
    transport.close()


@pytest.mark.parametrize("every", [1, 3])
async def test_logged_requests_are_a_sample_of_both_lanes(
    every: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with lanes(access_log=True, access_log_every=every) as both:
        await both.both([request("/")])
        caplog.clear()
        with caplog.at_level("INFO", "shmcache.access"):
            await both.talk(both.fast, [request("/")] * 30)
            assert len(caplog.records) == 30 // every
            caplog.clear()
            await both.talk(both.fast, [request("/unknown")] * 30)
            assert len(caplog.records) in range(30 // every, 2 * 30 // every + 1)


def test_memo_is_bounded_and_keeps_what_is_used() -> None:
    memo, used = Memo(VERDICTS, forgot=lambda: None), b"used"
    memo.put(used, None)  # type: ignore[arg-type]
    for i in range(10 * VERDICTS):
        memo.put(b"%d" % i, None)  # type: ignore[arg-type]
        memo.get(used)
    assert len(memo._young) + len(memo._old) <= 2 * VERDICTS


async def test_block_of_many_fields_leaves_no_verdict(both: Lanes) -> None:
    many = request("/", *(f"X-{i}: {i}" for i in range(FIELDS_MAX + 1)))
    before = both.fast_hits
    slow, fast = await both.both([many, many])
    assert slow == fast and both.fast_hits == before


async def test_what_keys_begin_with_is_bounded(both: Lanes) -> None:
    lane = both.fast._lane
    await both.restore()
    for i in range(3 * VERDICTS):
        data = request("/", f"X: {i}")
        await both.talk(both.fast, [data, data])
    assert 0 < len(lane.known) <= 2 * VERDICTS
    before = both.fast_hits
    await both.talk(both.fast, [data, data])
    assert both.fast_hits == before + 2


# -- over sockets


@pytest.fixture(scope="module")
def tls() -> Iterator[tuple[ssl.SSLContext, ssl.SSLContext]]:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    yield server, client


async def test_fast_lane_answers_over_tls(both: Lanes, tls) -> None:
    await both.both([request("/")])
    site = web.TCPSite(both.runner, "127.0.0.1", 0, ssl_context=tls[0])
    await site.start()
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", site.port, ssl=tls[1], server_hostname="localhost"
    )
    fast = []
    for _ in range(3):
        writer.write(request("/"))
        assert await asyncio.wait_for(reader.readuntil(b"hello"), 5)
        fast.append(both.fast_hits)
    # the first may come before its handler waits for it
    assert fast[2] == fast[0] + 2
    writer.close()


async def test_idle_connection_is_closed_in_time() -> None:
    async with lanes(keepalive=1.0) as both:
        await both.both([request("/")])
        site = web.TCPSite(both.runner, "127.0.0.1", 0)
        await site.start()
        loop = asyncio.get_running_loop()
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        last = began = loop.time()
        while loop.time() < began + 1.5:
            writer.write(request("/"))
            await reader.readuntil(b"hello")
            last = loop.time()
            await asyncio.sleep(0.1)
        assert await asyncio.wait_for(reader.read(), 5) == b""
        assert 0.95 <= loop.time() - last <= 1.5
        writer.close()


async def narrow(both: Lanes) -> socket.socket:
    """A client of which the kernel takes little; it asked for `/`, and for `/large`
    800 KB are stored."""
    key, size = both.key("/large"), LARGE_BYTES
    fill = Fill(stored.pack(LARGE % size, 200, b"x" * size), ttl=60)
    await both.cache.get_or_set(key, lambda: fill)
    await both.both([request("/")])
    listener, client = socket.socket(), socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
    client.setblocking(False)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    await web.SockSite(both.runner, listener).start()
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, listener.getsockname())
    await loop.sock_sendall(client, request("/"))
    await loop.sock_recv(client, 65536)
    return client


async def large_answer(both: Lanes, pace: float) -> tuple[asyncio.Task[int], Any]:
    """A client that takes an answer of 800 KB within `pace` seconds, and its socket."""
    client = await narrow(both)
    loop, size = asyncio.get_running_loop(), LARGE_BYTES
    before = both.fast_hits
    await loop.sock_sendall(client, request("/large"))
    await turns(lambda: both.fast_hits != before)

    async def take() -> int:
        began, got = loop.time(), 0
        while got < size and (data := await loop.sock_recv(client, 65536)):
            got += len(data)
            await asyncio.sleep(max(0, began + got / size * pace - loop.time()))
        return got

    return loop.create_task(take()), client


@pytest.mark.parametrize("more", [(), ("X: unknown",)], ids=["fast", "slow"])
async def test_hit_goes_behind_what_the_transport_still_has(more: Any) -> None:
    """1. An answer is larger than the socket takes; 2. the client takes some of it;
    3. before the loop has written more, another request comes."""
    async with lanes(size=64 * 1024**2) as both:
        client = await narrow(both)
        with contextlib.closing(client):
            loop = asyncio.get_running_loop()
            (connection,) = both.fast.connections
            connection.transport.set_write_buffer_limits(high=1 << 24)
            for _ in range(2):  # once known, it is sent at once
                await loop.sock_sendall(client, request("/"))
                await loop.sock_recv(client, 65536)
            await loop.sock_sendall(client, request("/large", *more))
            await turns(lambda: connection.transport.get_write_buffer_size())
            await turns(lambda: connection.idle)
            got = b""
            with contextlib.suppress(BlockingIOError):
                while True:
                    got += client.recv(65536)
            assert connection.transport.get_write_buffer_size()
            before = both.fast_hits
            connection.data_received(request("/"))
            assert both.fast_hits == before + 1
            while not got.endswith(b"hello"):
                got += await asyncio.wait_for(loop.sock_recv(client, 65536), 5)
            assert len(got) > LARGE_BYTES and got.count(b"HTTP/1.1") == 2


async def test_stop_waits_for_a_large_answer_to_be_taken() -> None:
    async with lanes(size=64 * 1024**2) as both:
        taking, client = await large_answer(both, 1.0)
        with contextlib.closing(client):
            await both.runner.cleanup()
            assert await taking > 800_000


async def test_keep_alive_begins_when_the_answer_is_taken() -> None:
    async with lanes(size=64 * 1024**2, keepalive=1.0) as both:
        taking, client = await large_answer(both, 2.2)
        with contextlib.closing(client):
            assert await taking > 800_000
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(client, request("/"))
            assert await loop.sock_recv(client, 65536)


async def test_slow_reader_is_paused_and_gets_everything(both: Lanes) -> None:
    await both.both([request("/long")])
    site = web.TCPSite(both.runner, "127.0.0.1", 0)
    await site.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port, limit=1000)
    count = 300
    writer.write(request("/long") * count)
    await asyncio.sleep(0.2)  # it may write as far as anybody takes it
    (transport,) = [c.transport for c in both.fast.connections]
    assert transport.get_write_buffer_size() < 2 * 1024**2
    got = 0
    async with asyncio.timeout(20):
        while got < count * 100_000:
            got += len(await reader.read(1 << 20))
    writer.close()
