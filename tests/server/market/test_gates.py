"""A vendor's budget and breaker before each call of it."""

from __future__ import annotations

import asyncio
import time

import pytest

from shmcache_server.market.answers import Unasked, Unusable


async def fail(gate, error: Unusable) -> None:
    with pytest.raises(Unusable) as raised:
        async with gate.passing(1):
            raise error
    assert raised.value is error


async def refusal(gate) -> Unusable:
    with pytest.raises(Unusable) as raised:
        async with gate.passing(1):
            raise AssertionError("it was let through")
    return raised.value


async def test_budget_over_tells_until_when(vendors, opened) -> None:
    told = vendors.settings(coingecko={"calls": 2, "seconds": 30.0})
    gate = (await opened(told)).gates["coingecko"]
    for _ in range(2):
        async with gate.passing(1):
            pass
    error = await refusal(gate)
    assert error.why == "over budget"
    assert error.until == pytest.approx(time.time() + 30, abs=3)


async def test_failures_in_a_row_shut_the_gate(vendors, opened) -> None:
    told = vendors.settings(coingecko={"failures": 2, "open_seconds": 20.0})
    gate = (await opened(told)).gates["coingecko"]
    for _ in range(2):
        await fail(gate, Unusable("status 500"))
    used = (await gate.budget.standing()).used
    error = await refusal(gate)
    assert error.why == "left alone after failures"
    assert error.until == pytest.approx(time.time() + 20, abs=3)
    assert (await gate.budget.standing()).used == used  # the refused cost nothing


async def test_shut_gate_lets_one_probe_through(vendors, opened) -> None:
    told = vendors.settings(
        coingecko={"failures": 1, "open_seconds": 0.1, "successes": 1}
    )
    gate = (await opened(told)).gates["coingecko"]
    await fail(gate, Unusable("status 500"))
    while gate.breaker.state == "open":
        pass
    async with gate.passing(1):
        assert (await refusal(gate)).why == "left alone after failures"
    async with gate.passing(1):
        assert gate.breaker.state == "closed"


async def test_ban_shuts_for_as_long_as_it_says(vendors, opened) -> None:
    """All that goes to the same address, too."""
    told = vendors.settings(
        binance={"url": "http://b"}, coingecko_global={"url": f"{vendors.url}/"}
    )
    doors = (await opened(told)).gates
    ban = Unusable("banned", until=time.time() + 50, banned=True)
    await fail(doors["coingecko"], ban)
    assert doors["coingecko"].breaker.state == "open"
    error = await refusal(doors["coingecko"])
    assert error.until == pytest.approx(time.time() + 50, abs=3)
    error = await refusal(doors["coingecko_global"])
    assert error.until == pytest.approx(time.time() + 50, abs=3)
    async with doors["binance"].passing(1):
        pass


async def test_other_errors_are_no_failures_of_the_vendor(vendors, opened) -> None:
    gate = (await opened(vendors.settings(coingecko={"failures": 1}))).gates[
        "coingecko"
    ]
    with pytest.raises(ZeroDivisionError):
        async with gate.passing(1):
            raise ZeroDivisionError
    assert gate.breaker.state == "closed"


@pytest.mark.parametrize(
    "error",
    [asyncio.CancelledError(), Unasked("over budget")],
    ids=["cancelled", "unasked"],
)
async def test_probe_that_comes_to_nothing_makes_room(vendors, opened, error) -> None:
    """As in a worker that is stopped: the others need not wait until it is dead."""
    told = vendors.settings(
        coingecko={"failures": 1, "open_seconds": 0.1, "successes": 1}
    )
    gate = (await opened(told)).gates["coingecko"]
    await fail(gate, Unusable("status 500"))
    while gate.breaker.state == "open":
        pass
    with pytest.raises(type(error)):
        async with gate.passing(1):
            raise error
    assert gate.breaker.state == "half-open"
    async with gate.passing(1):
        pass
    assert gate.breaker.state == "closed"


async def test_late_call_takes_another_grant(vendors, opened) -> None:
    """1. A call is granted. 2. It is not sent within half of a lag. 3. In its window it
    would be one too many."""
    told = vendors.settings(coingecko={"calls": 2, "seconds": 0.5})
    gate = (await opened(told)).gates["coingecko"]
    async with gate.passing(1) as sending:
        await sending(1)
        assert (await gate.budget.standing()).used == 1
        await asyncio.sleep(0.03)
        await sending(1)
        assert (await gate.budget.standing()).used == 2
        with pytest.raises(Unasked):
            await sending(1)
