"""Changes at the origin: what they make void here (RFC 9111 §4.4)."""

from __future__ import annotations

from aiohttp import web

from shmcache import Cache

from .answering import Answering
from .config import Config
from .fetch import Fetches
from .key import Fields, Keys, Lead
from .live import LiveResponse
from .purges import Purges
from .rfc9111 import invalidating
from .wanted import Wanted

_PER_DELETE = 2
"""By which the invalidation clock goes on for each key that is deleted here."""


class Changes:
    """Those that a worker hears of."""

    def __init__(
        self,
        cache: Cache,
        keys: Keys,
        purges: Purges,
        fetches: Fetches,
        config: Config,
    ) -> None:
        self._cache = cache
        self._keys = keys
        self._purges = purges
        self._fetches = fetches
        self._base = config.origin.base

    async def made(
        self, request: web.BaseRequest, answering: Answering, sent: float, mark: int
    ) -> LiveResponse | None:
        """See that what a change makes void is. The response as it comes, where it is
        being stored: that of a POST may be."""
        headers, fields, remote = request.headers, answering.fields, request.remote
        host, scheme = self._keys.forwarding.asked(headers, remote, request.scheme)
        url = f"{scheme}://{host}{request.raw_path}"
        trusted = self._keys.forwarding.trusts(remote)
        lead = self._keys.lead(headers, trusted=trusted)
        keys = self._keys.all(headers, request.raw_path, trusted=trusted)
        wanted = self._of_post(request, lead, url, fields)
        tags = self._fetches.fills.tags(wanted, fields) if wanted else ()
        known = any(self._cache.raised(key, mark, tags, soft=True) for key in keys)
        before = self._cache.note()
        others = invalidating.targets(
            url,
            fields.getall("Location", ()),
            fields.getall("Content-Location", ()),
            also=(self._base,),
        )
        await self._cache.delete_many(keys)
        after = self._cache.note()
        known |= after != before + _PER_DELETE * len(keys)  # more was made void
        for target in others:
            await self._cache.delete_many(
                self._keys.all(headers, target, trusted=trusted)
            )
        await self._purges.changed(
            lead.host, request.method, (request.raw_path, *others), fields
        )
        if wanted is None or known:  # it may be older than who made it void meanwhile
            return None
        return self._fetches.elsewhere.adopt(wanted, answering, sent, after)

    def _of_post(
        self, request: web.BaseRequest, lead: Lead, url: str, fields: Fields
    ) -> Wanted | None:
        """The GET that these fields answer, too, if the request is a POST."""
        location = fields.getall("Content-Location", ())
        if request.method != "POST" or not invalidating.same_target(
            *(url, location), also=(self._base,)
        ):
            return None
        keyed = lead.keyed(request.raw_path)
        if not keyed.route.cache or keyed.target != request.raw_path:
            return None  # what is not in the key may be in the answer
        return Wanted.of(
            *(keyed, request.headers, request.remote, request.scheme),
            self._keys.forwarding,
        )
