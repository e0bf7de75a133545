"""What an origin sends unasked, on raw sockets: nobody's answer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import struct
import time
from collections.abc import AsyncIterator

import pytest
import uvloop
from multidict import CIMultiDict

from shmcache_server.answering import OriginError, OriginTimeout
from shmcache_server.connections import AHEAD
from shmcache_server.origins import Asking
from tests.helpers import connections
from tests.server.conftest import eventually
from tests.server.sockets import OWN, Sockets, first, second

OLD = b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na"
EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"


def get() -> Asking:
    return Asking("GET", "/", CIMultiDict())


@pytest.fixture
async def sockets() -> AsyncIterator[Sockets]:
    sockets = Sockets()
    yield sockets
    await sockets.close()


async def test_answer_by_the_book_leaves_a_connection_to_reuse(sockets) -> None:
    connection = await first(sockets, OWN)
    assert sockets.pooled == 1
    asking = asyncio.ensure_future(sockets.get())
    await sockets.answer(connection, OWN)
    assert await asking == b"own" and len(sockets.accepted) == 1


async def test_bytes_nobody_asked_for_close_the_connection(sockets) -> None:
    connection = await first(sockets, OWN)
    connection.sendall(EVIL)
    receiving = asyncio.get_running_loop().sock_recv(connection, 1)
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(receiving, 5) == b"", "closed"
    assert await second(sockets) == b"own"


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("GET", b"HTTP/1.1 304 Not Modified\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"),
        (
            "GET",
            b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na",
        ),
        ("GET", OWN + EVIL),
    ],
    ids=["304", "204", "head", "1.0", "two"],
)
async def test_connection_whose_answer_may_go_on_is_closed(
    sockets, method, said
) -> None:
    await first(sockets, said, method)
    assert sockets.pooled == 0


async def cut(sockets: Sockets, method: str) -> asyncio.Task[bytes]:
    """The kept connection dies with the request on its way: the origin may have acted
    on it."""
    connection = await first(sockets, OWN)
    asking = asyncio.ensure_future(sockets.get(method))
    await sockets.answer(connection, b"")
    connection.shutdown(socket.SHUT_RDWR)
    return asking


async def again(sockets: Sockets, asking: asyncio.Task[bytes]) -> socket.socket | None:
    """The connection by which it is asked again; None: it is not."""
    accepting = asyncio.ensure_future(sockets.accept())
    await asyncio.wait((asking, accepting), return_when=asyncio.FIRST_COMPLETED)
    if accepting.done():
        return accepting.result()
    accepting.cancel()
    return None


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "X"])
async def test_unsafe_request_is_sent_once(sockets, method) -> None:
    asking = await cut(sockets, method)
    assert await again(sockets, asking) is None
    with pytest.raises(OriginError):
        await asking


@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
async def test_safe_request_is_sent_again_by_a_new_connection(sockets, method) -> None:
    asking = await cut(sockets, method)
    connection = await again(sockets, asking)
    assert connection is not None
    await sockets.answer(connection, OWN)
    assert await asking == b"own"


async def test_safe_request_is_sent_twice_at_most(sockets) -> None:
    asking = await cut(sockets, "GET")
    connection = await again(sockets, asking)
    assert connection is not None
    await sockets.answer(connection, b"")
    connection.shutdown(socket.SHUT_RDWR)
    assert await again(sockets, asking) is None
    with pytest.raises(OriginError):
        await asking


async def test_request_whose_answer_has_begun_is_sent_once(sockets) -> None:
    connection = await first(sockets, OWN)
    asking = asyncio.ensure_future(sockets.get())
    await sockets.answer(connection, b"HTTP/1.1 2")
    connection.shutdown(socket.SHUT_RDWR)
    assert await again(sockets, asking) is None
    with pytest.raises(OriginError):
        await asking


async def test_request_with_a_body_is_sent_once(sockets) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"a"

    connection = await first(sockets, OWN)
    asking = asyncio.ensure_future(
        sockets.origin.ask(Asking("GET", "/", CIMultiDict(), body()))
    )
    await sockets.answer(connection, b"")
    connection.shutdown(socket.SHUT_RDWR)
    assert await again(sockets, asking) is None
    with pytest.raises(OriginError):
        await asking


# -- where an answer ends

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "said",
    [
        CHUNKED + b"3\r\nown\r\n0\r\n\r\n",
        CHUNKED + b"0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + OWN,
        b"\r\n\r\n" + OWN,
    ],
    ids=["chunks", "no chunk", "no body", "interim", "empty lines"],
)
@pytest.mark.parametrize("step", [1, 7, 1000], ids=["bytes", "pieces", "whole"])
async def test_answer_in_any_pieces_leaves_a_connection_to_reuse(
    sockets, said, step
) -> None:
    asking = asyncio.ensure_future(sockets.get())
    connection = await sockets.accept()
    await eventually(lambda: sockets.pool._open)
    mine = next(iter(sockets.pool._open))
    await sockets.answer(connection, b"")
    for at in range(0, len(said), step):
        mine.data_received(said[at : at + step])
    assert await asking in (b"own", b"")
    assert sockets.pooled == 1
    again = asyncio.ensure_future(sockets.get())
    await sockets.answer(connection, OWN)
    assert await again == b"own" and len(sockets.accepted) == 1


@pytest.mark.parametrize(
    "said",
    [
        CHUNKED + b"3\r\nown\r\n0\r\nX-Late: 1\r\n\r\n",
        CHUNKED + b"3\r\nown\r\n0\r\nX-Late: 0\r\n\r\n",
        CHUNKED + b"3\r\nown\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nX: ",
        CHUNKED + b"3\r\nown\r\n0\r\n\r\nrubbish",
        OWN + b"HTTP/1.1 200 OK\r\nX: ",
        OWN.replace(b"\r\n", b"\n"),
        OWN.replace(b"\r\n\r\n", b"\r\n\n"),
        b"HTTP/1.1 200 OK\nContent-Length: 9\n\nown\r\n\r\nown",
    ],
    ids=[
        *("trailer", "trailer 0", "half a head", "rubbish", "half a head by length"),
        *("LF", "last LF", "LF and a line in the body"),
    ],
)
@pytest.mark.parametrize("step", [1, 2, 1000], ids=["bytes", "pairs", "whole"])
async def test_connection_that_may_hold_more_is_not_reused(sockets, said, step) -> None:
    """aiohttp's parser would put a trailer field among those of the next answer."""
    asking = asyncio.ensure_future(sockets.get())
    connection = await sockets.accept()
    await eventually(lambda: sockets.pool._open)
    mine = next(iter(sockets.pool._open))
    await sockets.answer(connection, b"")
    for at in range(0, len(said), step):
        mine.data_received(said[at : at + step])
    assert (await asking).startswith(b"own")
    assert sockets.pooled == 0


