"""Redis as fleets run it: a Cluster, several partitions without one, a master with
replicas and Sentinels, ACL.

Real processes on the loopback, killed at the end by their ids.
"""

from __future__ import annotations

import random
import re
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any
from unittest import mock
from zlib import crc32

from shmcache.cluster import PARTITIONS
from shmcache.link import Link
from shmcache.target import parse
from shmcache.wire import Wire
from tests.helpers import free_port, until
from tests.redis_server import RedisServer

SERVICE = "cache"
SLOTS = 16384
Each = Callable[[int], tuple[str, ...]]
"""Further flags of the server on a port."""


def info(server: RedisServer, section: str) -> dict[str, Any]:
    """What INFO says, numbers as numbers."""
    answer: dict[str, Any] = server.command("INFO", section)
    return answer


# --- Cluster ----------------------------------------------------------------------


class ClusterNodes:
    """Three masters that have the slots among them, by thirds."""

    def __init__(self, nodes: list[RedisServer]) -> None:
        self.nodes = nodes

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return f"redis+cluster://{hosts}"

    def id_of(self, node: RedisServer) -> bytes:
        myself: bytes = node.command("CLUSTER", "MYID")
        return myself

    def owner(self, slot: int) -> RedisServer:
        """By the slots that each node says are its own."""
        return next(n for n in self.nodes if slot in _own_slots(n))

    def other(self, node: RedisServer) -> RedisServer:
        return self.nodes[(self.nodes.index(node) + 1) % len(self.nodes)]

    def add_replica(self, replica: RedisServer, master: RedisServer) -> None:
        """Until it is in step, and would be promoted in its master's stead."""
        replica.command("CLUSTER", "MEET", "127.0.0.1", master.port)
        whose = self.id_of(master)
        until(lambda: whose in replica.command("CLUSTER", "NODES"), 10)
        replica.command("CLUSTER", "REPLICATE", whose)
        in_step = ("master_link_status", "up")
        until(lambda: in_step in info(replica, "replication").items(), 15, "in step")
        line = re.compile(self.id_of(replica) + rb" .* slave " + whose)
        for node in self.nodes:  # they have to vote for it
            until(lambda node=node: line.search(node.command("CLUSTER", "NODES")), 15)

    def begin_move(self, slot: int, source: RedisServer, to: RedisServer) -> None:
        to.command("CLUSTER", "SETSLOT", slot, "IMPORTING", self.id_of(source))
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", self.id_of(to))

    def move_keys(self, slot: int, source: RedisServer, to: RedisServer) -> None:
        while keys := source.command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            address = ("127.0.0.1", to.port)
            source.command("MIGRATE", *address, "", 0, 5000, "KEYS", *keys)

    def end_move(self, slot: int, to: RedisServer) -> None:
        """Every node is told, as redis-cli does; gossip alone takes a while."""
        for node in (to, *(n for n in self.nodes if n is not to)):
            node.command("CLUSTER", "SETSLOT", slot, "NODE", self.id_of(to))


def _own_slots(node: RedisServer) -> set[int]:
    me = node.command("CLUSTER", "MYID")
    found: set[int] = set()
    for first, last, owner, *_ in node.command("CLUSTER", "SLOTS"):
        if owner[2] == me:
            found.update(range(first, last + 1))
    return found


_CLUSTER = (
    *("--cluster-enabled", "yes", "--cluster-node-timeout", "1000"),
    *("--cluster-require-full-coverage", "no"),
)


@contextmanager
def cluster_node() -> Iterator[RedisServer]:
    """One more, which knows nobody yet."""
    with _servers(*_cluster_ports(1), flags=_CLUSTER) as (node,):
        yield node


