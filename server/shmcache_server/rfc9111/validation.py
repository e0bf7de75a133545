"""Whether a copy still holds, a client's or ours: RFC 9111 §4.3, RFC 9110 §13."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Self

from . import dates, etags
from .fields import Fields, value
from .fields import stored as storable

OF_304 = frozenset(
    {
        *("cache-control", "cdn-cache-control", "content-location", "date", "etag"),
        *("expires", "vary", "via", "cache-status"),
    }
)
NOT_UPDATED = frozenset(
    {
        *("content-length", "content-encoding", "content-range", "content-md5"),
        *("content-digest", "repr-digest", "etag"),
    }
)
"""What tells of the stored bytes: they stay what they are, whatever a 304 says (RFC
9111 §3.2 asks it of Content-Length, and of what the storing depends on)."""


def not_modified(
    if_none_match: Iterable[str],
    if_modified_since: str | None,
    etag: str | None,
    last_modified: int | None,
) -> bool:
    """Whether the client's condition matches these validators, so that 304 is right.

    If-None-Match outranks If-Modified-Since, even an empty one: RFC 9110 §13.1.3.
    """
    tags = list(if_none_match)
    if tags:
        return _matches(tags, etag)
    if if_modified_since is None or last_modified is None:
        return False
    since = dates.parse(if_modified_since)
    return since is not None and last_modified <= since


def _matches(lines: Iterable[str], etag: str | None) -> bool:
    """Weak comparison (RFC 9110 §8.8.3.2): W/ makes no difference."""
    tags = list(lines)
    return etags.any_tag(tags) or any(
        etags.weakly_equal(tag, etag) for tag in etags.parse(tags)
    )


@dataclass(frozen=True, slots=True)
class Validators:
    """What tells one representation from another: RFC 9110 §8.8. As they came; None
    where there is none."""

    etag: str | None = None
    last_modified: str | None = None
    date: str | None = None

    @classmethod
    def of(cls, fields: Fields) -> Self:
        """Those of a response."""
        return cls(
            value(fields, "ETag"), value(fields, "Last-Modified"), value(fields, "Date")
        )

    @property
    def usable(self) -> bool:
        """Whether the origin can be asked if the representation still holds."""
        return etags.valid(self.etag) or dates.parse(self.last_modified) is not None

    @property
    def strong_date(self) -> int | None:
        """Last-Modified if it tells the bytes apart: it must be a second older than
        the response, or there may have been two in that second (§8.8.2.2)."""
        modified, sent = dates.parse(self.last_modified), dates.parse(self.date)
        if modified is None or sent is None or sent - modified < 1:
            return None
        return modified


def strong(validators: Validators) -> str:
    """What two responses both bear if and only if they are of the same bytes (RFC 9111
    §3.4): a strong tag, else a strong Last-Modified; empty where there is neither."""
    if etags.is_strong(validators.etag):
        return validators.etag or ""
    date = validators.strong_date
    return "" if date is None else str(date)


# -- asking the origin


def conditions(stored: Iterable[Validators]) -> Fields:
    """The fields that ask the origin if one of the stored responses still holds: RFC
    9111 §4.3.1. Of several, tags alone can tell which; what is no validator is not
    sent, nor is a client's own condition to be sent beside these."""
    known = list(stored)
    tags = [one.etag for one in known if one.etag and etags.valid(one.etag)]
    asked = [("If-None-Match", ", ".join(dict.fromkeys(tags)))] if tags else []
    if len(known) == 1 and dates.parse(known[0].last_modified) is not None:
        asked.append(("If-Modified-Since", known[0].last_modified or ""))
    return asked


def selected(
    stored: Sequence[Validators], answer: Validators, *, strict: bool = False
) -> int | None:
    """Which of the stored responses that were asked for a 304 stands for: RFC 9111
    §4.3.4; None if none of them may be used.

    A strong validator names the one that has it, else a weak one the newest that has
    it; `stored` is newest first. Where one alone was asked for, a 304 can only mean
    that one, and it does so here even without a validator, or with another: there
    are servers that leave the tag out, and some that write it differently than they
    compare it. `strict` refuses what bears another tag.
    """
    if len(stored) == 1:
        told = answer.etag is not None and stored[0].etag is not None
        agrees = not told or etags.weakly_equal(answer.etag, stored[0].etag)
        return 0 if agrees or not strict else None
    strong = etags.is_strong(answer.etag)
    for at, one in enumerate(stored):
        if strong:
            if etags.strongly_equal(one.etag, answer.etag):
                return at
        elif etags.weakly_equal(one.etag, answer.etag) or (
            answer.etag is None
            and answer.last_modified is not None
            and one.last_modified == answer.last_modified
        ):
            return at
    return None


