"""Settings of the server: flags over TOML over defaults, frozen, validated once.

The TOML file has one table per class below, and a [[route]] for each route;
`deploy/shmcache.toml` shows every key with its default. Nothing else reads the
environment:

    SHMCACHE_CONFIG   the TOML file, where no --config names one
    SHMCACHE_L2       the Redis URL that `l2.url = "auto"` takes
    SHMCACHE_L2_SECRET    signs what stands in Redis; it stands in no file
    SHMCACHE_PURGE_TOKEN  lets in who purges, in place of [purge] token
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from shmcache import CacheConfig, ConfigError, parse_size

from . import routes
from .routes import Route

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")
_PATH = re.compile(r"/[!\"$-~]*")
_PLAIN_HOST = re.compile(r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]+")
_L2_WORDS = ("auto", "none", "embedded")
_L2_KINDS = ("+sentinel", "+cluster")
_L2_SCHEMES = tuple(
    scheme + kind for scheme in ("redis", "rediss") for kind in ("", *_L2_KINDS)
)
_HOST = r"(\[[0-9A-Fa-f:.%]+\]|[^][\s:@/,]+)(:[0-9]+)?"
_NAMED = "expected 1 to 64 letters, digits, '._-', the first a letter or a digit"
_TOKEN = re.compile(r"[!-~]{16,256}")
_SOCKET = re.compile(r"unix://(/[^\s?#]+|@[^\s?#]+)")
"""By its path, or by its name in the abstract namespace."""
_PLACES = re.compile(rf"{_HOST}(,{_HOST})*(/[\w.:-]*)*\Z")
_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", re.ASCII)
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
C = TypeVar("C", "ServerConfig", "OriginConfig", "L1Config", "L2Config", "LimitsConfig")


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """The listener and the processes behind it."""

    bind: str = "127.0.0.1:8080"
    workers: int = 2
    admin: str = ""
    loop: str = "uvloop"
    keepalive: float = 75.0
    graceful_timeout: float = 10.0
    access_log: bool = False
    access_log_every: int = 1
    hosts: tuple[str, ...] = ()
    fast_lane: bool = True

    def __post_init__(self) -> None:
        port = parse_address(self.bind, "bind")[1]
        if self.admin:
            host, own_port = parse_address(self.admin, "admin")
            if not loopback(host) or own_port in (0, port):
                raise ConfigError(
                    f"admin={self.admin!r}: expected a loopback address with a port "
                    "of its own"
                )
        _between("workers", self.workers, 1, 60)  # of 128 slots; a reload runs two sets
        _between("access_log_every", self.access_log_every, 1, 2**31)
        for host in self.hosts:
            if not _PLAIN_HOST.fullmatch(host):
                raise ConfigError(
                    f"hosts={host!r}: expected names as example.org, without a port"
                )
        _between("keepalive", self.keepalive, 1, 86400)
        _between("graceful_timeout", self.graceful_timeout, 1, 3600)
        if self.loop not in ("uvloop", "asyncio"):
            raise ConfigError(f"loop={self.loop!r}: expected uvloop or asyncio")


@dataclass(frozen=True, slots=True)
class OriginConfig:
    """Where misses are fetched."""

    url: str | tuple[str, ...] = ""
    default_ttl: float = 0.0
    connect_timeout: float = 5.0
    first_byte_timeout: float = 0.0
    timeout: float = 30.0
    total_timeout: float = 0.0
    retries: int = 2
    connections: int = 256
    breaker_failures: int = 5
    breaker_5xx: bool = False
    health_path: str = ""
    health_interval: float = 5.0
    budget: int = 0
    budget_seconds: float = 60.0
    tunnels: int = 256
    tunnel_timeout: float = 300.0

    def __post_init__(self) -> None:
        if self.url == () or len(set(self.bases)) < len(self.urls):
            raise ConfigError("origin: expected one URL, or several that differ")
        _between("default_ttl", self.default_ttl, 0, 2**31)
        _between("connect_timeout", self.connect_timeout, 0.01, 3600)
        _between("first_byte_timeout", self.first_byte_timeout, 0, 86400)
        _between("timeout", self.timeout, 0.01, 86400)
        _between("total_timeout", self.total_timeout, 0, 86400)
        _between("retries", self.retries, 0, 10)
        _between("connections", self.connections, 1, 65536)
        _between("breaker_failures", self.breaker_failures, 0, 10000)
        _between("health_interval", self.health_interval, 0.1, 3600)
        _between("budget", self.budget, 0, 1_000_000)
        _between("budget_seconds", self.budget_seconds, 0.1, 86400 * 31)
        if self.budget and self.health_path:
            raise ConfigError(
                "budget: expected 0 where health_path is set: checks are calls, too, "
                "and are made whatever the budget says"
            )
        _between("tunnels", self.tunnels, 0, 65536)
        _between("tunnel_timeout", self.tunnel_timeout, 0.1, 86400)
        if self.health_path and not _PATH.fullmatch(self.health_path):
            raise ConfigError(
                f"health_path={self.health_path!r}: expected a path as /health, in "
                "visible ASCII"
            )
        if self.health_path and not self.breaker_failures:
            raise ConfigError(
                "breaker_failures=0: expected 1 or more where health_path is set"
            )

    @property
    def urls(self) -> tuple[str, ...]:
        """Of the upstreams; none if the origin is not set."""
        if isinstance(self.url, tuple):
            return self.url
        return (self.url,) if self.url else ()

    @property
    def bases(self) -> tuple[str, ...]:
        """scheme://host[:port] of each upstream, or unix:// and its socket."""
        return tuple(map(_base, self.urls))

    @property
    def base(self) -> str:
        """That of the first upstream, which names the origin."""
        return self.bases[0]

    @property
    def patience(self) -> float:
        """Seconds until an answer's head has come, or none is awaited any more."""
        patience = self.connect_timeout + (self.first_byte_timeout or self.timeout)
        return min(patience, self.total_timeout or patience)


