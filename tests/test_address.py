"""How we are let in, and what is said when we are not."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import shmcache
from shmcache.address import ACL_RULES, Address, refusal
from shmcache.ask import WON, Invalidation
from shmcache.clock import SYSTEM
from shmcache.errors import ConfigError
from shmcache.l2 import L2
from shmcache.lease import Leases
from shmcache.link import Link, check
from shmcache.record import FRESH, Record
from shmcache.target import parse
from tests.fleets import add_user
from tests.helpers import free_port
from tests.redis_server import RedisServer, eventually, redis_server
from tests.tls import TlsRedis, TlsServer, tls_redis

TIMEOUT = 0.5
PASSWORD = "hunter2"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server(port=free_port()) as running:
        yield running


@pytest.fixture(scope="module")
def relay() -> Iterator[TlsRedis]:
    with tls_redis() as running:
        yield running


async def checked(url: str) -> None:
    address = parse(url).addresses[0]
    await check(lambda: address.open(TIMEOUT), "standalone")


async def test_connecting_sends_nothing_but_what_it_must(server: RedisServer) -> None:
    server.command("CONFIG", "RESETSTAT")
    wire = await Address("127.0.0.1", server.port).open(TIMEOUT)
    (stats,) = await wire.ask(("INFO", "commandstats"))
    await wire.hang_up()
    commands = set(re.findall(rb"cmdstat_\w+", stats))  # without subcommands
    assert commands <= {b"cmdstat_info", b"cmdstat_config"}


async def test_vanished_peer_is_the_kernels_to_notice(server: RedisServer) -> None:
    wire = await Address("127.0.0.1", server.port).open(TIMEOUT)
    assert wire._transport is not None
    own = wire._transport.get_extra_info("socket")
    assert own.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert own.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 3000
    await wire.hang_up()


async def test_unix_socket_and_database(server: RedisServer) -> None:
    wire = await parse(server.url + "?db=2").addresses[0].open(TIMEOUT)
    await wire.ask(("SET", "where", "two"))
    await wire.hang_up()
    assert server.command("GET", "where") is None
    assert b"db2" in b"".join(
        line.encode() for line in server.command("INFO", "keyspace")
    )


async def test_wrong_password_is_a_setting() -> None:
    with redis_server("--requirepass", "sesame") as guarded:
        for url in (guarded.url, guarded.url + f"?password={PASSWORD}"):
            with pytest.raises(ConfigError, match=r"l2: .*password") as refused:
                await checked(url)
            assert PASSWORD not in str(refused.value)
        await checked(guarded.url + "?password=sesame")


async def test_database_that_is_not_there_is_a_setting(server: RedisServer) -> None:
    with pytest.raises(ConfigError, match=r"l2: .*DB index"):
        await checked(server.url + "?db=99")


@asynccontextmanager
async def saying(words: bytes) -> AsyncIterator[str]:
    """The URL of what says just this, and closes."""

    async def accept(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.read(1)
        writer.write(words)
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        yield f"redis://:{PASSWORD}@127.0.0.1:{port}"


async def test_other_protocol_is_a_setting() -> None:
    async with saying(b"HTTP/1.1 400 Bad Request\r\n\r\n") as url:
        with pytest.raises(ConfigError, match="not Redis"):
            await checked(url)


async def test_server_that_repeats_the_password_is_not_quoted() -> None:
    words = f"-ERR unknown command `AUTH`, with args beginning with: `{PASSWORD}`\r\n"
    async with saying(words.encode() * 3) as url:
        with pytest.raises(ConfigError, match="password") as refused:
            await checked(url)
    assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize(
    "words", ["LOADING it is loading", "ERR max number of clients"]
)
async def test_server_that_is_not_ready_is_no_wrong_setting(words: str) -> None:
    async with saying(f"-{words}\r\n".encode() * 3) as url:
        with pytest.raises(ConnectionError, match="ready"):
            await checked(url)


async def test_nobody_there_is_no_wrong_setting() -> None:
    with pytest.raises(OSError, match="Connect call failed") as failed:
        await checked(f"redis://:{PASSWORD}@127.0.0.1:{free_port()}")
    assert refusal(failed.value) is None and PASSWORD not in str(failed.value)


async def test_next_address_of_a_name_is_tried_where_the_first_refuses(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def both(host: str) -> list[str]:
        assert host == "redis.test"
        return ["127.0.0.9", "127.0.0.1"]

    monkeypatch.setattr("shmcache.resolver.addresses", both)
    wire = await Address("redis.test", server.port).open(TIMEOUT)
    assert wire.where == f"redis.test:{server.port}"
    await wire.hang_up()
    with pytest.raises(OSError, match="Connect call failed"):
        await Address("redis.test", free_port()).open(TIMEOUT)


async def test_user_with_an_empty_password_is_logged_in(server: RedisServer) -> None:
    server.command("ACL", "SETUSER", "open", "reset", "on", "nopass", "+@all")
    wire = (
        await parse(f"redis://open:@127.0.0.1:{server.port}").addresses[0].open(TIMEOUT)
    )
    assert await wire.ask(("ACL", "WHOAMI")) == [b"open"]
    await wire.hang_up()


# --- TLS --------------------------------------------------------------------------


async def test_tls_carries_exchanges(relay: TlsRedis) -> None:
    address = parse(relay.url).addresses[0]
    link = Link(lambda: address.open(TIMEOUT))
    value = bytes(1 << 20)
    assert await link.exchange(("SET", "k", value), ("GET", "k")) == [b"OK", value]
    await link.close()


async def test_certificate_of_another_authority_is_a_setting(relay: TlsRedis) -> None:
    with pytest.raises(ConfigError, match="the certificate of Redis was refused"):
        await checked(relay.url.partition("?")[0])


async def test_certificate_of_another_host_is_a_setting(relay: TlsRedis) -> None:
    with pytest.raises(ConfigError, match=r"refused: .*127\.0\.0\.1"):
        await checked(relay.url.replace("localhost", "127.0.0.1"))
    await checked(
        relay.url.replace("localhost", "127.0.0.1") + "&ssl_check_hostname=false"
    )


async def test_server_without_tls_is_a_setting() -> None:
    async with saying(b"-ERR unknown command\r\n") as url:
        with pytest.raises(ConfigError, match="no TLS"):
            await checked(url.replace("redis:", "rediss:"))


@pytest.mark.parametrize("flags", [(), ("--requirepass", "sesame")])
async def test_redis_without_tls_is_a_setting(flags: tuple[str, ...]) -> None:
    """It is silent: it takes the handshake for a command without an end."""
    no_tls = pytest.raises(ConfigError, match="no TLS with what answers there")
    with redis_server(*flags, port=free_port()) as plain, no_tls:
        await checked(f"rediss://:{PASSWORD}@127.0.0.1:{plain.port}")


async def test_tls_that_hangs_is_no_wrong_setting() -> None:
    late = pytest.raises(TimeoutError, match="could not be reached in time")
    with socket.create_server(("127.0.0.1", 0)) as hung, late:  # it never accepts
        await checked(f"rediss://127.0.0.1:{hung.getsockname()[1]}")


async def test_alert_of_tls_is_a_setting() -> None:
    async with saying(bytes.fromhex("15030100020246")) as url:
        with pytest.raises(ConfigError, match="expects TLS"):
            await checked(url)


async def test_certificate_of_ours_lets_us_in() -> None:
    with tls_redis(TlsServer.demand_client_certificate) as relay:
        await checked(f"{relay.url}&ssl_certfile={relay.client_file}")
        with pytest.raises((OSError, ConfigError)):
            await checked(relay.url)


# --- rights -----------------------------------------------------------------------


async def test_user_with_the_rights_named_is_let_in(server: RedisServer) -> None:
    add_user(server, "cache", PASSWORD, ACL_RULES)
    url = f"redis://cache:{PASSWORD}@127.0.0.1:{server.port}"
    await checked(url)
    link = Link(lambda: parse(url).addresses[0].open(TIMEOUT))
    own = await link.exchange(
        ("SET", "shmcache:{a:0}:v:k", 1), ("PUBLISH", "shmcache:{a}:c:1", "m")
    )
    foreign = await link.exchange(
        *(("GET", "foreign"), ("PUBLISH", "foreign", "m"), ("FLUSHALL",)),
        *(("CONFIG", "GET", "*"), ("KEYS", "*")),
    )
    await link.close()
    assert own == [b"OK", 0]
    assert {getattr(reply, "code", reply) for reply in foreign} == {"NOPERM"}


async def test_rights_named_are_enough_for_all_that_l2_does() -> None:
    with redis_server(port=free_port()) as own:
        add_user(own, "cache", PASSWORD, ACL_RULES)
        l2 = L2(f"redis://cache:{PASSWORD}@127.0.0.1:{own.port}", "app")
        leases = Leases(l2)
        await leases.start()
        await eventually(lambda: leases.subscriptions)
        token, now = os.urandom(16), SYSTEM.now()
        answer = await l2.acquire(b"k", offer=token, channel=leases.channel)
        assert answer.lease == WON
        other = await l2.acquire(b"k", offer=os.urandom(16), channel=leases.channel)
        wait = asyncio.create_task(leases.wait(b"k", other.wait_ms))
        assert await l2.renew(b"k", token, 3000)
        value = Record(b"v", FRESH, 0, now, now + 10**10, now + 10**10, 0, 1, 1, (7,))
        assert await l2.put_fenced(b"k", token, value, answer.clock) == "stored"
        await wait
        assert (await l2.acquire(b"k")).record
        for kind, name in ((b"x", b"k"), (b"d", b"k"), (b"t", 7), (b"c", b"")):
            await l2.invalidate([Invalidation(kind, name)])
        await l2.acquire(b"k", offer=token)
        assert await l2.abandon(b"k", token, b"error")
        denied = own.command("ACL", "LOG")
        await leases.close()
        await l2.close()
    assert not denied


def test_rights_named_are_those_the_sources_use(server: RedisServer) -> None:
    """What a script calls, and what is written as a command's first word."""
    named = set(re.findall(r"\+(\w+)", ACL_RULES))
    folder = Path(shmcache.__file__).parent
    words: set[str] = set()
    for path in folder.glob("lua/*.lua"):
        words.update(re.findall(r"call\('([A-Z]+)'", path.read_text()))
    for path in folder.glob("*.py"):
        words.update(re.findall(r"\(\s*\"([A-Z]+)\"", path.read_text()))
    used = {word.lower() for word in words} & set(server.command("COMMAND"))
    free = {"auth", "readonly"}  # needs no right; is the name of an error too
    assert {"evalsha", "xread", "hincrby"} <= used - free <= named


async def test_user_who_may_not_ask_whose_it_is_is_a_setting(
    server: RedisServer,
) -> None:
    add_user(server, "blind", PASSWORD, ACL_RULES.replace(" +info", ""))
    with pytest.raises(ConfigError, match="info"):
        await checked(f"redis://blind:{PASSWORD}@127.0.0.1:{server.port}")
