"""Lease: one computation per key in the fleet, by a token that every store checks.

Who may write
    A lease is a key of Redis with a life of a few seconds, whose value is its holder's
    token. Only a store that bears the token is accepted. A token is offered once, so
    what an old holder still has under way is refused for ever.

What if the holder dies
    Nobody renews; the lease ends with its life, and the next to ask has it. On the
    holder's own host that is sooner: who takes its claim over asks for the lease
    *instead of* the token in the claim.

Wake-ups
    A message may be lost, so it is a hint and means "ask again", and whoever waits
    asks again anyway: after 500 ms, or when the lease must have ended. Every
    acknowledged subscription wakes all who wait, for messages sent before it are lost.
    The connection may be to any master of a Cluster; else to the one that is followed.
    1. An ask notes this process' channel in Redis, and answers WAIT.
    2. The holder stores, and the message arrives before the asker begins to wait.
    So a wake-up that nobody waits for is kept for a moment, for the wait to come.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections import OrderedDict

from .ask import FleetClock
from .errors import TierUnavailable
from .l2 import L2
from .link import ReplyError, Wire, cut, forever

POLL = 0.5
JITTER = 0.05
HEARTBEAT = 1.0
KEPT = 1024
"""Wake-ups that came before their wait, and..."""
KEPT_SECONDS = 1.0

log = logging.getLogger("shmcache.lease")


class Lease:
    """A lease that was won, renewed until `stop`."""

    def __init__(self, l2: L2, key: bytes, token: bytes, clock: FleetClock) -> None:
        self.key = key
        self.token = token
        self.clock = clock
        """The fleet's clock when it was granted, for `put_fenced`."""
        self.lost = asyncio.Event()
        """Another may hold it: the store will be refused."""
        self._l2 = l2
        self._task = asyncio.get_running_loop().create_task(
            self._renew_forever(), name="shmcache-lease"
        )

    def stop(self) -> None:
        """Renew no more."""
        self._task.cancel()

    async def _renew_forever(self) -> None:
        life = self._l2.lease_ms / 1000
        loop = asyncio.get_running_loop()
        ends = loop.time() + life
        while not self.lost.is_set():
            await asyncio.sleep(life / 3 * random.uniform(0.8, 1))
            sent = loop.time()
            try:
                if await self._l2.renew(self.key, self.token, self._l2.lease_ms):
                    ends = sent + life
                else:
                    self.lost.set()
            except TierUnavailable:
                if loop.time() >= ends:
                    self.lost.set()


class Leases:
    """This process' leases, and its one subscription to wake-ups."""

    def __init__(self, l2: L2) -> None:
        self.channel = _channel(l2)
        """Where wake-ups for this process are published; `acquire` notes it."""
        self.subscriptions = 0
        """Acknowledged so far."""
        self._l2 = l2
        self._waits: dict[bytes, set[asyncio.Future[None]]] = {}
        self._early: OrderedDict[bytes, float] = OrderedDict()
        self._refused = False
        """And told so."""
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to subscribe; whether Redis is there does not matter."""
        self.channel = _channel(self._l2)  # a forked child has its own
        self._task = asyncio.get_running_loop().create_task(
            self._listen_forever(), name="shmcache-wake-ups"
        )

    async def close(self) -> None:
        """Hang up, and end every wait."""
        if self._task is not None:
            await cut([self._task])
            self._task = None
        self._wake_all()

    def hold(self, key: bytes, token: bytes, clock: FleetClock) -> Lease:
        """The lease that `acquire` has WON for `token`."""
        return Lease(self._l2, key, token, clock)

    async def wait(self, key: bytes, wait_ms: int) -> None:
        """Until it is time to ask again: a wake-up for the key, or the lease's end
        (`wait_ms` of the answer), or 500 ms."""
        loop = asyncio.get_running_loop()
        came = self._early.pop(key, None)
        if came is not None and loop.time() - came <= KEPT_SECONDS:
            return
        woken: asyncio.Future[None] = loop.create_future()
        self._waits.setdefault(key, set()).add(woken)
        try:
            patience = min(POLL, max(wait_ms, 0) / 1000 + random.uniform(0, JITTER))
            await asyncio.wait({woken}, timeout=patience)
        finally:
            waits = self._waits.get(key)
            if waits is not None:
                waits.discard(woken)
                if not waits:
                    del self._waits[key]

    # -- the subscription

    async def _listen_forever(self) -> None:
        await forever(self._listen, lambda: self.subscriptions, self._broken)

    def _broken(self, error: Exception) -> None:
        """Told once where it is refused: that does not end by itself."""
        refused = isinstance(error, ReplyError) and not self._refused
        self._refused = self._refused or refused
        level = logging.WARNING if refused else logging.DEBUG
        log.log(level, "the subscription to wake-ups ended: %r", error)

    async def _listen(self) -> None:
        async with asyncio.timeout(HEARTBEAT):
            wire = await self._l2.topology.connect()
        message: asyncio.Task[object] | None = None
        try:
            before = self.subscriptions
            await wire.send("SUBSCRIBE", self.channel)
            pinged = False
            while True:
                # a Redis that is stopped keeps its connections: only a PONG tells
                message = message or asyncio.create_task(wire.read())
                done, _ = await asyncio.wait({message}, timeout=HEARTBEAT)
                if done:
                    received = message.result()
                    if (
                        isinstance(received, ReplyError)
                        and self.subscriptions == before
                    ):
                        raise received
                    self._received(received)
                    message, pinged = None, False
                elif pinged:
                    raise TimeoutError("no PONG")
                elif self._l2.topology.astray(wire):
                    raise ConnectionError("this host follows another master")
                else:
                    pinged = True
                    await wire.send("PING")
        finally:
            await self._leave(wire, message)

    @staticmethod
    async def _leave(wire: Wire, message: asyncio.Task[object] | None) -> None:
        if message is not None:
            await cut([message])
        await wire.hang_up()

    def _received(self, message: object) -> None:
        if not isinstance(message, list) or len(message) != 3:
            return  # a PONG, or an error in its place
        if message[0] == b"message":
            self._wake(self._l2.names.key(message[2]))
        elif message[0] == b"subscribe":
            self.subscriptions += 1
            self._refused = False
            self._wake_all()

    def _wake(self, key: bytes) -> None:
        waits = self._waits.get(key)
        if not waits:
            self._early.pop(key, None)
            self._early[key] = asyncio.get_running_loop().time()
            if len(self._early) > KEPT:
                self._early.popitem(last=False)
            return
        for woken in waits:
            if not woken.done():
                woken.set_result(None)

    def _wake_all(self) -> None:
        for key in list(self._waits):
            self._wake(key)


def _channel(l2: L2) -> bytes:
    return l2.names.channels + os.urandom(8).hex().encode()
