"""One door for one Redis, Sentinel and Cluster."""

from __future__ import annotations

import pytest

from shmcache.errors import ConfigError
from shmcache.link import StrangerError
from shmcache.topology import open_topology
from tests.redis_server import redis_server


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
