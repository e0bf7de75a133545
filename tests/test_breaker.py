"""The breaker opens after failures in a row and lets one probe at a time through."""

from __future__ import annotations

import pytest

from shmcache.breaker import PAUSE_MAX, THRESHOLD, WORDS, Breaker, LocalWords
from shmcache.clock import FakeClock

PROBE = 0.25


class Host:
    """Breakers of two processes on the same words."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.words = LocalWords()
        self.one, self.two = (
            Breaker(self.words, probe_seconds=PROBE, clock=self.clock) for _ in range(2)
        )

    def open(self) -> None:
        for _ in range(THRESHOLD):
            self.one.failed()
        assert not self.one.closed

    def probe(self) -> int:
        """The first one's, when the pause is over."""
        self.clock.advance(PAUSE_MAX)
        mark = self.one.probe()
        assert mark
        return mark


@pytest.fixture
def host() -> Host:
    return Host()


def test_failures_in_a_row_open_it_for_all(host: Host) -> None:
    opened = [host.one.failed() for _ in range(THRESHOLD)]
    assert opened == [False] * (THRESHOLD - 1) + [True]
    assert not host.two.closed


def test_success_between_failures_keeps_it_closed(host: Host) -> None:
    for _ in range(3 * THRESHOLD):
        host.one.failed()
        host.two.succeeded()
    assert host.one.closed


def test_success_under_way_does_not_close_it(host: Host) -> None:
    """What was refused since is not sent yet."""
    host.open()
    host.one.succeeded()
    assert not host.one.closed


def test_after_the_pause_one_process_probes(host: Host) -> None:
    host.open()
    assert not host.two.probe()
    host.clock.advance(PAUSE_MAX)
    marks = [host.one.probe(), host.two.probe(), host.one.probe()]
    assert marks[0] and marks[1:] == [0, 0]
    assert not host.one.closed


def test_closed_breaker_wants_no_probe(host: Host) -> None:
    assert host.one.probe() == 0


def test_probe_that_succeeds_closes_it(host: Host) -> None:
    host.open()
    assert host.one.probed(host.probe(), True)
    assert host.two.closed
    assert not host.two.failed()  # counted from the start


def test_probe_that_died_is_followed_by_another(host: Host) -> None:
    host.open()
    host.probe()
    host.clock.advance(PROBE)
    assert host.two.probe()


def test_probe_that_is_held_is_not_taken_for_dead(host: Host) -> None:
    host.open()
    mark = host.probe()
    for _ in range(10):
        host.clock.advance(PROBE - 0.01)
        assert not host.two.probe()
        mark = host.one.held(mark)
    assert host.one.probed(mark, True)


@pytest.mark.parametrize("good", [True, False])
def test_probe_that_was_replaced_decides_nothing(host: Host, good: bool) -> None:
    """1. A probe's process is stopped. 2. Another probes. 3. The first goes on."""
    host.open()
    stopped = host.probe()
    host.clock.advance(PROBE)
    mark = host.two.probe()
    assert host.one.held(stopped) == 0
    assert not host.one.probed(stopped, good) and not host.one.probed(0, good)
    assert not host.one.closed
    assert host.two.probed(mark, True)
    assert not host.one.probed(stopped, good) and host.one.closed


def pause_after_probe(host: Host) -> float:
    """Seconds until the next probe, after this one failed."""
    assert not host.one.probed(host.probe(), False)
    seconds = 0.0
    while not (mark := host.two.probe()):
        host.clock.advance(0.01)
        seconds += 0.01
    host.clock.advance(PROBE)
    assert mark
    return seconds


def test_pauses_grow_to_their_limit(host: Host) -> None:
    host.open()
    pauses = [pause_after_probe(host) for _ in range(10)]
    assert pauses[0] < 0.5
    assert all(PAUSE_MAX / 2 - 0.1 < p <= PAUSE_MAX + 0.1 for p in pauses[-3:])


def test_late_failures_do_not_lengthen_the_pause(host: Host) -> None:
    host.open()
    for _ in range(100):
        assert not host.two.failed()
    host.clock.advance(0.1)
    assert host.two.probe()


def test_partitions_have_breakers_of_their_own(host: Host) -> None:
    other = Breaker(host.words, probe_seconds=PROBE, clock=host.clock, partition=15)
    host.open()
    assert other.closed and 16 * WORDS <= 512


def test_tripped_breaker_is_open_for_all(host: Host) -> None:
    host.one.failed()
    assert host.one.trip() and not host.two.trip()
    assert not host.two.closed
    assert host.one.probed(host.probe(), good=True) and host.two.closed


def test_sign_of_life_makes_the_next_probe_due(host: Host) -> None:
    host.open()
    assert not host.one.probe()
    host.two.hurry()
    assert host.one.probe()
    assert not host.one.closed


def test_sign_of_life_of_a_closed_breaker_is_nothing(host: Host) -> None:
    host.one.hurry()
    assert host.one.closed and not host.one.probe()
