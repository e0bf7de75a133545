"""The origin's side: fields, framing, failures. Real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast

import pytest
from multidict import CIMultiDict

from shmcache_server import origins, upstreams
from shmcache_server.config import Config
from shmcache_server.origins import (
    Answering,
    Asking,
    Interim,
    Origin,
    OriginDown,
    OriginError,
    OriginTimeout,
)
from shmcache_server.tables import OriginConfig
from shmcache_server.upstreams import RESERVE, SHARE
from tests.server.conftest import RawOrigin, eventually

Ask = Callable[..., Awaitable[Answering]]
Told = Callable[[bytes], Awaitable[tuple[list[tuple[int, bytes]], Answering]]]


@pytest.fixture
async def ask() -> AsyncIterator[Ask]:
    """Ask an origin that answers these bytes and closes; without any it is silent."""
    async with AsyncExitStack() as stack:

        async def ask(
            said: bytes,
            method: str = "GET",
            interim: Interim | None = None,
            **settings: float,
        ) -> Answering:
            raw = await stack.enter_async_context(RawOrigin(said).open())
            if said:
                raw.close.set()
            origin = Origin(Config(origin=OriginConfig(url=raw.url, **settings)))
            stack.push_async_callback(origin.close)
            return await origin.ask(Asking(method, "/", CIMultiDict()), interim)

        yield ask


async def whole(answering: Answering) -> bytes:
    try:
        return b"".join([chunk async for chunk in answering.chunks()])
    finally:
        answering.close()


OK = b"HTTP/1.1 200 OK\r\nDate: now\r\n"


async def test_head_is_kept_byte_for_byte(ask) -> None:
    answering = await ask(OK + b"x-ODD:  a \xff b \r\nContent-Length: 2\r\n\r\nhi")
    assert answering.head == (
        b"HTTP/1.1 200 OK\r\nDate: now\r\nx-ODD: a \xff b\r\nVia: 1.1 shmcache\r\n"
    )
    assert (answering.length, answering.whole) == (2, True)
    assert await whole(answering) == b"hi"


async def test_fields_that_connection_names_end_here(ask) -> None:
    """But for those without which the rest means something else: RFC 9110 §7.6.1."""
    answering = await ask(
        OK + b"Connection: X-A, Cache-Control\r\nX-A: 1\r\nCache-Control: no-store\r\n"
        b"Proxy-Authentication-Info: a\r\nContent-Length: 0\r\n\r\n"
    )
    assert answering.head == (OK + b"Cache-Control: no-store\r\nVia: 1.1 shmcache\r\n")
    answering.close()


async def test_date_is_added_where_there_is_none(ask) -> None:
    answering = await ask(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert b"\r\nDate: " in answering.head
    answering.close()


async def test_encoded_body_stays_encoded(ask) -> None:
    said = OK + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc"
    assert await whole(await ask(said)) == b"abc"


@pytest.mark.parametrize(
    ("said", "is_whole"),
    [
        (OK + b"Content-Length: 1\r\n\r\na", True),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", True),
        (OK + b"\r\na", False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
    ],
    ids=["length", "chunked", "close", "empty"],
)
async def test_end_of_the_body_can_be_told(ask, said, is_whole) -> None:
    answering = await ask(said)
    assert answering.whole is is_whole
    await whole(answering)


@pytest.mark.parametrize(
    "said",
    [
        OK + b"Content-Length: 5\r\n\r\nab",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\nxyz\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhixx0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n10000000000000002\r\nhi\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nA : b\r\n\r\n",
    ],
    ids=["length", "chunked", "size", "no line", "wraps", "trailer"],
)
async def test_body_that_breaks_off_is_an_error(ask, said) -> None:
    answering = await ask(said)
    with pytest.raises(OriginError, match="broke off"):
        await whole(answering)


@pytest.mark.parametrize(
    "said",
    [
        *(b"SSH-2.0-x\r\n", OK + b"Content-Length: x\r\n\r\n", b"HTTP/1.1 200"),
        *(OK + b"Content-Length: %d\r\n\r\n" % n for n in (2**64 - 1, 2**63, 2**64)),
    ],
)
async def test_what_is_no_response_is_an_error(ask, said) -> None:
    with pytest.raises(OriginError):
        await ask(said)


@pytest.mark.parametrize(
    "codings",
    [
        *(["identity"], ["gzip"], ["chunked, gzip"], ["gzip, chunked"]),
        *(["chunked", "chunked"], [""]),
    ],
    ids="+".join,
)
async def test_coding_that_is_not_taken_off_is_an_error(ask, codings) -> None:
    """Its body would be cut, or stored in a coding that nobody is told of."""
    fields = b"".join(b"Transfer-Encoding: %b\r\n" % c.encode() for c in codings)
    with pytest.raises(OriginError):
        await whole(await ask(OK + fields + b"\r\n2\r\nhi\r\n0\r\n\r\n"))


async def test_chunks_of_http_10_have_no_sure_end(ask) -> None:
    said = OK.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n"
    answering = await ask(said + b"2\r\nhi\r\n0\r\n\r\n")
    assert not answering.whole
    assert await whole(answering) == b"hi"


@pytest.mark.parametrize("status", [b"101 Switching Protocols", b"099 x"])
async def test_status_that_is_no_answer_is_an_error(ask, status) -> None:
    with pytest.raises(OriginError, match="status"):
        await ask(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize(
    "field",
    [
        b"Content-Length : 2",
        b"Transfer-Encoding : chunked",
        b"Set-Cookie\t: a=b",
        b"Cache-Control : private",
    ],
)
async def test_field_name_that_is_no_token_is_an_error(ask, field) -> None:
    with pytest.raises(OriginError):
        await ask(OK + field + b"\r\n\r\nhi")


@pytest.mark.parametrize("octet", [b"\0", b"\x1b", b"\x7f"])
async def test_control_character_in_the_reason_is_an_error(ask, octet) -> None:
    with pytest.raises(OriginError, match="status line"):
        await ask(b"HTTP/1.1 200 O%bK\r\nContent-Length: 0\r\n\r\n" % octet)


async def test_reason_in_any_bytes_is_passed_on(ask) -> None:
    answering = await ask(b"HTTP/1.1 200 \xff\xfe\r\nContent-Length: 0\r\n\r\n")
    assert answering.head.startswith(b"HTTP/1.1 200 \xff\xfe\r\n")
    answering.close()


async def test_204_has_no_length(ask) -> None:
    said = b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"
    answering = await ask(said)
    assert answering.length is None and b"Content-Length" not in answering.head
    answering.close()


async def test_silence_is_a_time_out(ask) -> None:
    with pytest.raises(OriginTimeout):
        await ask(b"", timeout=0.05)


async def test_refused_connection_is_an_error() -> None:
    origin = Origin(Config(origin=OriginConfig(url="http://127.0.0.1:1")))
    with pytest.raises(OriginError) as caught:
        await origin.ask(Asking("GET", "/", CIMultiDict()))
    assert caught.value.status == 502
    await origin.close()


# -- Content-Length that is too short, trailers


@pytest.mark.parametrize(
    "said",
    [
        OK + b"Content-Length: 10\r\n\r\n0123456789" + b"x" * 26,
        OK + b"Content-Length: 10\r\n\r\n0123456789HTTP/1.1 200 OK\r\nX: ",
        OK + b"Content-Length: 10\r\n\r\n0123456789" + OK + b"\r\nevil",
        OK + b"Content-Length: 10\r\n\r\n0123456789" + b"x" * 10**6,
    ],
    ids=["garbage", "half a head", "answer", "much"],
)
async def test_announced_bytes_are_the_answer(ask, said) -> None:
    """RFC 9112 §6.3: what is behind them is nobody's."""
    answering = await ask(said)
    assert (answering.length, answering.whole) == (10, True)
    assert await whole(answering) == b"0123456789"


