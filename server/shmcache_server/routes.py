"""Routes: what the operator says of some URLs, their keys above all.

The first route that covers a request counts; where none does, `NONE` does, which
changes nothing. The path that counts is the one received, byte for byte.

One path, several readings
    `/static/..%2faccount`, `//account`, `/account;a.css` and `/Account` are one thing
    here and may be another at the origin. So a path which can be read otherwise is
    read in both ways: as it is, and as the most liberal origins would. A route that
    caches covers it if all readings fall under it, one that passes if any does.
        With dot segments, literal or escaped, there are too many readings: which
    segments `..` takes away depends on whether empty segments, parameters and escapes
    are resolved before it. `/a/../account/..;/b` is `/b` to one origin and under
    `/account` to the next. Such a path falls under every route that passes, and under
    none that caches but one for all paths. Browsers send none.

What the query's selection costs
    A parameter that is left out of the key and reaches the origin may change the
    answer of everybody. So the origin is sent what is in the key, unless the route
    says `forward_query_as_received`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any
from urllib.parse import unquote_plus, unquote_to_bytes

from shmcache import ConfigError

from .forwarded import plain, unkeyed

_CANDIDATES_MAX = 1024
_KNOWN_MAX = 4096
_KNOWN_PATH_MAX = 256
"""Characters of a path whose route is remembered."""
_DECODED_MOST = 3
"""Times that an origin may take `%` off."""
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HOST = re.compile(r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]+")
_PATH = re.compile(r"(?=/)(?:(?!//|/\.{1,2}(?:/|\Z))[!-~])+")
_NOT_IN_PATH = re.compile(r"[?#;\\]|\*.")
_METHOD = re.compile(r"[A-Z-]+")
_PARAMETER = re.compile(r"[^\s&=#;%+*]*\*?")
_AMBIGUOUS = re.compile(r"[%;\\A-Z\0- ]|//|/\.{1,2}(?:/|\Z)")
_DOTS = re.compile(r"/\.{1,2}(?:[/;?#\0- ]|\Z)")
_OF_SEGMENT = re.compile(r";[^/]*")
_SLASHES = re.compile(r"//+")
_END = re.compile(r"[?#\0- ]")
"""Behind which some read no more of a path."""
_NO_KEY_FIELDS = frozenset({"authorization", "cache-control", "cookie", "pragma"})
"""Not sent in a request for many."""


@dataclass(frozen=True, slots=True)
class Route:
    """What holds for the requests that it covers; each default changes nothing."""

    host: str = ""
    """Without its port; empty: any."""
    path: str = "/"
    """Itself and what is below it; with a `*` at its end all that begins so."""
    methods: tuple[str, ...] = ()
    """Empty: all."""
    query_ignored: tuple[str, ...] = ()
    """Parameters outside the key; `utm_*`: all that begin so."""
    query_kept: tuple[str, ...] = ()
    """Those alone are in the key; empty: all are."""
    query_sorted: bool = False
    """By name in the key, those of one name as they came; not with a `;` in it, at
    which some begin another name."""
    forward_query_as_received: bool = False
    """Send the origin what is not in the key, too."""
    fields: tuple[str, ...] = ()
    """Of the request, in the key."""
    cookies: tuple[str, ...] = ()
    """In the key."""
    cache: bool = True
    """False: every request is passed through."""
    ttl: float | None = None
    """Seconds that what may be stored is fresh, whatever the origin says."""
    default_ttl: float | None = None
    """Seconds for a 200 that says nothing of it, in place of the origin's setting."""

    def __post_init__(self) -> None:
        if self.host and not _HOST.fullmatch(self.host):
            raise ConfigError(f"host={self.host!r}: expected one as example.org")
        if (
            not _PATH.fullmatch(self.path)
            or _NOT_IN_PATH.search(self.path)
            or not _readings(self.path)
        ):
            raise ConfigError(
                f"path={self.path!r}: expected one as /blog, or /blog* with its `*` at "
                "the end; no query, no `;`, no empty or dot segments"
            )
        _each("methods", self.methods, _METHOD, "as GET")
        for key in ("query_ignored", "query_kept"):
            wanted = "names of parameters, as page or utm_*"
            _each(key, getattr(self, key), _PARAMETER, wanted)
        if self.query_ignored and self.query_kept:
            raise ConfigError("query_kept: not beside query_ignored")
        _each("fields", self.fields, _TOKEN, "names of fields, as Accept-Language")
        for name in self.fields:
            if unkeyed(name) or name.lower() in _NO_KEY_FIELDS:
                raise ConfigError(
                    f"fields={name!r}: the origin is not sent it as it came, or it is "
                    "in the key already"
                )
        _each("cookies", self.cookies, _TOKEN, "names of cookies")
        for key in ("ttl", "default_ttl"):
            value = getattr(self, key)
            if value is not None and not self.cache:
                raise ConfigError(f"{key}={value!r}: not beside cache = false")
            if value is not None and not 0 <= value <= 2**31:
                raise ConfigError(f"{key}={value!r}: expected 0 to {2**31}")

    def covers(self, path: str) -> bool:
        """Whether a path as received falls under it."""
        as_received = _under(self.path).match(path) is not None
        if not _AMBIGUOUS.search(path):
            return as_received
        readings = _readings(path)
        if not readings:
            return not self.cache or self.path in ("/", "/*")
        both = zip(_readings(self.path), readings, strict=True)
        liberally = (_under(own).match(read) is not None for own, read in both)
        if self.cache:
            return as_received and all(liberally)
        return as_received or any(liberally)

    def selected(self, target: str) -> str:
        """Path and query as they are in the key."""
        if not (self.query_ignored or self.query_kept or self.query_sorted):
            return target
        path, mark, query = target.partition("?")
        if not mark:
            return target
        parameters = [p for p in query.split("&") if self._stays(p)]
        if self.query_sorted and ";" not in query:
            parameters.sort(key=_name)
        return f"{path}?{'&'.join(parameters)}" if parameters else path

    def _stays(self, parameter: str) -> bool:
        if ";" in parameter:  # of which some make two
            return True
        name = _name(parameter)
        if self.query_kept:
            return _names(self.query_kept).fullmatch(name) is not None
        if self.query_ignored:
            return _names(self.query_ignored).fullmatch(name) is None
        return True


