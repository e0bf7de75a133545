"""Cluster: nodes that have the slots among them, and which of them has ours.

All keys of a partition lie in one slot, and so on one master. What a node says it has
not (MOVED, ASK) did not run there, and is sent where it says. Where a node does not
answer, its partitions are looked for at another node; those of other nodes do not
notice. While a slot is being moved, scripts fail as those of any program with several
keys: half of them are here and half there.

A Cluster that does not serve the slots it has while others are missing
(cluster-require-full-coverage, on by itself) is down as a whole for us too.
"""

from __future__ import annotations

import asyncio
import random
from binascii import crc_hqx
from collections.abc import Callable, Sequence
from typing import Any

from .address import Address
from .link import Link, Pace, StrangerError, check, cut
from .resp import Command, ReplyError
from .target import Target
from .wire import Took, Wire

__all__ = ["PARTITIONS", "Cluster", "Slot"]

PARTITIONS = 16
"""Of an app on a Cluster."""
_SLOTS = 16384
_NODE_CONNECTIONS = 4
_REDIRECTS = 4
_SHARE = 4
"""Of the timeout, for each node that is asked for the map."""
_LEAVE = 4
"""Timeouts: an exchange may connect, log in and ask."""
_LOOK_AGAIN = (0.1, 0.3)
"""Seconds, by chance: a dead node is on the map until its replica takes over."""

Expects = Callable[[int], int]
Place = tuple[str, int]


class Cluster:
    """Nodes that have the slots among them, and which of them has ours."""

    partitions = PARTITIONS

    def __init__(
        self, target: Target, app: str, timeout: float, expects: Expects | None
    ) -> None:
        self._target = target.addresses[0]
        self._seeds = [(a.host, a.port) for a in target.addresses]
        self._timeout = timeout
        self._nodes: dict[Place, Link] = {}
        self._owners: dict[int, Place] = {}
        self._doubted: set[int] = set()
        self._pace = Pace()
        self._asking = asyncio.Lock()
        self._asked = 0
        self._past_connects = 0
        self._leaving: dict[asyncio.Task[None], Link] = {}
        self._look_at = 0.0
        self._links = [Slot(self, app, p, expects) for p in range(PARTITIONS)]

    @property
    def connects(self) -> int:
        now = sum(node.connects for node in self._nodes.values())
        return self._asked + self._past_connects + now

    def link(self, partition: int) -> Slot:
        return self._links[partition]

    async def connect(self) -> Wire:
        if not self._owners or self._due():
            await self._look()
        places = list(set(self._owners.values()))
        random.shuffle(places)
        why: Exception = ConnectionError("l2: no node of the Cluster is known")
        for place in places:
            try:
                return await self.node(place).connect()
            except Exception as error:
                why = error
        self._doubted.update(range(PARTITIONS))
        raise why

    def astray(self, wire: Wire) -> bool:
        """Never: a message goes to every node."""
        return False

    async def check(self) -> None:
        await check(self._checked, "cluster")

    async def _checked(self) -> Wire:
        await self._look()
        if len(self._owners) < PARTITIONS:
            raise ConnectionError("l2: slots of the Cluster are served by no node")
        return await self.connect()

    async def close(self) -> None:
        left = dict(self._leaving)
        await cut(left)
        for node in (*self._nodes.values(), *left.values()):
            await node.close()

    def node(self, place: Place) -> Link:
        if place not in self._nodes:
            address = self._target.at(*place)
            self._nodes[place] = Link(
                lambda: address.open(self._timeout, mode="cluster"),
                connections=_NODE_CONNECTIONS,
            )
        return self._nodes[place]

    async def owner(self, slot: Slot) -> Place:
        """Who has it; looked for if it is not known, or did not answer of late."""
        p = slot.partition
        if p not in self._owners:
            self._doubted.add(p)
        if p in self._doubted and self._due():
            try:
                await self._look()
            except Exception:
                if p not in self._owners:
                    raise
        if p not in self._owners:
            raise ConnectionError("l2: this slot of the Cluster is served by no node")
        return self._owners[p]

    def moved(self, slot: Slot, place: Place) -> None:
        self._owners[slot.partition] = place

    def doubt(self, slot: Slot) -> None:
        """It may be elsewhere by now."""
        self._doubted.add(slot.partition)

    def _due(self) -> bool:
        """Whether the map that was seen last is to be doubted by now."""
        return bool(self._doubted) and _now() >= self._look_at

    async def _look(self) -> None:
        """Ask a node for the slots' owners; who comes meanwhile waits for that."""
        before = self._look_at
        async with self._asking:
            if self._look_at != before:
                return
            self._pace.enter()
            try:
                owners = await self._ask_any()
            except BaseException as error:
                self._pace.failed(error)
                raise
            self._pace.succeeded()
            self._owners = owners
            self._doubted.clear()
            self._prune()
            self._look_at = _now() + random.uniform(*_LOOK_AGAIN)

    def _prune(self) -> None:
        """Leave the nodes that have nothing of ours any more."""
        for place in self._nodes.keys() - set(self._owners.values()):
            node = self._nodes.pop(place)
            self._past_connects += node.connects
            leaving = asyncio.create_task(self._leave(node), name="shmcache-leave")
            self._leaving[leaving] = node
            leaving.add_done_callback(lambda task: self._leaving.pop(task, None))

    async def _leave(self, node: Link) -> None:
        await asyncio.sleep(_LEAVE * self._timeout)  # exchanges under way end by then
        await node.close()

    async def _ask_any(self) -> dict[int, Place]:
        node, wire = await self._any()
        try:
            (reply,) = await wire.ask(("CLUSTER", "SLOTS"))
            if isinstance(reply, ReplyError):
                raise await node.why(wire, reply, "cluster")
        finally:
            wire.drop()
        owners, asked = {}, node.host
        for first, last, (host, port, *_), *_replicas in reply:
            # a node that does not know its own name is where we asked
            place = (host.decode() if host else asked, port)
            for slot in self._links:
                if first <= slot.number <= last:
                    owners[slot.partition] = place
        return owners

    async def _any(self) -> tuple[Address, Wire]:
        """To any node: the first that answers, in an order of chance."""
        places = list({*self._seeds, *self._owners.values()})
        random.shuffle(places)
        why: Exception | None = None
        for place in places:
            self._asked += 1
            node = self._target.at(*place)
            try:
                return node, await node.open(self._timeout / _SHARE, any_role=True)
            except Exception as error:
                why = error
        assert why is not None
        raise why


