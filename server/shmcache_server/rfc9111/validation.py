"""Whether a copy still holds, a client's or ours: RFC 9111 §4.3, RFC 9110 §13."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Self

from . import dates, etags
from .fields import Fields, value
from .fields import stored as storable

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


def updated(stored: Fields, answer: Fields, drop: Container[str] = ()) -> Fields:
    """The stored fields after a 304, or a HEAD that agrees: RFC 9111 §3.2. Each field
    of the answer replaces all lines of its name, but for NOT_UPDATED and for what is
    not stored anyway."""
    new = [(n, v) for n, v in storable(answer, drop) if n.lower() not in NOT_UPDATED]
    replaced = {n.lower() for n, _ in new}
    return [(n, v) for n, v in stored if n.lower() not in replaced] + new


def of_another(stored: Fields, answer: Fields) -> bool:
    """Whether a 304 is of another representation than the stored one, which it must
    not update then: RFC 9111 §4.3.4. One without a tag is believed: to send it is the
    origin's duty (RFC 9110 §15.4.5), which not all of them do."""
    told, tag = value(answer, "ETag"), value(stored, "ETag")
    return told is not None and tag is not None and not etags.weakly_equal(told, tag)


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
