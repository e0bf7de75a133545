"""Settings of the server: flags over TOML over defaults.

The TOML file has one table per class of `tables.py`, and a [[route]] for each route;
`deploy/shmcache.toml` shows every key with its default. Nothing else reads the
environment:

    SHMCACHE_CONFIG   the TOML file, where no --config names one
    SHMCACHE_L2       the Redis URL that `l2.url = "auto"` takes
    SHMCACHE_L2_SECRET    signs what stands in Redis; it stands in no file
    SHMCACHE_PURGE_TOKEN  lets in who purges, in place of [purge] token
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from shmcache import CacheConfig, ConfigError, parse_size

from . import routes
from .routes import Route
from .tables import (
    AppConfig,
    CachingConfig,
    HeadersConfig,
    L1Config,
    L2Config,
    LimitsConfig,
    OriginConfig,
    PurgeConfig,
    ServerConfig,
)

C = TypeVar("C", "ServerConfig", "OriginConfig", "L1Config", "L2Config", "LimitsConfig")


@dataclass(frozen=True, slots=True)
class Config:
    """Everything the server is told."""

    server: ServerConfig = field(default_factory=ServerConfig)
    origin: OriginConfig = field(default_factory=OriginConfig)
    app: AppConfig = field(default_factory=AppConfig)
    caching: CachingConfig = field(default_factory=CachingConfig)
    l1: L1Config = field(default_factory=L1Config)
    l2: L2Config = field(default_factory=L2Config)
    purge: PurgeConfig = field(default_factory=PurgeConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    headers: HeadersConfig = field(default_factory=HeadersConfig)
    routes: tuple[Route, ...] = ()

    def cache(self, name: str, l2: str | None) -> CacheConfig:
        """The library's settings, for a segment's name and a resolved L2 URL."""
        return CacheConfig(
            name=name,
            size_bytes=self.l1.size,
            l2=l2,
            keep=self.l1.keep,
            record_bytes=self.l1.record_bytes,
            codec="document",
            app=self.l2.app,
            l2_deadline=self.l2.deadline,
            hard_timeout=self.origin.patience,
            flights_max=self.limits.flights,
            waiters_max=self.limits.waiters,
            l2_secret=os.environ.get("SHMCACHE_L2_SECRET", "").encode(),
        )

    def own_cache(self, cache: CacheConfig) -> CacheConfig:
        """That of the application, beside the server's."""
        return replace(
            cache,
            name=f"{cache.name}.app",
            app=f"{cache.app or cache.name}.app",
            size_bytes=self.app.cache_size,
            codec="msgpack",
            keep=False,
        )


_TABLES: dict[str, type] = {
    "server": ServerConfig,
    "origin": OriginConfig,
    "app": AppConfig,
    "caching": CachingConfig,
    "l1": L1Config,
    "l2": L2Config,
    "purge": PurgeConfig,
    "limits": LimitsConfig,
    "headers": HeadersConfig,
}
_SIZES = {
    ("l1", "size"): 512 * 1024,
    ("app", "cache_size"): 512 * 1024,
    ("limits", "stored_body"): 1,
}
"""Keys that are sizes, and the least that each may be."""
_FLAGS = {
    "origin": ("origin", "url"),
    "default_ttl": ("origin", "default_ttl"),
    "bind": ("server", "bind"),
    "workers": ("server", "workers"),
    "admin": ("server", "admin"),
    "l1_size": ("l1", "size"),
    "l1_name": ("l1", "name"),
    "l1_keep": ("l1", "keep"),
    "l1_record_bytes": ("l1", "record_bytes"),
    "l2": ("l2", "url"),
}
"""Command-line flag to table and key."""


def load(path: str | None = None, flags: Mapping[str, Any] | None = None) -> Config:
    """The settings of a file, or of SHMCACHE_CONFIG's, under those of the flags.

    `ConfigError` names the setting, and the file and line where there is one.
    """
    config = read(path)
    for flag, value in (flags or {}).items():
        if value is not None:
            table, key = _FLAGS[flag]
            made = _replaced(getattr(config, table), table, {key: value})
            config = replace(config, **{table: made})
    if config.app.factory:
        if config.origin.url:
            raise ConfigError(
                "origin: set beside app.factory, which is the origin; leave one out"
            )
        named = replace(config.origin, url=f"unix://@{config.app.factory}")
        return replace(config, origin=named)
    if not config.origin.url:
        raise ConfigError(
            "origin: not set; give --origin http://host:port, or url in the TOML "
            "file's table [origin], or factory in [app]"
        )
    return config


def read(path: str | None = None) -> Config:
    """The settings of a file, or of SHMCACHE_CONFIG's, whether they are enough to
    serve or not."""
    path = path or os.environ.get("SHMCACHE_CONFIG") or None
    config = _from_file(Path(path)) if path else Config()
    return replace(config, purge=_with_token(config.purge))


