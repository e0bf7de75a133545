"""Fresh, stale or dead; lives and their spread. Pure functions of numbers."""

from __future__ import annotations

import math
from datetime import timedelta

from .record import DEAD, FOREVER, FRESH, STALE

SECOND = 1_000_000_000
Ttl = float | int | timedelta | None
"""Seconds, or a timedelta; None never expires, 0 stores nothing."""

EARLY_REACH = 6.0
"""Fill times (and betas) before the ttl's end beyond which nobody draws: less than one
draw in 400 would come out earlier."""
_LONGEST = FOREVER / SECOND


def seconds(ttl: Ttl, name: str = "ttl") -> float | None:
    """A ttl as seconds; `ValueError` names what was wrong with it."""
    if ttl is None:
        return None
    if isinstance(ttl, timedelta):
        ttl = ttl.total_seconds()
    if isinstance(ttl, bool) or not isinstance(ttl, int | float):
        raise ValueError(f"{name}={ttl!r}: expected seconds, a timedelta or None")
    try:
        found = float(ttl)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found) or found < 0:
        raise ValueError(f"{name}={found}: expected a finite number of at least 0")
    return found


def after(start: int, life: float | None) -> int:
    """The time `life` seconds after `start`; never, for None."""
    if life is None or start == FOREVER:
        return FOREVER
    return min(start + int(min(life, _LONGEST) * SECOND), FOREVER)


def state(now: int, fresh_until: int, dead_at: int) -> int:
    """FRESH before the ttl's end, STALE inside grace, then DEAD."""
    if now < fresh_until:
        return FRESH
    return STALE if now < dead_at else DEAD


def jittered(ttl: float, jitter: float, draw: float) -> float:
    """`ttl` shortened by up to the share `jitter` of it; `draw` is in [0, 1).

    Shortened only: no step ever lengthens a life.
    """
    return ttl * (1 - jitter * draw)


def due_early(
    now: int, fresh_until: int, fill_us: int, beta: float, draw: float
) -> bool:
    """Whether a fresh value is to be refreshed already; `draw` is in (0, 1].

    Vattani, Chierichetti, Lowenstein, "Optimal Probabilistic Cache Stampede
    Prevention" (XFetch): the sooner its end and the dearer its compute, the likelier.
    """
    return fresh_until - now <= -math.log(draw) * beta * fill_us * 1000


def retry_delay(failures: int) -> float:
    """Seconds until a refresh that failed `failures` times is tried again: 1 to 30."""
    return float(min(30, 2 ** min(failures - 1, 5))) if failures else 0.0
