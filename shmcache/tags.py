"""Tags and namespaces: names to the numbers that records bear.

A number is 20 bits of an unkeyed hash, the same on every host, and stands in records,
in Redis and in the stream; two names of one number cost a record now and then, never a
stale value. A namespace's number is of the prefix of its keys. A tag belongs to the
namespace it is used in: the number is of that prefix and the name.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from .l1 import tag_number

TAG_MAX = 128
"""Bytes of a tag's name."""
TAGS_MAX = 32
"""Of one record, beside its namespace."""
_SEPARATOR = b"\x1f"


def numbers(names: Iterable[str], prefix: bytes = b"") -> tuple[int, ...]:
    """The numbers of a record's tags and of its namespace.

    `ValueError` names a tag that is no text of 1 to 128 bytes, or says that there are
    more than 32.
    """
    found = of_tags(names, prefix)
    return (of_namespace(prefix), *found) if prefix else found


def of_tags(names: Iterable[str], prefix: bytes = b"") -> tuple[int, ...]:
    """The numbers of tags alone, each once."""
    if isinstance(names, str | bytes) or not isinstance(names, Iterable):
        raise ValueError(f"tags={names!r}: expected a sequence of names")
    listed = tuple(names)
    if len(listed) > TAGS_MAX:
        raise ValueError(f"{len(listed)} tags: expected at most {TAGS_MAX}")
    for name in listed:
        if not isinstance(name, str):
            kind = type(name).__name__
            raise ValueError(f"tag {name!r}: expected str, got {kind}")
    return tuple(dict.fromkeys(_number(name, prefix) for name in listed))


@lru_cache(maxsize=64)
def of_namespace(prefix: bytes) -> int:
    """The number that all records of the namespace bear."""
    return tag_number(prefix)


@lru_cache(maxsize=4096)
def _number(name: str, prefix: bytes) -> int:
    try:
        raw = name.encode()
    except UnicodeEncodeError as e:
        raise ValueError(f"tag {name!r}: not encodable as UTF-8") from e
    if not 0 < len(raw) <= TAG_MAX:
        raise ValueError(f"tag of {len(raw)} bytes: expected 1 to {TAG_MAX}")
    if raw[:1] == _SEPARATOR:
        raise ValueError(f"tag {name!r}: names that begin with \\x1f are namespaces'")
    return tag_number(prefix + raw)
