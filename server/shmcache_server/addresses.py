"""Addresses as settings say them: of listeners, of origins, of a Redis."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from shmcache import ConfigError

L2_WORDS = ("auto", "none", "embedded")
"""What stands for the address of an L2."""
_L2_KINDS = ("+sentinel", "+cluster")
_L2_SCHEMES = tuple(
    scheme + kind for scheme in ("redis", "rediss") for kind in ("", *_L2_KINDS)
)
_HOST = r"(\[[0-9A-Fa-f:.%]+\]|[^][\s:@/,]+)(:[0-9]+)?"
_PLACES = re.compile(rf"{_HOST}(,{_HOST})*(/[\w.:-]*)*\Z")
_SOCKET = re.compile(r"unix://(/[^\s?#]+|@[^\s?#]+)")
"""By its path, or by its name in the abstract namespace."""


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


def base(url: str) -> str:
    """What identifies an upstream: its URL without a slash at its end; `ConfigError`,
    which repeats no password."""
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


def is_redis(url: str) -> bool:
    """Whether a URL leads to a Redis, or to several hosts of one."""
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


def redacted(url: str) -> str:
    """What of an L2 URL is fit for the log: where it leads, and not who goes there."""
    if url in L2_WORDS:
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