@contextmanager
def redis_cluster(*flags: str, each: Each = lambda _: ()) -> Iterator[ClusterNodes]:
    """A running Cluster of three, which serves what it has when a node is gone."""
    ports = _cluster_ports(3)
    with _servers(*ports, flags=(*_CLUSTER, *flags), each=each) as nodes:
        for i, node in enumerate(nodes):
            share = range(i * SLOTS // 3, (i + 1) * SLOTS // 3)
            node.command("CLUSTER", "ADDSLOTS", *share)
            node.command("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
        for node in nodes[1:]:
            node.command("CLUSTER", "MEET", "127.0.0.1", nodes[0].port)
        until(lambda: all(map(_agrees, nodes)), 15, "the nodes of the Cluster agree")
        yield ClusterNodes(nodes)


def _agrees(node: RedisServer) -> bool:
    state = node.command("CLUSTER", "INFO").split()
    wanted = {b"cluster_state:ok", b"cluster_size:3", b"cluster_slots_ok:16384"}
    return wanted <= set(state)


def _cluster_ports(count: int) -> list[int]:
    """Each with the port of its bus free as well, 10,000 above it."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(11_000, 22_000)
        if port not in found and _free(port) and _free(port + 10_000):
            found.append(port)
    return found


def _free(port: int) -> bool:
    with socket.socket() as s:
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


# --- partitions without a Cluster -------------------------------------------------


class Divided:
    """A topology of several partitions, each on one of a few plain servers, in turn."""

    def __init__(
        self,
        servers: Sequence[RedisServer],
        partitions: int,
        timeout: float,
        expects: Callable[[int], int] | None,
    ) -> None:
        self.partitions = partitions
        opens = [partial(parse(s.url).addresses[0].open, timeout) for s in servers]
        self._links = [
            Link(
                opens[p % len(opens)],
                expects=None if expects is None else partial(expects, p),
            )
            for p in range(partitions)
        ]

    def link(self, partition: int) -> Link:
        return self._links[partition]

    async def connect(self) -> Wire:
        return await self._links[0].connect()

    async def close(self) -> None:
        for link in self._links:
            await link.close()


@contextmanager
def divided(*servers: RedisServer, partitions: int = PARTITIONS) -> Iterator[None]:
    """Meanwhile whoever opens an L2 has this many partitions, on these servers."""

    def opened(
        url: str,
        app: str,
        *,
        timeout: float,
        expects: Callable[[int], int] | None = None,
    ) -> Divided:
        return Divided(servers, partitions, timeout, expects)

    with mock.patch("shmcache.l2.open_topology", opened):
        yield


def key_in(partition: int, n: int = 0, partitions: int = PARTITIONS) -> bytes:
    """The n-th key that lies in a partition."""
    found = (b"k%d" % i for i in count() if crc32(b"k%d" % i) % partitions == partition)
    return next(islice(found, n, None))


# --- Sentinel ---------------------------------------------------------------------


class SentinelServer(RedisServer):
    """A Sentinel; it keeps what it knows in a file of its own."""

    def __init__(
        self,
        folder: Path,
        port: int,
        master: RedisServer,
        quorum: int = 1,
        lines: tuple[str, ...] = (),
    ) -> None:
        """`lines` stand in its file before the others."""
        super().__init__(folder, port)
        self._config = folder / "sentinel.conf"
        self._config.write_text(
            "\n".join([*(lines or [f"port {port}"]), ""])
            + f"bind 127.0.0.1\ndir {folder}\nlogfile redis.log\n"
            f"unixsocket {self.socket}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {master.port} {quorum}\n"
            f"sentinel down-after-milliseconds {SERVICE} 300\n"
            f"sentinel failover-timeout {SERVICE} 2000\n"
        )

    def arguments(self) -> list[str]:
        return [str(self._config), "--sentinel"]


class Watched:
    """A master, its replica, and the Sentinels that watch them."""

    def __init__(
        self,
        master: RedisServer,
        replica: RedisServer,
        sentinels: list[SentinelServer],
    ) -> None:
        self.master, self.replica, self.sentinels = master, replica, sentinels

    @property
    def sentinel(self) -> SentinelServer:
        """The last of them."""
        return self.sentinels[-1]

    @property
    def url(self) -> str:
        places = ",".join(f"127.0.0.1:{one.port}" for one in self.sentinels)
        return f"redis+sentinel://{places}/{SERVICE}"

    def named(self) -> int:
        """The port of the master that Sentinel names."""
        named = self.sentinel.command("SENTINEL", "get-master-addr-by-name", SERVICE)
        return int(named[1])

    def fail_over(self) -> None:
        """Ask for a failover while the master is well, and wait until it is over."""
        before = self.named()
        self.sentinel.command("SENTINEL", "FAILOVER", SERVICE)
        until(lambda: self.named() != before, 15, "another master")


@contextmanager
def redis_watched(
    sentinels: int = 1, *, each: Each = lambda _: (), lines: Each | None = None
) -> Iterator[Watched]:
    """Running, and the Sentinels know of the replica and of each other. `each` and
    `lines` tell what else is set of a Redis and of a Sentinel."""
    with ExitStack() as stack:
        ports = free_port(), free_port()
        master, replica = stack.enter_context(_servers(*ports, each=each))
        replicate(replica, master)
        watching = []
        for _ in range(sentinels):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="shmr-"))
            port, quorum = free_port(), sentinels // 2 + 1
            more = lines(port) if lines else ()
            one = SentinelServer(Path(folder), port, master, quorum, more)
            watching.append(stack.enter_context(closing(one)))
            one.start()
        for one in watching:
            until(lambda one=one: _known(one) == (1, sentinels - 1), 15, "all known")
        yield Watched(master, replica, watching)


def replicate(replica: RedisServer, master: RedisServer) -> None:
    """Until it has what the master has."""
    replica.command("REPLICAOF", "127.0.0.1", master.port)
    until(
        lambda: info(replica, "replication").get("master_link_status") == "up",
        15,
        "the replica in step",
    )


def _known(sentinel: RedisServer) -> tuple[int, int]:
    """How many replicas that are well it knows, and how many other Sentinels."""
    replicas = sentinel.command("SENTINEL", "replicas", SERVICE)
    others = sentinel.command("SENTINEL", "sentinels", SERVICE)
    well = [_flag(one) for one in others].count("sentinel")
    return [_flag(one) for one in replicas].count("slave"), well


def _flag(known: Any) -> str:
    """A reply of pairs, or what the client library made of it."""
    if not isinstance(known, dict):
        known = dict(zip(known[::2], known[1::2], strict=True))
    flags = known.get("flags", known.get(b"flags"))
    return flags.decode() if isinstance(flags, bytes) else str(flags)


@contextmanager
def _servers(
    *ports: int, flags: tuple[str, ...] = (), each: Each = lambda _: ()
) -> Iterator[list[RedisServer]]:
    """One for each port, each in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="shmr-") as folder:
        servers = []
        try:
            for port in ports:
                own = Path(folder) / str(port)
                own.mkdir()
                servers.append(RedisServer(own, port, *flags, *each(port)))
                servers[-1].start()
            yield servers
        finally:
            for server in servers:
                server.kill()


# --- ACL --------------------------------------------------------------------------


def add_user(server: RedisServer, name: str, password: str, rules: str) -> None:
    """A user with these rights and no others."""
    server.command(
        "ACL", "SETUSER", name, "reset", "on", f">{password}", *rules.split()
    )
