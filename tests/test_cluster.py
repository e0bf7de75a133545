"""A Cluster's partitions are found, followed when they move, and fail alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from shmcache.cluster import PARTITIONS, Cluster
from shmcache.link import StrangerError
from shmcache.resp import ReplyError
from shmcache.target import parse
from tests.fleets import ClusterNodes, cluster_node, redis_cluster
from tests.helpers import free_port
from tests.redis_server import RedisServer, eventually

TIMEOUT = 0.5


@pytest.fixture(scope="module")
def nodes() -> Iterator[ClusterNodes]:
    with redis_cluster() as running:
        yield running


@pytest.fixture
async def cluster(nodes: ClusterNodes) -> AsyncIterator[Cluster]:
    cluster = opened(nodes.url)
    yield cluster
    await cluster.close()


def opened(url: str) -> Cluster:
    return Cluster(parse(url), "app", TIMEOUT, None)


def key(partition: int, name: str = "k") -> str:
    return f"shmcache:{{app:{partition}}}:v:{name}"


def node_of(nodes: ClusterNodes, cluster: Cluster, partition: int) -> RedisServer:
    return nodes.owner(cluster.link(partition).number)


async def test_slot_is_the_one_that_redis_computes(
    nodes: ClusterNodes, cluster: Cluster
) -> None:
    for p in range(PARTITIONS):
        slot = nodes.nodes[0].command("CLUSTER", "KEYSLOT", key(p))
        assert cluster.link(p).number == slot


async def test_each_partition_is_asked_where_it_is(
    nodes: ClusterNodes, cluster: Cluster
) -> None:
    await cluster.check()
    begun = cluster.connects
    for p in range(PARTITIONS):
        put, got = await cluster.link(p).exchange(("SET", key(p), p), ("GET", key(p)))
        assert (put, got) == (b"OK", b"%d" % p)
        assert node_of(nodes, cluster, p).command("EXISTS", key(p))
    assert cluster.connects - begun <= 3  # nobody was asked in vain


async def test_one_node_that_answers_is_enough_to_begin(nodes: ClusterNodes) -> None:
    url = f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{nodes.nodes[2].port}"
    cluster = opened(url)
    for p in range(PARTITIONS):
        assert await cluster.link(p).exchange(("SET", key(p), p)) == [b"OK"]
    await cluster.close()


async def test_map_is_asked_for_once_by_many(cluster: Cluster) -> None:
    partitions = [cluster.link(p) for p in range(PARTITIONS)] * 4
    await asyncio.gather(*(link.exchange(("PING",)) for link in partitions))
    assert cluster._asked == 1


async def test_moved_slot_is_followed(nodes: ClusterNodes, cluster: Cluster) -> None:
    """MOVED: what was refused is sent to the new owner, and so is what comes later."""
    link = cluster.link(1)
    await link.exchange(("SET", key(1), "before"))
    source = node_of(nodes, cluster, 1)
    to = nodes.other(source)
    nodes.begin_move(link.number, source, to)
    nodes.move_keys(link.number, source, to)
    nodes.end_move(link.number, to)
    assert await link.exchange(
        ("GET", key(1)), ("SET", key(1, "more"), 1), ("GET", key(1, "more"))
    ) == [b"before", b"OK", b"1"]
    source.command("CONFIG", "RESETSTAT")
    assert await link.exchange(("GET", key(1))) == [b"before"]
    assert "cmdstat_get" not in source.command("INFO", "commandstats")


async def test_key_that_moved_early_is_found(
    nodes: ClusterNodes, cluster: Cluster
) -> None:
    """ASK: in the midst of a move, for that command only."""
    link = cluster.link(2)
    await link.exchange(("SET", key(2, "gone"), "there"))
    source = node_of(nodes, cluster, 2)
    to = nodes.other(source)
    nodes.begin_move(link.number, source, to)
    nodes.move_keys(link.number, source, to)
    owner = cluster._owners[2]
    assert await link.exchange(("GET", key(2, "gone")), ("PING",)) == [
        b"there",
        b"PONG",
    ]
    assert cluster._owners[2] == owner
    script = "return redis.call('MGET', KEYS[1], KEYS[2])"
    both = (key(2, "gone"), key(2, "none"))
    with pytest.raises(ConnectionError, match="TRYAGAIN"):
        await link.exchange(("EVAL", script, 2, *both))
    nodes.end_move(link.number, to)
    assert await link.exchange(("EVAL", script, 2, *both)) == [[b"there", None]]


async def test_own_connection_follows_a_moved_slot(
    nodes: ClusterNodes, cluster: Cluster
) -> None:
    link = cluster.link(5)
    await link.exchange(("SET", key(5), "v"))
    before = await link.connect()
    source = node_of(nodes, cluster, 5)
    to = nodes.other(source)
    nodes.begin_move(link.number, source, to)
    nodes.move_keys(link.number, source, to)
    nodes.end_move(link.number, to)
    (refused,) = await before.ask(("GET", key(5)))
    assert isinstance(refused, ReplyError) and refused.code == "MOVED"
    after = await link.connect()
    assert await after.ask(("GET", key(5))) == [b"v"]
    assert after.identity != before.identity
    for wire in (before, after):
        await wire.hang_up()


async def test_node_that_has_nothing_of_ours_any_more_is_left(
    nodes: ClusterNodes, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shmcache.cluster._LEAVE", 0)
    await asyncio.gather(
        *(cluster.link(p).exchange(("PING",)) for p in range(PARTITIONS))
    )
    known, begun = set(cluster._nodes), cluster.connects
    assert len(known) == 3
    left = ("localhost", nodes.nodes[0].port)  # as a map of before may have named it
    node = cluster.node(left)
    await node.exchange(("PING",))
    (wire,) = node._idle
    cluster.doubt(cluster.link(0))
    cluster._look_at = 0
    await cluster.link(0).exchange(("PING",))
    await eventually(lambda: not wire.quiet)
    assert set(cluster._nodes) == known and cluster.connects == begun + 2
    await eventually(lambda: not cluster._leaving)


async def test_node_that_is_being_left_is_closed_with_the_rest(
    nodes: ClusterNodes,
) -> None:
    cluster = opened(nodes.url)
    node = cluster.node(("localhost", nodes.nodes[0].port))
    await node.exchange(("PING",))
    (wire,) = node._idle
    await cluster.link(0).exchange(("PING",))
    assert cluster._leaving and wire.quiet
    await cluster.close()
    assert not wire.quiet and not cluster._leaving


async def test_identity_is_expected_for_each_partition(nodes: ClusterNodes) -> None:
    """Two partitions of one node: one notes the newcomer, the other not yet."""
    noted = dict.fromkeys(range(PARTITIONS), 0)
    cluster = Cluster(parse(nodes.url), "app", TIMEOUT, noted.__getitem__)
    first, second, *_ = (
        p
        for p in range(PARTITIONS)
        if node_of(nodes, cluster, p) is node_of(nodes, cluster, 0)
    )
    wire = await cluster.link(first).connect()
    noted[first], noted[second] = wire.identity, 1
    await wire.hang_up()
    for _ in range(2):
        assert await cluster.link(first).exchange(("SET", key(first), 1)) == [b"OK"]
        with pytest.raises(StrangerError):
            await cluster.link(second).exchange(("GET", key(second)))
    await cluster.close()


async def test_hints_come_from_any_node(nodes: ClusterNodes, cluster: Cluster) -> None:
    wire = await cluster.connect()
    await wire.send("SUBSCRIBE", "shmcache:{app}:c:1")
    await wire.read()
    for node in nodes.nodes:
        node.command("PUBLISH", "shmcache:{app}:c:1", str(node.port))
    async with asyncio.timeout(5):
        told = {(await wire.read())[2] for _ in nodes.nodes}
    assert told == {b"%d" % node.port for node in nodes.nodes}
    await wire.hang_up()


async def test_killed_node_costs_its_partitions_alone(
    nodes: ClusterNodes, cluster: Cluster
) -> None:
    await asyncio.gather(
        *(cluster.link(p).exchange(("SET", key(p), p)) for p in range(PARTITIONS))
    )
    owners = {p: node_of(nodes, cluster, p) for p in range(PARTITIONS)}
    victim = owners[0]
    lost = {p for p in owners if owners[p] is victim}
    victim.kill()
    assert 0 < len(lost) < PARTITIONS
    loop = asyncio.get_running_loop()
    begun, connects, slowest = loop.time(), cluster.connects, 0.0
    while loop.time() - begun < 1.0:
        for p in range(PARTITIONS):
            at = loop.time()
            try:
                answer = await cluster.link(p).exchange(("GET", key(p)))
            except (OSError, ReplyError):
                assert p in lost
            else:
                assert p not in lost and answer == [b"%d" % p]
                slowest = max(slowest, loop.time() - at)
    assert slowest < TIMEOUT / 2
    assert cluster.connects - connects < 40  # thousands were refused at once
    hints = await cluster.connect()
    await hints.hang_up()
    victim.start()
    await eventually(lambda: _back(cluster, lost), 10)


async def test_promoted_replica_is_followed_and_is_another_identity(
    nodes: ClusterNodes, cluster: Cluster
) -> None:
    with cluster_node() as replica:
        master = node_of(nodes, cluster, 3)
        nodes.add_replica(replica, master)
        await eventually(lambda: _back(cluster, set(range(PARTITIONS))), 10)
        link = cluster.link(3)
        before = await link.connect()
        master.kill()
        await eventually(lambda: _back(cluster, {3}), 15)
        after = await link.connect()
        assert after.where == f"127.0.0.1:{replica.port}"
        assert after.identity != before.identity
        for wire in (before, after):
            await wire.hang_up()


async def _back(cluster: Cluster, partitions: set[int]) -> bool:
    for p in partitions:
        try:
            await cluster.link(p).exchange(("SET", key(p), "again"))
        except OSError:
            return False
    return True
