"""An event loop that a scheduler steps by hand, on virtual time.

Each simulated process has one. It runs nothing by itself: `step` runs what is ready,
and timers lie in one heap of the scheduler's, so that time moves for all at once. A
loop of a dead process takes whatever is asked of it and does nothing.
"""

from __future__ import annotations

import asyncio
import contextvars
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Protocol


class Timers(Protocol):
    """What a loop needs of the scheduler."""

    now: float

    def at(self, when: float, work: Callable[..., Any], *args: Any) -> None: ...


class SimHandle:
    """A callback that is ready or will be; the loop's and the timers' handle."""

    __slots__ = ("args", "callback", "context", "due")

    def __init__(
        self,
        callback: Callable[..., Any] | None,
        args: tuple[Any, ...],
        context: contextvars.Context | None,
        due: float,
    ) -> None:
        self.callback = callback
        self.args = args
        self.context = context
        self.due = due

    def cancel(self) -> None:
        self.callback = None
        self.args = ()

    def cancelled(self) -> bool:
        return self.callback is None

    def when(self) -> float:
        return self.due


class SimFuture(asyncio.Future[Any]):
    """A future that lies in a set by its number, not by its address: who wakes first
    must not depend on where memory was free."""

    number = 0

    def __hash__(self) -> int:
        return self.number


class SimLoop(asyncio.AbstractEventLoop):
    """The loop of one simulated process."""

    def __init__(
        self, timers: Timers, process: Any = None, connect: Any = None
    ) -> None:
        self.timers = timers
        self.connect = connect
        self.process = process
        self.ready: deque[SimHandle] = deque()
        self.tasks: list[asyncio.Task[Any]] = []
        self.readers: dict[Any, Callable[[], None]] = {}
        self.futures = 0
        self.dead = False
        self.failures: list[dict[str, Any]] = []
        """What the loop's exception handler was told."""

    def step(self, count: int) -> None:
        """Run up to `count` ready callbacks; inside another loop's if need be."""
        outer = events._get_running_loop()
        events._set_running_loop(self)
        ready = self.ready
        try:
            while count > 0 and ready:
                count -= 1
                handle = ready.popleft()
                callback = handle.callback
                if callback is None:
                    continue
                if handle.context is None:
                    callback(*handle.args)
                else:
                    handle.context.run(callback, *handle.args)
        finally:
            events._set_running_loop(outer)

    def drop(self) -> None:
        """The process is gone: nothing that waits here will ever run."""
        self.dead = True
        self.ready.clear()
        self.readers.clear()

    def bury(self) -> None:
        """Close the coroutines of a dropped loop, so that none is left to a garbage
        collector which would complain of it."""
        outer = events._get_running_loop()
        events._set_running_loop(self)
        try:
            for task in self.tasks:
                if task.done():
                    continue
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                coro = task.get_coro()
                for _ in range(8):  # one that awaits in its `finally` stops there
                    try:
                        coro.close()  # type: ignore[union-attr]
                        break
                    except BaseException:
                        continue
        finally:
            events._set_running_loop(outer)
        self.tasks = []

    # -- what asyncio and the library ask of a loop

    def time(self) -> float:
        return self.timers.now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_soon(  # type: ignore[override]
        self,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> SimHandle:
        handle = SimHandle(callback, args, context, 0.0)
        if not self.dead:
            self.ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> SimHandle:
        return self.call_at(self.timers.now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> SimHandle:
        handle = SimHandle(callback, args, context, when)
        if not self.dead:
            self.timers.at(when, self._due, handle)
        return handle

    def _due(self, handle: SimHandle) -> None:
        if handle.callback is not None and not self.dead:
            self.ready.append(handle)

    def create_future(self) -> asyncio.Future[Any]:
        future = SimFuture(loop=self)
        self.futures += 1
        future.number = self.futures
        return future

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[Any]:
        if self.dead:
            coro.close()
            coro = _nothing()
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        self.tasks.append(task)
        return task

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: Any, *_: Any, **__: Any
    ) -> tuple[Any, Any]:
        return await self.connect(self.process, protocol_factory)

    def add_reader(self, fd: Any, callback: Callable[..., Any], *args: Any) -> None:  # type: ignore[override]
        self.readers[fd] = callback

    def remove_reader(self, fd: Any) -> bool:
        return self.readers.pop(fd, None) is not None

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.failures.append(context)


async def _nothing() -> None:
    pass
