"""The envelope of a value in L2: a head that scripts read, and the value itself.

Little-endian, head first:

    magic 4 | format 1 | kind 1 | ntags 1 | flags 1 (1: sealed)
    digest of its own Redis key 8
    ttl ms 8 (-1: fresh for ever) | grace ms 8
    end of its life 8                ms of Redis' clock (-1: none)
    incarnation 8 | clock 8          of `:g`, at the fill's start
    nonce 8                          random, of its fill
    tag numbers, 4 each
    fill duration us 4 | CRC-32 of what is before and of the value 4 (sealed: 0)
    seal 16 if sealed | value

`acquire.lua` and `invalidate.lua` read the head by the same offsets. The digest makes
another key's value a miss, whoever mixed them up; the CRC is against damage.

The seal is against a writer of Redis: a BLAKE2b keyed by a secret of the fleet, over
the Redis key's name and all the rest. It stands for name, generation, end of life and
value, so none of these can be another's; an old value can be brought back while its
life lasts and nothing it bears was invalidated. Who has a secret believes no envelope
without a seal, and who has none no sealed one, which would be unproved.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
import zlib
from typing import NamedTuple

from .errors import CodecError
from .record import ERROR

MAGIC = b"SHMC"
FORMAT = 2
TAGS_MAX = 33
TAG_MAX = 2**20 - 1
FOREVER_MS = -1
GRACE_MAX_MS = 10 * 365 * 86_400_000
"""What an endless grace is in Redis, where age is told by what is left of the life."""
LIFE_MAX_MS = (2**63 - 1) // 1_000_000
"""What nanoseconds of 63 bits can tell."""
VALUE_MAX = 16 << 20
"""Bytes of a value: what travels within a deadline. `acquire.lua` knows it too."""
SECRET_MIN, SECRET_MAX = 16, 64
"""Bytes of a secret."""

_HEAD = struct.Struct("<4sBBBBQqqq8sQQ")
_BODY = struct.Struct("<II")
_FILL = struct.Struct("<I")
_SEALED = 1
_SEAL_BYTES = 16


class Envelope(NamedTuple):
    """A value as L2 keeps it."""

    value: bytes
    kind: int
    ttl_ms: int
    """FOREVER_MS: never stale."""
    grace_ms: int
    ends_ms: int
    """End of its life by Redis' clock; FOREVER_MS: none."""
    incarnation: bytes
    """8 bytes: which `:g` the clock is of."""
    clock: int
    nonce: int
    fill_us: int
    tags: tuple[int, ...]


def pack_envelope(name: bytes, envelope: Envelope, secret: bytes = b"") -> bytes:
    """The bytes to store under the Redis key `name`."""
    value, tags = envelope.value, envelope.tags
    head = _HEAD.pack(
        MAGIC,
        FORMAT,
        envelope.kind,
        len(tags),
        _SEALED if secret else 0,
        _digest(name),
        envelope.ttl_ms,
        envelope.grace_ms,
        envelope.ends_ms,
        envelope.incarnation,
        envelope.clock,
        envelope.nonce,
    )
    if tags:
        head += struct.pack(f"<{len(tags)}I", *tags)
    head += _FILL.pack(min(envelope.fill_us, 0xFFFFFFFF))
    if secret:
        head += bytes(4)
        return b"".join((head, _seal(name, head, value, secret), value))
    return b"".join((head, _FILL.pack(zlib.crc32(value, zlib.crc32(head))), value))


def unpack_envelope(name: bytes, data: bytes, secret: bytes = b"") -> Envelope | None:
    """What `pack_envelope` packed; None if another version did.

    `CodecError` if the bytes are no envelope, damaged, another key's, or not sealed by
    the same secret. Never more memory than the bytes themselves have.
    """
    if data[:4] != MAGIC or len(data) < 5:
        raise CodecError("not an envelope")
    if data[4] != FORMAT:
        return None
    if len(data) < _HEAD.size:
        raise CodecError("truncated envelope")
    (
        _, _, kind, ntags, flags, digest,
        ttl_ms, grace_ms, ends_ms, incarnation, clock, nonce,
    ) = _HEAD.unpack_from(data)  # fmt: skip
    if kind > ERROR or ttl_ms < FOREVER_MS or not 0 <= grace_ms <= LIFE_MAX_MS - ttl_ms:
        raise CodecError("an envelope that we never wrote")
    start = _HEAD.size + 4 * ntags + _BODY.size
    if ntags > TAGS_MAX or len(data) < start + (_SEAL_BYTES if flags else 0):
        raise CodecError("truncated envelope")
    if flags != (_SEALED if secret else 0):
        raise CodecError("sealed by another secret, or by none")
    fill_us, crc = _BODY.unpack_from(data, start - _BODY.size)
    if secret:
        value = data[start + _SEAL_BYTES :]
        seal = _seal(name, data[:start], value, secret)
        if not hmac.compare_digest(data[start : start + _SEAL_BYTES], seal):
            raise CodecError("sealed by another secret, or damaged")
    else:
        value = data[start:]
        if crc != zlib.crc32(value, zlib.crc32(data[: start - _FILL.size])):
            raise CodecError("damaged envelope")
    if digest != _digest(name):
        raise CodecError("envelope of another key")
    tags = struct.unpack_from(f"<{ntags}I", data, _HEAD.size) if ntags else ()
    if tags and max(tags) > TAG_MAX:
        raise CodecError("an envelope that we never wrote")
    lives = (ttl_ms, grace_ms, ends_ms)
    return Envelope(value, kind, *lives, incarnation, clock, nonce, fill_us, tags)


def nonce_of(data: bytes) -> bytes:
    """The random bytes of its fill as they stand in the head; b"" if it has none."""
    return data[_HEAD.size - 8 : _HEAD.size]


def incarnation_of(data: bytes) -> bytes:
    """Which `:g` its clock is of, as it stands in the head; b"" if it has none."""
    return data[_HEAD.size - 24 : _HEAD.size - 16]


def _digest(name: bytes) -> int:
    """Against mix-ups, not against a writer of Redis: so it may be cheap."""
    return zlib.adler32(name) << 32 | zlib.crc32(name)


def _seal(name: bytes, head: bytes, value: bytes, secret: bytes) -> bytes:
    """The name's length goes first, so that no part can lend bytes to the next."""
    sealing = hashlib.blake2b(
        struct.pack("<I", len(name)) + name + head, key=secret, digest_size=_SEAL_BYTES
    )
    sealing.update(value)
    return sealing.digest()
