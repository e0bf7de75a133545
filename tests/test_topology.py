"""One door for one Redis, Sentinel and Cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from shmcache import Cache
from shmcache.errors import ConfigError
from shmcache.link import StrangerError
from shmcache.topology import open_topology
from tests.caches import SIZE, two_hosts
from tests.fleets import SERVICE, SentinelServer, cluster_node
from tests.helpers import Origin, free_port, segment_name
from tests.redis_server import RedisServer, eventually, redis_server
from tests.tls import speaks_tls, tls_cluster, tls_watched


@pytest.mark.parametrize(
    ("url", "partitions"),
    [
        ("redis://host", 1),
        ("rediss://host", 1),
        ("unix:///run/redis.sock", 1),
        ("redis+sentinel://a,b/name", 1),
        ("redis+cluster://a,b", 16),
    ],
)
def test_url_tells_how_many_partitions(url: str, partitions: int) -> None:
    topology = open_topology(url, "app", timeout=0.5)
    assert topology.partitions == partitions
    assert topology.link(partitions - 1).connects == topology.connects == 0


def test_malformed_url_is_refused_before_any_connection() -> None:
    with pytest.raises(ConfigError):
        open_topology("ftp://host", "app", timeout=0.5)


async def test_identity_expected_is_that_of_the_partition() -> None:
    noted = [0]
    with redis_server() as server:
        topology = open_topology(
            server.url, "app", timeout=0.5, expects=noted.__getitem__
        )
        await topology.check()
        wire = await topology.connect()
        link = topology.link(0)
        for noted[0] in (0, 1):
            with pytest.raises(StrangerError):
                await link.exchange(("PING",))
        noted[0] = wire.identity
        assert await link.exchange(("PING",)) == [b"PONG"]
        await wire.hang_up()
        await topology.close()


# --- what answers is of another kind ----------------------------------------------


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, RedisServer]]:
    """One of each."""
    folder: Path = tmp_path_factory.mktemp("s", numbered=True)
    with redis_server(port=free_port()) as single, cluster_node() as node:
        sentinel = SentinelServer(folder, free_port(), single)
        with closing(sentinel):
            sentinel.start()
            yield {"single": single, "sentinel": sentinel, "node": node}


SENTINEL_URL = "redis+sentinel://127.0.0.1:{port}/"


@pytest.mark.parametrize(
    ("answers", "url", "words", "instead"),
    [
        ("sentinel", "redis://127.0.0.1:{port}", "a Sentinel", SENTINEL_URL),
        ("sentinel", "redis://127.0.0.1:{port}/2", "a Sentinel", SENTINEL_URL),
        ("sentinel", "redis+cluster://127.0.0.1:{port}", "a Sentinel", SENTINEL_URL),
        (
            *("node", "redis://127.0.0.1:{port}", "a node of a Cluster"),
            "redis+cluster://127.0.0.1:{port}",
        ),
        (
            *("node", "redis://127.0.0.1:{port}/2", "a node of a Cluster"),
            "redis+cluster://127.0.0.1:{port}",
        ),
        (
            *("node", SENTINEL_URL + SERVICE, "a node of a Cluster"),
            "redis+cluster://127.0.0.1:{port}",
        ),
        (
            *("single", "redis+cluster://127.0.0.1:{port}", "a single Redis"),
            "redis://127.0.0.1:{port}/0",
        ),
        (
            *("single", SENTINEL_URL + SERVICE, "a single Redis"),
            "redis://127.0.0.1:{port}/0",
        ),
    ],
)
async def test_other_kind_is_told_with_the_url_to_write(
    kinds: dict[str, RedisServer], answers: str, url: str, words: str, instead: str
) -> None:
    port = kinds[answers].port
    topology = open_topology(url.format(port=port), "app", timeout=0.5)
    with pytest.raises(ConfigError) as told:
        await topology.check()
    await topology.close()
    assert str(told.value).startswith(f"l2: {words} answers at 127.0.0.1:{port}: ")
    assert f"expected a URL for it, {instead.format(port=port)}" in str(told.value)


async def test_other_kind_is_told_by_the_log_of_who_never_asked(
    kinds: dict[str, RedisServer], caplog: pytest.LogCaptureFixture
) -> None:
    """The cache goes on without L2."""
    url = f"redis://127.0.0.1:{kinds['sentinel'].port}"
    async with Cache.open(segment_name(), size=SIZE, l2=url) as cache:
        assert await cache.get_or_set("k", Origin("v"), ttl=9) == "v"
        told = "not followed (partition 0): ConfigError: l2: a Sentinel answers"
        await eventually(lambda: told in caplog.text)
        assert cache.stats().l2_errors


# --- TLS with Cluster and with Sentinel -------------------------------------------


@pytest.fixture(params=["relayed", "its-own"] if speaks_tls() else ["relayed"])
def native(request: pytest.FixtureRequest) -> bool:
    """TLS of a relay before each server; the server's own too, where the redis-server
    that runs the tests has it."""
    own: bool = request.param == "its-own"
    return own


async def carries(url: str) -> None:
    """A fleet of two hosts does all that it does."""
    async with two_hosts(url, l2_deadline=2.0) as (one, other):
        for i in range(20):
            assert await one.get_or_set(f"k{i}", Origin(i), ttl=60) == i
            assert await other.get_or_set(f"k{i}", Origin("another"), ttl=60) == i
        await eventually(lambda: one.stats().following and other.stats().following)
        await one.delete_many([f"k{i}" for i in range(20)])
        await eventually(lambda: all(not other.entry(f"k{i}") for i in range(20)))
        assert one.stats().l2_errors == other.stats().l2_errors == 0
        for cache in (one, other):
            assert cache._parts.leases.subscriptions == 1


def without_trust(url: str) -> str:
    return url.partition("?")[0]


async def refused(url: str) -> Any:
    topology = open_topology(url, "app", timeout=1)
    try:
        with pytest.raises(ConfigError) as told:
            await topology.check()
    finally:
        await topology.close()
    return str(told.value)


async def test_cluster_behind_tls(native: bool) -> None:
    with tls_cluster(native=native) as (nodes, url):
        topology = open_topology(url, "app", timeout=1)
        await topology.check()
        for p in range(topology.partitions):
            key = f"shmcache:{{app:{p}}}:v:k"
            assert await topology.link(p).exchange(("SET", key, p)) == [b"OK"]
        slot = topology.link(1).number
        source = nodes.owner(slot)
        to = nodes.other(source)
        nodes.begin_move(slot, source, to)
        nodes.move_keys(slot, source, to)
        nodes.end_move(slot, to)
        key = "shmcache:{app:1}:v:k"  # what says that it moved names a port of TLS
        assert await topology.link(1).exchange(("GET", key)) == [b"1"]
        await topology.close()
        await carries(url)
        said = await refused(without_trust(url))
        assert said.startswith("l2: the certificate of Redis was refused")


async def test_sentinel_behind_tls(native: bool) -> None:
    with tls_watched(native=native) as watched:
        await carries(watched.url)
        topology = open_topology(watched.url, "app", timeout=1)
        await topology.check()
        link = topology.link(0)
        before = await link.connect()
        watched.fail_over()
        await eventually(lambda: not before.quiet, 5)  # Sentinel names another
        after = await eventually(lambda: _master(link), 5)
        assert after.where != before.where and after.identity != before.identity
        await after.hang_up()
        await topology.close()
        said = await refused(without_trust(watched.url))
        assert said.startswith("l2: the certificate of Redis was refused")


async def _master(link: Any) -> Any:
    """A connection to one that says that it is."""
    try:
        return await link.connect()
    except OSError:
        return None
