"""The breaker opens after failures in a row and lets one probe at a time through."""

from __future__ import annotations

import pytest

from shmcache.breaker import PAUSE_MAX, THRESHOLD, Breaker, LocalWords, Pass
from shmcache.clock import FakeClock

PROBE = 0.25


class Host:
    """Breakers of two processes on the same words."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        words = LocalWords()
        self.one, self.two = (
            Breaker(words, probe_seconds=PROBE, clock=self.clock) for _ in range(2)
        )

    def open(self) -> None:
        for _ in range(THRESHOLD):
            self.one.failed(self.one.enter())
        assert not self.one.closed

    def pause_is_over(self) -> None:
        self.clock.advance(PAUSE_MAX)


@pytest.fixture
def host() -> Host:
    return Host()


def test_failures_in_a_row_open_it_for_all(host: Host) -> None:
    opened = [host.one.failed(Pass.GRANTED) for _ in range(THRESHOLD)]
    assert opened == [False] * (THRESHOLD - 1) + [True]
    assert host.two.enter() is Pass.REFUSED


def test_success_between_failures_keeps_it_closed(host: Host) -> None:
    for _ in range(3 * THRESHOLD):
        host.one.failed(Pass.GRANTED)
        assert not host.two.succeeded()
    assert host.one.closed


def test_after_the_pause_one_probe_passes(host: Host) -> None:
    host.open()
    host.pause_is_over()
    passes = [host.one.enter(), host.two.enter(), host.one.enter()]
    assert passes == [Pass.PROBE, Pass.REFUSED, Pass.REFUSED]


def test_probe_that_succeeds_closes_it(host: Host) -> None:
    host.open()
    host.pause_is_over()
    assert host.two.enter() is Pass.PROBE
    assert host.two.succeeded()
    assert host.one.enter() is Pass.GRANTED


def test_probe_that_died_is_followed_by_another(host: Host) -> None:
    host.open()
    host.pause_is_over()
    assert host.one.enter() is Pass.PROBE
    host.clock.advance(PROBE)
    assert host.two.enter() is Pass.PROBE


def pause_after_probe(host: Host) -> float:
    """Seconds until the next probe, after this one failed."""
    host.pause_is_over()
    assert host.one.enter() is Pass.PROBE
    host.one.failed(Pass.PROBE)
    seconds = 0.0
    while host.two.enter() is Pass.REFUSED:
        host.clock.advance(0.01)
        seconds += 0.01
    host.clock.advance(PROBE)
    return seconds


def test_pauses_grow_to_their_limit(host: Host) -> None:
    host.open()
    pauses = [pause_after_probe(host) for _ in range(10)]
    assert pauses[0] < 0.5
    assert all(PAUSE_MAX / 2 - 0.1 < p <= PAUSE_MAX + 0.1 for p in pauses[-3:])


def test_late_failures_do_not_lengthen_the_pause(host: Host) -> None:
    host.open()
    for _ in range(100):
        assert not host.two.failed(Pass.GRANTED)
    host.clock.advance(0.1)
    assert host.two.enter() is Pass.PROBE
