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
    ],
)
def test_ttl_forms_become_seconds(ttl, expected):
    assert policy.seconds(ttl) == expected


@pytest.mark.parametrize("ttl", [-1, math.nan, math.inf, True, "30", [1]])
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


def test_ttl_beyond_floats_names_itself():
    with pytest.raises(ValueError, match="ttl="):
        policy.seconds(10**400)
