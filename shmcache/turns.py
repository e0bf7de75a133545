"""Turns: asks of one turn of the loop, which travel together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .ask import Ask, settle_all
from .errors import TierUnavailable
from .operations import Operations

BATCH = 32
"""Keys of one exchange: while Redis works on a batch, we read the one before; and it
must not hold up Redis for others."""


class Turns:
    """Those of a partition that are asked alike."""

    def __init__(
        self, operations: Operations, begin: Callable[[list[Ask]], None]
    ) -> None:
        """`begin` is told each batch."""
        self._operations = operations
        self._begins = begin
        self._gathering: list[Ask] = []
        self._alone = True
        """The last one, when it was sent."""

    def add(self, ask: Ask) -> None:
        """It travels with all others of this turn of the loop; at once where none is
        to be expected, for a turn costs it much of a round trip."""
        if self._alone and not self._gathering and self._operations.idle:
            self._begin([ask])
            return
        if not self._gathering or len(self._gathering) >= BATCH:
            self._gathering = []
            asyncio.get_running_loop().call_soon(self._begin, self._gathering)
        self._gathering.append(ask)

    def _begin(self, asks: list[Ask]) -> None:
        if self._gathering is asks:
            self._gathering = []
        self._alone = len(asks) == 1
        asks = [ask for ask in asks if not ask.settled.done()]  # who left, asks nothing
        if not asks:
            return
        try:
            self._begins(asks)
        except TierUnavailable as error:
            settle_all(asks, error)
