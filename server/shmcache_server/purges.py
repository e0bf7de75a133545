"""Purges: those that a worker is asked for; they hold on every host.

Who asks wants the token, `Authorization: Bearer ...`. Where none is set nobody may.

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
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from aiohttp import hdrs, web
from multidict import CIMultiDict, CIMultiDictProxy, MultiMapping

from shmcache import Cache, CacheError, Confirmation

from . import tags
from .answer import Answer, own
from .config import Config
from .forwarded import Fields
from .key import Keys, Refused
from .purge import Place, Purge, of_fields, of_json, of_query

log = logging.getLogger("shmcache")


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
        body, query = await request.read(), request.rel_url.raw_query_string
        status, said = await self._answered(request.headers, lambda: _told(body, query))
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

    async def changed(
        self, host: str, method: str, targets: Iterable[str], fields: MultiMapping[str]
    ) -> None:
        """Purge what the answer to a request with this method makes void of `host`'s,
        beside the keys of these targets: their variants, and the groups that its
        Cache-Group-Invalidation names. `fields` are the answer's."""
        names = {tag: None for t in targets for tag in self._of_url(Place(host, t))}
        names.update(dict.fromkeys(tags.invalidated(host, method, fields)))
        await self._purge_tags(list(names), soft=False)

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
            found.update(dict.fromkeys(self._of_url(url)))
        for label in purge.tags:
            found.update(dict.fromkeys(tags.of_label(label)))
        for group in purge.groups:
            found.update(dict.fromkeys(tags.of_group(*group)))
        for prefix in purge.prefixes:
            found[tags.of_prefix(*prefix, self._prefixes)] = None
        return list(found)

    def _of_url(self, url: Place) -> Iterable[str]:
        """The tags of its variants."""
        lead = self._keys.lead(_fields(url))
        for method in ("GET", "HEAD"):  # of which each may have a route
            route = lead.keyed(url.target, method).route
            yield tags.of_url(url.host, route.selected(url.target))

    async def _purge_keys(self, urls: list[list[str]], soft: bool) -> None:
        if not soft and urls:
            await self._cache.delete_many(key for keys in urls for key in keys)
        elif soft:
            for keys in urls:
                await asyncio.gather(*map(self._cache.expire, keys))

    async def _purge_tags(self, names: Sequence[str], soft: bool) -> None:
        purge = self._cache.expire_tags if soft else self._cache.delete_tags
        for first in range(0, len(names), tags.TAGS_MAX):
            await purge(*names[first : first + tags.TAGS_MAX])


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


def _told(body: bytes, query: str) -> Purge:
    """What a request says in the one or the other."""
    if body and query:
        raise ValueError("parameters: not beside a body")
    return of_json(body) if body else of_query(query)


def _fields(url: Place) -> Fields:
    return CIMultiDictProxy(CIMultiDict({hdrs.HOST: url.host}))


def _answer(status: int, said: dict[str, Any], *, close: bool = False) -> Answer:
    fields = "WWW-Authenticate: Bearer\r\n" if status == 401 else ""
    return own(status, "application/json", json.dumps(said), fields, close=close)
