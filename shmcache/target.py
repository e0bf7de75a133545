"""Target: what a URL names, and what lets us in there.

    redis://[[user]:password@]host[:port][/db]       rediss:// with TLS
    unix:///path/to/socket[?db=&username=&password=]
    redis+sentinel://[[user]:password@]host:port,host:port/service[/db]
    redis+cluster://[[user]:password@]host:port,host:port

User and password are those of Redis; a Sentinel's are the options `sentinel_username`
and `sentinel_password`. rediss+sentinel and rediss+cluster have TLS everywhere. No
message repeats a URL, nor any part of it that may be a password.
"""

from __future__ import annotations

import ssl
from typing import NamedTuple, NoReturn, TypedDict
from urllib.parse import parse_qsl, unquote

from .address import Address
from .errors import ConfigError

__all__ = ["Target", "parse"]

_TLS = {
    *("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs"),
    *("ssl_check_hostname", "ssl_min_version"),
}
_SENTINEL = {"sentinel_username", "sentinel_password"}
_OPTIONS: dict[str, set[str]] = {
    "redis": {"db"},
    "rediss": {"db"} | _TLS,
    "unix": {"db", "username", "password"},
    "redis+sentinel": _SENTINEL,
    "rediss+sentinel": _SENTINEL | _TLS,
    "redis+cluster": set(),
    "rediss+cluster": _TLS,
}


class Login(TypedDict):
    """Who we are."""

    user: str
    password: str


class Target(NamedTuple):
    """What a URL says."""

    kind: str
    """single, sentinel or cluster."""
    addresses: list[Address]
    """Of the one Redis, of the Sentinels, or of some nodes of the Cluster."""
    service: str = ""
    """What the Sentinels call it, and..."""
    master: Address | None = None
    """what lets us in there, wherever it is."""


def parse(url: str) -> Target:
    """`ConfigError` tells what was expected."""
    scheme, mark, rest = url.partition("://")
    if not mark or scheme not in _OPTIONS:
        names = "://, ".join(_OPTIONS)
        raise ConfigError(f"l2: expected a URL that begins with one of {names}://")
    rest, _, query = rest.partition("?")
    options = _options(scheme, query)
    if scheme == "unix":
        return _unix(rest, options)
    authority, _, path = rest.partition("/")
    login, _, hosts = authority.rpartition("@")
    user, colon, password = map(unquote, login.partition(":"))
    _known_by(user, password if colon else None)
    tls = _tls(options) if scheme.startswith("rediss") else None
    secure = scheme.partition("+")[0]
    if scheme.endswith("+sentinel"):
        service, _, db = path.partition("/")
        if not service or not all(c.isalnum() or c in "-_.:" for c in service):
            raise ConfigError(
                f"l2: expected a service's name, {scheme}://host:26379,host:26379/name"
            )
        master = Address(user=user, password=password, db=_db(db), tls=tls)
        known = Address(**_login(options, "sentinel_"), tls=tls)
        sentinels = [known.at(*place) for place in _places(scheme, hosts, 26379)]
        return Target("sentinel", sentinels, service, master)
    places = _places(scheme, hosts, 6379)
    if scheme.endswith("+cluster"):
        if path.strip("/"):
            raise ConfigError("l2: expected no path: a Cluster has one database")
        known = Address(user=user, password=password, tls=tls)
        return Target("cluster", [known.at(*place) for place in places])
    if len(places) > 1:
        raise ConfigError(f"l2: expected one host, {secure}://host:6379/0")
    known = Address(
        *places[0],
        user=user,
        password=password,
        db=_db(options.get("db") or path.strip("/")),
        tls=tls,
    )
    return Target("single", [known])


def _unix(path: str, options: dict[str, str]) -> Target:
    if not path.startswith("/") or not path.strip("/"):
        raise ConfigError("l2: expected the socket's path, unix:///path/to/socket")
    address = Address(
        path=unquote(path),
        **_login(options),
        db=_db(options.get("db", "")),
    )
    return Target("single", [address])


