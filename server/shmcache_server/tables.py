"""Tables of the configuration: a frozen type for each, validated once.

A wrong value is a `ConfigError` that names the key, and not what is secret.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shmcache import ConfigError

from .addresses import L2_WORDS, base, is_redis, loopback, parse_address

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")
_PATH = re.compile(r"/[!\"$-~]*")
_PLAIN_HOST = re.compile(r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]+")
_NAMED = "expected 1 to 64 letters, digits, '._-', the first a letter or a digit"
_TOKEN = re.compile(r"[!-~]{16,256}")
_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", re.ASCII)
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


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
        return tuple(map(base, self.urls))

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
        if self.url not in L2_WORDS and not is_redis(self.url):
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


def _between(setting: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{setting}={value!r}: expected {low} to {high}")