async def test_trailers_are_dropped(ask) -> None:
    """RFC 9110 §6.5.1."""
    said = OK + b"Transfer-Encoding: chunked\r\nTrailer: X-Late\r\n\r\n"
    answering = await ask(
        said + b"2\r\nhi\r\n0\r\nX-Late: 1\r\nSet-Cookie: a=b\r\n\r\n"
    )
    assert await whole(answering) == b"hi"
    assert answering.whole and b"X-Late" not in answering.head
    assert list(answering.fields) == ["Date", "Transfer-Encoding", "Trailer"]


# -- interim answers

FINAL = OK + b"Content-Length: 2\r\n\r\nhi"
HINTS = b"HTTP/1.1 103 Early Hints\r\n"


@pytest.fixture
async def told(ask) -> AsyncIterator[Told]:
    """The interim answers passed on, and the final one."""

    async def told(said: bytes) -> tuple[list[tuple[int, bytes]], Answering]:
        heard: list[tuple[int, bytes]] = []
        answering = await ask(said, interim=lambda *one: heard.append(one))
        return heard, answering

    yield told


async def test_interim_answers_are_passed_on(told) -> None:
    links = b"Link: </a>; rel=preload\r\nX-ODD:  a \xff\r\n"
    said = HINTS + links + b"Connection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\r\n"
    more = b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    heard, answering = await told(said + more + FINAL)
    links = links.replace(b":  a", b": a")
    assert heard == [
        (103, HINTS + links + b"\r\n"),
        (102, b"HTTP/1.1 102 Processing\r\n\r\n"),
    ]
    assert b"Link" not in answering.head and "Link" not in answering.fields
    assert await whole(answering) == b"hi"


