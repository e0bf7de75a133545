"""Compute: a user's function, run within its time; and its failure, put into words.

Its failure reaches those who waited in its own process as it is, all others as its
kind and message.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from . import nesting
from .codec import MSGPACK
from .errors import CodecError, ComputeFailed, ComputeTimeout
from .l1 import L1

Compute = Callable[[], Any]
"""Called without arguments; what it returns is awaited if it can be."""


async def run(l1: L1, key: bytes, compute: Compute, limit: float) -> Any:
    """What a key's compute function answers within `limit` seconds; counted, and its
    failure too."""
    l1.count("computes")
    try:
        with nesting.computing(l1, key):
            return await _bounded(compute, limit)
    except Exception:
        l1.count("compute_errors")
        raise


async def _bounded(compute: Compute, limit: float) -> Any:
    """As in `asyncio.timeout`, for a third of its price: each miss pays it."""
    task = asyncio.current_task()
    assert task is not None  # a flight's, or a caller's
    late, before = False, task.cancelling()

    def expire() -> None:
        nonlocal late
        late = True
        task.cancel()

    timer = asyncio.get_running_loop().call_later(limit, expire)
    try:
        result = compute()
        return await result if inspect.isawaitable(result) else result
    except asyncio.CancelledError as e:
        others = task.cancelling() - late
        if late and others <= before:
            raise ComputeTimeout(f"the compute ran longer than {limit:g} s") from e
        if others:
            raise
        # It awaited what somebody else cancelled: its own failure, not our end.
        raise ComputeFailed("CancelledError", "the compute was cancelled") from e
    finally:
        timer.cancel()
        if late:
            task.uncancel()


def words_of(error: Exception) -> bytes:
    """Kind and message of a failure, whatever its message is made of; of one that was
    told by others, those that it had there."""
    kind = type(error).__name__
    try:
        told = str(error)
        if isinstance(error, ComputeFailed):
            kind, told = error.kind, error.message
        message = told[:1000].encode("utf-8", "backslashreplace").decode()
    except Exception:  # its own __str__ failed
        message = ""
    return MSGPACK.encode([kind, message])


def shared_error(words: bytes) -> ComputeFailed:
    """The failure that a holder elsewhere left."""
    try:
        kind, message = MSGPACK.decode(words)
    except (CodecError, TypeError, ValueError):
        kind, message = "Exception", "its words cannot be read"
    return ComputeFailed(str(kind), str(message))
