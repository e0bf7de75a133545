"""Foreign: values in L2 that are none of ours, damaged, or another key's."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from .errors import CodecError
from .operations import Operations
from .scripts import Names

log = logging.getLogger("shmcache.l2")


class Foreign:
    """Those of a partition that this process met."""

    def __init__(self, operations: Operations, names: Names) -> None:
        self.count = 0
        self._operations = operations
        self._names = names

    def told(self, error: CodecError) -> None:
        """Count one, which is to be deleted."""
        self.count += 1
        level = logging.WARNING if self.count == 1 else logging.DEBUG
        log.log(level, "a value in L2 was dropped: %s", error)

    async def delete(self, keys: Iterable[bytes]) -> None:
        """Delete the values of these keys."""
        if names := [self._names.value(key) for key in keys]:
            await self._operations.link.exchange(("DEL", *names))
