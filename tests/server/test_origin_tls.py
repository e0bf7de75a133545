"""An origin behind TLS: who it must be, what of it is heard if it is not. Real ones."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop
from multidict import CIMultiDict

from shmcache_server.answering import Answering, OriginError
from shmcache_server.config import Config
from shmcache_server.origins import Asking, Origin
from shmcache_server.tables import OriginConfig
from tests.helpers import connections
from tests.server.conftest import eventually
from tests.server.sockets import OWN

AUTHORITY = trustme.CA()
LONG_AGO = datetime.now(timezone.utc) - timedelta(days=400)  # noqa: UP017
CUT = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nown"
OPEN = b"HTTP/1.1 200 OK\r\n\r\nown"
ENDLESS = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % 2**40


class Behind:
    """An origin of this certificate. Each request is answered with `said`."""

    def __init__(self, own: trustme.LeafCert, said: bytes = OWN) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        own.configure_cert(self.context)
        self.context.sni_callback = self._named
        self.said = said
        self.port = 0
        self.names: list[str | None] = []
        """Of the servers that were asked for: SNI."""
        self.heads: list[bytes] = []
        self.greeted = 0
        """Handshakes that were whole."""
        self.gone = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Behind]:
        server = await asyncio.start_server(
            self._serve, "127.0.0.1", 0, ssl=self.context
        )
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _named(self, _: Any, name: str | None, __: Any) -> None:
        self.names.append(name)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        self.greeted += 1
        try:
            while True:
                self.heads.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(self.said)
                while self.said is ENDLESS:
                    await writer.drain()
                    writer.write(bytes(65536))
                if self.said in (CUT, OPEN):
                    return
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.gone.set()
            writer.transport.abort()  # no close_notify


@asynccontextmanager
async def asking(host: str, port: int, **settings: Any) -> AsyncIterator[Origin]:
    settings = {"url": f"https://{host}:{port}", "retries": 0} | settings
    origin = Origin(Config(origin=OriginConfig(**settings)))
    try:
        yield origin
    finally:
        await origin.close()


async def ask(origin: Origin) -> Answering:
    return await origin.ask(Asking("GET", "/", CIMultiDict()))


async def get(origin: Origin) -> bytes:
    answering = await ask(origin)
    try:
        return b"".join([chunk async for chunk in answering.chunks()])
    finally:
        answering.close()


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way an operator has it: OpenSSL's own setting."""
    file = tmp_path / "ca.pem"
    AUTHORITY.cert_pem.write_to_path(str(file))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))


async def is_asked_by_its_name() -> None:
    async with Behind(AUTHORITY.issue_cert("localhost")).open() as behind:
        async with asking("localhost", behind.port) as origin:
            for _ in range(3):
                assert await get(origin) == b"own"
        assert behind.names == ["localhost"], "one connection, asked again"
        assert b"\r\nHost: localhost:%d\r\n" % behind.port in behind.heads[0]


async def is_asked_by_its_address() -> None:
    async with Behind(AUTHORITY.issue_cert("127.0.0.1")).open() as behind:
        async with asking("127.0.0.1", behind.port) as origin:
            assert await get(origin) == b"own"
        assert behind.names == [None], "RFC 6066 §3: an address is no name"


async def body_that_is_cut_is_not_whole() -> None:
    """Anybody on the way can end a connection without TLS's own end."""
    async with Behind(AUTHORITY.issue_cert("localhost"), CUT).open() as behind:
        async with asking("localhost", behind.port) as origin:
            with pytest.raises(OriginError, match="broke off"):
                await get(origin)
        behind.said = OPEN
        async with asking("localhost", behind.port) as origin:
            answering = await ask(origin)
            assert not answering.whole
            with contextlib.suppress(OriginError):
                assert b"".join([c async for c in answering.chunks()]) == b"own"
            answering.close()


async def body_that_nobody_wants_is_not_read_on() -> None:
    """An end by the book would wait for the origin's, and read it until then."""
    own = AUTHORITY.issue_cert("localhost")
    async with (
        Behind(own, ENDLESS).open() as behind,
        asking("localhost", behind.port) as origin,
    ):
        answering = await ask(origin)
        await anext(answering.chunks())
        answering.close()
        async with asyncio.timeout(5):
            await behind.gone.wait()
        assert not origin.upstreams.all[0].pool._open


