"""The envelope of a value in L2: a head that scripts read, and the value itself.

Little-endian, head first:

    magic 4 | format 1 | kind 1 | ntags 1 | 0 | digest of its own Redis key 8
    ttl ms 8 (-1: fresh for ever) | grace ms 8
    incarnation 8 | clock 8          of `:g`, at the fill's start
    nonce 8                          random, of its fill
    tag numbers, 4 each
    fill duration us 4 | CRC-32 of all the rest 4 | value

`acquire.lua` and `invalidate.lua` read the head by the same offsets. The digest makes
another key's value a miss, whoever mixed them up; the CRC is against damage, not
against a writer of Redis.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from typing import NamedTuple

from .errors import CodecError

MAGIC = b"SHMC"
FORMAT = 1
TAGS_MAX = 33
FOREVER_MS = -1
GRACE_MAX_MS = 10 * 365 * 86_400_000
"""What an endless grace is in Redis, where age is told by what is left of the life."""

_HEAD = struct.Struct("<4sBBBx8sqq8sQQ")
_BODY = struct.Struct("<II")


class Envelope(NamedTuple):
    """A value as L2 keeps it."""

    value: bytes
    kind: int
    ttl_ms: int
    """FOREVER_MS: never stale."""
    grace_ms: int
    incarnation: bytes
    """8 bytes: which `:g` the clock is of."""
    clock: int
    nonce: int
    fill_us: int
    tags: tuple[int, ...]


def pack_envelope(name: bytes, envelope: Envelope) -> bytes:
    """The bytes to store under the Redis key `name`."""
    head = _HEAD.pack(
        MAGIC,
        FORMAT,
        envelope.kind,
        len(envelope.tags),
        _digest(name),
        envelope.ttl_ms,
        envelope.grace_ms,
        envelope.incarnation,
        envelope.clock,
        envelope.nonce,
    ) + struct.pack(f"<{len(envelope.tags)}I", *envelope.tags)
    fill_us = min(envelope.fill_us, 0xFFFFFFFF)
    crc = _crc(head, fill_us, envelope.value)
    return head + _BODY.pack(fill_us, crc) + envelope.value


def unpack_envelope(name: bytes, data: bytes) -> Envelope | None:
    """What `pack_envelope` packed; None if a newer version did.

    `CodecError` if the bytes are no envelope, damaged, or another key's.
    """
    if len(data) < _HEAD.size or data[:4] != MAGIC:
        raise CodecError("not an envelope")
    if data[4] != FORMAT:
        return None
    _, _, kind, ntags, digest, ttl_ms, grace_ms, incarnation, clock, nonce = (
        _HEAD.unpack_from(data)
    )
    head_bytes = _HEAD.size + 4 * ntags
    start = head_bytes + _BODY.size
    if ntags > TAGS_MAX or len(data) < start:
        raise CodecError("truncated envelope")
    fill_us, crc = _BODY.unpack_from(data, head_bytes)
    value = data[start:]
    if crc != _crc(data[:head_bytes], fill_us, value):
        raise CodecError("damaged envelope")
    if digest != _digest(name):
        raise CodecError("envelope of another key")
    tags = struct.unpack_from(f"<{ntags}I", data, _HEAD.size)
    return Envelope(
        value, kind, ttl_ms, grace_ms, incarnation, clock, nonce, fill_us, tags
    )


def nonce_of(data: bytes) -> bytes:
    """The random bytes of its fill as they stand in the head; b"" if it has none."""
    return data[_HEAD.size - 8 : _HEAD.size]


def _digest(name: bytes) -> bytes:
    return hashlib.blake2b(name, digest_size=8).digest()


def _crc(head: bytes, fill_us: int, value: bytes) -> int:
    return zlib.crc32(value, zlib.crc32(struct.pack("<I", fill_us), zlib.crc32(head)))
