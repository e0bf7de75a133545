"""An envelope is read as it was packed, under its own key, or not at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmcache.envelope import FORMAT, Envelope, nonce_of, pack_envelope, unpack_envelope
from shmcache.errors import CodecError

U64 = st.integers(0, 2**64 - 1)
envelopes = st.builds(
    Envelope,
    value=st.binary(max_size=100),
    kind=st.integers(0, 2),
    ttl_ms=st.integers(-1, 2**53),
    grace_ms=st.integers(0, 2**53),
    incarnation=st.binary(min_size=8, max_size=8),
    clock=st.integers(0, 2**53),
    nonce=U64,
    fill_us=st.integers(0, 2**32 - 1),
    tags=st.lists(st.integers(0, 2**20 - 1), max_size=33).map(tuple),
)
ONE = Envelope(b"value", 0, 30_000, 5_000, b"incarnat", 7, 2**63 + 5, 1234, (3, 9))
NAME = b"shmcache:{app:0}:v:key"


@given(envelopes, st.binary(min_size=1, max_size=50))
def test_envelope_comes_back_as_packed(envelope: Envelope, name: bytes) -> None:
    assert unpack_envelope(name, pack_envelope(name, envelope)) == envelope


def test_every_flipped_bit_is_found() -> None:
    packed = pack_envelope(NAME, ONE)
    for bit in range(8 * len(packed)):
        damaged = bytearray(packed)
        damaged[bit // 8] ^= 1 << bit % 8
        if bit // 8 == 4:  # says another format, of which we know nothing
            assert unpack_envelope(NAME, bytes(damaged)) is None
            continue
        with pytest.raises(CodecError):
            unpack_envelope(NAME, bytes(damaged))


def test_every_truncation_is_found() -> None:
    packed = pack_envelope(NAME, ONE)
    for length in range(len(packed)):
        with pytest.raises(CodecError):
            unpack_envelope(NAME, packed[:length])


def test_envelope_of_another_key_is_foreign() -> None:
    with pytest.raises(CodecError, match="another key"):
        unpack_envelope(NAME + b"2", pack_envelope(NAME, ONE))


def test_newer_format_is_unknown_not_foreign() -> None:
    packed = bytearray(pack_envelope(NAME, ONE))
    packed[4] = FORMAT + 1
    assert unpack_envelope(NAME, bytes(packed)) is None


@given(st.binary(max_size=200))
def test_random_bytes_are_no_envelope(data: bytes) -> None:
    with pytest.raises(CodecError):
        unpack_envelope(NAME, data)


def test_nonce_is_sliced_from_the_head() -> None:
    packed = pack_envelope(NAME, ONE)
    assert nonce_of(packed) == ONE.nonce.to_bytes(8, "little")


def test_fill_of_more_than_an_hour_is_clamped() -> None:
    packed = pack_envelope(NAME, ONE._replace(fill_us=2**40))
    unpacked = unpack_envelope(NAME, packed)
    assert unpacked is not None and unpacked.fill_us == 2**32 - 1
