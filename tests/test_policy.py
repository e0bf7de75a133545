"""Fresh, stale or dead; ttl input; spread and retry delays."""

import math
from datetime import timedelta

import pytest

from shmcache import policy
from shmcache.record import DEAD, FOREVER, FRESH, STALE


@pytest.mark.parametrize(
    ("ttl", "expected"),
    [
        (None, None),
        (0, 0.0),
        (0.4, 0.4),
        (30, 30.0),
        (timedelta(minutes=2), 120.0),
        ("90s", 90.0),
        ("1h30m", 5400.0),
        ("1d 2h", 93600.0),
        ("2.5m", 150.0),
        ("250ms", 0.25),
        ("1w", 604800.0),
        ("0s", 0.0),
    ],
)
def test_ttl_forms_become_seconds(ttl, expected):
    assert policy.seconds(ttl) == expected


@pytest.mark.parametrize(
    "ttl",
    [
        *(-1, math.nan, math.inf, True, [1]),
        *("30", "", "h", "1x", "1h 30", "-1s", "30m1h", "1h1h", "1e3s", "\u0663s"),
    ],
)
def test_ttl_of_wrong_form_names_itself(ttl):
    with pytest.raises(ValueError, match="grace="):
        policy.seconds(ttl, "grace")


@pytest.mark.parametrize(
    ("now", "expected"),
    [(0, FRESH), (9, FRESH), (10, STALE), (19, STALE), (20, DEAD), (99, DEAD)],
)
def test_state_follows_ttl_then_grace(now, expected):
    assert policy.state(now, 10, 20) == expected


def test_life_without_end_stays_without_end():
    assert policy.after(5, None) == FOREVER
    assert policy.after(FOREVER, 3.0) == FOREVER
    assert policy.after(5, 1e300) == FOREVER


def test_life_below_a_second_is_kept():
    assert policy.after(0, 0.4) == 400_000_000


@pytest.mark.parametrize("draw", [0.0, 0.5, 0.999])
def test_jitter_only_shortens(draw):
    assert 7.0 < policy.jittered(10.0, 0.3, draw) <= 10.0


def test_retry_delay_doubles_from_one_to_thirty():
    assert [policy.retry_delay(n) for n in range(7)] == [0, 1, 2, 4, 8, 16, 30]
    assert policy.retry_delay(5000) == 30


@pytest.mark.parametrize(
    ("left", "draw", "due"),
    [
        (0, 1.0, True),
        (1, 1.0, False),
        (1_000_000, 0.37, False),  # the compute took a millisecond; -log(0.37) < 1
        (1_000_000, 0.36, True),
        (6_000_000, 0.0025, False),
        (6_000_000, 0.0024, True),
    ],
)
def test_early_refresh_is_likelier_near_the_end(left, draw, due):
    assert policy.due_early(100, 100 + left, 1000, 1.0, draw) is due


def test_early_refresh_scales_with_the_compute_and_beta():
    assert not policy.due_early(0, 2_000_000, 1000, 1.0, 0.3)
    assert policy.due_early(0, 2_000_000, 2000, 1.0, 0.3)
    assert policy.due_early(0, 2_000_000, 1000, 2.0, 0.3)


def test_early_reach_leaves_out_one_draw_in_400():
    window = int(policy.EARLY_REACH * 1_000_000)
    assert not policy.due_early(0, window, 1000, 1.0, 1 / 400)


def test_ttl_beyond_floats_names_itself():
    with pytest.raises(ValueError, match="ttl="):
        policy.seconds(10**400)
