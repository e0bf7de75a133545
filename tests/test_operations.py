"""An operation ends by its deadline, and what it meant for Redis is counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from shmcache.breaker import PAUSE_MAX, THRESHOLD, Breaker, LocalWords
from shmcache.clock import FakeClock
from shmcache.errors import TierUnavailable
from shmcache.operations import PATIENCE, TELL_SECONDS, Operations
from shmcache.scripts import sound
from shmcache.topology import open_topology
from tests.redis_server import RedisServer, eventually, redis_server

DEADLINE = 0.1


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def words() -> LocalWords:
    return LocalWords()


def make(server: RedisServer, words: LocalWords, clock: FakeClock) -> Operations:
    breaker = Breaker(words, probe_seconds=2 * DEADLINE, clock=clock)
    link = open_topology(server.url, "app", timeout=1.0).link(0)
    operations = Operations(link, breaker, DEADLINE)

    async def write() -> None:
        sound(await link.exchange(("PERSIST", "key")))

    operations.probe = write
    return operations


@pytest.fixture
async def operations(
    server: RedisServer, words: LocalWords, clock: FakeClock
) -> AsyncIterator[Operations]:
    operations = make(server, words, clock)
    yield operations
    await operations.close()
    await operations.link.close()
    assert not operations.under_way


def opened(operations: Operations, clock: FakeClock) -> None:
    """The breaker is open, and a probe is due."""
    while not operations.breaker.failed():
        pass
    clock.advance(PAUSE_MAX)


async def fine() -> str:
    return "fine"


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def broken() -> None:
    raise TypeError("what a lost peer may look like")


async def test_operation_answers_what_its_work_does(operations: Operations) -> None:
    assert await operations.run(fine) == "fine"


async def test_failure_is_a_tier_unavailable_and_counted(
    operations: Operations,
) -> None:
    for _ in range(THRESHOLD):
        with pytest.raises(TierUnavailable, match="a lost peer") as failed:
            await operations.run(broken)
        assert isinstance(failed.value.__cause__, TypeError)
    assert not operations.breaker.closed


async def test_late_operation_is_counted_once_and_cut(operations: Operations) -> None:
    began = time.monotonic()
    with pytest.raises(TierUnavailable, match="no answer within"):
        await operations.run(forever)
    assert time.monotonic() - began < 2 * DEADLINE
    assert operations.under_way == 1  # a slow answer shall not cost the connection
    await eventually(lambda: not operations.under_way)
    assert time.monotonic() - began >= PATIENCE * DEADLINE
    for _ in range(THRESHOLD - 2):
        assert not operations.breaker.failed()
    assert operations.breaker.failed()


async def test_cut_goes_on_until_the_work_has_ended(operations: Operations) -> None:
    """Before Python 3.12 `asyncio.wait_for` may forget a cancellation."""
    cuts = []

    async def forgetful() -> None:
        while len(cuts) < 2:
            try:
                await forever()
            except asyncio.CancelledError:
                cuts.append(1)
        await forever()

    with pytest.raises(TierUnavailable):
        await operations.run(forgetful)
    await eventually(lambda: not operations.under_way)
    assert len(cuts) == 2


async def test_process_that_was_held_up_does_not_blame_redis(
    operations: Operations,
) -> None:
    """Stopped, or its loop blocked: every timer is late at once."""
    running = [
        asyncio.create_task(operations.run(forever)) for _ in range(2 * THRESHOLD)
    ]
    await asyncio.sleep(0)
    time.sleep(3 * DEADLINE)
    ended = await asyncio.gather(*running, return_exceptions=True)
    assert all(isinstance(end, TierUnavailable) for end in ended)
    assert operations.breaker.closed


async def test_operation_cut_before_it_began_is_settled(
    operations: Operations,
) -> None:
    settled: list[object] = []
    operations.begin(settled.append).run(fine)
    await operations.close()
    assert settled == ["fine"]
    operations.begin(settled.append).run(fine)
    (operation,) = operations._awaited
    operation.cut()
    await eventually(lambda: len(settled) == 2)
    assert isinstance(settled[1], TierUnavailable)


async def test_exchange_at_once_ends_by_its_reply(
    operations: Operations,
) -> None:
    settled: list[object] = []

    def read(replies: list[object]) -> None:
        settled.extend(replies)

    ping = [("PING",)]
    assert not operations.begin(settled.append).exchange(ping, read)
    (none,) = operations._awaited
    none.run(fine)
    await operations.link.exchange(("PING",))
    assert operations.begin(settled.append).exchange(ping, read)
    assert operations.under_way == 1 and not operations._tasks
    await eventually(lambda: not operations.under_way)
    assert sorted(map(str, settled)) == ["b'PONG'", "fine"]


async def test_exchange_at_once_that_cannot_be_read_is_a_failure(
    operations: Operations,
) -> None:
    settled: list[object] = []

    def read(replies: list[object]) -> None:
        raise TypeError("another's reply")

    await operations.link.exchange(("PING",))
    assert operations.begin(settled.append).exchange([("PING",)], read)
    await eventually(lambda: settled)
    assert isinstance(settled[0], TierUnavailable) and not operations.under_way


async def test_work_that_is_left_ends_by_the_same_deadline(
    operations: Operations,
) -> None:
    settled: list[object] = []
    await operations.link.exchange(("PING",))
    began = time.monotonic()
    operation = operations.begin(settled.append)
    assert operation.exchange([("PING",)], lambda replies: forever)
    await eventually(lambda: settled)
    assert DEADLINE * 0.9 < time.monotonic() - began < 2 * DEADLINE
    assert operations.under_way == 1
    await eventually(lambda: not operations.under_way)


async def test_open_breaker_refuses_but_what_probes(
    operations: Operations,
) -> None:
    while not operations.breaker.failed():
        pass
    with pytest.raises(TierUnavailable, match="breaker"):
        await operations.run(fine)
    assert await operations.run(fine, probing=True) == "fine"
    assert not operations.breaker.closed


async def test_answer_that_proves_nothing_resets_nothing(
    operations: Operations,
) -> None:
    for _ in range(THRESHOLD):
        assert await operations.run(fine, proves=lambda answer: answer != "fine")
        with pytest.raises(TierUnavailable):
            await operations.run(broken)
    assert not operations.breaker.closed


async def test_breaker_that_flaps_is_told_of_once_a_minute(
    operations: Operations, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "shmcache.l2")
    for _ in range(2):
        caplog.clear()
        for _ in range(10):
            for _ in range(THRESHOLD):
                with pytest.raises(TierUnavailable):
                    await operations.run(broken)
            clock.advance(PAUSE_MAX)
            operations.probe_if_due()
            await eventually(lambda: operations.breaker.closed)
        assert [r.levelname for r in caplog.records] == ["WARNING", "INFO"]
        clock.advance(TELL_SECONDS)


async def test_breaker_that_stays_open_is_told_of_in_the_end(
    operations: Operations, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """1. It opens, and closes. 2. It opens at once again, which is not told. 3. It
    stays open: the log must not say for ever that L2 is back."""
    caplog.set_level("INFO", "shmcache.l2")
    operations.opened("first")
    opened(operations, clock)
    operations.probe_if_due()
    await eventually(lambda: operations.breaker.closed)
    operations.opened("second")
    operations.drain = broken
    opened(operations, clock)
    for _ in range(2):
        clock.advance(TELL_SECONDS)
        operations.probe_if_due()
        await eventually(lambda: not operations.under_way)
    levels = [r.levelname for r in caplog.records]
    assert levels == ["WARNING", "INFO", "WARNING"]
    assert "second" in caplog.messages[-1]


# -- probes


async def test_operation_that_finds_a_probe_due_does_not_wait_for_it(
    operations: Operations, clock: FakeClock
) -> None:
    opened(operations, clock)
    with pytest.raises(TierUnavailable, match="breaker"):
        await operations.run(fine)
    await eventually(lambda: operations.breaker.closed)
    assert await operations.run(fine) == "fine"


async def test_what_was_kept_is_sent_before_the_breaker_closes(
    operations: Operations, clock: FakeClock
) -> None:
    """Else a get would be let through before the delete that was kept."""
    sending, sent = asyncio.Event(), asyncio.Event()
    seen = []

    async def drain() -> None:
        sending.set()
        await sent.wait()
        seen.append(operations.breaker.closed)
        seen.append(await operations.run(fine, probing=True))

    operations.drain = drain
    opened(operations, clock)
    operations.probe_if_due()
    await sending.wait()
    with pytest.raises(TierUnavailable):
        await operations.run(fine)
    sent.set()
    await eventually(lambda: operations.breaker.closed)
    assert seen == [False, "fine"]


async def unsent() -> bool:
    return False


@pytest.mark.parametrize("drain", [broken, unsent])
async def test_breaker_stays_open_while_something_is_not_sent(
    operations: Operations, clock: FakeClock, drain: object
) -> None:
    operations.drain = drain  # type: ignore[assignment]
    opened(operations, clock)
    operations.probe_if_due()
    await eventually(lambda: not operations.under_way)
    assert not operations.breaker.closed and not operations.breaker.probe()
    operations.drain = None
    clock.advance(PAUSE_MAX)
    operations.probe_if_due()
    await eventually(lambda: operations.breaker.closed)


async def test_one_process_probes_and_sends(
    operations: Operations, server: RedisServer, words: LocalWords, clock: FakeClock
) -> None:
    sibling = make(server, words, clock)
    drains = []

    async def drain() -> None:
        drains.append(1)
        # longer than a probe that is not heard of has
        for _ in range(30):
            clock.advance(DEADLINE / 2)
            sibling.probe_if_due()
            await asyncio.sleep(DEADLINE / 2)

    operations.drain = sibling.drain = drain
    opened(operations, clock)
    for _ in range(3):
        operations.probe_if_due()
        sibling.probe_if_due()
    await eventually(lambda: operations.breaker.closed)
    assert drains == [1]
    await sibling.close()
    await sibling.link.close()


async def test_probe_that_dies_is_followed_by_a_siblings(
    operations: Operations, server: RedisServer, words: LocalWords, clock: FakeClock
) -> None:
    """1. A probe is made. 2. Its process is killed. 3. A sibling finds it overdue."""
    opened(operations, clock)
    assert operations.breaker.probe()  # and no more is heard of it
    sibling = make(server, words, clock)
    sibling.probe_if_due()
    assert not sibling.under_way
    clock.advance(2 * DEADLINE)
    sibling.probe_if_due()
    await eventually(lambda: operations.breaker.closed)
    await sibling.close()
    await sibling.link.close()


async def test_probe_of_a_hung_redis_ends_at_its_deadline(
    operations: Operations, server: RedisServer, clock: FakeClock
) -> None:
    await operations.link.exchange(("PING",))
    opened(operations, clock)
    server.stop()
    try:
        operations.probe_if_due()
        await eventually(lambda: not operations.under_way, 2)
        assert not operations.breaker.closed
    finally:
        server.cont()


async def test_probe_of_a_replica_does_not_close_the_breaker(
    operations: Operations, server: RedisServer, clock: FakeClock
) -> None:
    await operations.link.exchange(("PING",))
    server.command("REPLICAOF", "127.0.0.1", "1")
    try:
        opened(operations, clock)
        operations.probe_if_due()
        await eventually(lambda: not operations.under_way)
        assert not operations.breaker.closed
    finally:
        server.command("REPLICAOF", "NO", "ONE")
