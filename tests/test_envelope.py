"""An envelope is read as it was packed, under its own key, or not at all."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shmcache.envelope import (
    FORMAT,
    LIFE_MAX_MS,
    TAG_MAX,
    TAGS_MAX,
    Envelope,
    nonce_of,
    pack_envelope,
    unpack_envelope,
)
from shmcache.errors import CodecError

U64 = st.integers(0, 2**64 - 1)
envelopes = st.builds(
    Envelope,
    value=st.binary(max_size=100),
    kind=st.integers(0, 2),
    ttl_ms=st.integers(-1, LIFE_MAX_MS // 2),
    grace_ms=st.integers(0, LIFE_MAX_MS // 2),
    ends_ms=st.integers(-1, 2**62),
    incarnation=st.binary(min_size=8, max_size=8),
    clock=st.integers(0, 2**53),
    nonce=U64,
    fill_us=st.integers(0, 2**32 - 1),
    tags=st.lists(st.integers(0, TAG_MAX), max_size=TAGS_MAX).map(tuple),
)
ONE = Envelope(
    b"value", 0, 30_000, 5_000, 10**12, b"incarnat", 7, 2**63 + 5, 1234, (3, 9)
)
NAME = b"shmcache:{app:0}:v:key"
SECRET, OTHER = b"0123456789abcdef", b"fedcba9876543210"
secrets = pytest.mark.parametrize("secret", [b"", SECRET], ids=["plain", "sealed"])


@given(envelopes, st.binary(min_size=1, max_size=50), st.sampled_from([b"", SECRET]))
def test_envelope_comes_back_as_packed(
    envelope: Envelope, name: bytes, secret: bytes
) -> None:
    packed = pack_envelope(name, envelope, secret)
    assert unpack_envelope(name, packed, secret) == envelope


@secrets
def test_every_flipped_bit_is_found(secret: bytes) -> None:
    packed = pack_envelope(NAME, ONE, secret)
    for bit in range(8 * len(packed)):
        damaged = bytearray(packed)
        damaged[bit // 8] ^= 1 << bit % 8
        if bit // 8 == 4:  # says another format, of which we know nothing
            assert unpack_envelope(NAME, bytes(damaged), secret) is None
            continue
        with pytest.raises(CodecError):
            unpack_envelope(NAME, bytes(damaged), secret)


@secrets
def test_every_truncation_is_found(secret: bytes) -> None:
    packed = pack_envelope(NAME, ONE, secret)
    for length in range(len(packed)):
        with pytest.raises(CodecError):
            unpack_envelope(NAME, packed[:length], secret)


def test_envelope_of_another_key_is_foreign() -> None:
    with pytest.raises(CodecError, match="another key"):
        unpack_envelope(NAME + b"2", pack_envelope(NAME, ONE))


@secrets
def test_other_format_is_unknown_not_foreign(secret: bytes) -> None:
    packed = bytearray(pack_envelope(NAME, ONE))
    packed[4] = FORMAT + 1
    assert unpack_envelope(NAME, bytes(packed), secret) is None
    assert unpack_envelope(NAME, bytes(packed[:5]), secret) is None


@given(st.binary(max_size=200), st.sampled_from([b"", SECRET]))
def test_random_bytes_are_no_envelope(data: bytes, secret: bytes) -> None:
    with pytest.raises(CodecError):
        unpack_envelope(NAME, data, secret)


HEADS = st.tuples(
    st.integers(0, 255),
    st.integers(0, 255),
    st.integers(0, 1),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-(2**63), 2**63 - 1),
)


@settings(max_examples=300)
@given(HEADS, st.binary(max_size=300))
def test_forged_head_is_refused_or_makes_sense(
    head: tuple[int, ...], rest: bytes
) -> None:
    """With a right CRC: whoever writes to Redis can have one."""
    kind, ntags, flags, ttl_ms, grace_ms = head
    digest = pack_envelope(NAME, ONE)[8:16]
    forged = b"SHMC" + bytes((FORMAT, kind, ntags, flags)) + digest
    forged += struct.pack("<qq", ttl_ms, grace_ms) + rest
    start = 64 + 4 * ntags
    if len(forged) >= start + 8:
        fill, value = forged[start : start + 4], forged[start + 8 :]
        crc = zlib.crc32(value, zlib.crc32(fill, zlib.crc32(forged[:start])))
        forged = forged[: start + 4] + struct.pack("<I", crc) + value
    try:
        envelope = unpack_envelope(NAME, forged)
    except CodecError:
        return
    assert envelope is not None
    assert envelope.kind <= 2 and len(envelope.tags) == ntags <= TAGS_MAX
    assert envelope.ttl_ms >= -1 and envelope.grace_ms >= 0
    assert envelope.ttl_ms + envelope.grace_ms <= LIFE_MAX_MS
    assert all(tag <= TAG_MAX for tag in envelope.tags)


@secrets
def test_claimed_sizes_take_no_memory(secret: bytes) -> None:
    packed = pack_envelope(NAME, ONE._replace(value=bytes(1 << 20)), secret)
    tracemalloc.start()
    try:
        for offset in range(96):
            damaged = bytearray(packed)
            damaged[offset] ^= 0xFF
            whole = bytes(damaged)
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            with contextlib.suppress(CodecError):
                unpack_envelope(NAME, whole, secret)
            peak = tracemalloc.get_traced_memory()[1]
            assert peak - before < len(packed) + 10_000
    finally:
        tracemalloc.stop()


# -- seals


@pytest.mark.parametrize(
    ("sealed_by", "read_by"),
    [(OTHER, SECRET), (b"", SECRET), (SECRET, b"")],
    ids=["another-secret", "no-seal", "no-secret"],
)
def test_seal_of_others_is_foreign(sealed_by: bytes, read_by: bytes) -> None:
    with pytest.raises(CodecError, match="sealed by"):
        unpack_envelope(NAME, pack_envelope(NAME, ONE, sealed_by), read_by)


def test_sealed_value_under_another_name_is_foreign() -> None:
    """Also under a name whose end the head could lend."""
    packed = pack_envelope(NAME, ONE, SECRET)
    for name in (NAME + b"2", NAME[:-1], NAME + packed[:1]):
        with pytest.raises(CodecError, match="sealed by"):
            unpack_envelope(name, packed, SECRET)


def test_seal_stands_for_every_field() -> None:
    """A writer of Redis who can compute digest and CRC, and mends both."""
    seals = {
        pack_envelope(NAME, ONE._replace(**{field: value}), SECRET)[80:96]
        for field, value in {
            "value": b"other",
            "kind": 1,
            "ttl_ms": 60_000,
            "grace_ms": 6_000,
            "ends_ms": 10**13,
            "incarnation": b"INCARNAT",
            "clock": 8,
            "nonce": 1,
            "tags": (3, 8),
        }.items()
    }
    assert len(seals) == 9
    assert pack_envelope(NAME, ONE, SECRET)[80:96] not in seals


def test_nonce_is_sliced_from_the_head() -> None:
    packed = pack_envelope(NAME, ONE)
    assert nonce_of(packed) == ONE.nonce.to_bytes(8, "little")


def test_fill_of_more_than_an_hour_is_clamped() -> None:
    packed = pack_envelope(NAME, ONE._replace(fill_us=2**40))
    unpacked = unpack_envelope(NAME, packed)
    assert unpacked is not None and unpacked.fill_us == 2**32 - 1
