"""The origin's side: fields, framing, failures. Real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from shmcache_server.config import Config, OriginConfig
from shmcache_server.origins import (
    CONDITIONS,
    Answering,
    Asking,
    Origin,
    OriginError,
    OriginTimeout,
    named,
    request_fields,
)
from tests.server.conftest import RawOrigin

Ask = Callable[..., Awaitable[Answering]]


@pytest.fixture
async def ask() -> AsyncIterator[Ask]:
    """Ask an origin that answers these bytes and closes; without any it is silent."""
    async with AsyncExitStack() as stack:

        async def ask(said: bytes, method: str = "GET", **settings: float) -> Answering:
            raw = await stack.enter_async_context(RawOrigin(said).open())
            if said:
                raw.close.set()
            origin = Origin(Config(origin=OriginConfig(url=raw.url, **settings)))
            stack.push_async_callback(origin.close)
            return await origin.ask(Asking(method, "/", CIMultiDict()))

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
    ],
    ids=["length", "chunked"],
)
async def test_body_that_breaks_off_is_an_error(ask, said) -> None:
    answering = await ask(said)
    with pytest.raises(OriginError, match="broke off"):
        await whole(answering)


@pytest.mark.parametrize(
    "said", [b"SSH-2.0-x\r\n", OK + b"Content-Length: x\r\n\r\n", b"HTTP/1.1 200"]
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


def test_only_end_to_end_fields_are_sent_on() -> None:
    fields = CIMultiDict(
        [
            ("Connection", "close, X-Hop"),
            ("X-Hop", "1"),
            ("Host", "a"),
            ("Via", "1.0 before"),
            ("X-Forwarded-For", "evil"),
            ("Accept", "a"),
            ("Accept", "b"),
            ("Cookie", "c"),
        ]
    )
    sent = request_fields(CIMultiDictProxy(fields), drop=frozenset({"cookie"}))
    assert list(sent.items()) == [
        ("Accept", "a"),
        ("Accept", "b"),
        ("Via", "1.0 before, 1.1 shmcache"),
    ]


@pytest.mark.parametrize(
    "name",
    [
        *("X-Forwarded-Foo", "X_Forwarded_Host", "x-envoy-original-path", "Proxy"),
        *("X-Url-Scheme", "X_Original_URI", "X-Script-Name", "Remote_User"),
        *("CF-Connecting-IP", "Content_Length", "If_None_Match"),
    ],
)
def test_what_stands_outside_the_key_is_not_sent(name) -> None:
    fields = CIMultiDictProxy(CIMultiDict({name: "evil"}))
    assert list(request_fields(fields, drop=CONDITIONS)) == ["Via"]


def test_connection_names_fields() -> None:
    assert named(["close, X-A", " x-b "]) == {"close", "x-a", "x-b"}
