"""Counter names: one order with the core's, and read as attributes."""

import pytest

from shmcache import Stats, stats
from shmcache._core import binding


def test_core_counters_stand_in_the_cores_order():
    assert stats.CORE == binding.COUNTERS


def test_counters_fit_the_slot_and_are_distinct():
    assert len(set(stats.COUNTERS)) == len(stats.COUNTERS) <= 64


def test_counter_is_read_as_an_attribute():
    counted = Stats(counters={"hits": 3})
    assert counted.hits == 3
    with pytest.raises(AttributeError, match="nonsense"):
        _ = counted.nonsense
