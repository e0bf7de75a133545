"""Batch: one compute for many keys, each under its own claim and lease.

Every missing key flies for itself, and where a flight would compute it joins the batch
instead. So what another process or host computes just now is waited for there, and is
not among the keys that the function is given.

When it goes
    Once all keys have joined or are answered. Else `GATHER` seconds after the last one
    joined: some are computed elsewhere, and nobody knows for how long. What joins
    later, because its holder died, or for a refresh, goes in a call of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from . import nesting
from .errors import ComputeFailed
from .fill import Fill
from .keys import Key

GATHER = 0.005


class Batch:
    """Of one `get_or_set_many`; lives on one event loop."""

    def __init__(
        self,
        owner: object,
        compute: Callable[[list[Any]], Any],
        named: Mapping[bytes, Key],
    ) -> None:
        """`named`: the keys as the caller gave them."""
        self._owner = owner
        self._compute = compute
        self._named = named
        self._left = set(named)
        """Keys that have neither joined nor been answered."""
        self.absent: set[bytes] = set()
        """Keys that the function had no value for."""
        self._answered: set[bytes] = set()
        self._joined: dict[bytes, asyncio.Future[Any]] = {}
        self._due: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def value(self, key: bytes) -> Any:
        """In place of the key's own compute."""
        future = asyncio.get_running_loop().create_future()
        self._joined[key] = future
        self._left.discard(key)
        self._plan(gathering=key in self._answered)
        return await future

    def answered(self, key: bytes) -> None:
        """Its caller waits for it no longer."""
        self._answered.add(key)
        self._left.discard(key)
        if self._joined and not self._left:
            self._plan()

    def _plan(self, gathering: bool = False) -> None:
        if self._due is not None:
            self._due.cancel()
        delay = GATHER if self._left or gathering else 0
        self._due = asyncio.get_running_loop().call_later(delay, self._go)

    def _go(self) -> None:
        self._due = None
        joined = {k: future for k, future in self._joined.items() if not future.done()}
        self._joined = {}
        if not joined:  # nobody waits any more
            return
        task = asyncio.get_running_loop().create_task(
            self._run(joined), name="shmcache-batch"
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

        def left(_: object) -> None:
            if all(future.done() for future in joined.values()):
                task.cancel()  # nobody waits any more

        for future in joined.values():
            future.add_done_callback(left)

    async def _run(self, joined: dict[bytes, asyncio.Future[Any]]) -> None:
        try:
            found = await self._found(joined)
            for key, future in joined.items():
                if not future.done():
                    future.set_result(self._value(found, key))
        except asyncio.CancelledError:
            for future in joined.values():
                future.cancel()
            raise
        except BaseException as error:
            known = isinstance(error, Exception)
            told = ComputeFailed(type(error).__name__, "the batch was ended by it")
            for future in joined.values():
                if not future.done():
                    future.set_exception(error if known else told)
            if not known:
                raise

    def _value(self, found: Mapping[Key, Any], key: bytes) -> Any:
        """Of one key; whoever else waits for one that has none computes for himself."""
        name = self._named[key]
        if name in found:
            return found[name]
        self.absent.add(key)
        return Fill(None, shareable=False)

    async def _found(self, joined: Iterable[bytes]) -> Mapping[Key, Any]:
        with contextlib.ExitStack() as inside:
            for key in joined:
                inside.enter_context(nesting.computing(self._owner, key))
            found = self._compute([self._named[key] for key in joined])
            if inspect.isawaitable(found):
                found = await found
        if not isinstance(found, Mapping):
            raise TypeError(
                f"compute={self._compute!r}: expected a mapping of keys to values, not "
                f"{type(found).__name__}"
            )
        return found
