"""Wanted: what a client asked for, kept beyond the life of its connection."""

from __future__ import annotations

from typing import NamedTuple

from multidict import CIMultiDict, CIMultiDictProxy

from .forwarded import CONDITIONS, Forwarding
from .origins import Asking
from .rfc9111 import storing, vary
from .routes import NONE, Route

NOBODY = storing.Asked()
_NOT_SHARED = CONDITIONS | {"cache-control", "pragma"}
"""One client's wishes, left out of a request whose answer is for many."""
_NOBODYS = _NOT_SHARED | {"authorization", "cookie"}
_FORWARDING = Forwarding()


class Wanted(NamedTuple):
    """A GET that the cache has no answer to."""

    key: str
    """Of the URL, its encoding and its client's kind."""
    plain: str
    """Its key if it bears no credentials."""
    target: str
    fields: CIMultiDictProxy[str]
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
