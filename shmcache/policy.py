"""Fresh, stale or dead; lives and their spread. Pure functions of numbers."""

from __future__ import annotations

import math
import re
from datetime import timedelta

from .record import DEAD, FOREVER, FRESH, STALE

SECOND = 1_000_000_000
Ttl = float | int | str | timedelta | None
"""Seconds, a timedelta, or text such as "1h30m"; None: for ever, 0 stores nothing."""

EARLY_REACH = 6.0
"""Fill times (and betas) before the ttl's end beyond which nobody draws: less than one
draw in 400 would come out earlier."""
_LONGEST = FOREVER / SECOND
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_PIECE = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|[smhdw])\s*", re.ASCII)


def seconds(ttl: Ttl, name: str = "ttl") -> float | None:
    """A ttl as seconds; `ValueError` names what was wrong with it."""
    if ttl is None:
        return None
    if isinstance(ttl, timedelta):
        ttl = ttl.total_seconds()
    elif isinstance(ttl, str):
        ttl = _spelled(ttl, name)
    if isinstance(ttl, bool) or not isinstance(ttl, int | float):
        raise ValueError(
            f'{name}={ttl!r}: expected seconds, a timedelta, text such as "1h30m", or '
            "None for ever"
        )
    try:
        found = float(ttl)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found) or found < 0:
        raise ValueError(f"{name}={found}: expected a finite number of at least 0")
    return found


def _spelled(text: str, name: str) -> float:
    """Seconds of "1h30m": numbers, each with ms, s, m, h, d or w, the larger first."""
    total, at, last = 0.0, 0, math.inf
    while piece := _PIECE.match(text, at):
        unit = _UNITS[piece[2]]
        if unit >= last:
            break
        total, at, last = total + float(piece[1]) * unit, piece.end(), unit
    if not at or at != len(text):
        raise ValueError(
            f"{name}={text!r}: expected numbers with ms, s, m, h, d or w, the larger "
            'first, such as "1h30m" or "90s"'
        )
    return total


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
