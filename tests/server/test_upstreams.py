"""Which upstream is asked, and which ones are left alone."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from multidict import CIMultiDict

from shmcache_server import upstreams
from shmcache_server.config import Config
from shmcache_server.origins import Asking, Origin, OriginDown
from shmcache_server.tables import OriginConfig
from shmcache_server.upstreams import RESERVE, SHARE, Budget, Upstream, Upstreams
from tests.server.conftest import eventually

URLS = ("http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3")


def config(*urls: str, **settings: Any) -> Config:
    return Config(origin=OriginConfig(url=urls, **settings))


@pytest.fixture
async def three() -> AsyncIterator[Upstreams]:
    made = Upstreams(config(*URLS, breaker_failures=2))
    yield made
    await made.close()


def down(upstream: Upstream) -> None:
    while not upstream.probe_at:
        upstream.failed()


# -- choice


async def test_less_busy_of_two_is_chosen(three) -> None:
    three.all[0].pool._turns -= 5
    chosen = Counter(three.choose().base for _ in range(300))
    assert set(chosen) == set(URLS[1:]), "the busiest of three is in no pair the less"


async def test_equals_are_chosen_alike(three) -> None:
    chosen = Counter(three.choose().base for _ in range(600))
    assert all(chosen[url] > 120 for url in URLS), chosen


async def test_tried_and_down_are_not_chosen(three) -> None:
    first, second, third = three.all
    down(second)
    assert {three.choose([first]) for _ in range(20)} == {third}
    assert three.choose([first, third]) is None


async def test_one_request_probes_and_others_do_not(three) -> None:
    for upstream in three.all:
        down(upstream)
    assert three.choose() is None
    three.all[1].probe_at = time.monotonic() - 1
    assert three.choose() is three.all[1]
    assert three.choose() is None, "until the next probe is due"


async def test_request_not_fit_to_probe_goes_to_the_healthy(three) -> None:
    down(three.all[0])
    three.all[0].probe_at = time.monotonic() - 1
    chosen = {three.choose(probing=False) for _ in range(50)}
    assert chosen == set(three.all[1:])
    for upstream in three.all[1:]:
        down(upstream)
    assert three.choose(probing=False) is three.all[0], "there is no other"


# -- breaker


@pytest.fixture
async def one() -> Upstream:
    return Upstream(URLS[0], config(URLS[0], breaker_failures=3))


async def test_failures_in_a_row_open_it(one) -> None:
    for _ in range(2):
        one.failed()
    one.succeeded()
    for _ in range(2):
        one.failed()
    assert one.state == "closed"
    one.failed()
    assert (one.state, one.opened) == ("open", 1)


async def test_late_failures_do_not_lengthen_the_pause(one) -> None:
    down(one)
    until = one.probe_at
    one.failed()
    assert one.probe_at == until


async def test_pauses_grow_and_are_shortened_by_chance(one) -> None:
    down(one)
    pauses = []
    for _ in range(8):
        now = one.probe_at
        assert not one.probe(now - 0.001)
        assert one.probe(now)
        pauses.append(one.probe_at - now)
    assert upstreams.PAUSE_MIN < pauses[0] <= 2 * upstreams.PAUSE_MIN
    assert all(p <= upstreams.PAUSE_MAX for p in pauses)
    assert pauses[-1] >= upstreams.PAUSE_MAX / 2 and len(set(pauses)) == 8


async def test_log_tells_once_that_it_is_down_and_back(one, caplog) -> None:
    with caplog.at_level("INFO", "shmcache"):
        for _ in range(9):
            one.failed()
        for _ in range(2):
            one.succeeded()
    said = [record.message.partition(": ")[2] for record in caplog.records]
    assert said == ["down, and left alone for a while", "answers again"]


async def test_answer_closes_it(one) -> None:
    down(one)
    one.probe_at = time.monotonic() - 1
    assert one.state == "half-open"
    one.succeeded()
    assert one.state == "closed" and not one.failures


async def test_breaker_that_is_off_never_opens() -> None:
    one = Upstream(URLS[0], config(URLS[0], breaker_failures=0))
    for _ in range(100):
        one.failed()
    assert one.state == "closed"


# -- checks


async def ask(origin: Origin) -> int:
    answering = await origin.ask(Asking("GET", "/", CIMultiDict()))
    answering.close()
    return answering.status


@pytest.mark.parametrize("status", [503, 404])
async def test_check_that_fails_opens_the_breaker(upstream, status) -> None:
    """And no client's request is a probe: the checks are."""
    settings = {"health_path": "/ok", "health_interval": 0.1, "breaker_failures": 1}
    origin = Origin(config(upstream.url, **settings))
    mine = origin.upstreams.all[0]
    try:
        assert await ask(origin) == 200
        upstream.status = status
        await eventually(lambda: mine.state != "closed")
        mine.probe_at = time.monotonic() - 1
        with pytest.raises(OriginDown):
            await ask(origin)
        upstream.status = 200
        await eventually(lambda: mine.state == "closed")
        assert await ask(origin) == 200
        assert {seen.target for seen in upstream.seen} == {"/", "/ok"}
    finally:
        await origin.close()


async def test_check_that_cannot_connect_opens_the_breaker() -> None:
    settings = {"health_path": "/ok", "health_interval": 0.1, "breaker_failures": 1}
    made = Upstreams(config(URLS[0], **settings))
    await eventually(lambda: made.all[0].state == "open")
    await made.close()
    assert not made.all[0].pool._open


async def test_checks_go_on_whatever_becomes_of_one(upstream, monkeypatch) -> None:
    """Nothing else closes the breaker: the upstream would be left alone for ever."""
    settings = {"health_path": "/ok", "health_interval": 0.1, "breaker_failures": 1}
    made = Upstreams(config(upstream.url, **settings))
    mine = made.all[0]
    with monkeypatch.context() as broken:
        broken.delattr(type(mine.pool), "open")
        await eventually(lambda: mine.state != "closed")
    await eventually(lambda: mine.state == "closed")
    await made.close()


async def test_checks_end_with_the_origin(upstream) -> None:
    settings = {"health_path": "/ok", "health_interval": 0.1}
    made = Upstreams(config(upstream.url, **settings))
    await eventually(lambda: upstream.seen)
    await made.close()
    assert len(asyncio.all_tasks()) <= 2


# -- budget


def test_budget_is_a_share_of_the_requests() -> None:
    budget = Budget()
    spent = sum(budget.spend(asked) for asked in range(1, 1001))
    assert 1000 * SHARE - 1 <= spent <= RESERVE + 1000 * SHARE


def test_budget_is_not_saved_beyond_its_reserve() -> None:
    budget = Budget()
    assert sum(budget.spend(10**6) for _ in range(100)) == RESERVE
