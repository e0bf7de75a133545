"""Failures: what a client is answered where its origin does not."""

from __future__ import annotations

import logging
import math

from aiohttp import web
from multidict import CIMultiDict

from shmcache import Cache, ComputeFailed, ComputeTimeout, Overloaded

from .answer import Answer
from .answering import OriginError, OriginTimeout
from .answers import hit, plain
from .origins import Origin, OriginDown, OverBudget
from .sharing import Sharing
from .shelf import Place, Shelf, fits
from .wanted import Wanted

log = logging.getLogger("shmcache")

_RETRY_AFTER = 1
"""Seconds; a flight more is soon to be had."""
_COUNTED = {OriginDown.__name__, OverBudget.__name__}
"""Of these the breaker has told, or the budget counts: the log has no room for each."""
_STATUSES = {
    OriginTimeout.__name__: OriginTimeout.status,
    ComputeTimeout.__name__: 504,
}
"""Of failures that were told by another process."""


class Failures:
    """Those of one worker's origin."""

    def __init__(self, cache: Cache, origin: Origin, sharing: Sharing) -> None:
        self._shelf = Shelf(cache)
        self._origin = origin
        self._sharing = sharing

    def instead(
        self,
        request: web.BaseRequest,
        stood: tuple[Wanted, Place] | None,
        error: Exception,
        told: str,
    ) -> Answer:
        """What `stood` in the place of what is wanted, where it may; else the error's
        own answer."""
        stale = self.stale(request, *stood, error) if stood else None
        return stale or self.answer(error, told)

    def stale(
        self, request: web.BaseRequest, wanted: Wanted, place: Place, error: Exception
    ) -> Answer | None:
        """A stale response in place of an error: RFC 9111 §4.2.4, RFC 5861 §4. To a
        request with credentials what is stored for all, where it has none of its own,
        as if it were fresh."""
        place = self._shelf.again(place)
        if place.response is None and wanted.key != wanted.plain:
            place = self._shelf.find(wanted.plain, wanted)
        found = place.response
        if found is None or not fits(found, wanted):
            return None
        window = self._sharing.windows(CIMultiDict(found.fields())).if_cut_off
        if place.stale_for > window:
            return None
        if _kind(error) not in _COUNTED:
            log.info("stale in place of an error: %s", error)
        return hit(request, place)

    def answer(self, error: Exception, told: str) -> Answer:
        """No answer to be had: 503 where too many wait, the origin is down or over its
        budget, 504 where it came too late, else 502."""
        if isinstance(error, Overloaded):  # counted; the log has no room for each
            return plain(503, told, retry_after=_RETRY_AFTER)
        kind = _kind(error)
        if kind in _COUNTED:
            due = math.ceil(self._origin.due(kind))
            return plain(503, told, retry_after=max(_RETRY_AFTER, due))
        log.warning("%s", error)
        if isinstance(error, OriginError):
            return plain(error.status, told)
        return plain(_STATUSES.get(kind, 502), told)


def _kind(error: Exception) -> str:
    """Its class by name, also of one that another process told of."""
    return error.kind if isinstance(error, ComputeFailed) else type(error).__name__