@dataclass(frozen=True, slots=True)
class AppConfig:
    """An application that is the origin, in each worker."""

    factory: str = ""
    cache_size: int = 16 * 1024**2
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.factory and not _FACTORY.fullmatch(self.factory):
            raise ConfigError(
                f"factory={self.factory!r}: expected module:function, as "
                "shmcache_server.market:application"
            )


@dataclass(frozen=True, slots=True)
class CachingConfig:
    """What the RFCs leave to an operator."""

    heuristics: bool = True
    stale_if_error: float = 0.0
    stale_if_cut_off: float = 86400.0
    error_ttl: float = 10.0
    match_languages: bool = True
    request_directives: bool = False

    def __post_init__(self) -> None:
        _between("stale_if_error", self.stale_if_error, 0, 2**31)
        _between("stale_if_cut_off", self.stale_if_cut_off, 0, 2**31)
        _between("error_ttl", self.error_ttl, 0, 2**31)


@dataclass(frozen=True, slots=True)
class HeadersConfig:
    """What the origin is not told, and whose word on a client counts."""

    removed: tuple[str, ...] = ()
    trusted_peers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.removed:
            if not _FIELD_NAME.fullmatch(name):
                raise ConfigError(f"removed={name!r}: expected names of fields")
        for network in self.trusted_peers:
            try:
                ipaddress.ip_network(network)
            except ValueError:
                raise ConfigError(
                    f"trusted_peers={network!r}: expected addresses and networks, as "
                    "10.0.0.0/8"
                ) from None


@dataclass(frozen=True, slots=True)
class L1Config:
    """The segment that the workers share."""

    size: int = 64 * 1024**2
    name: str = ""
    keep: bool = False
    record_bytes: int = 300

    def __post_init__(self) -> None:
        _between("l1_record_bytes", self.record_bytes, 16, 2**30)
        if self.name and not _NAME.match(self.name):
            raise ConfigError(f"l1_name={self.name!r}: {_NAMED}")