async def test_trailer_is_in_no_later_answer(sockets) -> None:
    trailing = CHUNKED + b"3\r\nown\r\n0\r\nSet-Cookie: a=b\r\n\r\n"
    await first(sockets, trailing)
    asking = asyncio.ensure_future(sockets.origin.ask(get()))
    connection = await sockets.accept()
    await sockets.answer(connection, OWN)
    answering = await asking
    assert "Set-Cookie" not in answering.fields
    answering.close()


async def test_excess_that_comes_late_is_dropped(sockets) -> None:
    """1. The answer has come. 2. More comes. 3. The answer is read."""
    asking = asyncio.ensure_future(sockets.origin.ask(get()))
    connection = await sockets.accept()
    await sockets.answer(connection, OWN)
    answering = await asking
    connection.sendall(EVIL)
    await eventually(lambda: answering.connection.should_close)
    assert answering.at_hand() == b"own"
    answering.close()
    assert sockets.pooled == 0


@pytest.mark.parametrize("size", [10**6, 3 * 10**6])
async def test_long_body_with_an_excess_is_whole(sockets, size) -> None:
    """Longer than is read ahead: the parser stops and goes on in between."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
    asking = asyncio.ensure_future(sockets.origin.ask(get()))
    connection = await sockets.accept()
    assert b"\r\n\r\n" in await asyncio.get_running_loop().sock_recv(connection, 65536)
    body = bytes(range(250)) * (size // 250)
    sending = asyncio.ensure_future(
        asyncio.get_running_loop().sock_sendall(connection, head + body + EVIL)
    )
    answering = await asking
    read = []
    async for chunk in answering.chunks():
        read.append(chunk)
        await asyncio.sleep(0)
    assert b"".join(read) == body
    answering.close()
    await sending
    assert sockets.pooled == 0


PIECES = [
    *(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 103 E\r\n", b"HTTP/1.1 204 N\r\n", b"X: "),
    *(b"Content-Length: 3\r\n", b"Content-Length: 9\r\n", b"0;ext=1\r\n\r\n", b"\n\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"3\r\nown\r\n", b"0\r\n\r\n", b"X: 0\r\n"),
    *(b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"own", b" fold\r\n", b"\r\n\n", b"0\r\n"),
]
WHOLE = [OWN, CHUNKED + b"3\r\nown\r\n0\r\n\r\n", CHUNKED + b"0\r\nX: 1\r\n\r\n"]


def odd(chance: random.Random) -> bytes:
    """An answer with something put in, or something that is hardly one."""
    if chance.random() < 0.3:
        return b"".join(chance.choices(PIECES, k=chance.randint(1, 8)))
    said = chance.choice(WHOLE)
    for _ in range(chance.randint(0, 2)):
        at = chance.choice([len(said), chance.randint(0, len(said))])
        said = said[:at] + chance.choice(PIECES) + said[at + chance.randint(0, 1) :]
    return said


@pytest.mark.parametrize("seed", range(4))
async def test_connection_that_is_reused_has_nothing_left(sockets, seed) -> None:
    """Whatever came before: the next answer is exactly what was said."""
    chance, reused = random.Random(seed), 0
    for _ in range(150):
        said, step = odd(chance), chance.choice([1, 2, 3, 7, 1000])
        taken = await sockets.pool.take(5)
        await sockets.accept()
        asking = asyncio.ensure_future(
            taken.ask("GET", "/", CIMultiDict(Host="a"), None, 5.0)
        )
        await asyncio.sleep(0)
        for at in range(0, len(said), step):
            taken.data_received(said[at : at + step])
        await asyncio.sleep(0)
        asking.cancel()
        [answer] = await asyncio.gather(asking, return_exceptions=True)
        if isinstance(answer, BaseException) or answer[1].exception() is not None:
            taken.force_close()
        taken.done()
        if not sockets.pooled:
            continue
        reused += 1
        asking = asyncio.ensure_future(sockets.origin.ask(get()))
        await asyncio.sleep(0)
        taken.data_received(OWN)
        answering = await asking
        assert list(answering.fields.items()) == [("Content-Length", "3")], said
        assert (answering.at_hand(), answering.connection) == (b"own", taken), said
        taken.force_close()
        answering.close()
    assert reused > 5


OPEN = b"HTTP/1.1 200 OK\r\n\r\nhalf"


async def reset_in_an_open_body() -> None:
    sockets = Sockets()
    asking = asyncio.ensure_future(sockets.origin.ask(get()))
    connection = await sockets.accept()
    await sockets.answer(connection, OPEN)
    answering = await asking
    body = answering.chunks()
    assert await anext(body) == b"half"
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    with pytest.raises(OriginError, match="broke off"):
        await anext(body)
    answering.close()
    await sockets.close()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_body_that_ends_in_a_reset_is_not_whole(run) -> None:
    """Without a length its end is that of the connection, but not any end."""
    run(reset_in_an_open_body())


# -- much that comes


async def test_body_is_read_little_ahead_of_its_reader(sockets) -> None:
    asking = asyncio.ensure_future(
        sockets.origin.ask(Asking("GET", "/", CIMultiDict()))
    )
    connection = await sockets.accept()
    size = 16 << 20
    await sockets.answer(
        connection, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
    )
    answering = await asking
    sending = asyncio.get_running_loop().sock_sendall(connection, bytes(size))
    pushing = asyncio.ensure_future(sending)
    await eventually(lambda: answering.connection._reading_paused)
    one_read = 256 * 1024
    assert answering.content.total_bytes <= 2 * AHEAD + one_read
    got = [len(chunk) async for chunk in answering.chunks()]
    assert sum(got) == size and max(got) <= 2 * AHEAD + one_read
    await pushing
    answering.close()


FLOODS = {
    "empty lines": b"\r\n" * 2**17,
    "interim answers": b"HTTP/1.1 103 E\r\n\r\n" * 2**14,
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
async def test_flood_before_a_head_holds_nobody_up(sockets, flood) -> None:
    """It costs about as much as it has bytes, not their square."""
    asking = asyncio.ensure_future(sockets.get())
    await sockets.accept()
    await eventually(lambda: sockets.pool._open)
    mine = next(iter(sockets.pool._open))
    began = time.process_time()
    mine.data_received(flood)
    assert time.process_time() - began < 0.02
    mine.data_received(OWN)
    [answer] = await asyncio.gather(asking, return_exceptions=True)
    assert answer == b"own" or "interim" in str(answer)


# -- deadlines


async def test_head_that_drips_ends_in_time() -> None:
    """Bytes of a head, and interim answers, do not buy it more time."""
    sockets = Sockets(first_byte_timeout=0.2)
    asking = asyncio.ensure_future(sockets.get())
    connection = await sockets.accept()
    await sockets.answer(
        connection, b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n"
    )
    with contextlib.suppress(ConnectionError):
        while not asking.done():
            connection.sendall(b"A: b\r\n")
            await asyncio.sleep(0.02)
    with pytest.raises(OriginTimeout, match="no answer in time"):
        await asking
    await sockets.close()


async def test_silence_within_a_body_ends_it() -> None:
    sockets = Sockets(timeout=0.1, first_byte_timeout=5.0)
    asking = asyncio.ensure_future(sockets.get())
    await sockets.answer(await sockets.accept(), OWN[:-1])
    with pytest.raises(OriginTimeout, match="fell silent"):
        await asking
    await sockets.close()


async def test_body_may_take_longer_than_its_head() -> None:
    sockets = Sockets(first_byte_timeout=0.1, timeout=5.0)
    asking = asyncio.ensure_future(sockets.get())
    connection = await sockets.accept()
    await sockets.answer(connection, OWN[:-1])
    await asyncio.sleep(0.2)
    connection.sendall(OWN[-1:])
    assert await asking == b"own"
    await sockets.close()


@pytest.mark.parametrize("said", [b"", OWN[:-1]], ids=["head", "body"])
async def test_whole_has_a_deadline(said) -> None:
    sockets = Sockets(total_timeout=0.2)
    asking = asyncio.ensure_future(sockets.get())
    await sockets.answer(await sockets.accept(), said)
    with pytest.raises(OriginTimeout, match="took longer"):
        await asking
    await sockets.close()


async def test_deadline_of_one_request_is_not_the_next_ones() -> None:
    sockets = Sockets(total_timeout=0.2)
    connection = await first(sockets, OWN)
    await asyncio.sleep(0.25)
    asking = asyncio.ensure_future(sockets.get())
    await sockets.answer(connection, OWN)
    assert await asking == b"own"
    await sockets.close()


async def test_client_that_takes_longer_than_the_whole_is_no_failure() -> None:
    """Else clients could have the breaker open."""
    sockets = Sockets(total_timeout=0.2, breaker_failures=1)

    async def slow() -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.Event().wait()

    with pytest.raises(OriginError) as caught:
        await sockets.origin.ask(Asking("POST", "/", CIMultiDict(), slow()))
    assert caught.value.status == 408
    assert sockets.origin.upstreams.all[0].state == "closed"
    assert sockets.pool.taken == 0 and not sockets.pool._open
    await sockets.close()


async def test_body_that_the_origin_does_not_take_ends_in_time() -> None:
    sockets = Sockets(timeout=0.3)

    async def much() -> AsyncIterator[bytes]:
        while True:
            yield bytes(65536)

    with pytest.raises(OriginTimeout):
        await sockets.origin.ask(Asking("POST", "/", CIMultiDict(), much()))
    assert sockets.pooled == 0
    await sockets.close()


async def test_connection_whose_request_is_not_taken_is_closed(sockets) -> None:
    """What is left of the request would never leave, nor the connection."""

    async def much() -> AsyncIterator[bytes]:
        for _ in range(200):
            yield bytes(65536)

    loop = asyncio.get_running_loop()
    asking = asyncio.ensure_future(
        sockets.origin.ask(Asking("POST", "/", CIMultiDict(), much()))
    )
    connection = await sockets.accept()
    await eventually(lambda: sockets.pool._open)
    mine = next(iter(sockets.pool._open))
    await eventually(lambda: mine.transport.get_write_buffer_size())
    await loop.sock_sendall(connection, OWN)
    answering = await asking
    assert answering.at_hand() == b"own"
    port = mine.transport.get_extra_info("sockname")[1]
    assert connections(os.getpid(), local=port)
    answering.close()
    await eventually(lambda: not connections(os.getpid(), local=port))
    assert not sockets.pool._open


async def test_answer_before_the_body_was_sent_ends_the_connection(sockets) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.Event().wait()

    asking = asyncio.ensure_future(
        sockets.origin.ask(Asking("POST", "/", CIMultiDict(), slow()))
    )
    await sockets.answer(await sockets.accept(), OWN)
    answering = await asking
    assert b"".join([chunk async for chunk in answering.chunks()]) == b"own"
    answering.close()
    answering.close()
    assert sockets.pooled == 0
