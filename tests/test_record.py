"""Record: its order is the one that the C table answers in."""

from shmcache import record
from shmcache._core import binding


def test_numbers_agree_with_the_core():
    assert (record.FRESH, record.STALE, record.DEAD) == (
        binding.FRESH,
        binding.STALE,
        binding.DEAD,
    )
    assert (record.VALUE, record.PASS, record.ERROR) == (
        binding.VALUE,
        binding.PASS,
        binding.ERROR,
    )
    assert record.FOREVER == binding.FOREVER