@dataclass(frozen=True, slots=True)
class L2Config:
    """The Redis that the hosts share."""

    url: str = field(default="auto", repr=False)
    app: str = "shmcache"
    deadline: float = 0.25

    def __post_init__(self) -> None:
        if self.url not in _L2_WORDS and not _redis(self.url):
            raise ConfigError(
                "l2: expected redis://host:6379/0, unix:///path/to/socket, "
                "redis+sentinel://host:26379/service, redis+cluster://host:6379, each "
                "redis as rediss with TLS, or embedded, none or auto"
            )
        if not _NAME.match(self.app):
            raise ConfigError(f"app={self.app!r}: {_NAMED}")
        _between("deadline", self.deadline, 0.001, 60)


@dataclass(frozen=True, slots=True)
class PurgeConfig:
    """Who may purge, and what a purge can name."""

    token: str = field(default="", repr=False)
    token_file: str = ""
    wait: float = 1.0
    prefixes: int = 4
    strip_tags: bool = True

    def __post_init__(self) -> None:
        if self.token and not _TOKEN.fullmatch(self.token):
            raise ConfigError("token: expected 16 to 256 visible ASCII characters")
        _between("wait", self.wait, 0, 60)
        _between("prefixes", self.prefixes, 0, 8)


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """What a message may be at most, and how much a worker has under way."""

    line: int = 8190
    field: int = 8190
    fields: int = 128
    stored_body: int = 8 * 1024**2
    flights: int = 10_000
    waiters: int = 100_000

    def __post_init__(self) -> None:
        _between("line", self.line, 256, 2**20)
        _between("field", self.field, 256, 2**20)
        _between("fields", self.fields, 8, 10000)
        _between("flights", self.flights, 1, 2**31)
        _between("waiters", self.waiters, 1, 2**31)


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


def parse_address(text: str, setting: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[v6]:port`."""
    host, colon, port = text.rpartition(":")
    valid = port.isascii() and port.isdigit() and int(port) < 65536
    if not colon or not host or not valid or not host.isprintable():
        raise ConfigError(f"{setting}={text!r}: expected HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def redacted(url: str) -> str:
    """What of an L2 URL is fit for the log: where it leads, and not who goes there."""
    if url in _L2_WORDS:
        return url
    scheme, mark, rest = url.partition("://")
    if not mark or scheme not in (*_L2_SCHEMES, "unix"):
        return "***"
    path, _, options = rest.partition("?")
    if scheme == "unix":
        place, known = path, path.startswith("/")
    else:
        place = path.rpartition("@")[2]
        known = bool(_PLACES.match(place)) and "@" not in options
    return f"{scheme}://{place if known else '***'}"


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


def _base(url: str) -> str:
    """What identifies an upstream: its URL without a slash at its end."""
    said = "origin" if "@" in url else f"origin={url!r}"  # with a password
    wanted = f"{said}: expected http://HOST[:PORT], https://HOST[:PORT] or unix:///PATH"
    if url.startswith("unix:"):
        if not _SOCKET.fullmatch(url):
            raise ConfigError(wanted)
        return url
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, or half an IPv6 address
        raise ConfigError(wanted) from None
    if not valid or parts.username is not None or not url.isprintable():
        raise ConfigError(wanted)
    if parts.path not in ("", "/") or parts.query or parts.fragment or " " in url:
        raise ConfigError(f"{wanted}, with no path")
    return f"{parts.scheme}://{parts.netloc}"


def _redis(url: str) -> bool:
    try:
        parts = urlsplit(url)
        if parts.scheme.endswith(_L2_KINDS):  # of several hosts; read by the library
            return parts.scheme in _L2_SCHEMES and bool(parts.netloc)
        _ = parts.port
    except ValueError:
        return False
    if parts.scheme == "unix":
        return bool(parts.path)
    return parts.scheme in _L2_SCHEMES and bool(parts.hostname)


def _between(setting: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{setting}={value!r}: expected {low} to {high}")
