"""Traces: what was asked of a cache, in order. An xz file whose first line is
`key,size` and whose others are one request each; the size is in bytes."""

from __future__ import annotations

import lzma
from dataclasses import dataclass
from pathlib import Path

KEY_MAX = 1024
SIZE_MAX = 1 << 31


class TraceError(Exception):
    """The file is no trace; says which file, and which line of it."""


@dataclass(frozen=True)
class Trace:
    """Request `i` was for `keys[i]`, whose record had `sizes[i]` bytes by then."""

    name: str
    keys: list[bytes]
    sizes: list[int]
    distinct: dict[bytes, int]
    """Each key's last size."""

    @property
    def distinct_bytes(self) -> int:
        return sum(self.distinct.values())

    @property
    def mean_bytes(self) -> float:
        return self.distinct_bytes / len(self.distinct)

    def next_uses(self, never: int) -> list[int]:
        """For each request, the number of the next one for its key."""
        uses, last = [never] * len(self.keys), dict[bytes, int]()
        for i in range(len(self.keys) - 1, -1, -1):
            uses[i] = last.get(self.keys[i], never)
            last[self.keys[i]] = i
        return uses


def read(path: Path, unit: int) -> Trace:
    """The whole trace; `TraceError`. A size of 1 means "not known" and counts as
    `unit` bytes."""
    try:
        with lzma.open(path) as file:
            lines = file.read().splitlines()
    except (lzma.LZMAError, EOFError) as error:
        raise TraceError(f"{path}: not a whole xz file ({error})") from None
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from None
    if not lines or lines[0].strip() != b"key,size":
        raise TraceError(f"{path}: line 1: expected the header key,size")
    if len(lines) == 1:
        raise TraceError(f"{path}: no request in it")
    keys, sizes = [], []
    one: dict[bytes, bytes] = {}  # one object for each key, however often it is asked
    for number, line in enumerate(lines[1:], 2):
        key, comma, size = line.rpartition(b",")
        if not comma or not 0 < len(key) <= KEY_MAX or not size.strip().isdigit():
            raise TraceError(
                f"{path}: line {number}: expected key,size, found {line!r}"
            )
        length = int(size)
        if not 0 < length < SIZE_MAX:
            raise TraceError(f"{path}: line {number}: a size of {length} bytes")
        keys.append(one.setdefault(key, key))
        sizes.append(unit if length == 1 else length)
    name = path.name.removesuffix(".xz").removesuffix(".csv")
    return Trace(name, keys, sizes, dict(zip(keys, sizes, strict=True)))
