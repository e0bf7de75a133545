"""Entry: a value with what is known of it; and what stands for no value at all."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from .codec import Codec
from .policy import SECOND
from .record import FOREVER, STATES, Record


class Missing:
    """The type of `MISSING`: no value stands there. False as a condition."""

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = Missing()


class Entry(NamedTuple):
    """A value with what is known of it."""

    value: Any
    age: float
    """Seconds since its compute returned."""
    ttl: float | None
    """Seconds left of its ttl, below 0 when that is over; None: for ever."""
    state: str
    """fresh, stale or dead (its grace is over; it is never served)."""
    source: str
    """l1, l2, compute (ours), or flight (somebody else's compute)."""
    version: int = 0
    """Of this very fill: what `compare_and_set` compares."""


def of(record: Record, source: str, codec: Codec, now: int) -> Entry:
    """What a record is worth at `now`; `CodecError` if it cannot be read."""
    forever = record.fresh_until == FOREVER
    return Entry(
        value=codec.decode(record.value),
        age=max(0.0, (now - record.birth) / SECOND),
        ttl=None if forever else (record.fresh_until - now) / SECOND,
        state=STATES[record.state],
        source=source,
        version=record.nonce,
    )
