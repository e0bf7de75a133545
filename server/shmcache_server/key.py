"""The key of a request, and whether a cache may answer it at all.

{origin}{encoding}{scheme}{length of host}:{host}{added}{target}: a digest of the
configured origin, a letter for whether the client takes gzip, one more where a trusted
peer told the scheme, the host without its port (two servers of a fleet may listen on
different ones, and the origin is not told it), what a route adds, path and query as
they came or as the route selects of them. No two requests share a key by accident:
each piece has its length before it, and only the target begins with a slash. A long
key ends in a digest of the whole.

A request that bears credentials (Authorization, or a Cookie) is answered by what
stands under that key, too. Where nothing does, it goes by a key of its own, with
one letter more, so that an answer which is only its client's never has the others
fetch for themselves. Cookies that a route has in the key are no credentials.

What is added
    The lines of a field and the cookies as the origin is sent them: none where the
    client's Connection names the field, which takes it off the request; a name in `_`
    beside that in `-`, which an origin may take for the same. Cookies that parsers
    read in different ways are added whole.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from hashlib import blake2b
from itertools import product
from typing import NamedTuple
from urllib.parse import quote_from_bytes

from aiohttp import hdrs
from multidict import CIMultiDict, CIMultiDictProxy

from .config import Config
from .forwarded import Fields as Fields
from .forwarded import Forwarding, believed, plain
from .forwarded import plain_host as plain_host
from .rfc9111 import vary
from .rfc9111.fields import of_connection
from .routes import NONE, Route, Routes

KEY_MAX = 1024
_KEY_KEPT = 900
_PREFIX = 17
"""Characters of a key before its host: the digest and the encoding's letter."""
_CREDENTIALED = "c"
_SCHEMES = {"": "", "http": "p", "https": "s"}
"""Letters for what a trusted peer told."""
_HOSTS_MAX = 1024
_VISIBLE = "".join(map(chr, range(33, 127))).replace("%", "").replace("#", "")
_READ_SO_OR_SO = re.compile(r"[^!#-+\--:<-\[\]-~ ;]|(?<!;) ")
"""In cookies: what is outside the grammar of RFC 6265 §4.2.1."""
_NO_FIELDS: Fields = CIMultiDictProxy(CIMultiDict())


class Refused(Exception):
    """A request that has no key: `status` is 400, or 421 where the host is not ours."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


class Keyed(NamedTuple):
    """Where a request's answer is looked for, and what the origin is asked for it."""

    key: str
    target: str
    """What the origin is asked for."""
    route: Route
    host: str
    """That of the key."""
    cookie: str
    """The cookies in the key, as a Cookie field: any request of this key bears them.
    Empty: none."""


class Added(NamedTuple):
    """What a route adds to the key."""

    told: str
    cookie: str


_NOTHING = Added("", "")


class Lead:
    """What a header block says of keys: all that the target does not."""

    __slots__ = ("_added", "_fields", "_routes", "host", "prefix")

    def __init__(self, routes: Routes, prefix: str, host: str, fields: Fields) -> None:
        self._routes = routes
        self.prefix = prefix
        """What stands before a target where no route adds to it."""
        self.host = host
        self._fields = fields
        self._added: dict[int, Added] = {}
        """By the identity of a route, which lives as long as the routes."""

    def keyed(self, target: str, method: str = "GET") -> Keyed:
        """The key of a request with this block; `Refused`."""
        route = self._routes.of(method, self.host, _targeted(target))
        if route is NONE:
            key = _shortened(self.prefix + target)
            return Keyed(key, target, NONE, self.host, "")
        selected, added = route.selected(target), self._of_route(route)
        return Keyed(
            _shortened(f"{self.prefix}{added.told}{selected}"),
            target if route.forward_query_as_received else selected,
            route,
            self.host,
            added.cookie,
        )

    def _of_route(self, route: Route) -> Added:
        if not (route.fields or route.cookies):
            return _NOTHING
        known = self._added.get(id(route))
        if known is None:
            known = self._added[id(route)] = _added(route, self._fields)
        return known


