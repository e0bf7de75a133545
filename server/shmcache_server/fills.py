"""Fills: what the cache is given of a response.

A new one is stored if it may answer others. One that stood there already, and of which
the origin says that it still holds (RFC 9111 §4.3), is brought up to date and stored
anew with its body.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import NamedTuple

from multidict import CIMultiDict, MultiMapping

from shmcache import Fill

from . import stored
from .answering import Answering
from .config import Config
from .live import LiveResponse
from .rfc9111 import fields as lines
from .rfc9111 import freshness, validation
from .sharing import Shared, Sharing
from .shelf import Place
from .stored import StoredResponse
from .tags import hidden, tags_of
from .wanted import NOBODY, Wanted

_NIL = b"\xc0"
"""The document of an answer that only its own client gets, past the cache."""
NOT_SHARED = Fill(_NIL, ttl=0, shareable=False)
NOT_STORED = Fill(_NIL, ttl=0)
"""Leaves no mark either, by which others would fetch for themselves."""
_AT_ONCE = 2e-9
"""Seconds for which what is validated before each use is fresh: it is kept."""


class Age:
    """How old a response is now: RFC 9111 §4.2.3."""

    def __init__(self, answering: Answering, sent: float) -> None:
        fields = answering.fields
        self._received = time.monotonic()
        self._initial = freshness.arrival_age(
            fields.getall("Age", ()),
            fields.get("Date"),
            self._received - sent,
            time.time(),
        )

    def __call__(self) -> float:
        return self._initial + time.monotonic() - self._received


class Updated(NamedTuple):
    """A stored response after its validation."""

    head: bytes
    shared: Shared | None
    """None: it is its client's alone by now, or belongs elsewhere."""
    tags: tuple[str, ...]


class Fills:
    """By the operator's choices."""

    def __init__(self, sharing: Sharing, config: Config) -> None:
        self._sharing = sharing
        self._prefixes = config.purge.prefixes
        self._hidden = hidden(config.purge)

    def shared(
        self,
        wanted: Wanted,
        answering: Answering,
        age: Age,
        *,
        of_target: bool = False,
    ) -> Shared | None:
        """How the answer may be stored for all, None if it may not be. `of_target`:
        it is that of a POST."""
        if not answering.whole:
            return None
        asked = wanted.asked
        shared = self._sharing.of(
            replace(asked, method="POST") if of_target else asked,
            answering.status,
            answering.fields,
            time.time(),
            of_target=of_target,
            route=wanted.route,
        )
        if shared is None or shared.lifetime > age():
            return shared
        # Who waits for it would get it without being asked about: with others'
        # credentials the origin may say something else.
        return shared if shared.validated and asked == NOBODY else None

    def tags(
        self, wanted: Wanted, fields: MultiMapping[str], *, listed: bool = False
    ) -> tuple[str, ...]:
        """What a response to it is purged by, beside its key. `listed`: it stands
        among variants."""
        route = wanted.route
        return tags_of(
            *(wanted.host, route.selected(wanted.target), fields, self._prefixes),
            url=listed or bool(route.fields or route.cookies),
        )

    def of(
        self,
        head: bytes,
        status: int,
        body: bytes,
        shared: Shared,
        age: float,
        tags: tuple[str, ...],
    ) -> Fill:
        """A whole response's. One that is to be validated before each use, or was too
        old when it came, beyond its grace, is dead at once, and kept."""
        dead = age >= shared.lifetime + shared.grace
        return Fill(
            stored.pack(head, status, body, to_validate=dead, hidden=self._hidden),
            ttl=shared.lifetime or _AT_ONCE,
            grace=0 if dead else shared.grace,
            age=age,
            tags=tags,
        )

    async def of_live(
        self, live: LiveResponse, pump: asyncio.Future[None] | None, shared: Shared
    ) -> Fill:
        """The fill of a response, once it is whole; none, once it is too large: who
        waits for it shall not wait for its readers, nor be told that they left."""
        if pump is not None and live.stored:
            settled = asyncio.get_running_loop().create_future()

            def settle(_: object = None) -> None:
                if not settled.done():
                    settled.set_result(None)

            live.outgrew = settle
            pump.add_done_callback(settle)
            try:
                await settled
            except asyncio.CancelledError:
                live.forget()  # too slow to be stored; its readers may go on
                raise
        if not live.stored:
            return NOT_SHARED
        if live.error is not None:
            raise live.error
        answering, body, head = live.answering, live.body(), live.head_for_all
        if not answering.empty:
            head += b"Content-Length: %d\r\n" % len(body)
        return self.of(head, answering.status, body, shared, live.age(), live.tags)

    def validated(
        self,
        wanted: Wanted,
        place: Place,
        old: StoredResponse,
        answering: Answering,
        age: Age,
    ) -> Fill:
        """That of a stored response that the origin says still holds."""
        fresh = self.updated(wanted, place, old, answering)
        shared = fresh.shared
        if shared is None or (shared.lifetime <= age() and wanted.asked != NOBODY):
            document = stored.pack(
                fresh.head, old.status, old.body, hidden=self._hidden
            )
            return Fill(document, ttl=0, shareable=False)
        return self.of(fresh.head, old.status, old.body, shared, age(), fresh.tags)

    def updated(
        self,
        wanted: Wanted,
        place: Place,
        old: StoredResponse,
        answering: Answering,
    ) -> Updated:
        """A stored response with the fields of an answer that says it still holds."""
        new = validation.updated(old.fields(), lines.of_head(answering.head))
        fields = CIMultiDict(new)
        shared = self._sharing.of(
            wanted.asked, old.status, fields, time.time(), route=wanted.route
        )
        head = old.status_line + lines.to_lines(new)
        if shared is None or shared.names != place.names:
            return Updated(head, None, ())
        if shared.drop:  # they are of this answer's client
            head, _ = stored.without(head, shared.drop)
        tags = self.tags(wanted, fields, listed=place.variants is not None)
        return Updated(head, shared, tags)
