"""An answer's times: rebased to this host, and no life ever longer than it was."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shmcache.ask import FAILED, MS, NONE, WAIT, FleetClock, Reply
from shmcache.envelope import FOREVER_MS, Envelope
from shmcache.record import FOREVER, FRESH, STALE

SENT = 10**18
CLOCK = FleetClock(b"incarnat", 5, 0)


def envelope(ttl_ms: int, grace_ms: int) -> Envelope:
    return Envelope(b"v", 0, ttl_ms, grace_ms, b"incarnat", 5, 7, 9, (1,))


def reply(left_ms: int, *, worth: int = 2, lease: int = NONE) -> Reply:
    return Reply(worth, bytes(8), left_ms, lease, 100, b"text")


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(-1, 3 * 10**9))
def test_life_is_never_lengthened(ttl_ms: int, grace_ms: int, left_ms: int) -> None:
    record = reply(left_ms).record(envelope(ttl_ms, grace_ms), SENT)
    life = ttl_ms + grace_ms
    assert record.birth <= SENT
    assert record.dead_at == record.birth + life * MS
    if 0 <= left_ms <= life:
        assert record.dead_at <= SENT + left_ms * MS
        assert record.fresh_until <= SENT + max(0, left_ms - grace_ms) * MS
    else:  # not as we set it: none of its ttl is believed
        assert record.fresh_until <= SENT


def test_age_is_life_less_what_is_left() -> None:
    record = reply(25_000).record(envelope(20_000, 10_000), SENT)
    assert (SENT - record.birth) // MS == 5_001  # one for the rounding
    assert record.state == FRESH


def test_stale_by_a_tag_is_stale_here_too() -> None:
    record = reply(25_000, worth=1).record(envelope(20_000, 10_000), SENT)
    assert record.state == STALE
    assert record.fresh_until <= SENT < record.dead_at


def test_endless_record_has_no_end() -> None:
    record = reply(-1).record(envelope(FOREVER_MS, 1000), SENT)
    assert (record.fresh_until, record.dead_at) == (FOREVER, FOREVER)


def test_endless_record_that_was_expired_has_its_grace() -> None:
    record = reply(800, worth=1).record(envelope(FOREVER_MS, 1000), SENT)
    assert (record.fresh_until, record.dead_at) == (SENT, SENT + 800 * MS)


def test_waiter_is_told_whom_it_waits_for() -> None:
    answer = reply(0, lease=WAIT).answer(None, CLOCK)
    assert (answer.holder, answer.wait_ms, answer.error) == (b"text", 100, b"")


def test_failure_is_told_as_an_error() -> None:
    answer = reply(0, lease=FAILED).answer(None, CLOCK)
    assert (answer.holder, answer.wait_ms, answer.error) == (b"", 0, b"text")