async def handshake_that_nobody_answers_ends_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        async with asking("localhost", port, connect_timeout=0.1) as origin:
            with pytest.raises(OriginError, match="no connection in time") as caught:
                await get(origin)
            assert caught.value.status == 504
            await eventually(lambda: not connections(os.getpid(), remote=port))


async def caller_that_leaves_within_a_handshake_leaves_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        async with asking("localhost", port, connect_timeout=1.0) as origin:
            leaving = asyncio.ensure_future(get(origin))
            await eventually(lambda: connections(os.getpid(), remote=port))
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving
            pool = origin.upstreams.all[0].pool
            assert not pool.taken and not pool._open
            await eventually(lambda: not connections(os.getpid(), remote=port))


async def callers_that_leave_leave_others_alone() -> None:
    """Each on a connection of its own, and left at any turn of its beginning: of their
    descriptors none may be closed twice, for it is another's by then."""
    chance = random.Random(1)
    said = OWN.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    own = AUTHORITY.issue_cert("127.0.0.1")
    async with (
        Behind(own, said).open() as behind,
        asking("127.0.0.1", behind.port, connections=12) as origin,
    ):
        places = asyncio.Semaphore(24)

        async def one(number: int) -> None:
            async with places:
                getting = asyncio.ensure_future(get(origin))
                if number % 2:
                    for _ in range(chance.randrange(40)):
                        await asyncio.sleep(0)
                    getting.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    assert await getting == b"own"

        await asyncio.gather(*map(one, range(800)))
        pool = origin.upstreams.all[0].pool
        assert not pool.taken and not pool._waiting
        await eventually(lambda: not connections(os.getpid(), remote=behind.port))


SCENES = [
    callers_that_leave_leave_others_alone,
    is_asked_by_its_name,
    is_asked_by_its_address,
    body_that_is_cut_is_not_whole,
    body_that_nobody_wants_is_not_read_on,
    handshake_that_nobody_answers_ends_in_time,
    caller_that_leaves_within_a_handshake_leaves_nothing,
]


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_origin_behind_tls(
    trusted: None, scene: Callable[[], Awaitable[None]], run: Any
) -> None:
    run(scene())


OTHERS = {
    "other name": (AUTHORITY.issue_cert("other.example"), "localhost"),
    "other address": (AUTHORITY.issue_cert("127.0.0.2"), "127.0.0.1"),
    "name for an address": (AUTHORITY.issue_cert("localhost"), "127.0.0.1"),
    "expired": (
        AUTHORITY.issue_cert(
            "localhost", not_before=LONG_AGO, not_after=LONG_AGO + timedelta(days=1)
        ),
        "localhost",
    ),
    "nobody's": (trustme.CA().issue_cert("localhost"), "localhost"),
}


async def impostor_hears_nothing(own: trustme.LeafCert, host: str) -> None:
    async with Behind(own).open() as behind:
        async with asking(host, behind.port, breaker_failures=2) as origin:
            for _ in range(2):
                with pytest.raises(OriginError, match="certificate") as caught:
                    await get(origin)
                assert caught.value.status == 502
            upstream = origin.upstreams.all[0]
            assert upstream.state == "open" and not upstream.pool._open
        assert behind.names and not behind.heads


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize(("own", "host"), OTHERS.values(), ids=OTHERS.keys())
def test_impostor_hears_nothing(
    trusted: None, own: trustme.LeafCert, host: str, run: Any
) -> None:
    run(impostor_hears_nothing(own, host))


def test_authority_must_be_named() -> None:
    """Nothing is believed by default that the system does not."""
    asyncio.run(impostor_hears_nothing(AUTHORITY.issue_cert("localhost"), "localhost"))


async def test_origin_that_speaks_no_tls_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:
        plain.setblocking(False)
        async with asking("localhost", plain.getsockname()[1]) as origin:
            getting = asyncio.ensure_future(get(origin))
            connection, _ = await asyncio.get_running_loop().sock_accept(plain)
            with connection:
                connection.sendall(OWN)
                with pytest.raises(OriginError) as caught:
                    await getting
            assert caught.value.status == 502