class Keys:
    """Those of one origin."""

    def __init__(self, config: Config) -> None:
        self._digest = blake2b(config.origin.base.encode(), digest_size=8).hexdigest()
        self._hosts = frozenset(host.lower() for host in config.server.hosts)
        self._prefixes: dict[tuple[str, str | None, str], tuple[str, str]] = {}
        self._routes = Routes(config.routes)
        headers = config.headers
        self.forwarding = Forwarding(headers.removed, headers.trusted_peers)
        self.uniform = not config.routes and not self.forwarding.believes
        """Whether every key of a header block is `prefix` and the target."""

    def of(
        self, fields: Fields, target: str, *, method: str = "GET", trusted: bool = False
    ) -> str:
        """The key of a GET or HEAD; `Refused`. `trusted`: its peer is believed."""
        if self.uniform:
            return _shortened(self._prefix(fields, False)[0] + _targeted(target))
        return self.lead(fields, trusted=trusted).keyed(target, method).key

    def lead(self, fields: Fields, *, trusted: bool = False) -> Lead:
        """What these fields say of keys; `Refused`."""
        prefix, host = self._prefix(fields, trusted)
        return Lead(self._routes, prefix, host, fields)

    def prefix(self, fields: Fields) -> str:
        """What stands before the target; `Refused`, also where that is not enough to
        make a key of it (`uniform`)."""
        if not self.uniform:
            raise Refused(400, "what stands before a target depends on it")
        return self._prefix(fields, False)[0]

    def all(self, fields: Fields, target: str, *, trusted: bool = False) -> list[str]:
        """The keys of a request's URL: either encoding, with credentials or without,
        any scheme. Of those that a route adds to, only the ones with what is added by
        these fields, and by none; the others share the tag of the URL."""
        host = believed(fields).host if trusted else fields.get(hdrs.HOST, "")
        host = plain_host(host) or ""
        schemes = _SCHEMES.values() if self.forwarding.believes else ("",)
        keys = []
        for rest in self._rests(fields, host, target):
            for letter, scheme in product(vary.LETTERS, schemes):
                front = f"{self._digest}{letter}{scheme}"
                keys.append(_shortened(f"{front}{len(host)}:{host}{rest}"))
        return keys + [credentialed(key) for key in keys]

    # -- inside

    def _rests(self, fields: Fields, host: str, target: str) -> Iterable[str]:
        """What may stand behind the host."""
        rests: dict[str, None] = {}
        for method in ("GET", "HEAD"):
            route = self._routes.of(method, host, target)
            selected = route.selected(target)
            for block in (fields, _NO_FIELDS):
                rests[f"{_added(route, block).told}{selected}"] = None
        return rests

    def _prefix(self, fields: Fields, trusted: bool) -> tuple[str, str]:
        """What stands before the target where no route adds to it, and the host."""
        scheme = ""
        if trusted:
            field, scheme = believed(fields)
        else:
            field = fields.get(hdrs.HOST, "")
        which = (field, fields.get(hdrs.ACCEPT_ENCODING), scheme)
        known = self._prefixes.get(which)
        if known is not None:
            return known
        host = plain_host(field)
        if host is None:
            raise Refused(400, "Host is not a host")
        if self._hosts and host not in self._hosts:  # RFC 9110 §15.5.20
            raise Refused(421, "this host is not served here")
        front = f"{self._digest}{vary.letter(which[1])}{_SCHEMES[scheme]}"
        made = f"{front}{len(host)}:{host}", host
        if len(self._prefixes) >= _HOSTS_MAX:
            self._prefixes.clear()
        self._prefixes[which] = made
        return made


