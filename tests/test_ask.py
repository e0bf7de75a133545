"""An answer's times: rebased to this host, and no life ever longer than it was."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmcache import policy
from shmcache.ask import (
    FAILED,
    MS,
    WAIT,
    FleetClock,
    Invalidation,
    Replies,
    Reply,
    rebased,
)
from shmcache.envelope import FOREVER_MS, LIFE_MAX_MS, Envelope
from shmcache.record import FOREVER, FRESH, STALE

SENT = 10**18
CLOCK = FleetClock(b"incarnat", 5, 0)


def envelope(ttl_ms: int, grace_ms: int) -> Envelope:
    return Envelope(b"v", 0, ttl_ms, grace_ms, 0, b"incarnat", 5, 7, 9, (1,))


def reply(lease: int, text: bytes = b"text") -> Reply:
    return Reply(b"2", 0, bytes(8), lease, 100, text)


LIVES = st.integers(0, LIFE_MAX_MS // 2)


@given(LIVES, LIVES, st.integers(-1, 2 * LIFE_MAX_MS))
def test_life_is_never_lengthened(ttl_ms: int, grace_ms: int, left_ms: int) -> None:
    record = rebased(envelope(ttl_ms, grace_ms), FRESH, left_ms, SENT)
    life = ttl_ms + grace_ms
    assert 0 <= record.birth <= SENT
    assert record.dead_at <= record.birth + life * MS
    assert record.dead_at <= SENT + max(0, left_ms) * MS
    assert record.fresh_until <= max(0, SENT + max(0, left_ms - grace_ms) * MS)


@given(st.binary(max_size=16), st.binary(max_size=30), st.integers(0, 4))
def test_replies_are_read_in_their_order(text: bytes, other: bytes, lease: int) -> None:
    data = b"incarnat" + b"%17d%17d" % (5, 2_000)
    for words in (text, other):
        data += b"1%17d" % 80 + b"nonce--2" + b"%d%17d%5d" % (lease, 90, len(words))
        data += words
    replies = Replies(data, 1_500 * MS + 1)
    assert replies.clock == FleetClock(b"incarnat", 5, 499)
    asked = list(replies.each(2))
    assert asked == [Reply(b"1", 80, b"nonce--2", lease, 90, w) for w in (text, other)]


def test_invalidation_is_packed_for_the_script() -> None:
    token, holder = b"t" * 16, b"h" * 16
    packed = Invalidation(b"d", b"key", 7, token, holder).packed()
    assert packed == b"d\x07" + bytes(7) + token + holder + b"key"
    assert Invalidation(b"t", 12).packed() == b"t" + bytes(40) + b"12"


def test_age_is_life_less_what_is_left() -> None:
    record = rebased(envelope(20_000, 10_000), FRESH, 25_000, SENT)
    assert (SENT - record.birth) // MS == 5_001  # one for the rounding
    assert record.state == FRESH


def test_stale_by_a_tag_is_stale_here_too() -> None:
    record = rebased(envelope(20_000, 10_000), STALE, 25_000, SENT)
    assert record.state == STALE
    assert record.fresh_until <= SENT < record.dead_at


def test_endless_record_has_no_end() -> None:
    record = rebased(envelope(FOREVER_MS, 1000), FRESH, -1, SENT)
    assert (record.fresh_until, record.dead_at) == (FOREVER, FOREVER)


def test_endless_record_that_was_expired_has_its_grace() -> None:
    record = rebased(envelope(FOREVER_MS, 1000), STALE, 800, SENT)
    assert (record.fresh_until, record.dead_at) == (0, SENT + 800 * MS)


@pytest.mark.parametrize("ttl_ms", [20_000, FOREVER_MS])
def test_what_was_expired_is_stale_by_any_clock(ttl_ms: int) -> None:
    """A process that was stopped judges it by a time before it was stored here."""
    record = rebased(envelope(ttl_ms, 10_000), STALE, 25_000, SENT)
    for now in (SENT - 5_000 * MS, SENT):
        assert policy.state(now, record.fresh_until, record.dead_at) == STALE


def test_waiter_is_told_whom_it_waits_for() -> None:
    answer = reply(WAIT, b"t" * 16).answer(None, CLOCK)
    assert (answer.holder, answer.wait_ms, answer.error) == (b"t" * 16, 100, b"")


@pytest.mark.parametrize("text", [b"", b"x", b"t" * 17])
def test_lease_that_is_no_token_is_not_to_be_waited_for(text: bytes) -> None:
    """Named in the next ask, it would be refused as a caller's mistake."""
    assert reply(WAIT, text).answer(None, CLOCK).holder == b""


def test_failure_is_told_as_an_error() -> None:
    answer = reply(FAILED).answer(None, CLOCK)
    assert (answer.holder, answer.wait_ms, answer.error) == (b"", 0, b"text")
