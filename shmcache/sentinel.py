"""Sentinels: they know which Redis is the master of a service.

A master is believed when it says itself that it is one. Where connecting to it fails,
the Sentinels are asked again, the one that answered last before the others.

A failover that is asked for leaves the old master one for ten seconds more: what is
written there in the meantime is lost, invalidations among it. So the Sentinels are
asked each second who it is, and connections to any other are cut.
"""

from __future__ import annotations

import asyncio
import random
from weakref import WeakSet

from .address import Address
from .errors import ConfigError
from .link import cut, forever
from .resp import ReplyError
from .target import Target
from .wire import Wire

__all__ = ["Sentinels"]

_SHARE = 4
"""Each Sentinel has this part of the timeout, for others may have to be asked."""

_WATCH = 1.0


class Sentinels:
    """They know which Redis is the master of a service."""

    def __init__(self, target: Target, timeout: float) -> None:
        assert target.master is not None
        self._sentinels = target.addresses
        self._service = target.service
        self._target = target.master
        self._timeout = timeout
        self._master: Address | None = None
        self._asking = asyncio.Lock()
        self._opened: WeakSet[Wire] = WeakSet()
        self._watch: asyncio.Task[None] | None = None
        self._answers = 0

    async def open(self) -> Wire:
        """A connection to the master."""
        wire = await self._known()
        if wire is None:
            async with self._asking:
                wire = await self._known() or await self._find()
        self._opened.add(wire)
        if self._watch is None:
            watching = self._watch_forever()
            self._watch = asyncio.create_task(watching, name="shmcache-sentinel")
        return wire

    async def close(self) -> None:
        """Ask no more."""
        if self._watch is not None:
            await cut([self._watch])
            self._watch = None

    # -- the master

    async def _known(self) -> Wire | None:
        """To the master of the last time, if it is one still."""
        master = self._master
        if master is None:
            return None
        try:
            return await master.open(self._timeout)
        except BaseException as error:  # cancelled because it hangs: another, next time
            if self._master is master:
                self._master = None
            if not isinstance(error, Exception):
                raise
            return None

    async def _find(self) -> Wire:
        """Ask one after another, until one names a master that says it is."""
        why: Exception = ConfigError("l2: no Sentinel knows the service")
        tried = set()
        for sentinel in tuple(self._sentinels):
            try:
                address = await self._named(sentinel)
                if address is None or repr(address) in tried:
                    continue
                tried.add(repr(address))
                wire = await address.open(self._timeout)
            except BaseException as error:
                self._last(sentinel)
                if not isinstance(error, Exception):
                    raise
                why = error
            else:
                self._master = address
                return wire
        raise why

    async def _named(self, sentinel: Address) -> Address | None:
        wire = await sentinel.open(self._timeout / _SHARE, any_role=True)
        try:
            return await self._ask(sentinel, wire)
        finally:
            wire.drop()

    async def _ask(self, sentinel: Address, wire: Wire) -> Address | None:
        """The master that a Sentinel names, None: it does not know the service."""
        (reply,) = await wire.ask(
            ("SENTINEL", "get-master-addr-by-name", self._service)
        )
        if isinstance(reply, ReplyError):
            raise await sentinel.why(wire, reply, "sentinel")
        return self._target.at(reply[0].decode(), int(reply[1])) if reply else None

    # -- whether it still is

    async def _watch_forever(self) -> None:
        await forever(self._watch_one, lambda: self._answers, lambda e: None)

    async def _watch_one(self) -> None:
        """Ask one Sentinel on one connection, until that breaks."""
        sentinel = self._sentinels[0]
        try:
            wire = await sentinel.open(self._timeout / _SHARE, any_role=True)
            try:
                while True:
                    self._follow(await self._ask(sentinel, wire))
                    self._answers += 1
                    await asyncio.sleep(_WATCH * random.uniform(0.8, 1))
            finally:
                wire.drop()
        except Exception:
            self._last(sentinel)
            raise

    def _last(self, sentinel: Address) -> None:
        """The others are asked before it."""
        self._sentinels.remove(sentinel)
        self._sentinels.append(sentinel)

    def _follow(self, named: Address | None) -> None:
        if named is None:
            return
        if repr(self._master) != repr(named):
            self._master = None
        for wire in tuple(self._opened):
            if wire.where != repr(named):
                wire.end(ConnectionError("l2: Sentinel names another master"))
