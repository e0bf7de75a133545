"""What a change of the origin's state invalidates: RFC 9111 §4.4, RFC 9875."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import SplitResult, urljoin, urlsplit

import http_sf

SAFE = frozenset(
    {"GET", "HEAD", "OPTIONS", "TRACE", "PRI", "PROPFIND", "QUERY", "REPORT", "SEARCH"}
)
"""Registered as safe: RFC 9110 §16.1.1. Of any other method nobody knows."""
_PORTS = {"http": 80, "https": 443}
_GROUPS_MOST = 128
"""Groups heeded of one response; RFC 9875 §2.1 asks for 32 at least, of 32
characters."""


def invalidates(method: str, status: int) -> bool:
    """Whether the target URL's responses, and those of `targets`, are invalid now: an
    unsafe method that was no error."""
    return method not in SAFE and 200 <= status < 400


def targets(
    url: str,
    location: Iterable[str],
    content_location: Iterable[str],
    also: Iterable[str] = (),
) -> tuple[str, ...]:
    """The other targets, path and query, that Location and Content-Location name,
    where they are of the same origin as `url`, the absolute URL that was asked for.

    `also` are origins, as `https://host`, which are this one under other names, such
    as the upstream's own. A URL of any other origin is left alone: whoever answers
    one request could otherwise empty the rest of the cache.
    """
    ours = {_origin(_split(one)) for one in (url, *also)} - {None}
    base = _split(url)
    own = _target(base) if base else None
    found: dict[str, None] = {}
    for line in (*location, *content_location):
        split = _joined(url, line.strip(" \t"))
        if split is not None and _origin(split) in ours:
            target = _target(split)
            if target.isascii() and target != own:
                found[target] = None
    return tuple(found)


def same_target(
    url: str, content_location: Iterable[str], also: Iterable[str] = ()
) -> bool:
    """Whether Content-Location is the very URL: the response to a POST is then what a
    GET gets (RFC 9110 §9.3.3). `also` as in `targets`."""
    lines = list(content_location)
    if len(lines) != 1:
        return False
    one, other = _split(url), _joined(url, lines[0].strip(" \t"))
    if one is None or other is None:
        return False
    ours = {_origin(one), *(_origin(_split(name)) for name in also)} - {None}
    return _origin(other) in ours and _target(one) == _target(other)


def groups(lines: Iterable[str], most: int = _GROUPS_MOST) -> tuple[str, ...]:
    """The groups of Cache-Groups, or of Cache-Group-Invalidation: a list of strings
    (RFC 9875 §2, §3), the first `most`; none if it is anything else. The latter counts
    on the answer to an unsafe method alone, and only for responses of the same
    origin."""
    try:
        members = http_sf.parse(", ".join(lines).encode("ascii"), tltype="list")
    except ValueError:
        return ()
    found: list[str] = []
    for member in members if isinstance(members, list) else ():
        item = member[0] if isinstance(member, tuple) else member
        if type(item) is not str:  # a token is one, too
            return ()
        found.append(item)
    return tuple(dict.fromkeys(found))[:most]


def _joined(base: str, reference: str) -> SplitResult | None:
    try:
        return _split(urljoin(base, reference))
    except ValueError:
        return None


def _split(url: str) -> SplitResult | None:
    try:
        return urlsplit(url)
    except ValueError:  # brackets that hold no address
        return None


def _origin(split: SplitResult | None) -> tuple[str, str, int] | None:
    """Scheme, host and port: RFC 9110 §4.3.1."""
    if split is None or split.scheme not in _PORTS or not split.hostname:
        return None
    try:
        port = split.port
    except ValueError:
        return None
    return split.scheme, split.hostname, port or _PORTS[split.scheme]


def _target(split: SplitResult) -> str:
    """Path and query, without the fragment."""
    return (split.path or "/") + (f"?{split.query}" if split.query else "")
