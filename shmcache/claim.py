"""Claim: one computation per key on this host, and the wake-up of those who wait.

Election
    A claim is one word in the segment, taken by CAS in the C core (`table.h` draws it,
    `claim.c` tells the protocol). It names its holder's slot, and the slot's
    incarnation, so that a process which comes to a dead one's slot is not taken for
    it. Where a key's set is full the caller goes on without a claim: the lease alone
    decides.

Waiting
    1. The waiter sets its bit in the claim's bitmap.
    2. It reads the word again, and parks only if the word still stands.
    The changer does the reverse: it changes the word, then takes the bitmap and wakes
    all in it. So either the waiter sees the change, or the changer sees the bit.
    A wake-up is an empty datagram and means "look again". A lost one costs no more
    than 50 ms: whoever is parked looks at word and holder that often.

What if the holder dies
    The kernel drops the lock on its slot's byte with the process. A waiter that finds
    it gone, or finds no beat for a lease life (a stopped process, a blocked loop),
    takes the claim over by one CAS. It learns the lease token that the holder had
    noted, and asks for the lease *instead of* that token. A claim that nobody waits for
    is reaped (`reaper.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

from .errors import SegmentError
from .fill import mark
from .keys import holder_key
from .l1 import FREED_STORED, FULL, L1, OK
from .policy import SECOND
from .record import PASS

POLL = 0.05
BEAT = 0.25
_STATE = 0b111
_HOLDER = 0xFFFFF8
"""Slot and incarnation, as `table.h` draws the claim word."""


@dataclass(slots=True)
class Claim:
    """A claim that is ours, until it is freed or somebody took it over."""

    key: bytes
    index: int
    """-1 where the set was full: nobody on the host waits for us."""
    word: int
    instead_of: bytes = b""
    """Lease token of the holder that it was taken over from."""
    named: bool = False
    """Its key stands in L1, for who may have to reap it."""

    @property
    def ref(self) -> tuple[int, int] | None:
        """What the table checks at a store."""
        return (self.index, self.word) if self.index >= 0 else None


@dataclass(frozen=True, slots=True)
class Held:
    """Somebody else's claim, to wait on."""

    index: int
    word: int