def l2_url(config: Config) -> tuple[str, str]:
    """What L2 to use and why: ("none" | "embedded" | URL, words for the log)."""
    if config.l2.url != "auto":
        return config.l2.url, "as configured"
    found = os.environ.get("SHMCACHE_L2")
    if not found:
        return "none", "auto, and SHMCACHE_L2 is not set"
    try:
        return replace(config.l2, url=found).url, "from SHMCACHE_L2"
    except ConfigError as e:
        raise ConfigError(f"SHMCACHE_L2: {e}") from None


def _with_token(purge: PurgeConfig) -> PurgeConfig:
    """The environment's token, else that of the token's file, else the setting's."""
    token, where = os.environ.get("SHMCACHE_PURGE_TOKEN"), "SHMCACHE_PURGE_TOKEN"
    if not token and purge.token_file:
        token, where = token_in(purge.token_file), f"token_file={purge.token_file}"
    try:
        return replace(purge, token=token) if token else purge
    except ConfigError as e:
        raise ConfigError(f"{where}: {e}") from None


def token_in(path: str) -> str:
    """The one line of a token's file."""
    try:
        text = Path(path).read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as e:
        why = getattr(e, "strerror", None) or "it is not ASCII"
        raise ConfigError(f"token_file={path}: cannot be read: {why}") from None
    if not text:
        raise ConfigError(f"token_file={path}: it is empty")
    return text


def _from_file(path: Path) -> Config:
    try:
        text = path.read_text()
        tables = tomllib.loads(text)
    except OSError as e:
        raise ConfigError(f"config={path}: cannot be read: {e.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: not TOML: {e}") from None
    config = Config(routes=_routes(path, text, tables.pop("route", [])))
    for table, keys in tables.items():
        known = _TABLES.get(table)
        if known is None or not isinstance(keys, dict):
            where = _line(text, table, "")
            raise ConfigError(
                f"{path}:{where}: unknown {'table' if known is None else 'key'} "
                f"{table!r}; expected tables {', '.join(_TABLES)}, or [[route]]"
            )
        for key, value in keys.items():
            where = _line(text, key, table)
            if key not in {f.name for f in fields(known)}:
                raise ConfigError(f"{path}:{where}: unknown key {table}.{key}")
            try:
                made = _replaced(getattr(config, table), table, {key: value})
            except ConfigError as e:
                raise ConfigError(f"{path}:{where}: {e}") from None
            config = replace(config, **{table: made})
    for number, route in enumerate(config.routes, 1):
        try:
            routes.agree(route, config.headers.removed)
        except ConfigError as e:
            where = _line(text, "fields", "route", number)
            raise ConfigError(f"{path}:{where}: route {number}: {e}") from None
    return config


def _routes(path: Path, text: str, tables: Any) -> tuple[Route, ...]:
    if type(tables) is not list or not all(type(table) is dict for table in tables):
        where = _line(text, "route", "")
        raise ConfigError(f"{path}:{where}: route: expected tables [[route]]")
    made = []
    for number, table in enumerate(tables, 1):
        route = Route()
        for key, value in table.items():
            try:
                route = routes.told(route, key, value)
            except ConfigError as e:
                where = _line(text, key, "route", number)
                raise ConfigError(f"{path}:{where}: route {number}: {e}") from None
        made.append(route)
    return tuple(made)


def _replaced(old: C, table: str, values: dict[str, Any]) -> C:
    """`old` with other values, each brought to the type of its default."""
    for key, value in values.items():
        if (table, key) in _SIZES:
            said = "l1_size" if table == "l1" else key  # as the flag is called
            values[key] = parse_size(value, said, _SIZES[table, key])
            continue
        if (table, key) == ("origin", "url"):  # a list, too
            values[key] = _urls(value)
            continue
        wanted = type(getattr(old, key))
        if wanted is float and type(value) is int:
            values[key] = float(value)
        elif wanted is tuple and type(value) is list:
            if not all(type(one) is str for one in value):
                raise ConfigError(f"{key}={value!r}: expected {_WORDS[tuple]}")
            values[key] = tuple(value)
        elif type(value) is not wanted:
            secret = key in ("url", "token")  # one has a password
            said = key if secret else f"{key}={value!r}"
            raise ConfigError(f"{said}: expected {_WORDS[wanted]}")
    return replace(old, **values)


def _urls(value: object) -> str | tuple[str, ...]:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return tuple(value)
    raise ConfigError("url: expected text, or a list of texts")


_WORDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    tuple: "a list of texts",
    dict: "a table",
}


def _line(text: str, key: str, table: str, number: int = 1) -> int:
    """The line of the file where `key` stands in the table, of several with this name
    the one with the number; 1 if it is not found."""
    current, count = "", 0
    for at, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[\[?\s*([^\]\s]+)\s*\]", line)
        if header:
            current = header[1].strip("\"'")
            count += current == table
            if not table and current == key:
                return at
        elif (current, count) == (table, number if table else 0) and re.match(
            rf"""\s*["']?{re.escape(key)}\b""", line
        ):
            return at
    return 1