class Routes:
    """All of them, in their order."""

    def __init__(self, routes: tuple[Route, ...]) -> None:
        self._all = routes
        self._candidates: dict[tuple[str, str], tuple[Route, ...]] = {}
        self._known: dict[tuple[str, str, str], Route] = {}

    def of(self, method: str, host: str, target: str) -> Route:
        """The first that covers the request, else NONE; `host` in lower case."""
        if not self._all:
            return NONE
        path = target.partition("?")[0]
        known = self._known.get((method, host, path))
        if known is not None:
            return known
        candidates = self._of(method, host)
        found = next((route for route in candidates if route.covers(path)), NONE)
        if len(path) <= _KNOWN_PATH_MAX:
            if len(self._known) >= _KNOWN_MAX:
                self._known.clear()
            self._known[method, host, path] = found
        return found

    def _of(self, method: str, host: str) -> tuple[Route, ...]:
        """Those that may cover such a request, whatever its path is."""
        candidates = self._candidates.get((method, host))
        if candidates is None:
            if len(self._candidates) >= _CANDIDATES_MAX:
                self._candidates.clear()
            name = host.removesuffix(".")  # to DNS, and to frameworks, it is the same
            candidates = self._candidates[method, host] = tuple(
                route
                for route in self._all
                if route.host.lower().removesuffix(".") in ("", name)
                and (not route.methods or method in route.methods)
            )
        return candidates


def told(route: Route, key: str, value: Any) -> Route:
    """A route with one more key of its TOML table; `ConfigError`."""
    defaults = {f.name: f.default for f in fields(Route)}
    if key not in defaults:
        raise ConfigError(f"unknown key {key}")
    kind = float if defaults[key] is None else type(defaults[key])
    if kind is tuple and type(value) is list and all(type(v) is str for v in value):
        value = tuple(value)
    elif kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ConfigError(f"{key}={value!r}: expected {_WORDS[kind]}")
    told: dict[str, Any] = {key: value}
    return replace(route, **told)


def agree(route: Route, removed: tuple[str, ...]) -> None:
    """`ConfigError` where a route has a field in its key that the origin never gets."""
    gone = {plain(name) for name in removed}
    for name in route.fields:
        if plain(name) in gone:
            raise ConfigError(f"fields={name!r}: headers.removed has it, too")


_WORDS: dict[type, str] = {
    str: "text",
    bool: "true or false",
    float: "a number",
    tuple: "a list of texts",
}


def _name(parameter: str) -> str:
    """As the origin reads it."""
    name = parameter.partition("=")[0]
    return unquote_plus(name) if "%" in name or "+" in name else name


def _each(key: str, names: tuple[str, ...], form: re.Pattern[str], words: str) -> None:
    for name in names:
        if not name or not form.fullmatch(name):
            raise ConfigError(f"{key}={name!r}: expected {words}")


@lru_cache(1024)
def _under(path: str) -> re.Pattern[str]:
    """What a path begins with that falls under `path`."""
    if path.endswith("*"):
        return re.compile(re.escape(path[:-1]))
    return re.compile(re.escape(path) + ("" if path.endswith("/") else r"(?=/|\Z)"))


@lru_cache(1024)
def _names(names: tuple[str, ...]) -> re.Pattern[str]:
    patterns = (re.escape(name.removesuffix("*")) for name in names)
    stars = (".*" if name.endswith("*") else "" for name in names)
    return re.compile("|".join(map("".join, zip(patterns, stars, strict=True))), re.S)


@lru_cache(256)
def _readings(path: str) -> tuple[str, ...]:
    """A path as the most liberal origins read it: decoded again and again, in lower
    case, without parameters of segments and without empty ones, to where some end it,
    and all of it. None at all where it has dot segments, which each resolves its own
    way."""
    raw = path.encode("latin-1", "replace")
    for _ in range(_DECODED_MOST):
        raw = unquote_to_bytes(raw)
    read = raw.lower().decode("latin-1").replace("\\", "/")
    if _DOTS.search(read):
        return ()
    to_end = _END.split(read, maxsplit=1)[0]
    whole = _merged(read)
    return whole if to_end == read else _merged(to_end), whole


def _merged(path: str) -> str:
    return _SLASHES.sub("/", _OF_SEGMENT.sub("", path))


NONE = Route()
"""Of what no route covers."""