async def test_interim_answers_are_dropped_where_nobody_asks_for_them(ask) -> None:
    answering = await ask(HINTS + b"Link: </a>\r\n\r\n" + FINAL)
    assert answering.status == 200 and await whole(answering) == b"hi"


@pytest.mark.parametrize(
    "said",
    [
        (HINTS + b"\r\n") * 17 + FINAL,
        (HINTS + b"A: %b\r\n\r\n" % (b"a" * 8000)) * 9 + FINAL,
        HINTS + b"Content-Length: 2\r\n\r\nhi" + FINAL,
        HINTS + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + FINAL,
        HINTS + b"A : b\r\n\r\n" + FINAL,
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + FINAL,
    ],
    ids=["many", "large", "length", "chunks", "malformed", "101"],
)
async def test_interim_answers_out_of_bounds_are_an_error(told, said) -> None:
    with pytest.raises(OriginError):
        await told(said)


# -- several upstreams, asking again


class Plain(asyncio.Protocol):
    """Answers each request as told, and counts."""

    def __init__(self, servers: Servers, name: str) -> None:
        self._servers, self._name = servers, name

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._servers.count[self._name] += 1
        self._servers.heads.append(data)
        if self._servers.said:
            self._transport.write(self._servers.said)
        else:
            self._transport.close()


class Servers:
    """Several servers of one origin; `None` for one is a port where nobody listens."""

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()
        self.heads: list[bytes] = []
        self.said = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
        self._open: list[asyncio.Server] = []

    async def start(self, port: int = 0) -> str:
        loop = asyncio.get_running_loop()
        url = f"http://127.0.0.1:{port or free_port()}"
        server = await loop.create_server(
            lambda: Plain(self, url), "127.0.0.1", int(url.rpartition(":")[2])
        )
        self._open.append(server)
        return url

    def stop(self) -> None:
        for server in self._open:
            server.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as s:
        return int(s.getsockname()[1])


def nobody() -> str:
    return f"http://127.0.0.1:{free_port()}"


@pytest.fixture
async def servers() -> AsyncIterator[Servers]:
    servers = Servers()
    yield servers
    servers.stop()


@asynccontextmanager
async def asking(*urls: str, **settings: Any) -> AsyncIterator[Origin]:
    origin = Origin(Config(origin=OriginConfig(url=urls, **settings)))
    try:
        yield origin
    finally:
        await origin.close()


async def get(origin: Origin, method: str = "GET") -> Answering:
    answering = await origin.ask(Asking(method, "/", CIMultiDict()))
    await whole(answering)
    return answering


async def test_requests_are_spread_over_the_upstreams(servers) -> None:
    urls = [await servers.start() for _ in range(3)]
    async with asking(*urls) as origin:
        for _ in range(60):
            await get(origin)
        assert [u["asked"] for u in origin.stats()["upstreams"]] == [
            servers.count[url] for url in urls
        ]
    assert all(servers.count[url] >= 5 for url in urls), servers.count
    sent = {head.split(b"Host: ")[1].split(b"\r")[0] for head in servers.heads}
    assert sent == {url.removeprefix("http://").encode() for url in urls}


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_next_upstream_is_asked_where_one_refuses(servers, method) -> None:
    """Nothing was sent to the first one, so that any method may go on."""
    async with asking(nobody(), await servers.start(), retries=0) as origin:
        for _ in range(40):
            assert (await get(origin, method)).status == 200
        first, second = origin.stats()["upstreams"]
        assert first["breaker"] == "open" and first["opened"] == 1
        assert second["asked"] == 40 and second["breaker"] == "closed"


