"""Tags that a stored response bears: what a purge names in place of its key.

    label     of Cache-Tag (a list with commas) and Surrogate-Key (with spaces), of
              any host
    group     of Cache-Groups (RFC 9875), of one host; a label as well
    prefix    of the path, on segment borders: the root's and one for each leading
              segment, at most as many as the setting `purge.prefixes` says
    url       where a URL's responses stand under more keys than a purge can tell: its
              variants, parts among them, and those to whose keys a route adds

Limits
    A record bears 32 tags. A response with more labels and groups than fit bears, in
    place of the rest, one tag that says so, and every purge of a label raises that one
    too: too much is purged then, never too little. Of groups there is one such tag for
    each host, so that an answer of one host purges nothing of another's.
        What was raised is kept in Redis for each number of a tag, for ever. URLs are
    without end, so their tags are few: those that share one are purged together.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from itertools import islice
from urllib.parse import unquote_to_bytes

from multidict import MultiMapping

from .rfc9111 import invalidating
from .tables import PurgeConfig

FIELDS = ("Cache-Tag", "Surrogate-Key")
"""What is for caches alone, and no client's business."""
_GROUPS = "Cache-Groups"
_NAMING = (_GROUPS, *FIELDS)
DEPTH_MAX = 8
"""Segments of a prefix at most."""
TAGS_MAX = 32
"""Of one record: the library's limit."""
_NAME_MAX = 100
"""Bytes of a name that is taken as it is; the library takes 128."""
_URLS = 1 << 16
_MORE = "more"
_ESCAPED = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = re.compile(rb"[A-Za-z0-9._~-]")


def tags_of(
    host: str,
    target: str,
    fields: MultiMapping[str],
    prefixes: int,
    *,
    url: bool = False,
) -> tuple[str, ...]:
    """What the response to a GET bears: at most 32 names, fit for `Fill(tags=...)`.

    Host, path and query are those of its key. `fields` are the response's, `prefixes`
    is the setting; `url`: a route adds to its key.
    """
    found = of_path(host, target, prefixes)
    if url or any(fields.getall("Vary", ())):
        found.append(of_url(host, target))
    if not any([name in fields for name in _NAMING]):
        return tuple(found)
    room = TAGS_MAX - len(found)
    named = list(islice(_named(host, fields), room + 1))
    if len(named) > room:
        named[room - 2 :] = [_MORE, _name(_MORE, host)]
    return (*found, *named)


def hidden(purge: PurgeConfig) -> frozenset[str]:
    """The fields that clients do not get, in lower case."""
    return frozenset(map(str.lower, FIELDS)) if purge.strip_tags else frozenset()


def of_path(host: str, target: str, prefixes: int) -> list[str]:
    """The tags of the prefixes that hold a target: none where `prefixes` is 0."""
    if not prefixes:
        return []
    path = _normal(target)
    above = _above(host, path.rpartition("/")[0], prefixes)
    if not path or len(above) > prefixes:
        return list(above)
    return [*above, _name("p", host + path)]


@lru_cache(1024)
def _above(host: str, path: str, prefixes: int) -> tuple[str, ...]:
    """The tags of a path and of those that hold it: many targets have them."""
    segments = path.split("/")[1 : prefixes + 1]
    return tuple(_prefix(host, segments[:i]) for i in range(len(segments) + 1))


def of_prefix(host: str, path: str, prefixes: int) -> str:
    """The tag of a path and all below it; `ValueError` if no response bears it."""
    if not prefixes:
        raise ValueError(
            "prefixes are not purged here: the setting purge.prefixes is 0"
        )
    if path[:1] != "/" or not path.isascii() or re.search(r"[?#\s]", path):
        raise ValueError(f"prefix {path!r}: expected a path, such as /blog")
    segments = _segments(path)
    if len(segments) > prefixes:
        raise ValueError(
            f"prefix {path!r}: expected at most {prefixes} segments, as the setting "
            "purge.prefixes says"
        )
    return _prefix(host, segments)


def of_url(host: str, target: str) -> str:
    """The tag of a URL's variants, and of some other URLs'."""
    digest = blake2b(f"{host}{target}".encode(errors="surrogateescape"), digest_size=8)
    return f"u:{int.from_bytes(digest.digest()) % _URLS:x}"


def of_label(label: str) -> tuple[str, str]:
    """What is raised to purge a label: on all hosts."""
    return _name("t", label), _MORE


def of_group(host: str, group: str) -> tuple[str, str]:
    """What is raised to purge a group of a host."""
    return _name("g", f"{host} {group}"), _name(_MORE, host)


def invalidated(host: str, method: str, fields: MultiMapping[str]) -> tuple[str, ...]:
    """What an answer's Cache-Group-Invalidation purges: tags of the groups that it
    names, of its own host alone, and none if the method is safe (RFC 9875 §3)."""
    if method in invalidating.SAFE:
        return ()
    groups = invalidating.groups(fields.getall("Cache-Group-Invalidation", ()))
    return tuple(dict.fromkeys(tag for g in groups for tag in of_group(host, g)))


def labels(fields: MultiMapping[str]) -> Iterable[str]:
    """The labels of Cache-Tag and Surrogate-Key, each once, in their order."""
    found: dict[str, None] = {}
    for line in fields.getall("Cache-Tag", ()):
        found.update((label.strip(" \t"), None) for label in line.split(","))
    for line in fields.getall("Surrogate-Key", ()):
        found.update((label, None) for label in re.split(r"[ \t]+", line))
    found.pop("", None)
    return found


def _named(host: str, fields: MultiMapping[str]) -> Iterable[str]:
    """The tags of a response's groups and labels, each once."""
    groups = invalidating.groups(fields.getall(_GROUPS, ()))
    named = dict.fromkeys(_name("g", f"{host} {group}") for group in groups)
    named.update((_name("t", label), None) for label in (*groups, *labels(fields)))
    return named


def _segments(target: str) -> list[str]:
    """Those of a path, without the empty one behind a slash at its end."""
    return _normal(target).split("/")[1:]


def _normal(target: str) -> str:
    """A path without the slash at its end. What need not be escaped is not: RFC 3986
    §6.2.2."""
    path = target.partition("?")[0]
    if "%" in path:
        path = _ESCAPED.sub(_unescaped, path)
    return path.removesuffix("/")


def _unescaped(match: re.Match[str]) -> str:
    byte = unquote_to_bytes(match[0])
    return byte.decode() if _UNRESERVED.match(byte) else match[0].upper()


def _prefix(host: str, segments: list[str]) -> str:
    return _name("p", "/".join((host, *segments)))


def _name(kind: str, text: str) -> str:
    """A tag's name; a digest of what is too long for one, or no Unicode."""
    if text.isascii() and len(text) <= _NAME_MAX:
        return f"{kind}:{text}"
    raw = text.encode("utf-8", "surrogateescape")
    return f"{kind}#{blake2b(raw, digest_size=16).hexdigest()}"
