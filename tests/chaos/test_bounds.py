"""Stretches of time and bounds on age."""

from __future__ import annotations

from tests.chaos.bounds import Bounds, Windows


def test_windows_join_and_answer() -> None:
    windows = Windows([(10, 20), (15, 30), (50, 50)])
    assert windows.joined == [(10, 30), (50, 50)]
    assert windows.touch(30, 40) and not windows.touch(31, 49)
    assert windows.overlap(0, 100) == 20 and windows.overlap(12, 14) == 2
    assert windows.clear_for(0, 5) == 5
    assert windows.clear_for(8, 5) == 35
    assert windows.clear_for(31, 30) == 80
    assert windows.free_since(40) == 30
    assert windows.free_since(30) is None
    assert windows.free_since(5) == 0


def test_bounds_answer_the_latest_begin_of_what_is_known() -> None:
    bounds = Bounds()
    for known, begin in ((30, 20), (40, 10), (60, 50)):
        bounds.add("k", known, begin)
    assert [bounds.at("k", t) for t in (30, 31, 45, 61)] == [0, 20, 20, 50]
    assert bounds.at("c", 100) == 0
