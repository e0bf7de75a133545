"""Nesting: which computes the running code is inside of.

A compute may ask the cache for other keys. If it asks for its own, it waits for itself:
that is an error, told at once. If two computes ask for each other's keys, in one
process or in two, each waits for the other: so who waits inside a compute for what is
computed elsewhere waits for a while only, and then computes for itself (`flight.py`).

What is inside
    A compute, what it awaits, and the tasks that are made while it runs, as
    `asyncio.gather` makes them: they inherit its context. It ends when the compute
    does: a task that outlives it is inside of nothing. A background refresh that a
    compute happens to start is not inside of it either, for nobody waits for that.
"""

from __future__ import annotations

import contextvars


class _Running:
    """One compute, while it runs."""

    def __init__(self, owner: object, key: bytes) -> None:
        self.owner, self.key = owner, key
        self.ended = False


_AROUND: contextvars.ContextVar[tuple[_Running, ...]] = contextvars.ContextVar(
    "shmcache-computes", default=()
)


class computing:
    """The compute of a key of the cache `owner` runs, inside of this context."""

    __slots__ = ("_running", "_token")

    def __init__(self, owner: object, key: bytes) -> None:
        self._running = _Running(owner, key)

    def __enter__(self) -> None:
        self._token = _AROUND.set((*_AROUND.get(), self._running))

    def __exit__(self, *_: object) -> None:
        self._running.ended = True
        _AROUND.reset(self._token)


class resumed:
    """What a compute is inside of, in the thread that runs it: `around()` of the task
    that waits for it there."""

    __slots__ = ("_around", "_token")

    def __init__(self, around: tuple[_Running, ...]) -> None:
        self._around = around

    def __enter__(self) -> None:
        self._token = _AROUND.set(self._around)

    def __exit__(self, *_: object) -> None:
        _AROUND.reset(self._token)


def around() -> tuple[_Running, ...]:
    """The computes that the running code is inside of."""
    return _AROUND.get()


def inside_any() -> bool:
    """Whether any compute, of whatever cache, waits for the running code."""
    return any(not running.ended for running in _AROUND.get())


def inside_of(owner: object, key: bytes) -> bool:
    """Whether the compute of this very key does."""
    return any(
        running.key == key and running.owner is owner and not running.ended
        for running in _AROUND.get()
    )


def outside() -> contextvars.Context:
    """The running context, but inside of nothing."""
    context = contextvars.copy_context()
    context.run(_AROUND.set, ())
    return context
