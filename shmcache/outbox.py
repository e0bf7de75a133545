"""Outbox: invalidations of this host that Redis has not confirmed, in the segment.

Why it is shared
    A process may die after it invalidated here and before it told the fleet. Its entry
    stands in the segment, and a sibling sends it.

Why an entry bears a clock
    1. a key is invalidated here, under a number of the clock; Redis is not told yet.
    2. a get begins, notes the clock as it is by now, and finds the old value in L2.
    3. it would promote it: its stamp is later than the number.
    So an entry bears the clock from before its number, a get reads the lowest of
    unsent entries before it asks, and uses no record of L2 of which anything was
    raised above that.

What is sent late
    The entries in their order; a set among them is a delete. What found no room, or a
    stopped process at the lock, is made up for by clearing the app: in Redis hard; in
    the segments by the gap word, so that they serve stale a while. To send an entry
    twice costs a miss, so nobody asks whether its sender is still at it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from .ask import Done, Invalidation
from .l1 import L1
from .l2 import L2

LOST = Invalidation(b"g", b"")
"""What is sent for entries that found no room."""
NUMBERS = (b"t", b"u")
LEFT_NS = 1_000_000_000
"""Age at which an entry's sender is taken to have given up: it waits no longer than
the deadline of one operation."""
BATCH, PIECE = 128, 256
_EVER, _ALL = 2**63 - 1, 2**31 - 1


class Outbox:
    """This host's, as one process sees it."""

    def __init__(self, l1: L1, l2: L2, origin: bytes) -> None:
        self._l1 = l1
        self._l2 = l2
        self._origin = origin

    def add(self, items: Sequence[Invalidation]) -> list[int]:
        """Note what is about to be done; before it is. Numbers for `sent`."""
        add, now = self._l1.table.outbox_add, self._l1.clock.now()
        numbers = [add(item.kind[0], _packed(item.name), now) for item in items]
        if not all(numbers):
            self._l1.count("outbox_overflows", numbers.count(0))
        return numbers

    def sent(self, numbers: Sequence[int]) -> None:
        """Redis has appended these to the stream."""
        for number in numbers:
            self._l1.table.outbox_sent(number)

    def left(self) -> bool:
        """Whether there is what no living sender is at any more."""
        return self.keeps(self._l1.clock.now() - LEFT_NS)

    def keeps(self, before: int) -> bool:
        """Whether anything that was added before that time is unsent, or lost."""
        table = self._l1.table
        return bool(table.outbox_overflow() or table.outbox_unsent(before, 1))

    async def tell(
        self, items: Sequence[Invalidation], *, probing: bool = False
    ) -> dict[int, Done]:
        """Tell every partition what concerns it; what each answered.

        `TierUnavailable` if one did not, once all are done.
        """
        batches: dict[int, list[Invalidation]] = {}
        for item in items:
            for partition in self._partitions(item):
                batches.setdefault(partition, []).append(item)
        done = await asyncio.gather(
            *(self._tell(p, batch, probing) for p, batch in batches.items()),
            return_exceptions=True,
        )
        answers: dict[int, Done] = {}
        for partition, one in zip(batches, done, strict=True):
            if isinstance(one, BaseException):
                raise one
            answers[partition] = one
        return answers

    def holds(self, key: bytes, tags: tuple[int, ...]) -> bool:
        """Whether Redis is still to be told of what voids a record of this key."""
        return bool(self._l1.table.outbox_overflow()) or any(
            item.name == key if item.of_key else item.name in (*tags, b"")
            for _, item in self._unsent(_EVER)
        )

    async def drain(self, partition: int) -> None:
        """Send all that is unsent and concerns the partition, in order, and what is
        added meanwhile: before it is used again."""
        told: set[int] = set()
        while kept := [
            (number, item)
            for number, item in self._unsent(_EVER)
            if partition in self._partitions(item) and number not in told
        ]:
            for some in _batches(kept):
                await self._tell(partition, [item for _, item in some], probing=True)
                told.update(number for number, _ in some)
                # what concerns other partitions too is sent when all have it
                self.sent([n for n, item in some if len(self._partitions(item)) == 1])
        if self._l1.table.outbox_overflow() and self._l2.partitions > 1:
            await self._tell(partition, [LOST], probing=True)
        else:
            await self._clear(probing=True)

    async def send_left(self) -> None:
        """Send what no living sender is at any more, but for partitions that are
        away."""
        before = self._l1.clock.now() - LEFT_NS
        while left := [
            (number, item)
            for number, item in self._unsent(before)
            if all(map(self._l2.up, self._partitions(item)))
        ]:
            for some in _batches(left):
                await self.tell([item for _, item in some])
                self.sent([number for number, _ in some])
        if self._l2.available:
            await self._clear(probing=False)

    # -- inside

    async def _clear(self, probing: bool) -> None:
        """Make up for what was lost; for what is lost meanwhile again."""
        table = self._l1.table
        while mark := table.outbox_overflow():
            await self.tell([LOST], probing=probing)
            table.outbox_overflowed(mark)

    async def _tell(
        self, partition: int, items: Sequence[Invalidation], probing: bool
    ) -> Done:
        return await self._l2.invalidate(
            items, partition=partition, origin=self._origin, probing=probing
        )

    def _partitions(self, item: Invalidation) -> Sequence[int]:
        if not item.of_key:
            return range(self._l2.partitions)
        assert isinstance(item.name, bytes)
        return (self._l2.partition(item.name),)

    def _unsent(self, before: int) -> list[tuple[int, Invalidation]]:
        # a piece at a time, for after an outage there may be very many; of several
        # partitions the first ones may concern others that are away
        piece = PIECE if self._l2.partitions == 1 else _ALL
        found = self._l1.table.outbox_unsent(before, piece)
        return [
            (number, Invalidation(bytes((kind,)), _unpacked(kind, name)))
            for number, _, kind, name in found
        ]


def _batches(
    items: Sequence[tuple[int, Invalidation]],
) -> Iterator[Sequence[tuple[int, Invalidation]]]:
    return (items[i : i + BATCH] for i in range(0, len(items), BATCH))


def _packed(name: bytes | int) -> bytes:
    return name if isinstance(name, bytes) else name.to_bytes(4, "little")


def _unpacked(kind: int, name: bytes) -> bytes | int:
    return int.from_bytes(name, "little") if bytes((kind,)) in NUMBERS else name
