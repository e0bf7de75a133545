"""Topology: one Redis, the master that Sentinel names, or the nodes of a Cluster.

Valkey speaks the same protocol and has the same kinds; nothing here asks which it is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from .cluster import Cluster
from .link import Link
from .resp import Command
from .sentinel import Sentinels
from .target import parse
from .wire import Took, Wire

__all__ = ["Partition", "Topology", "open_topology"]

Expects = Callable[[int], int]


class Partition(Protocol):
    """Connections to the master that has a partition."""

    expects: Callable[[], int] | None

    @property
    def connects(self) -> int: ...
    async def exchange(self, *commands: Command) -> list[Any]: ...
    def begin(self, commands: Sequence[Command], took: Took) -> Wire | None: ...
    async def connect(self) -> Wire: ...
    async def check(self) -> None: ...
    async def close(self) -> None: ...


class Topology(Protocol):
    """Where the partitions of an app are."""

    @property
    def partitions(self) -> int:
        """Among which the keys are divided: 1, or 16 on a Cluster."""
        ...

    @property
    def connects(self) -> int:
        """Tried so far."""
        ...

    def link(self, partition: int) -> Partition:
        """Connections to the master that has the partition."""
        ...

    async def connect(self) -> Wire:
        """A connection of the caller's own for pub/sub, which any master carries."""
        ...

    def astray(self, wire: Wire) -> bool:
        """Whether that connection is to another master than the one that is followed,
        and is to be made anew."""
        ...

    async def check(self) -> None:
        """`ConfigError` names a setting that can never work; else whatever befell."""

    async def close(self) -> None:
        """Close what is idle. Exchanges must have ended."""


def open_topology(
    url: str, app: str, *, timeout: float, expects: Expects | None = None
) -> Topology:
    """What the URL names; connects at the first exchange. `ConfigError` if it is none.

    `timeout` bounds connecting and each exchange. `expects` gives the identity that
    the host has noted for a partition, 0 for none yet.
    """
    target = parse(url)
    if target.kind == "cluster":
        return Cluster(target, app, timeout, expects)
    if target.kind == "sentinel":
        sentinels = Sentinels(target, timeout)
        return Single(sentinels.open, expects, sentinels.close)
    address = target.addresses[0]
    return Single(lambda: address.open(timeout), expects)


class Single:
    """One master, wherever `open` finds it."""

    partitions = 1

    def __init__(
        self,
        open: Callable[[], Awaitable[Wire]],
        expects: Expects | None,
        close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._close = close
        self._link = Link(open)
        if expects is not None:
            self._link.expects = lambda: expects(0)

    @property
    def connects(self) -> int:
        return self._link.connects

    def link(self, partition: int) -> Partition:
        return self._link

    async def connect(self) -> Wire:
        return await self._link.connect()

    def astray(self, wire: Wire) -> bool:
        expected = self._link.expects() if self._link.expects else 0
        return expected not in (0, wire.identity)

    async def check(self) -> None:
        await self._link.check()

    async def close(self) -> None:
        if self._close is not None:
            await self._close()
        await self._link.close()