def _login(options: dict[str, str], whose: str = "") -> Login:
    user, password = (options.get(whose + name) for name in ("username", "password"))
    _known_by(user or "", password)
    return {"user": user or "", "password": password or ""}


def _known_by(user: str, password: str | None) -> None:
    """Refuse who has a name alone: nobody would log in. It may be meant as a password,
    as redis-cli takes it, so it is not repeated."""
    if user and password is None:
        raise ConfigError(
            "l2: a user without a password in the URL; expected user:password@host,"
            " :password@host, or user:@host for one who needs none"
        )


def _options(scheme: str, query: str) -> dict[str, str]:
    try:
        options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=True))
    except ValueError:
        if query:
            raise ConfigError("l2: malformed options in the URL") from None
        return {}
    known = _OPTIONS[scheme]
    if options.keys() - known:
        names = ", ".join(sorted(known)) or "none"
        raise ConfigError(f"l2: unknown option in the URL; there are {names}")
    return options


def _places(scheme: str, hosts: str, port: int) -> list[tuple[str, int]]:
    """host:port, and more of them behind commas."""
    return [_place(scheme, one, port) for one in hosts.split(",")]


def _place(scheme: str, text: str, port: int) -> tuple[str, int]:
    if text.startswith("["):  # IPv6
        host, bracket, rest = text[1:].partition("]")
        good = bool(bracket) and rest[:1] in ("", ":")
    else:
        host, colon, rest = text.partition(":")
        rest, good = colon + rest, True
    digits = rest[1:]
    host = unquote(host)
    if not good or any(c in host for c in "/@[] ") or not _nameable(host):
        raise ConfigError(f"l2: expected a host, {scheme}://host:{port}")
    if rest and not (digits.isdecimal() and 0 < int(digits) < 65536):
        raise ConfigError(
            f"l2: expected {scheme}://host:{port}, with a port from 1 to 65535"
        )
    return host, int(digits) if digits else port


def _nameable(host: str) -> bool:
    """Whether it can be asked for at all."""
    try:
        return bool(host.encode("idna")) and host.isprintable()
    except UnicodeError:
        return False


def _db(text: str) -> int:
    if text and not (text.isdecimal() and len(text) < 6):
        raise ConfigError("l2: expected the database's number after the host")
    return int(text or 0)


def _tls(options: dict[str, str]) -> ssl.SSLContext:
    """Made once: it reads every certificate of the host."""
    demands = {
        "none": ssl.CERT_NONE,
        "optional": ssl.CERT_OPTIONAL,
        "required": ssl.CERT_REQUIRED,
    }
    demand = demands.get(options.get("ssl_cert_reqs", "required"))
    named = options.get("ssl_check_hostname", "true").lower()
    least = options.get("ssl_min_version", "TLSv1_2").replace(".", "_")
    if demand is None or named not in ("true", "false"):
        raise ConfigError(
            "l2: expected ssl_cert_reqs to be none, optional or required,"
            " and ssl_check_hostname to be true or false"
        )
    if least not in ("TLSv1_2", "TLSv1_3"):
        raise ConfigError("l2: expected ssl_min_version to be TLSv1.2 or TLSv1.3")
    try:
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
        if "ssl_certfile" in options:
            context.load_cert_chain(
                options["ssl_certfile"], options.get("ssl_keyfile"), _no_passphrase
            )
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(
            "l2: expected ssl_ca_certs, ssl_certfile and ssl_keyfile to be PEM files"
            f" that can be read ({type(error).__name__})"
        ) from None
    context.check_hostname = named == "true" and demand is not ssl.CERT_NONE
    context.verify_mode = demand
    context.minimum_version = ssl.TLSVersion[least]
    return context


def _no_passphrase() -> NoReturn:
    """OpenSSL would ask the terminal, and wait."""
    raise ConfigError("l2: expected ssl_keyfile to be a key without a passphrase")
