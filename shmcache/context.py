"""Context: what a compute is told of its own call, and what it may say of its answer.

A compute takes nothing, or one argument: then it is given its context. What it sets
there holds for the value that it returns; what a `Fill` says in its own name goes
before it.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from types import MethodType
from typing import Any

from .entry import Entry
from .fill import UNSET, Fill, _Unset
from .policy import Ttl


class Context:
    """Of one call of a compute."""

    __slots__ = ("_look", "deadline", "grace", "key", "tags", "ttl")

    def __init__(
        self, key: bytes, deadline: float, look: Callable[[], Entry | None]
    ) -> None:
        self.key = key
        """Its namespace's prefix included."""
        self.deadline = deadline
        """When the hard timeout ends it, by `time.monotonic()`."""
        self.ttl: Ttl | _Unset = UNSET
        """In place of the caller's, as the three below; 0 stores nothing."""
        self.grace: Ttl | _Unset = UNSET
        self.tags: Sequence[str] | _Unset = UNSET
        self._look = look

    @property
    def stale(self) -> Entry | None:
        """What stands under the key on this host: stale, or dead and not yet evicted,
        or fresh where it is refreshed before its time. None: nothing does."""
        return self._look()

    def not_modified(self) -> Fill:
        """To be returned where `stale` is still right: it is stored for another life.
        `LookupError` if nothing stands."""
        standing = self.stale
        if standing is None:
            raise LookupError(
                f"not_modified() of {self.key!r}: nothing stands; look at `stale` first"
            )
        return Fill(standing.value)

    def skip(self, value: Any = None) -> Fill:
        """To be returned: the callers get `value`, and it is stored nowhere."""
        return Fill(value, ttl=0)

    def fill(self, result: Any) -> Fill:
        """What the compute returned, with what it said here."""
        given = result if isinstance(result, Fill) else Fill(result)
        said = {
            name: getattr(self, name)
            for name in ("ttl", "grace", "tags")
            if isinstance(getattr(given, name), _Unset)
        }
        return replace(given, **said)


def bound(
    compute: Callable[..., Any],
    key: bytes,
    limit: float,
    look: Callable[[], Entry | None],
) -> Callable[[], Any]:
    """The compute as one that takes nothing; it has `limit` seconds from when it is
    called. `ValueError` if it takes more than a context."""
    if not _takes_context(compute):
        return compute

    def call() -> Any:
        context = Context(key, time.monotonic() + limit, look)
        result = compute(context)
        if inspect.isawaitable(result):
            return _awaited(context, result)
        return context.fill(result)

    return call


async def _awaited(context: Context, result: Awaitable[Any]) -> Fill:
    return context.fill(await result)


def _takes_context(compute: Callable[..., Any]) -> bool:
    """By the arguments that it cannot do without: each miss asks."""
    code = getattr(compute, "__code__", None)
    if code is not None and not hasattr(compute, "__wrapped__"):
        defaults = getattr(compute, "__defaults__", None) or ()
        count: int = code.co_argcount - len(defaults) - isinstance(compute, MethodType)
    else:
        try:
            given = inspect.signature(compute).parameters.values()
        except (TypeError, ValueError):  # of what is built in
            return False
        count = sum(
            p.default is p.empty
            and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
            for p in given
        )
    if count > 1:
        raise ValueError(
            f"compute={compute!r}: expected a function of nothing, or of a context, "
            f"not of {count} arguments"
        )
    return count > 0
