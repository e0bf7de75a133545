"""Settings of a cache: validated once, frozen, with their defaults."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from .errors import ConfigError

_UNITS = {"": 1, "B": 1}
_UNITS |= {u + "iB": 1024**n for n, u in enumerate("KMGT", 1)}
_UNITS |= {u + "B": 1024**n for n, u in enumerate("KMGT", 1)}
_UNITS |= {u: 1024**n for n, u in enumerate("KMGT", 1)}
NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
"""What a cache may be called: a piece of a file's name and of keys in Redis."""
CODECS = ("msgpack", "json", "raw", "document")
SIZE_MIN = 512 * 1024
"""Bytes of a segment that has room for its tables and a few records."""
_SIZE_MAX = 2**47
"""Bytes that a process can address at all."""
_URLS = {
    "redis": "host:6379/0",
    "rediss": "host:6379/0",
    "unix": "/path/to/socket",
    "redis+sentinel": "host:26379,host:26379/service",
    "rediss+sentinel": "host:26379,host:26379/service",
    "redis+cluster": "host:6379,host:6379",
    "rediss+cluster": "host:6379,host:6379",
}
"""What stands behind each scheme, for example."""


def parse_size(text: str | int, setting: str = "size", least: int = 1) -> int:
    """Bytes of `"64MiB"`, `"1 GB"` (1024-based alike) or a plain number; `ConfigError`
    names the setting, also where they are fewer than `least`."""
    number: float
    if isinstance(text, int) and not isinstance(text, bool):
        number, unit = text, ""
    else:
        match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", str(text))
        if not match or match[2] not in _UNITS:
            raise ConfigError(
                f"{setting}={text!r}: expected a number and B, KiB, MiB, GiB or TiB, "
                "such as 64MiB"
            )
        number, unit = float(match[1]), match[2]
    size = number * _UNITS[unit]
    if not 1 <= size <= _SIZE_MAX:
        raise ConfigError(f"{setting}={text!r}: expected a size of 1 byte to 128 TiB")
    if size < least:
        raise ConfigError(
            f"{setting}={text!r}: expected {least >> 10} KiB or more, such as 64MiB"
        )
    return int(size)


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """What a cache is made of. `ConfigError` names the setting that is wrong."""

    name: str
    """Of the segment on the host and of the app in Redis: the processes that give
    the same name share one cache."""
    size_bytes: int = 64 * 1024**2
    """Of the segment."""
    l2: str | None = field(default=None, repr=False)
    """URL of one Redis (redis, rediss, unix), of its sentinels (redis+sentinel,
    rediss+sentinel) or of a cluster (redis+cluster, rediss+cluster); None: one host."""
    keep: bool = False
    """Leave the segment when the last process closes it."""
    codec: str = "msgpack"
    """msgpack: any plain value, and objects of `types`. json: what JSON has. raw:
    bytes. document: bytes that are msgpack documents already."""
    types: tuple[Any, ...] = ()
    """Dataclasses, named tuples, Enums, models of msgspec or pydantic whose objects may
    be values, and `Kind`s of others; who share a cache name the same ones."""
    compress_above: int | None = None
    """Bytes of an encoded value above which it is compressed (zstd). None: never."""
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
    soft_timeout: float = 0.0
    """Seconds that a caller with a stale value waits for a fresh one; 0: none at all.
    If set, also how long a compute waits for other keys that are computed elsewhere."""
    jitter: float = 0.0
    """Share of the ttl, 0 to 1, that is taken off by chance."""
    early_refresh: float = 0.0
    """How early a fresh value is refreshed by chance, in times that its compute took
    (XFetch's beta): 1 is usual, 0 is never."""
    flights_max: int = 10_000
    """Computes and refreshes that one process has under way; above, `Overloaded`."""
    waiters_max: int = 100_000
    """Callers of one process that wait for a compute; above, `Overloaded`."""
    l2_secret: bytes = field(default=b"", repr=False)
    """16 to 64 bytes that all processes of the fleet know: what stands in L2 must
    bear a signature made with it. Empty: no signatures."""

    def __post_init__(self) -> None:
        _check_name("name", self.name)
        if self.app:
            _check_name("app", self.app)
        if self.codec not in CODECS:
            raise ConfigError(
                f"codec={self.codec!r}: expected one of {', '.join(CODECS)}"
            )
        if not isinstance(self.types, tuple):
            raise ConfigError(f"types={self.types!r}: expected a tuple of classes")
        if self.compress_above is not None:
            _check_number("compress_above", self.compress_above, 0, _SIZE_MAX)
        if self.l2 is not None:
            _check_url(self.l2)
        secret = self.l2_secret
        if not isinstance(secret, bytes) or (secret and not 16 <= len(secret) <= 64):
            raise ConfigError("l2_secret: expected 16 to 64 bytes, or none")
        for setting, low, high in (
            ("l2_deadline", 0.001, 60.0),
            ("hard_timeout", 0.001, 86400.0),
            ("lease_life", 2.0, 5.0),
            ("soft_timeout", 0.0, 86400.0),
            ("jitter", 0.0, 1.0),
            ("early_refresh", 0.0, 1000.0),
            ("flights_max", 1, 2**31),
            ("waiters_max", 1, 2**31),
            ("record_bytes", 16, 2**30),
            ("size_bytes", SIZE_MIN, _SIZE_MAX),
        ):
            _check_number(setting, getattr(self, setting), low, high)


def _check_number(setting: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{setting}={value!r}: expected a number")
    if not low <= value <= high:
        raise ConfigError(f"{setting}={value!r}: expected {low} to {high}")


def _check_name(setting: str, name: str) -> None:
    if isinstance(name, str) and re.fullmatch(NAME, name):
        return
    near = re.sub(r"[^A-Za-z0-9_.-]+", "-", str(name)).strip("._-")[:64]
    raise ConfigError(
        f"{setting}={name!r}: expected 1 to 64 letters, digits, '.', '_', '-', the "
        f"first a letter or a digit, such as {near or 'market'!r}"
    )


def _check_url(url: str) -> None:
    """That it names a Redis. A password may stand anywhere in what was meant as a URL,
    so no error repeats any of it."""
    scheme, separator, rest = str(url).partition("://")
    if scheme not in _URLS or not separator:
        raise ConfigError(
            f"l2: expected a URL of scheme {', '.join(_URLS)}, as in "
            "redis://host:6379/0"
        )
    if not rest.strip("/"):
        raise ConfigError(
            f"l2: nothing behind {scheme}://, expected {scheme}://{_URLS[scheme]}"
        )
