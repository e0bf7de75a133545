"""Faults: what a simulated vendor is told to do wrong, and budgets that it enforces."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from .payloads import Moment
from .refusals import Reply, banned, blocked, failing, limited

Seconds = Annotated[float, Meta(ge=0, le=1e9)]
Positive = Annotated[float, Meta(gt=0, le=1e9)]
Count = Annotated[int, Meta(ge=1)]
BAN_SECONDS = 120.0
"""Binance's shortest."""
PATIENCE = 5
"""Calls that Binance refuses within a window before it bans."""
STALE_SECONDS = 3600.0


Mode = Literal[
    "ok",
    "limited",
    "error_body",
    "banned",
    "blocked",
    "failing",
    "hang",
    "reset",
    "truncated",
    "wrong_types",
    "stale",
    "missing",
    "zeros",
]


class Fault(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True
):
    """What a vendor does from now on, instead of what it was told before.

    ok            answers; with `latency` a slow vendor
    limited       429
    error_body    200, with the body that goes with 429
    banned        418; the ban is over after `retry_after` seconds
    blocked       451
    failing       `status`, 500 if not told, with a page of HTML
    hang          no answer
    reset         the connection is reset
    truncated     the first half of the payload, as if it were all
    wrong_types   each number, or string that holds one, is null, then in the next
                  answer "n/a", then true, [] and {}, and null again
    stale         the payload of `age` seconds before, with its times; it stays
    missing       the payload without its value
    zeros         each number 0, but times
    """

    mode: Mode = "ok"
    path: str = ""
    """Of the vendor's paths; none: all that have no fault of their own."""
    seconds: Positive | None = None
    """How long; then the vendor is well."""
    calls: Count | None = None
    """For how many calls."""
    latency: Seconds | None = None
    """Seconds before the answer, whatever it is; none: the vendor's own."""
    status: Annotated[int, Meta(ge=500, le=599)] | None = None
    retry_after: Seconds | None = None
    """None: no such field; of a ban: 120."""
    age: Seconds | None = None
    """None: an hour."""

    def __post_init__(self) -> None:
        for name, modes in _MEANT_FOR.items():
            if getattr(self, name) is not None and self.mode not in modes:
                raise ValueError(f"`{name}` means nothing in mode `{self.mode}`")


_MEANT_FOR = {
    "status": {"failing"},
    "retry_after": {"limited", "banned", "failing"},
    "age": {"stale"},
}


