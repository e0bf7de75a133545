"""The host's clock, and the one that tests advance."""

from shmcache import clock


def test_system_clock_runs_forward():
    first = clock.SYSTEM.now()
    assert clock.SYSTEM.now() >= first > 0


def test_fake_clock_stands_until_advanced():
    fake = clock.FakeClock()
    before = fake.now()
    assert fake.now() == before
    fake.advance(0.4)
    assert fake.now() - before == 400_000_000


def test_boot_is_named_the_same_each_time():
    assert len(clock.boot_id()) == 16
    assert clock.boot_id() == clock.boot_id()
    assert clock.namespace() == clock.namespace()