async def test_unsafe_request_asked_again_is_no_probe(servers) -> None:
    """Where another upstream is well: what it may cost is not an unsafe one's."""
    urls = nobody(), await servers.start(), await servers.start()
    async with asking(*urls, breaker_failures=1) as origin:
        gone, well, down = origin.upstreams.all
        while not gone.asked:
            gone.probe_at, down.probe_at = 0.0, 1e-9  # long due
            assert (await get(origin, "POST")).status == 200
        assert gone.opened == 1 and well.asked and not down.asked


async def test_upstream_that_is_down_is_left_alone() -> None:
    async with asking(nobody(), retries=0, breaker_failures=2) as origin:
        for _ in range(2):
            with pytest.raises(OriginError, match="Connect") as caught:
                await get(origin)
            assert caught.value.status == 502
        with pytest.raises(OriginDown) as caught:
            await get(origin)
        assert caught.value.status == 503 and origin.stats()["refused"] == 1
        assert origin.stats()["upstreams"][0]["asked"] == 2


async def test_probe_closes_the_breaker(servers, monkeypatch) -> None:
    monkeypatch.setattr(upstreams, "PAUSE_MIN", 0.05)
    url = nobody()
    async with asking(url, retries=0, breaker_failures=1) as origin:
        with pytest.raises(OriginError):
            await get(origin)
        await servers.start(int(url.rpartition(":")[2]))
        upstream = origin.upstreams.all[0]
        await eventually(lambda: upstream.state == "half-open")
        assert (await get(origin)).status == 200
        assert upstream.state == "closed"


async def test_safe_request_is_tried_again_while_a_server_restarts(servers) -> None:
    url = nobody()
    async with asking(url, retries=5) as origin:
        get_ = asyncio.ensure_future(get(origin))
        await eventually(lambda: origin.retried)
        await servers.start(int(url.rpartition(":")[2]))
        assert (await get_).status == 200


async def test_unsafe_request_is_not_tried_again() -> None:
    async with asking(nobody(), retries=5) as origin:
        with pytest.raises(OriginError):
            await get(origin, "POST")
        assert origin.retried == 0


async def test_retries_have_a_budget(monkeypatch) -> None:
    """However many ask, an outage is asked a tenth more at most, beside a reserve."""
    monkeypatch.setattr(origins, "PAUSE", 0.0)
    async with asking(nobody(), retries=10, breaker_failures=0) as origin:
        for _ in range(100):
            with pytest.raises(OriginError):
                await get(origin)
            if origin.retried >= RESERVE:
                break
        before = origin.retried
        for _ in range(50):
            with pytest.raises(OriginError):
                await get(origin)
        assert origin.retried - before <= 50 * SHARE / (1 - SHARE) + 1


@pytest.mark.parametrize(("counted", "state"), [(True, "open"), (False, "closed")])
async def test_errors_open_the_breaker_by_setting(servers, counted, state) -> None:
    servers.said = b"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\nhi"
    url = await servers.start()
    async with asking(url, breaker_failures=2, breaker_5xx=counted) as origin:
        for _ in range(2):
            assert (await get(origin)).status == 503
        assert origin.upstreams.all[0].state == state


async def test_silence_opens_the_breaker() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        settings = {"breaker_failures": 2, "first_byte_timeout": 0.05}
        async with asking(url, **settings) as origin:
            for _ in range(2):
                with pytest.raises(OriginTimeout, match="no answer in time"):
                    await get(origin)
            with pytest.raises(OriginDown):
                await get(origin)


async def test_caller_that_leaves_is_no_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        async with asking(url, breaker_failures=1) as origin:
            leaving = asyncio.ensure_future(get(origin))
            await eventually(lambda: origin.upstreams.all[0].pool.taken)
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving
            upstream = origin.upstreams.all[0]
            assert (upstream.state, upstream.pool.taken) == ("closed", 0)
