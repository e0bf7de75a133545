"""Policies: libcachesim's caches, driven by the same requests as our table."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from .traces import Trace

NAMES = {
    "FIFO": "FIFO",
    "LRU": "LRU",
    "Sieve": "Sieve",
    "S3-FIFO": "S3FIFO",
    "W-TinyLFU": "WTinyLFU",
    "ARC": "ARC",
    "LIRS": "LIRS",
    "Belady": "Belady",
}
"""What the table calls it, and libcachesim's class."""
OPTIMUM = "Belady"
"""It knows the future: a bound, and no competitor."""
_NEVER = 1 << 62


def library() -> ModuleType | str:
    """libcachesim, or why there is none."""
    try:
        import libcachesim
    except Exception as error:  # not there, or not for this machine
        return f"libcachesim: {error}"
    module: ModuleType = libcachesim
    return module


def hit_ratios(lib: ModuleType, trace: Trace, capacity: int) -> dict[str, float]:
    """In percent, by policy, for a cache that holds `capacity` bytes of values:
    libcachesim counts no metadata unless it is told to."""
    number = {key: i for i, key in enumerate(trace.distinct)}
    asked = [number[key] for key in trace.keys]
    uses = trace.next_uses(_NEVER)
    power = max(10, min(24, len(number).bit_length() + 1))
    found = {}
    with _hushed():
        for name, kind in NAMES.items():
            cache = getattr(lib, kind)(
                capacity, hashpower=power, consider_obj_metadata=False
            )
            found[name] = 100 * _play(lib, cache, asked, trace.sizes, uses) / len(asked)
    return found


def _play(
    lib: ModuleType, cache: object, asked: list[int], sizes: list[int], uses: list[int]
) -> int:
    """Requests that hit."""
    request, get, hits = lib.Request(), cache.get, 0  # type: ignore[attr-defined]
    for key, size, use in zip(asked, sizes, uses, strict=True):
        request.obj_id, request.obj_size = key, size
        request.next_access_vtime = use
        hits += get(request)
    return hits


@contextmanager
def _hushed() -> Iterator[None]:
    """It writes a warning for each object larger than the cache, past Python."""
    saved = [os.dup(fd) for fd in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for fd in (1, 2):
            os.dup2(nowhere, fd)
        yield
    finally:
        for fd, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, fd)
            os.close(copy)
        os.close(nowhere)