class Slot:
    """The partition that lies in a slot of the Cluster."""

    def __init__(
        self, cluster: Cluster, app: str, partition: int, expects: Expects | None
    ) -> None:
        self.partition = partition
        tag = f"{app}:{partition}"
        self.number = crc_hqx(tag.encode(), 0) % _SLOTS
        self.expects = None if expects is None else lambda: expects(partition)
        self._cluster = cluster
        self._probe = ("PTTL", f"shmcache:{{{tag}}}:g")

    @property
    def connects(self) -> int:
        """Of the whole Cluster."""
        return self._cluster.connects

    async def exchange(self, *commands: Command) -> list[Any]:
        """`Link.exchange` with the master that has the slot."""
        replies: list[Any] = [None] * len(commands)
        left = list(range(len(commands)))
        place, asking = await self._cluster.owner(self), False
        for _ in range(_REDIRECTS):
            answers = await self._sent(place, asking, [commands[i] for i in left])
            again = []
            for i, answer in zip(left, answers, strict=True):
                replies[i] = answer
                redirect = _redirect(answer, place)
                if redirect is not None:
                    again.append(i)
                    place, asking = redirect
                    if not asking:
                        self._cluster.moved(self, place)
            if not again:
                return replies
            left = again
        raise ConnectionError("l2: the nodes of the Cluster do not agree on a slot")

    def begin(self, commands: Sequence[Command], took: Took) -> Wire | None:
        """None: what is written may have to be sent elsewhere."""
        return None

    async def connect(self) -> Wire:
        """`Link.connect` to the master that has the slot."""
        place = await self._cluster.owner(self)
        for _ in range(_REDIRECTS):
            try:
                wire = await self._cluster.node(place).connect()
            except BaseException:
                self._cluster.doubt(self)
                raise
            (answer,) = await wire.ask(self._probe)
            redirect = _redirect(answer, place)
            if redirect is None or redirect[1]:
                return wire
            wire.drop()
            place = redirect[0]
            self._cluster.moved(self, place)
        raise ConnectionError("l2: the nodes of the Cluster do not agree on a slot")

    async def check(self) -> None:
        await self._cluster.check()

    async def close(self) -> None:
        """The Cluster closes the connections: its partitions share them."""

    async def _sent(
        self, place: Place, asking: bool, commands: list[Command]
    ) -> list[Any]:
        node = self._cluster.node(place)
        expected = self.expects() if self.expects else None
        if asking:  # it holds for one command
            commands = [word for command in commands for word in (("ASKING",), command)]
        try:
            answers = await node.run(commands, expected)
            for answer in answers:
                if isinstance(answer, ReplyError) and answer.code in _DOWN:
                    raise ConnectionError(f"l2: {answer}")
        except StrangerError:
            raise
        except BaseException:  # cancelled because it hangs, too
            self._cluster.doubt(self)
            raise
        return answers[1::2] if asking else answers


_DOWN = ("CLUSTERDOWN", "TRYAGAIN")


def _redirect(answer: Any, said: Place) -> tuple[Place, bool] | None:
    """Where to, and whether for this once only."""
    if not isinstance(answer, ReplyError) or answer.code not in ("MOVED", "ASK"):
        return None
    host, _, port = str(answer).split(" ")[2].rpartition(":")
    return (host or said[0], int(port)), answer.code == "ASK"


def _now() -> float:
    return asyncio.get_running_loop().time()