def updated(stored: Fields, answer: Fields, drop: Container[str] = ()) -> Fields:
    """The stored fields after a 304, or a HEAD that agrees: RFC 9111 §3.2. Each field
    of the answer replaces all lines of its name, but for NOT_UPDATED and for what is
    not stored anyway."""
    new = [(n, v) for n, v in storable(answer, drop) if n.lower() not in NOT_UPDATED]
    replaced = {n.lower() for n, _ in new}
    return [(n, v) for n, v in stored if n.lower() not in replaced] + new


def head_agrees(stored: Fields, answer: Fields) -> bool:
    """Whether a 200 to HEAD is of the stored response, which it then updates; if not,
    that is stale: RFC 9111 §4.3.5."""
    for name in ("ETag", "Last-Modified", "Content-Length"):
        told = value(answer, name)
        if told is not None and told != value(stored, name):
            return False
    return True


def head_validates(stored: Fields, answer: Fields) -> bool:
    """Whether a 200 to HEAD that agrees shows that the stored response still holds.

    Stricter than RFC 9111 §4.3.5, which takes what tells nothing for agreement: it
    must bear a validator of the stored one. Else anybody's HEADs could keep a page
    whose origin has none, long after it changed.
    """
    told, known = Validators.of(answer), Validators.of(stored)
    if told.etag is not None:
        return etags.valid(told.etag) and told.etag == known.etag
    modified = dates.parse(told.last_modified)
    return modified is not None and told.last_modified == known.last_modified


# -- answering a client


class Outcome(Enum):
    """What a request's conditions come to: RFC 9110 §13.2.2."""

    PASS = "the request is answered as if it had none"
    NOT_MODIFIED = "304"
    FAILED = "412"


def evaluate(
    method: str,
    getall: Callable[[str], Iterable[str]],
    stored: Validators,
    received: float | None = None,
) -> Outcome:
    """A request's conditions against a response that would be sent with 2xx, in the
    order of RFC 9110 §13.2.2. If-Range is of `ranges`.

    If-Match and If-Unmodified-Since are about the origin's state: a cache passes them
    on (RFC 9111 §4.3.2), and asks this only where it is told to answer them.
    `received` stands for a Date that is not there.
    """
    reads = method in ("GET", "HEAD")
    if_match, if_none_match = list(getall("If-Match")), list(getall("If-None-Match"))
    if if_match:
        if not etags.any_tag(if_match) and not any(
            etags.strongly_equal(tag, stored.etag) for tag in etags.parse(if_match)
        ):
            return Outcome.FAILED
    elif (since := _date(getall("If-Unmodified-Since"))) is not None:
        modified = dates.parse(stored.last_modified)
        if modified is not None and modified > since:
            return Outcome.FAILED
    if if_none_match:
        if _matches(if_none_match, stored.etag):
            return Outcome.NOT_MODIFIED if reads else Outcome.FAILED
    elif reads and (since := _date(getall("If-Modified-Since"))) is not None:
        modified = _modified(stored, received)
        if modified is not None and modified <= since:
            return Outcome.NOT_MODIFIED
    return Outcome.PASS


def not_modified_fields(stored: Fields) -> Fields:
    """The fields of a 304 in a stored response's place: RFC 9110 §15.4.5, and those
    that tell of the way. Last-Modified only where there is no tag."""
    kept = OF_304 if value(stored, "ETag") else OF_304 | {"last-modified"}
    return [(n, v) for n, v in stored if n.lower() in kept]


def _modified(stored: Validators, received: float | None) -> int | None:
    """RFC 9111 §4.3.2: without Last-Modified the Date stands for it, without that the
    time of arrival."""
    for text in (stored.last_modified, stored.date):
        if text is not None:
            return dates.parse(text)
    return None if received is None else int(received)


def _date(lines: Iterable[str]) -> int | None:
    """RFC 9110 §13.1.3: what is not one date is ignored."""
    values = list(lines)
    return dates.parse(values[0].strip(" \t")) if len(values) == 1 else None
