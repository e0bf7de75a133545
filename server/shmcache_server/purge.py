"""Purge: what a request names to be removed, or made stale.

    PURGE target      on the main listener: that URL; or instead of it the labels and
                      groups that the request bears in Cache-Tag, Surrogate-Key and
                      Cache-Groups; `Shmcache-Purge`, a dictionary of RFC 9651, says
                      soft, prefix, all, wait=0.5
    POST /purge       on the admin listener: JSON or parameters, any number of
                      url, tag, group (with host), prefix; all, soft, wait

A URL is its host, without scheme and port, and path and query, as they are in keys.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import http_sf

from . import tags
from .forwarded import Fields, plain_host
from .rfc9111 import invalidating

MOST = 1000
"""Names in one request."""
WAIT_MOST = 60.0
FIELD = "Shmcache-Purge"
_URL = re.compile(
    r"(?:(?:https?:)?//)?+(?P<host>[^/?#@\s]+)(?<!:)(?P<target>[/?][!-~]*)?",
    re.IGNORECASE,
)
"""No host ends in a colon: what does is another scheme."""
_WORDS = {"url": "urls", "tag": "tags", "group": "groups", "prefix": "prefixes"}
_FLAGS = {"1": True, "true": True, "0": False, "false": False}


class Place(NamedTuple):
    """A host, and path and query there, or the prefix of a path."""

    host: str
    target: str


class Group(NamedTuple):
    """Of RFC 9875."""

    host: str
    name: str


@dataclass(frozen=True, slots=True)
class Purge:
    """What is to be purged, and how."""

    urls: tuple[Place, ...] = ()
    tags: tuple[str, ...] = ()
    """Labels."""
    groups: tuple[Group, ...] = ()
    prefixes: tuple[Place, ...] = ()
    everything: bool = False
    soft: bool = False
    """Made stale in place of removed."""
    wait: float | None = None
    """Seconds for the other hosts; None: as the setting says."""

    def __post_init__(self) -> None:
        count = len(self.urls + self.tags + self.groups + self.prefixes)
        if not (count or self.everything):
            raise ValueError("nothing to purge: expected url, tag, group, prefix, all")
        if count > MOST:
            raise ValueError(f"{count} names: expected at most {MOST}")
        if self.wait is not None and not 0 <= self.wait <= WAIT_MOST:
            raise ValueError(f"wait={self.wait:g}: expected 0 to {WAIT_MOST:g} seconds")

    def told(self) -> dict[str, Any]:
        """For the answer: what there is of it."""
        said = {
            "urls": ["".join(url) for url in self.urls],
            "tags": list(self.tags),
            "groups": [group._asdict() for group in self.groups],
            "prefixes": ["".join(prefix) for prefix in self.prefixes],
            "all": self.everything,
        }
        return {word: names for word, names in said.items() if names}


# -- how a request says it; `ValueError` says what is wrong with it


def of_json(body: bytes) -> Purge:
    """That of an object with the names of the parameters, each text or a list."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("body: expected a JSON object") from None
    if not isinstance(said, dict):
        raise ValueError("body: expected a JSON object")
    return of_parameters(
        (name, value)
        for name, values in said.items()
        for value in (values if isinstance(values, list) else [values])
    )


def of_query(query: str) -> Purge:
    """That of the parameters of a URL's query, as it came."""
    # A label may have any bytes, as in the field of a response.
    return of_parameters(
        parse_qsl(query, keep_blank_values=True, errors="surrogateescape")
    )


def of_parameters(pairs: Iterable[tuple[str, Any]]) -> Purge:
    """That of names and values, in any order, most of them more than once."""
    said: dict[str, list[Any]] = {name: [] for name in (*_WORDS, "host")}
    flags: dict[str, Any] = {"all": False, "soft": False, "wait": None}
    for name, value in pairs:
        name = _SINGULAR.get(name, name)
        if name in said:
            if not isinstance(value, str) or not value:
                raise ValueError(f"{name}={value!r}: expected text")
            said[name].append(value)
        elif name in flags:
            flags[name] = _seconds(value) if name == "wait" else _flag(name, value)
        else:
            wanted = ", ".join((*said, *flags))
            raise ValueError(f"{name!r} is not known: expected {wanted}")
    return Purge(
        urls=tuple(map(place, said["url"])),
        tags=tuple(said["tag"]),
        groups=_groups(said["group"], said["host"]),
        prefixes=tuple(map(place, said["prefix"])),
        everything=flags["all"],
        soft=flags["soft"],
        wait=flags["wait"],
    )


def of_fields(host: str, target: str, fields: Fields) -> Purge:
    """That of a PURGE request for `target` on `host`."""
    said = _dictionary(fields.getall(FIELD, ()))
    prefix, everything = said.pop("prefix", False), said.pop("all", False)
    labels = tuple(tags.labels(fields))
    if not labels and any(name in fields for name in tags.FIELDS):
        raise ValueError("Cache-Tag, Surrogate-Key: expected labels")
    groups = invalidating.groups(fields.getall("Cache-Groups", ()), MOST + 1)
    if not groups and "Cache-Groups" in fields:
        raise ValueError('Cache-Groups: expected strings, as "a", "b"')
    named = bool(labels or groups or everything)
    here = (Place(host, target),)
    return Purge(
        urls=() if named or prefix else here,
        tags=labels,
        groups=tuple(Group(host, name) for name in groups),
        prefixes=here if prefix else (),
        everything=everything,
        **said,
    )


def place(text: str) -> Place:
    """Host and target of a URL, whose scheme and port are no matter."""
    match = _URL.fullmatch(text)
    host = plain_host(match["host"]) if match else None
    if match is None or not host or "#" in text:
        raise ValueError(f"{text!r}: expected a URL, as http://example.org/blog?page=2")
    target = match["target"] or "/"
    return Place(host, target if target[0] == "/" else f"/{target}")


_SINGULAR = {many: one for one, many in _WORDS.items()}


def _groups(names: Sequence[str], hosts: Sequence[str]) -> tuple[Group, ...]:
    if bool(names) != bool(hosts) or len(hosts) > 1:
        raise ValueError("group: expected with one host, whose group it is")
    return tuple(Group(place(hosts[0]).host, name) for name in names)


def _flag(name: str, value: Any) -> bool:
    if isinstance(value, str):
        value = _FLAGS.get(value.lower())
    if not isinstance(value, bool):
        raise ValueError(f"{name}: expected 1 or 0")
    return value


def _seconds(value: Any) -> float:
    try:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"wait={value!r}: expected a number of seconds") from None


def _dictionary(lines: Sequence[str]) -> dict[str, Any]:
    """What our field says."""
    members: Any
    try:
        members = http_sf.parse(", ".join(lines).encode("ascii"), tltype="dictionary")
    except ValueError:
        raise ValueError(f"{FIELD}: expected a dictionary of RFC 9651") from None
    said: dict[str, Any] = {}
    for name, (value, _) in members.items():
        flag = isinstance(value, bool)
        if name in ("soft", "prefix", "all") and flag:
            said[name] = value
        elif name == "wait" and isinstance(value, int | Decimal) and not flag:
            said[name] = float(value)
        else:
            raise ValueError(f"{FIELD}: {name}: expected soft, prefix, all, wait=0.5")
    return said
