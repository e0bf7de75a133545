"""Whether a client's stored copy still holds: RFC 9111 §4.3.2, RFC 9110 §13."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .freshness import parse_date

_ETAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\U0010ffff]*"')


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
        return _matches(", ".join(tags), etag)
    if if_modified_since is None or last_modified is None:
        return False
    since = parse_date(if_modified_since)
    return since is not None and last_modified <= since


def _matches(tags: str, etag: str | None) -> bool:
    """Weak comparison (RFC 9110 §8.8.3.2): W/ makes no difference."""
    if tags.strip() == "*":
        return True
    if etag is None:
        return False
    opaque = etag.removeprefix("W/")
    return any(tag.removeprefix("W/") == opaque for tag in _ETAG.findall(tags))