def for_a_cache(fields: Fields) -> bool:
    """Whether a GET or HEAD without a body may be answered here: ranges, and
    conditions on the state at the origin, are the origin's to answer."""
    return not (
        hdrs.RANGE in fields
        or hdrs.IF_MATCH in fields
        or hdrs.IF_UNMODIFIED_SINCE in fields
    )


def conditional(fields: Fields) -> bool:
    """Whether the client has a copy, and asks if it still holds."""
    return hdrs.IF_NONE_MATCH in fields or hdrs.IF_MODIFIED_SINCE in fields


def directed(fields: Fields) -> bool:
    """Whether a request says anything of caching."""
    return hdrs.CACHE_CONTROL in fields or hdrs.PRAGMA in fields


def credentials(fields: Fields, cookie: str = "") -> bool:
    """Whether a request bears any, beside the cookies of its key."""
    return hdrs.AUTHORIZATION in fields or cookies_beside(fields, cookie)


def cookies_beside(fields: Fields, cookie: str) -> bool:
    """Whether a request bears cookies beside those of its key."""
    return hdrs.COOKIE in fields and "; ".join(fields.getall(hdrs.COOKIE)) != cookie


def credentialed(key: str) -> str:
    """The key of requests with credentials, beside that of those without."""
    return _shortened(f"{key[:_PREFIX]}{_CREDENTIALED}{key[_PREFIX:]}")


def gzipped(key: str) -> str | None:
    """The key of the same URL for who takes gzip, of one for who does not; None of one
    that was shortened, which does not tell."""
    at = _PREFIX - 1
    return None if "#" in key else f"{key[:at]}{vary.GZIP}{key[at + 1 :]}"


def _added(route: Route, fields: Fields) -> Added:
    """What a route takes of these fields."""
    if not (route.fields or route.cookies):
        return _NOTHING
    gone = of_connection(fields.getall(hdrs.CONNECTION, ()))
    told, cookie = [], ""
    for name in sorted({plain(name) for name in route.fields}):
        pieces: list[str] = []
        for spelled, value in fields.items():
            lower = spelled.lower()
            if plain(spelled) == name and not {name, lower} & gone:
                pieces += lower, value
        told.append(_told("f", name, pieces))
    if route.cookies:
        sent = () if "cookie" in gone else fields.getall(hdrs.COOKIE, ())
        more, cookie = _cookies(sorted(set(route.cookies)), "; ".join(sent))
        told += more
    return Added("".join(told), cookie)


def _cookies(names: Iterable[str], field: str) -> tuple[list[str], str]:
    """What is told of the cookies with these names, and they as a field."""
    if _READ_SO_OR_SO.search(field):
        return [_told("w", "", [field])], field
    pairs = [pair.strip(" ") for pair in field.split(";")]
    told, kept = [], set()
    for name in names:
        of_name = [pair for pair in pairs if pair.partition("=")[0] == name]
        told.append(_told("k", name, of_name))
        kept.update(of_name)
    return told, "; ".join(pair for pair in pairs if pair in kept)


def _told(kind: str, name: str, pieces: Collection[str]) -> str:
    """Pieces of a name, so that one can tell where each ends."""
    return f"{kind}{_piece(name)}{len(pieces)}={''.join(map(_piece, pieces))}"


def _piece(text: str) -> str:
    quoted = quote_from_bytes(text.encode("utf-8", "surrogateescape"), _VISIBLE)
    return f"{len(quoted)}:{quoted}"


def _targeted(target: str) -> str:
    """A target that a key may end in; `Refused`."""
    # aiohttp takes the host of an absolute target over the Host field's: one of the
    # two would be outside the key.
    if target[:1] != "/" or not target.isascii() or "#" in target:
        raise Refused(400, "the target must be a path, in ASCII")
    return target


def _shortened(key: str) -> str:
    """A key that fits. A shortened one holds a `#`, which no target does."""
    if len(key) <= KEY_MAX:
        return key
    digest = blake2b(key.encode(), digest_size=32).hexdigest()
    return f"{key[:_KEY_KEPT]}#{digest}"
