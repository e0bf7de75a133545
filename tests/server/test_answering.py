"""What an upstream answers: fields, framing, interim answers. Real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from multidict import CIMultiDict

from shmcache_server.answering import Answering, Interim, OriginError, OriginTimeout
from shmcache_server.config import Config
from shmcache_server.origins import Asking, Origin
from shmcache_server.tables import OriginConfig
from tests.server.conftest import RawOrigin

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
