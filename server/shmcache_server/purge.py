"""Purges: what a request names is removed, or made stale, on every host.

    PURGE target      on the main listener: that URL; or instead of it the labels and
                      groups that the request bears in Cache-Tag, Surrogate-Key and
                      Cache-Groups; `Shmcache-Purge`, a dictionary of RFC 9651, says
                      soft, prefix, all, wait=0.5
    POST /purge       on the admin listener: JSON or parameters, any number of
                      url, tag, group (with host), prefix; all, soft, wait

Both want the token: `Authorization: Bearer ...`. Where none is set nobody may purge.

What an answer says
    The purge holds on this host before it is answered, whatever becomes of Redis: no
    request that comes later gets what was fetched before. Other hosts apply it from
    the stream, and say so: the answer waits for them a moment. `told` false means that
    Redis is away, and the purge in the outbox.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from http import HTTPStatus
from typing import Any, NamedTuple

import http_sf
from aiohttp import hdrs, web
from multidict import CIMultiDict, CIMultiDictProxy

from shmcache import Cache, CacheError, Confirmation

from . import tags
from .answer import Answer
from .config import Config
from .key import Fields, Keys, Refused, plain_host
from .rfc9111 import invalidating

MOST = 1000
"""Names in one request."""
WAIT_MOST = 60.0
FIELD = "Shmcache-Purge"
_URL = re.compile(
    r"(?:(?:https?:)?//)?+(?P<host>[^/?#@\s]+)(?P<target>[/?][!-~]*)?", re.IGNORECASE
)
_WORDS = {"url": "urls", "tag": "tags", "group": "groups", "prefix": "prefixes"}
_FLAGS = {"1": True, "true": True, "": True, "0": False, "false": False}

log = logging.getLogger("shmcache")


class Place(NamedTuple):
    """A host, and path and query there, or the prefix of a path."""

    host: str
    target: str


class Group(NamedTuple):
    """Of RFC 9875."""

    host: str
    name: str


@dataclass(frozen=True, slots=True)
class Purge:
    """What is to be purged, and how."""

    urls: tuple[Place, ...] = ()
    tags: tuple[str, ...] = ()
    """Labels."""
    groups: tuple[Group, ...] = ()
    prefixes: tuple[Place, ...] = ()
    everything: bool = False
    soft: bool = False
    """Made stale in place of removed."""
    wait: float | None = None
    """Seconds for the other hosts; None: as the setting says."""

    def __post_init__(self) -> None:
        count = len(self.urls + self.tags + self.groups + self.prefixes)
        if not (count or self.everything):
            raise ValueError("nothing to purge: expected url, tag, group, prefix, all")
        if count > MOST:
            raise ValueError(f"{count} names: expected at most {MOST}")
        if self.wait is not None and not 0 <= self.wait <= WAIT_MOST:
            raise ValueError(f"wait={self.wait:g}: expected 0 to {WAIT_MOST:g} seconds")

    def told(self) -> dict[str, Any]:
        """For the answer: what there is of it."""
        said = {
            "urls": ["".join(url) for url in self.urls],
            "tags": list(self.tags),
            "groups": [group._asdict() for group in self.groups],
            "prefixes": ["".join(prefix) for prefix in self.prefixes],
            "all": self.everything,
        }
        return {word: names for word, names in said.items() if names}


# -- what a request says; `ValueError` says what is wrong with it


def of_json(body: bytes) -> Purge:
    """That of an object with the names of the parameters, each text or a list."""
    try:
        said = json.loads(body)
    except ValueError:
        raise ValueError("body: expected a JSON object") from None
    if not isinstance(said, dict):
        raise ValueError("body: expected a JSON object")
    return of_parameters(
        (name, value)
        for name, values in said.items()
        for value in (values if isinstance(values, list) else [values])
    )


def of_parameters(pairs: Iterable[tuple[str, Any]]) -> Purge:
    """That of names and values, in any order, most of them more than once."""
    said: dict[str, list[Any]] = {name: [] for name in (*_WORDS, "host")}
    flags: dict[str, Any] = {"all": False, "soft": False, "wait": None}
    for name, value in pairs:
        name = _SINGULAR.get(name, name)
        if name in said:
            if not isinstance(value, str) or not value:
                raise ValueError(f"{name}={value!r}: expected text")
            said[name].append(value)
        elif name in flags:
            flags[name] = _seconds(value) if name == "wait" else _flag(name, value)
        else:
            wanted = ", ".join((*said, *flags))
            raise ValueError(f"{name!r} is not known: expected {wanted}")
    return Purge(
        urls=tuple(map(place, said["url"])),
        tags=tuple(said["tag"]),
        groups=_groups(said["group"], said["host"]),
        prefixes=tuple(map(place, said["prefix"])),
        everything=flags["all"],
        soft=flags["soft"],
        wait=flags["wait"],
    )


def of_fields(host: str, target: str, fields: Fields) -> Purge:
    """That of a PURGE request for `target` on `host`."""
    said = _dictionary(fields.getall(FIELD, ()))
    prefix, everything = said.pop("prefix", False), said.pop("all", False)
    labels = tuple(tags.labels(lambda name: fields.getall(name, ())))
    groups = invalidating.groups(fields.getall("Cache-Groups", ()))
    named = bool(labels or groups or everything)
    here = (Place(host, target),)
    return Purge(
        urls=() if named or prefix else here,
        tags=labels,
        groups=tuple(Group(host, name) for name in groups),
        prefixes=here if prefix else (),
        everything=everything,
        **said,
    )


def place(text: str) -> Place:
    """Host and target of a URL, whose scheme and port are no matter."""
    match = _URL.fullmatch(text)
    host = plain_host(match["host"]) if match else None
    if match is None or not host or "#" in text:
        raise ValueError(f"{text!r}: expected a URL, as http://example.org/blog?page=2")
    target = match["target"] or "/"
    return Place(host, target if target[0] == "/" else f"/{target}")


_SINGULAR = {many: one for one, many in _WORDS.items()}


def _groups(names: Sequence[str], hosts: Sequence[str]) -> tuple[Group, ...]:
    if bool(names) != bool(hosts) or len(hosts) > 1:
        raise ValueError("group: expected with one host, whose group it is")
    return tuple(Group(place(hosts[0]).host, name) for name in names)


def _flag(name: str, value: Any) -> bool:
    if isinstance(value, str):
        value = _FLAGS.get(value.lower())
    if not isinstance(value, bool):
        raise ValueError(f"{name}: expected 1 or 0")
    return value


def _seconds(value: Any) -> float:
    try:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"wait={value!r}: expected a number of seconds") from None


def _dictionary(lines: Sequence[str]) -> dict[str, Any]:
    """What our field says."""
    members: Any
    try:
        members = http_sf.parse(", ".join(lines).encode("ascii"), tltype="dictionary")
    except ValueError:
        raise ValueError(f"{FIELD}: expected a dictionary of RFC 9651") from None
    said: dict[str, Any] = {}
    for name, (value, _) in members.items():
        flag = isinstance(value, bool)
        if name in ("soft", "prefix", "all") and flag:
            said[name] = value
        elif name == "wait" and isinstance(value, int | Decimal) and not flag:
            said[name] = float(value)
        else:
            raise ValueError(f"{FIELD}: {name}: expected soft, prefix, all, wait=0.5")
    return said


def words(found: Confirmation) -> str:
    """How far a purge has come, for people."""
    if not found.told:
        return "purged on this host; the others are told when Redis is back"
    if found.hosts is None:
        return "purged on this host, and told; Redis does not say who has applied it"
    if found.confirmed < found.hosts:
        missing = found.hosts - found.confirmed
        return f"purged on {found.confirmed} of {found.hosts} hosts; {missing} to come"
    return f"purged on {found.confirmed} of {found.hosts} hosts"


# -- what is done


class Purges:
    """Those that this worker is asked for."""

    def __init__(self, cache: Cache, keys: Keys, config: Config) -> None:
        self._cache = cache
        self._keys = keys
        self._token = config.purge.token.encode()
        self._wait = config.purge.wait
        self._prefixes = config.purge.prefixes

    async def on_main(self, request: web.BaseRequest, host: str) -> Answer:
        """The answer to PURGE on the main listener; `host` as it is in keys."""
        if not self._token:
            return _answer(405, {"error": "PURGE is off: no token is set"})
        status, said = await self._answered(
            request.headers,
            lambda: of_fields(host, request.raw_path, request.headers),
        )
        # a body would be read as the next request
        return _answer(status, said, close=request.body_exists)

    async def on_admin(self, request: web.Request) -> web.Response:
        """The answer to POST on the admin listener."""
        if not self._token:
            said = {
                "error": "no token is set: [purge] token_file, SHMCACHE_PURGE_TOKEN"
            }
            return web.json_response(said, status=403)
        body = await request.read()
        status, said = await self._answered(
            request.headers,
            lambda: of_json(body) if body else of_parameters(request.query.items()),
        )
        headers = {hdrs.WWW_AUTHENTICATE: "Bearer"} if status == 401 else None
        return web.json_response(said, status=status, headers=headers)

    async def run(self, purge: Purge) -> dict[str, Any]:
        """Purge, and say how far it has come; `ValueError` or `Refused` before
        anything is done."""
        names, keys = self._tags_of(purge), self._keys_of(purge.urls)
        if purge.everything:
            await self._cache.clear(soft=purge.soft)
        else:
            await self._purge_keys(keys, purge.soft)
            await self._purge_tags(names, purge.soft)
        wait = self._wait if purge.wait is None else purge.wait
        found = await self._cache.confirmed(wait)
        said = {"purged": purge.told(), "soft": purge.soft} | found._asdict()
        log.info("purge: %s", json.dumps(said))
        return said | {"words": words(found)}

    # -- inside

    async def _answered(
        self, fields: Mapping[str, str], read: Callable[[], Purge]
    ) -> tuple[int, dict[str, Any]]:
        """Status and document of the answer to who purges."""
        if not self._lets_in(fields):
            return 401, {"error": "Authorization: expected Bearer and the token"}
        try:
            return 200, await self.run(read())
        except Refused as e:
            return e.status, {"error": str(e)}
        except ValueError as e:
            return 400, {"error": str(e)}
        except CacheError as e:
            return 503, {"error": str(e)}

    def _lets_in(self, fields: Mapping[str, str]) -> bool:
        scheme, _, given = fields.get(hdrs.AUTHORIZATION, "").partition(" ")
        token = given.strip(" ").encode("utf-8", "surrogateescape")
        return hmac.compare_digest(token, self._token) and scheme.lower() == "bearer"

    def _keys_of(self, urls: Iterable[Place]) -> list[list[str]]:
        return [self._keys.all(_fields(url), url.target) for url in urls]

    def _tags_of(self, purge: Purge) -> list[str]:
        found: dict[str, None] = {}
        for url in purge.urls:
            lead = self._keys.lead(_fields(url))
            for method in ("GET", "HEAD"):  # of which each may have a route
                route = lead.keyed(url.target, method).route
                found[tags.of_url(url.host, route.selected(url.target))] = None
        for label in purge.tags:
            found.update(dict.fromkeys(tags.of_label(label)))
        for group in purge.groups:
            found.update(dict.fromkeys(tags.of_group(*group)))
        for prefix in purge.prefixes:
            found[tags.of_prefix(*prefix, self._prefixes)] = None
        return list(found)

    async def _purge_keys(self, urls: list[list[str]], soft: bool) -> None:
        if not soft and urls:
            await self._cache.delete_many(key for keys in urls for key in keys)
        elif soft:
            for keys in urls:
                await asyncio.gather(*map(self._cache.expire, keys))

    async def _purge_tags(self, names: list[str], soft: bool) -> None:
        purge = self._cache.expire_tags if soft else self._cache.delete_tags
        for first in range(0, len(names), tags.TAGS_MAX):
            await purge(*names[first : first + tags.TAGS_MAX])


def _fields(url: Place) -> Fields:
    return CIMultiDictProxy(CIMultiDict({hdrs.HOST: url.host}))


def _answer(status: int, said: dict[str, Any], *, close: bool = False) -> Answer:
    body = json.dumps(said).encode() + b"\n"
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        "Content-Type: application/json; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\n"
    )
    if status == 401:
        head += "WWW-Authenticate: Bearer\r\n"
    if status == 405:
        head += "Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"
    return Answer(status, head.encode(), body, close=close)
