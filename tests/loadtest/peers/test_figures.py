"""Ratios, by what they are decided, and targets."""

from __future__ import annotations

import pytest

from loadtest.peers.figures import BY_CPU, BY_RATE, Rows, compared, held, targets
from loadtest.report import Target
from tests.loadtest.peers.rows import SCENE, Ask, Row, row, run


def target(words: str, *rows: Row) -> Target:
    (found,) = (t for t in targets(Rows(rows)) if t.what.startswith(words))
    return found


def test_ratio_is_the_median_of_the_rounds_own() -> None:
    ours = row("1KB", "ours", run(10), run(100), run(12))
    nginx = row("1KB", "nginx", run(20), run(200), run(20))
    found = compared(ours, nginx)
    assert (found.ratio, found.by) == (0.5, BY_RATE)


@pytest.mark.parametrize(
    ("client", "ratio", "by"), [(0.9, 1, BY_RATE), (0.91, 2, BY_CPU)]
)
def test_cpu_decides_where_wrk_is_too_busy(
    client: float, ratio: float, by: str
) -> None:
    ours = row("1KB", "ours", run(100, cpu=1e-5, client=client))
    nginx = row("1KB", "nginx", run(100, cpu=2e-5, client=0.3))
    found = compared(ours, nginx)
    assert (found.ratio, found.by) == (ratio, by)


def test_row_that_is_not_there_has_no_ratio() -> None:
    assert compared(row("1KB", "ours", run(1)), None).ratio is None
    assert compared(row("1KB", "ours", run(1)), row("1KB", "nginx")).ratio is None


def test_what_is_left_of_a_ratio() -> None:
    many = [row("1KB", "ours", run(40)), row("1KB", "floor", run(100))]
    few = [row("1KB", "ours", run(80)), row("1KB", "floor", run(160))]
    assert held(many, few).ratio == 0.8


def test_targets_say_what_decided() -> None:
    found = target(
        "1 KB, ours / nginx",
        row("1KB", "ours", run(150)),
        row("1KB", "nginx", run(100)),
    )
    assert found.what == "1 KB, ours / nginx, by rate" and found.met


def test_later_answers_than_nginx_miss_the_target() -> None:
    ours, nginx = row("1KB", "ours", run(9, p99=3)), row("1KB", "nginx", run(9, p99=2))
    found = target("1 KB, p99", ours, nginx)
    assert (found.found, found.met) == (1.5, False)


def test_the_slowest_burst_counts() -> None:
    burst = Row(SCENE["burst"], Ask("ours", 500), figures=[0.1, 0.6, 0.2])
    assert target("500 new", burst).found == 0.6


def test_without_rows_no_target_is_judged() -> None:
    assert {t.met for t in targets(Rows([]))} == {None}
