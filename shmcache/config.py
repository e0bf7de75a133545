"""Settings of a cache: validated once, frozen, with their defaults."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import ConfigError

_UNITS = {"": 1, "B": 1}
_UNITS |= {u + "iB": 1024**n for n, u in enumerate("KMGT", 1)}
_UNITS |= {u + "B": 1024**n for n, u in enumerate("KMGT", 1)}
_UNITS |= {u: 1024**n for n, u in enumerate("KMGT", 1)}
NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
"""What a cache may be called: a piece of a file's name and of keys in Redis."""
_SIZE_MAX = 2**47
"""Bytes that a process can address at all."""


def parse_size(text: str | int, setting: str = "size") -> int:
    """Bytes of `"64MiB"`, `"1 GB"` (1024-based alike) or a plain number."""
    number: float
    if isinstance(text, int) and not isinstance(text, bool):
        number, unit = text, ""
    else:
        match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", str(text))
        if not match or match[2] not in _UNITS:
            raise ConfigError(
                f"{setting}={text!r}: expected a size such as 64MiB or 1GiB"
            )
        number, unit = float(match[1]), match[2]
    size = number * _UNITS[unit]
    if not 1 <= size <= _SIZE_MAX:
        raise ConfigError(f"{setting}={text!r}: expected a size of 1 byte to 128 TiB")
    return int(size)


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """What a cache is made of. `ConfigError` names the setting that is wrong."""

    name: str
    """Of the segment on the host and of the app in Redis: the processes that give
    the same name share one cache."""
    size_bytes: int = 64 * 1024**2
    """Of the segment."""
    l2: str | None = None
    """redis://, rediss:// or unix:// URL; None: one host, no Redis."""
    keep: bool = False
    """Leave the segment when the last process closes it."""
    codec: str = "msgpack"
    """msgpack: any plain value. document: values are msgpack documents already."""
    record_bytes: int = 300
    """Expected mean record; sets the size of the index."""
    app: str = ""
    """Name in Redis, if not `name`: what the caches of several hosts share."""
    l2_deadline: float = 0.25
    """Seconds that one operation on L2 may take."""
    hard_timeout: float = 30.0
    """Seconds that a compute may take."""
    lease_life: float = 3.0
    """Seconds that a lease stands unless renewed; 2 to 5."""
    jitter: float = 0.0
    """Share of the ttl, 0 to 1, that is taken off by chance."""

    def __post_init__(self) -> None:
        if not re.fullmatch(NAME, self.name):
            raise ConfigError(
                f"name={self.name!r}: expected 1 to 64 letters, digits, '.', '_', '-'"
            )
        if self.app and not re.fullmatch(NAME, self.app):
            raise ConfigError(f"app={self.app!r}: expected a name like `name`")
        if self.codec not in ("msgpack", "document"):
            raise ConfigError(f"codec={self.codec!r}: expected msgpack or document")
        for setting, low, high in (
            ("l2_deadline", 0.001, 60.0),
            ("hard_timeout", 0.001, 86400.0),
            ("lease_life", 2.0, 5.0),
            ("jitter", 0.0, 1.0),
            ("record_bytes", 16, 2**30),
            ("size_bytes", 1, _SIZE_MAX),
        ):
            if not low <= getattr(self, setting) <= high:
                value = getattr(self, setting)
                raise ConfigError(f"{setting}={value!r}: expected {low} to {high}")
