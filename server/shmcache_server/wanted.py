"""Wanted: what a client asked for, kept beyond the life of its connection."""

from __future__ import annotations

from typing import NamedTuple

from aiohttp import hdrs
from multidict import CIMultiDict

from .forwarded import CONDITIONS, Fields, Forwarding
from .key import Keyed, cookies_beside
from .origins import Asking
from .rfc9111 import storing, vary
from .routes import NONE, Route

NOBODY = storing.Asked()
_NOT_SHARED = CONDITIONS | {"cache-control", "pragma"}
"""One client's wishes, left out of a request whose answer is for many."""
_NOBODYS = _NOT_SHARED | {"authorization", "cookie"}
_FORWARDING = Forwarding()
_ASKED = {
    (authorization, cookie): storing.Asked(authorization=authorization, cookie=cookie)
    for authorization in (False, True)
    for cookie in (False, True)
}


class Wanted(NamedTuple):
    """A GET that the cache has no answer to."""

    key: str
    """Of the URL, its encoding and its client's kind."""
    plain: str
    """Its key if it bears no credentials."""
    target: str
    fields: Fields
    letter: str
    """Of the key's encoding."""
    forwarded: tuple[tuple[str, str], ...]
    """X-Forwarded fields."""
    asked: storing.Asked
    ranges: str | None = None
    """What Range says, where a part is wanted."""
    cookie: str = ""
    """The cookies in the key: any request of this key bears them."""
    route: Route = NONE
    host: str = ""
    """That of the key."""
    forwarding: Forwarding = _FORWARDING

    @classmethod
    def of(
        cls,
        keyed: Keyed,
        fields: Fields,
        remote: str | None,
        scheme: str,
        forwarding: Forwarding,
    ) -> Wanted:
        """What is wanted by a request with this key and these fields, of a client at
        `remote` that asked by `scheme`."""
        return cls(
            key=keyed.key,
            plain=keyed.key,
            target=keyed.target,
            fields=fields,
            letter=vary.letter(fields.get(hdrs.ACCEPT_ENCODING)),
            forwarded=forwarding.written(fields, remote, scheme),
            asked=_ASKED[
                hdrs.AUTHORIZATION in fields, cookies_beside(fields, keyed.cookie)
            ],
            ranges=_range(fields) if hdrs.RANGE in fields else None,
            cookie=keyed.cookie,
            route=keyed.route,
            host=keyed.host,
            forwarding=forwarding,
        )

    def asking(self, method: str = "GET") -> Asking:
        """The GET that the origin is sent, fit to be shared; or the HEAD of it."""
        return Asking(method, self.target, self.sent())

    def sent(self) -> CIMultiDict[str]:
        """Its fields."""
        nobody = self.asked == NOBODY
        drop = _NOBODYS if nobody else _NOT_SHARED
        fields = self.forwarding.fields(self.fields, drop)
        if nobody and self.cookie:
            fields["Cookie"] = self.cookie
        fields["Accept-Encoding"] = vary.asked(self.letter)
        fields.extend(self.forwarded)
        if self.ranges is not None:
            fields["Range"] = self.ranges
        return fields


def _range(fields: Fields) -> str | None:
    """The part that is wanted. Several lines are no Range, for it is no list (RFC 9110
    §5.3, §14.2): the whole is the answer, as of what is here."""
    lines = fields.getall(hdrs.RANGE)
    return lines[0] if len(lines) == 1 else None