class Claims:
    """This process' side of the segment's claims; lives on one event loop."""

    def __init__(
        self, l1: L1, overdue: float, on_beat: Callable[[], None] | None = None
    ) -> None:
        """`overdue`: seconds without a beat after which a living holder has lost its
        claims. `on_beat` is called at each of our own beats."""
        self._l1 = l1
        self._table = l1.table
        self._on_beat = on_beat
        self._overdue = int(overdue * SECOND)
        self._parked: dict[Held, set[asyncio.Future[None]]] = {}
        self._socket: socket.socket | None = None
        self._beating: asyncio.Task[None] | None = None
        self._poll: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Bind the wake socket and begin to beat."""
        path = self._l1.segment.wake_path(self._table.slot)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # of a dead process that had our slot
        self._socket = sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.setblocking(False)
        os.fchmod(sock.fileno(), 0o600)  # before bind: the path is made with it
        try:
            sock.bind(path)
        except OSError as e:
            sock.close()
            raise SegmentError(f"wake socket {path}: {e.strerror}") from e
        loop = asyncio.get_running_loop()
        loop.add_reader(sock, self._woken)
        self._beating = loop.create_task(self._beat_forever(), name="shmcache-beat")

    async def close(self) -> None:
        """Stop beating, end every wait, remove the wake socket."""
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)
            self._beating = None
        for held in list(self._parked):
            self._unpark(held)
        if self._poll is not None:
            self._poll.cancel()
            self._poll = None
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
        self.unbind()

    def unbind(self) -> None:
        """Close and remove the wake socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._l1.segment.wake_path(self._table.slot))

    # -- taking and freeing

    def take(self, key: bytes) -> Claim | Held:
        """The key's claim, or the one that another process has."""
        while True:
            answer, index, word, wake = self._table.claim_take(key)
            self.wake(wake)
            if answer == OK:
                return Claim(key, index, word)
            if answer == FULL:
                return Claim(key, -1, 0)
            if not self._forfeit(key, index, word):
                # Ours already means another key of the same hash bits: a wait for
                # it, from inside its own compute, would never end.
                return Claim(key, -1, 0) if self._mine(word) else Held(index, word)
            noted = self._table.claim_noted(index, word)
            answer, taken, wake = self._table.claim_over(index, word)
            self.wake(wake)
            if answer == OK:
                self._l1.count("claims_taken_over")
                return Claim(key, index, taken, noted[2] if noted else b"")

    def note(self, claim: Claim, stamp: int, deadline: int, token: bytes = b"") -> bool:
        """Write stamp, deadline and token beside the claim; False if it is lost."""
        if claim.index < 0:
            return True
        return (
            self._table.claim_note(claim.index, claim.word, stamp, deadline, token)
            == OK
        )

    def name(self, claim: Claim) -> None:
        """Leave the claim's key for a reaper: the claim itself has but a hash of it."""
        if claim.index >= 0:
            now, stamp = self._l1.clock.now(), self._table.clock()
            record = mark(PASS, claim.key, None, now=now, stamp=stamp)
            self._l1.put(holder_key(claim.index, claim.word), record)
            claim.named = True

    def free(self, claim: Claim, state: int = FREED_STORED) -> None:
        """End the claim, telling those who wait why; nothing if it was lost."""
        if claim.named:
            self._table.drop(holder_key(claim.index, claim.word))
        if claim.index >= 0:
            _, wake = self._table.claim_free(claim.index, claim.word, state)
            self.wake(wake)

    # -- waiting

    def slot_of(self, held: Held) -> int:
        """That of the process which has it."""
        return self._table.claim_parts(held.word)[1]

    async def wait(self, held: Held) -> int | None:
        """Until the claim changes or its holder is gone; bound it from outside.

        The state it was freed with, None if that is no longer to be known.
        """
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        waiting = self._parked.setdefault(held, set())
        waiting.add(future)
        self._l1.count("claim_waits")
        if self._poll is None:
            self._poll = loop.call_later(POLL, self._poll_parked)
        try:
            if self._table.claim_wait(held.index, held.word):
                await future
        finally:
            waiting.discard(future)
            if not waiting and self._parked.get(held) is waiting:
                del self._parked[held]
        now = self._table.claim_word(held.index)
        if now & ~_STATE == held.word & ~_STATE:
            return now & _STATE
        return None

    def _forfeit(self, key: bytes, index: int, word: int) -> bool:
        """Whether the holder is dead or overdue, or an invalidation voided it."""
        return self._gone(word) or self._table.claim_void(index, word, key)

    def _gone(self, word: int) -> bool:
        _, slot, incarnation, _, _ = self._table.claim_parts(word)
        if not self._l1.alive(slot, incarnation):
            return True
        beat = self._table.slot_info(slot)[2]
        return self._l1.clock.now() - beat > self._overdue

    def _mine(self, word: int) -> bool:
        _, slot, incarnation, _, _ = self._table.claim_parts(word)
        return slot == self._table.slot and not (
            (incarnation ^ self._table.incarnation) & 0xFFF
        )

    # -- wake-ups

    def wake(self, bitmap: int) -> None:
        """Send an empty datagram to every process whose bit is set."""
        while bitmap:
            slot = (bitmap & -bitmap).bit_length() - 1
            bitmap &= bitmap - 1
            if slot == self._table.slot:
                asyncio.get_running_loop().call_soon(self._look_again)
            elif self._socket is not None:
                # Dead, or its queue is full: it looks again by itself.
                with contextlib.suppress(OSError):
                    self._socket.sendto(b"", self._l1.segment.wake_path(slot))

    def _woken(self) -> None:
        assert self._socket is not None
        self._l1.count("wakeups")
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(1)
        self._look_again()

    def _look_again(self) -> None:
        for held in list(self._parked):
            if self._table.claim_word(held.index) != held.word:
                self._unpark(held)

    def _poll_parked(self) -> None:
        """For lost wake-ups and dead holders: one look at each word, one at each
        holder, however many keys are parked."""
        self._look_again()
        gone: dict[int, bool] = {}
        for held in list(self._parked):
            holder = held.word & _HOLDER
            if holder not in gone:
                gone[holder] = self._gone(held.word)
            if gone[holder]:
                self._unpark(held)
            else:  # the bit may have been taken by one who woke nobody
                self._table.claim_wait(held.index, held.word)
        loop = asyncio.get_running_loop()
        self._poll = loop.call_later(POLL, self._poll_parked) if self._parked else None

    def _unpark(self, held: Held) -> None:
        for future in self._parked.pop(held, ()):
            if not future.done():
                future.set_result(None)

    async def _beat_forever(self) -> None:
        while True:
            self._l1.beat()
            if self._on_beat is not None:
                self._on_beat()
            await asyncio.sleep(BEAT)
