"""One door for one Redis, Sentinel and Cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from shmcache import Cache
from shmcache.errors import ConfigError
from shmcache.link import StrangerError
from shmcache.topology import open_topology
from tests.caches import SIZE
from tests.fleets import SERVICE, SentinelServer, cluster_node
from tests.helpers import Origin, free_port, segment_name
from tests.redis_server import RedisServer, eventually, redis_server


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
