"""The seams between library and simulation, and the fleet that histories reuse.

Inside `Fleet` the library's modules find simulated segments, sockets, connections,
randomness; all else of them is what users run. The memory of the hosts is made once and
reset by copy for each history.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from unittest import mock

import shmcache.claim
import shmcache.conditional
import shmcache.follower
import shmcache.l1
import shmcache.operations
import shmcache.parts
import shmcache.scripts
from shmcache import Cache, CacheConfig
from shmcache.codec import MSGPACK
from shmcache.link import StrangerError
from shmcache.record import Record

from .attachment import SimHost, SimSegment, SimSocket, SimTable
from .history import Value

if TYPE_CHECKING:
    from .world import Process, World

SIZE = 512 * 1024
_BEAT = 0.5
"""Seconds; twice what is usual, for beats are most of what idle processes do, and still
half of what makes one overdue."""


class Fleet:
    """Hosts for one history after the other, in one thread."""

    def __init__(self, hosts: int = 2) -> None:
        seeds = random.Random(0)
        self.hosts = [SimHost(self, i, SIZE, seeds.randbytes(16)) for i in range(hosts)]
        self.booting: Process | None = None
        self.config = CacheConfig(
            "sim", SIZE, l2="redis://127.0.0.1:6379/0", hard_timeout=5.0, jitter=0.0
        )

    def make_cache(self, process: Process) -> Cache:
        """What a process that starts on its host opens."""
        self.booting = process
        try:
            return Cache(self.config, clock=process.host.clock)
        finally:
            self.booting = None

    # -- what the library is given in place of the kernel and the network

    def _segment(self, *_: Any, **__: Any) -> SimSegment:
        assert self.booting is not None
        return SimSegment(self.booting)

    def _table(self, memory: Any, **_: Any) -> SimTable:
        assert self.booting is not None
        table = SimTable(memory)
        table.process = self.booting
        return table

    def _l2(self, *args: Any, **more: Any) -> Any:
        assert self.booting is not None
        more.setdefault("clock", self.booting.host.clock)
        return _real_l2(*args, **more)

    @contextlib.contextmanager
    def installed(self) -> Iterator[Fleet]:
        """The seams in place."""
        shim = _Module(shmcache.l1.binding, Table=self._table)
        with contextlib.ExitStack() as stack:
            put = stack.enter_context
            put(mock.patch.object(shmcache.l1, "binding", shim))
            put(mock.patch.object(shmcache.l1.Segment, "open", self._segment))
            put(mock.patch.object(shmcache.l1.clocks, "boot_id", lambda: bytes(16)))
            put(mock.patch.object(shmcache.follower, "_LOOK", 0.02))
            put(mock.patch.object(shmcache.follower, "BEAT_SECONDS", _BEAT))
            put(mock.patch.object(shmcache.claim, "BEAT", _BEAT))
            put(mock.patch.object(shmcache.parts, "L2", self._l2))
            put(mock.patch.object(shmcache.scripts, "files", _files))
            put(mock.patch.object(shmcache.operations.Operation, "_fail", _fail))
            conditional = shmcache.conditional.Conditional
            put(mock.patch.object(conditional, "_store_if", _store_if))
            put(mock.patch.object(shmcache.claim, "socket", _Sockets()))
            put(mock.patch.object(shmcache.claim, "os", _Files(os)))
            yield self

    @contextlib.contextmanager
    def chance(self, world: World) -> Iterator[None]:
        """All randomness of the library from the world's seed."""
        state = random.getstate()
        random.seed(world.random.getrandbits(64))
        with mock.patch.object(os, "urandom", world.random.randbytes):
            try:
                yield
            finally:
                random.setstate(state)


class _Scripts:
    """The folder of scripts, read once; a mutation may stand in for one."""

    def __init__(self) -> None:
        self.instead: dict[str, bytes] = {}
        self._read: dict[str, bytes] = {}
        self._name = ""

    def joinpath(self, name: str) -> _Scripts:
        self._name = name
        return self

    def read_bytes(self) -> bytes:
        name = self._name
        if name not in self._read:
            self._read[name] = _real_files("shmcache.lua").joinpath(name).read_bytes()
        return self.instead.get(name, self._read[name])


SCRIPTS = _Scripts()
_real_l2 = shmcache.parts.L2
_real_files = shmcache.scripts.files
_real_fail = shmcache.operations.Operation._fail
_real_store_if = shmcache.conditional.Conditional._store_if


async def _store_if(
    conditional: shmcache.conditional.Conditional,
    key: bytes,
    record: Record,
    **condition: Any,
) -> bool:
    """Notes the value: nobody but this host has agreed to it."""
    loop: Any = asyncio.get_running_loop()
    number = Value.of(MSGPACK.decode(record.value)).number
    loop.process.world.alone.add(number)
    return await _real_store_if(conditional, key, record, **condition)


def _fail(operation: shmcache.operations.Operation, error: Exception) -> None:
    """Notes when a process would not read of a Redis that its host does not follow."""
    loop: Any = asyncio.get_running_loop()
    if isinstance(error, StrangerError):
        loop.process.strange_at = loop.process.world.now
    _real_fail(operation, error)


def _files(package: str) -> _Scripts:
    return SCRIPTS


class _Module:
    """A module with some names replaced."""

    def __init__(self, real: Any, **names: Any) -> None:
        self.__dict__.update({n: getattr(real, n) for n in dir(real)}, **names)


class _Files:
    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    @staticmethod
    def unlink(path: str) -> None:
        raise FileNotFoundError

    @staticmethod
    def fchmod(fd: int, mode: int) -> None:
        pass


class _Sockets:
    AF_UNIX = SOCK_DGRAM = 0

    @staticmethod
    def socket(*_: Any) -> SimSocket:
        return SimSocket(asyncio.get_running_loop().process)  # type: ignore[attr-defined]