@dataclass
class Active:
    """A fault in force; times are Unix times."""

    told: Fault
    began: float
    until: float
    left: float
    """Calls."""
    turn: int = -1
    """Of its calls, from 0."""

    @property
    def mode(self) -> Mode:
        return self.told.mode

    def now(self, time: float) -> float:
        """What the vendor takes for the time."""
        if self.mode != "stale":
            return time
        return self.began - (STALE_SECONDS if self.told.age is None else self.told.age)

    def reply(self, vendor: str, now: Moment, time: float) -> Reply | None:
        """In place of a payload, if there is to be none."""
        match self.mode:
            case "limited":
                return limited(vendor, now, self.told.retry_after)
            case "error_body":
                return limited(vendor, now, status=200)
            case "banned":
                return banned(self.until, max(0.0, self.until - time))
            case "blocked":
                return blocked()
            case "failing":
                return failing(self.told.status or 500, self.told.retry_after)
        return None

    def spoilt(self, body: bytes) -> bytes:
        """A payload as the vendor sends it."""
        match self.mode:
            case "truncated":
                return body[: len(body) // 2]
            case "wrong_types":
                wrong = _WRONG[self.turn % len(_WRONG)]
                return _each_number(body, lambda name, number: wrong)
            case "zeros":
                return _each_number(body, _zero)
            case "missing":
                return json.dumps(_without(json.loads(body))).encode()
        return body

    @classmethod
    def of(cls, fault: Fault, now: float) -> Active:
        lasts = fault.seconds or inf
        if fault.mode == "banned":
            ban = BAN_SECONDS if fault.retry_after is None else fault.retry_after
            lasts = min(lasts, ban)
        return cls(fault, now, now + lasts, fault.calls or inf)


class Faults:
    """Of each vendor and path."""

    def __init__(self) -> None:
        self._active: dict[tuple[str, str], Active] = {}

    def set(self, vendor: str, fault: Fault, now: float) -> None:
        self._active[vendor, fault.path] = Active.of(fault, now)

    def take(self, vendor: str, path: str, now: float) -> Active | None:
        """What a call meets, which is one of those that the fault is for."""
        for key in ((vendor, path), (vendor, "")):
            if (active := self._active.get(key)) is None:
                continue
            if now < active.until and active.left > 0:
                active.left -= 1
                active.turn += 1
                return active
            del self._active[key]
        return None

    def shown(self, vendor: str, now: float) -> list[dict[str, Any]]:
        """In force, as they were told; `seconds` and `calls` are those left."""
        shown = []
        for (of, _), active in self._active.items():
            if of == vendor and now < active.until and active.left > 0:
                told = msgspec.to_builtins(active.told)
                left = {"seconds": active.until - now, "calls": active.left}
                told |= {name: n for name, n in left.items() if n < inf}
                shown.append({"mode": active.mode} | told)
        return shown


class Budget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """At most `limit` calls in any `window` seconds, of Binance that much weight."""

    limit: Count | None
    """None: any number."""
    window: Positive = 60.0


@dataclass
class Spent:
    """A budget, and what is spent of it; times are Unix times.

    A call that is refused spends nothing. Who bans loses patience with a client that
    goes on.
    """

    budget: Budget
    bans: bool = False
    banned_until: float = 0.0
    _taken: deque[tuple[float, int]] = field(default_factory=deque)
    _weight: int = 0
    _refused: deque[float] = field(default_factory=deque)

    def take(self, weight: int, now: float) -> float:
        """Spend; seconds until there is room for the call, 0 if there was."""
        if self.budget.limit is None or now < self.banned_until:
            return max(0.0, self.banned_until - now)
        begin = now - self.budget.window
        while self._taken and self._taken[0][0] <= begin:
            self._weight -= self._taken.popleft()[1]
        if self._weight + weight <= self.budget.limit:
            self._taken.append((now, weight))
            self._weight += weight
            return 0.0
        self._refused.append(now)
        while self._refused[0] <= begin:
            self._refused.popleft()
        if self.bans and len(self._refused) > PATIENCE:
            self.banned_until = now + BAN_SECONDS
            return BAN_SECONDS
        return self._taken[0][0] - begin if self._taken else self.budget.window


# --- spoilt payloads

_WRONG: list[object] = [None, "n/a", True, [], {}]
_TIMES = {
    *("updated_at", "last_updated_at", "timestamp", "time_until_update"),
    *("openTime", "closeTime"),
}
_VALUES = {"bitcoin", "usd", "USD", "BTC", "value", "c"}
"""What the vendors call the one that is asked for."""


def _zero(name: str, number: object) -> object:
    if name in _TIMES:
        return number
    return "0" if isinstance(number, str) else 0


def _each_number(body: bytes, change: Callable[[str, object], object]) -> bytes:
    """With another for every number, and for every string that holds one."""

    def changed(name: str, part: object) -> object:
        if isinstance(part, dict):
            return {inner: changed(inner, it) for inner, it in part.items()}
        if isinstance(part, list):
            return [changed(name, it) for it in part]
        return change(name, part) if _is_number(part) else part

    return json.dumps(changed("", json.loads(body))).encode()


def _is_number(part: object) -> bool:
    if isinstance(part, str):
        return part.lstrip("-").replace(".", "", 1).isdecimal()
    return isinstance(part, int | float) and not isinstance(part, bool)


def _without(part: object) -> object:
    """Without Bitcoin's, or the only, value, wherever it is."""
    if isinstance(part, dict):
        if _is_bitcoin(part):
            return {}
        return {n: _without(it) for n, it in part.items() if n not in _VALUES}
    if isinstance(part, list):
        return [_without(it) for it in part if not _is_bitcoin(it)]
    return part


def _is_bitcoin(part: object) -> bool:
    return isinstance(part, dict) and part.get("symbol") == "BTCUSDT"
