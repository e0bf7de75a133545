"""Samples: when requests are due, and what is told of those of a second."""

from __future__ import annotations

from array import array

from loadtest.samples import Plan, Samples


def test_due_times_are_the_rate() -> None:
    even = Plan(10, 2)
    assert even.total == 20 and even.due()[:3].tolist() == [0, 0.1, 0.2]
    rising = Plan(30, 2, first=10)
    due = rising.due()
    assert rising.total == len(due) == 40 and due[0] == 0 and due[-1] < 2
    first, last = (sum(a <= one < a + 1 for one in due) for a in (0, 1))
    assert (first, last) == (15, 25)
    growing = Plan(1, 4, clients=10, first_clients=2)
    assert [growing.clients_at(since) for since in (0, 2, 9)] == [2, 6, 10]


def test_seconds_are_those_of_the_requests() -> None:
    samples = Samples(Plan(2, 3, clients=4), lasted=3.0)
    samples.due = array("d", [0.0, 0.5, 2.5])
    samples.took = array("d", [0.001, float("nan"), 0.003])
    samples.kinds = array("b", [0, -1, 2])
    first, second, third = samples.seconds()
    assert (first.requests, first.failures, first.hits, first.p99) == (2, 1, 1, 1.0)
    assert (second.requests, second.p50) == (0, None)
    assert (third.misses, third.max, third.clients) == (1, 3.0, 4)
    assert samples.totals()["mean"] == 2.0
