"""Tally: the calls that the fleet was granted of each budget, counted in Redis.

By Redis' own clock, in one script (`tally.lua`): a host whose clock is wrong breaks no
budget. The client's retries are off, for a question that was asked twice is counted
twice. What has no answer in time may have been counted.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qsl, unquote

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError

from shmcache import TierUnavailable

from .allowance import Calls, Terms, Told

_SCRIPT = (files(__package__) / "tally.lua").read_text()
_SHA = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()


class Tally:
    """This process' connection to it; must be used on one loop."""

    def __init__(self, url: str, app: str, deadline: float) -> None:
        """`url` as of L2; `deadline` in seconds, of one question."""
        self._redis, self._sentinels = clients(url)
        self._app = app
        self._deadline = deadline

    async def close(self) -> None:
        """Close every connection."""
        for one in (self._redis, *self._sentinels):
            await one.aclose()

    async def ask(
        self, name: str, terms: Terms, cost: int, block: int = 0, untold: Calls = ()
    ) -> Told:
        """Take that many calls of the budget, if they are left; 0 looks. `block` it
        for so long, and tell it of calls, by age and number. `TierUnavailable`."""
        key = f"shmcache:{{{self._app}:limits:{name}}}"
        told = [number for call in untold for number in call]
        words = (key, terms.calls, terms.span, cost, block, *told)
        try:
            async with asyncio.timeout(self._deadline):
                reply = await self._run(words)
            granted, *rest = map(int, reply)
            return Told(granted == 1, *rest)
        except Exception as e:
            raise TierUnavailable(f"limits: {type(e).__name__}") from e

    async def _run(self, words: tuple[Any, ...]) -> Any:
        try:
            return await self._redis.evalsha(_SHA, 1, *words)
        except NoScriptError:
            return await self._redis.eval(_SCRIPT, 1, *words)


def clients(url: str) -> tuple[Any, list[Any]]:
    """That of any URL that L2 takes, without retries of its own; and those of the
    Sentinels that it asks."""
    scheme, _, rest = url.partition("://")
    rest, _, query = rest.partition("?")
    options = _options(dict(parse_qsl(query, keep_blank_values=True)))
    options |= {"protocol": 2, "retry": Retry(NoBackoff(), 0), "retry_on_error": []}
    if scheme == "unix":
        return Redis(unix_socket_path=unquote(rest), **options), []
    authority, _, path = rest.partition("/")
    login, _, hosts = authority.rpartition("@")
    user, colon, password = map(unquote, login.partition(":"))
    if colon:
        options |= {"username": user or None, "password": password}
    if scheme.startswith("rediss"):
        options["ssl"] = True
    if scheme.endswith("+sentinel"):
        service, _, db = path.partition("/")
        known = {"sentinel_username", "sentinel_password"}
        own = {k: v for k, v in options.items() if k.startswith(("ssl", "protocol"))}
        own |= {k.removeprefix("sentinel_"): options.pop(k) for k in known & {*options}}
        places = [_place(one, 26379) for one in hosts.split(",")]
        sentinel = Sentinel(  # type: ignore[no-untyped-call]
            places, sentinel_kwargs=own, **options, db=int(db or 0)
        )
        return sentinel.master_for(service), sentinel.sentinels
    places = [_place(one, 6379) for one in hosts.split(",")]
    if scheme.endswith("+cluster"):
        del options["retry_on_error"]
        nodes = [ClusterNode(*place) for place in places]
        return RedisCluster(startup_nodes=nodes, **options), []
    host, port = places[0]
    db = options.pop("db", None) or path.strip("/")
    return Redis(host=host, port=port, db=int(db or 0), **options), []


def _options(query: dict[str, str]) -> dict[str, Any]:
    """Those behind the question mark, as the client takes them."""
    options: dict[str, Any] = dict(query)
    if "db" in options:
        options["db"] = int(options["db"] or 0)
    if "ssl_check_hostname" in options:
        options["ssl_check_hostname"] = options["ssl_check_hostname"].lower() == "true"
    if "ssl_min_version" in options:
        name = options["ssl_min_version"].replace(".", "_")
        options["ssl_min_version"] = ssl.TLSVersion[name]
    return options


def _place(text: str, port: int) -> tuple[str, int]:
    """host, host:port, [v6] or [v6]:port; L2 has checked it."""
    host, colon, digits = text.rpartition(":")
    if not colon or digits.endswith("]"):
        host, digits = text, ""
    return unquote(host.removeprefix("[").removesuffix("]")), int(digits or port)
