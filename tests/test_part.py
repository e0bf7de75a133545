"""A record's life in ms, by which Redis bounds it."""

from __future__ import annotations

import pytest

from shmcache.envelope import FOREVER_MS, GRACE_MAX_MS
from shmcache.part import lives
from shmcache.record import FOREVER
from tests.fills import record


@pytest.mark.parametrize(
    ("fresh_until", "dead_at", "expected"),
    [
        (1_999_999, 5_000_000, (1, 3)),
        (FOREVER, FOREVER, (FOREVER_MS, GRACE_MAX_MS)),
        (2_000_000, FOREVER, (2, GRACE_MAX_MS)),
        (-5, -9, (0, 0)),
    ],
    ids=["rounded-down", "endless", "endless-grace", "over"],
)
def test_life_is_never_rounded_up(
    fresh_until: int, dead_at: int, expected: tuple[int, int]
) -> None:
    one = record()._replace(birth=0, fresh_until=fresh_until, dead_at=dead_at)
    assert lives(one) == expected
