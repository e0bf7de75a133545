"""The live page in a real browser."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from tests.helpers import ROOT
from tests.server.market import browser
from tests.server.market.browser import Browser, Page
from tests.server.market.site import Site

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHOTS = ROOT / "build" / "page"
CONTRAST = Path(__file__).with_name("contrast.js").read_text()
NAMED = {"article", "button", "columnheader", "heading", "img", "image", "link"}
NAMED |= {"region", "rowheader", "table"}
PHONE, DESKTOP = (360, 780), (1280, 900)
LIVE = "document.querySelector('#state').textContent === 'Live'"


def reads(name: str, text: str) -> str:
    """That this reading has the text, to eyes and to ears."""
    card = f"document.getElementById('{name}')"
    return f"{card}?.querySelector('.value').textContent.includes({text!r})"


def state(name: str, text: str) -> str:
    return f"document.querySelector('#{name} .state').textContent === {text!r}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(
    tmp_path_factory: pytest.TempPathFactory, measured: Callable[[str], None]
) -> AsyncIterator[Browser]:
    try:
        browser.program()
    except browser.Unavailable as missing:
        measured(f"market page: NOT RUN, {missing}")
        pytest.skip(str(missing))
    async with browser.browsing(tmp_path_factory.mktemp("browser")) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def site() -> AsyncIterator[Site]:
    site = Site()
    await site.start()
    yield site
    await site.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def page(running: Browser, site: Site) -> AsyncIterator[Page]:
    page = await running.page()
    await page.resize(*DESKTOP)
    yield page
    await page.close()


async def test_numbers_keep_their_digits_and_change(page: Page, site: Site) -> None:
    await page.open(site.url)
    await page.until(LIVE)
    await page.until(reads("market_cap_usd", "3,912,296,730,719.0854"))
    await page.until(reads("btc_change_24h", "\u22120.7955129838191605"))
    await page.until(reads("rsi_14", "42.3291744124084"))
    await site.change(btc_price_usd=112901.25)
    await page.until(reads("btc_price_usd", "112,901.25"))
    note = await page.look("document.querySelector('#btc_price_usd .note').innerText")
    assert note == "\u25b2\u00a0Up from 112,884.0"
    assert await page.look("document.title") == "$112,901.25 \u00b7 Market"
    assert page.complaints == []


async def test_what_the_cache_did_is_told(page: Page, site: Site) -> None:
    await page.open(site.url)
    rows = "document.querySelector('#answers').innerText"
    told = await page.until(
        f"{rows}.includes('Hit') && {rows}.includes('Pushed') && {rows}"
    )
    assert "Hit\t2 s\t12 s" in told
    vendors = "document.querySelector('#vendors').innerText"
    budgets = await page.until(f"{vendors}.includes('Binance') && {vendors}")
    assert "CoinGecko\tReady\t16 of 20" in budgets
    assert "Binance\tBlocked for 59 min" in budgets
    assert page.complaints == []


async def test_restart_is_told_and_survived(page: Page, site: Site) -> None:
    await page.open(site.url)
    await page.until(f"{LIVE} && {reads('btc_price_usd', '112,884')}")
    await site.stop()
    await page.until("document.querySelector('#state').textContent === 'No connection'")
    await page.until(
        "document.querySelector('#detail').textContent.includes('next try')"
    )
    await page.until(state("btc_price_usd", "Last known"))
    assert await page.look(reads("btc_price_usd", "112,884"))
    site.values["btc_price_usd"] = 98765.5
    await site.start()
    await page.until(f"{LIVE} && {reads('btc_price_usd', '98,765.5')}")
    await page.until(state("btc_price_usd", "Fresh"))
    await page.until("announcer.textContent.startsWith('Connected again')")
    assert [one for one in page.complaints if "ERR_CONNECTION" not in one] == []


async def test_open_socket_that_leads_nowhere_is_no_connection(
    page: Page, site: Site
) -> None:
    await page.open(site.url)
    await page.until(f"{LIVE} && {reads('btc_price_usd', '112,884')}")
    await page.cut(True)
    await page.until("document.querySelector('#state').textContent === 'No connection'")
    await page.cut(False)
    await page.until(LIVE)
    assert [one for one in page.complaints if "DISCONNECTED" not in one] == []


async def test_refused_websocket_is_told_and_polled(page: Page, site: Site) -> None:
    site.tunnels = False
    await page.open(site.url)
    await page.until("document.querySelector('#state').textContent === 'Polling'")
    await page.until(reads("btc_price_usd", "112,884.0"))
    await site.change(btc_price_usd=112999.5)
    await page.until(reads("btc_price_usd", "112,999.5"))
    assert [one for one in page.complaints if "/ws" not in one] == []
    site.tunnels = True
    await page.look("retry.click()")
    await page.until(LIVE)


async def test_value_that_is_missing_is_not_invented(page: Page, site: Site) -> None:
    site.states |= {"rsi": "unavailable", "btc": "stale"}
    site.values["rsi_14"] = None
    await page.open(site.url)
    await page.until(state("rsi_14", "Unavailable"))
    card = await page.look("document.querySelector('#rsi_14').innerText")
    assert not any(digit in card.replace("14 d", "") for digit in "0123456789")
    assert await page.look(state("btc_price_usd", "Stale"))
    assert await page.look(reads("btc_price_usd", "112,884.0"))
    assert page.complaints == []


async def test_older_answer_replaces_nothing(page: Page, site: Site) -> None:
    """As a stale one of the cache after a newer one was pushed."""
    await page.open(site.url)
    await page.until(LIVE)
    await site.change(btc_price_usd=113000.5)
    await page.until(reads("btc_price_usd", "113,000.5"))
    site.values["btc_price_usd"] = 1.5
    site.made -= 10
    rows = "document.querySelectorAll('#answers tr').length"
    seen = await page.look(rows)
    await page.look("dispatchEvent(new Event('online'))")  # it looks again, then
    await page.until(f"{rows} > {seen}")
    assert await page.look(reads("btc_price_usd", "113,000.5"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_fits_and_has_contrast(page: Page, site: Site, scheme: str) -> None:
    site.states |= {"rsi": "unavailable", "global": "stale"}
    site.values["rsi_14"] = None
    await page.emulate(prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
    await page.open(site.url)
    await page.until(f"{LIVE} && {state('rsi_14', 'Unavailable')}")
    for price in (112901.25, 112850.75, 112850.5, 112903.125, 112904.5):
        await site.change(btc_price_usd=price)
        await page.until(reads("btc_price_usd", f"{price:,}"))
    for name, size in (("desktop", DESKTOP), ("phone", PHONE)):
        await page.resize(*size)
        await page.shoot(SHOTS / f"{name}-{scheme}.png")
        assert await page.look("document.documentElement.scrollWidth") == size[0]
        found = await page.look(CONTRAST)
        assert found["low"] == [] and found["texts"] > 50
    assert await page.look("document.getAnimations().length") == 0
    assert page.complaints == []


async def test_everything_has_a_name(page: Page, site: Site) -> None:
    await page.open(site.url)
    await page.until(f"{LIVE} && {reads('btc_price_usd', '112,884')}")
    names = await page.names()
    found = {role for role, _ in names if role in NAMED}
    assert found >= {"article", "button", "link", "region", "table"}
    assert [role for role, name in names if role in NAMED and not name] == []
    assert ("button", "Pause") in names and ("article", "Fear and greed") in names
    regions = {name for role, name in names if role == "region"}
    assert regions == {"Connection", "Readings", "Last answers", "Vendor budgets"}


async def test_keyboard_pauses_and_goes_on(page: Page, site: Site) -> None:
    await page.open(site.url)
    await page.until(f"{LIVE} && {reads('btc_price_usd', '112,884')}")
    reached = []
    for _ in range(3):
        await page.press("Tab")
        reached.append(await page.look("document.activeElement.textContent"))
        ring = "getComputedStyle(document.activeElement).outline"
        assert "solid 2px" in await page.look(ring)
    assert reached == ["Pause", "Dashboard as JSON", "Budgets as JSON"]
    await page.look("pause.focus()")
    await page.press("Enter")
    assert await page.look("pause.ariaPressed") == "true"
    await site.change(btc_price_usd=99.5)
    async with asyncio.timeout(5):
        while "99.5" not in await page.pushed.get():
            pass
    assert not await page.look(reads("btc_price_usd", "99.5"))
    await page.press("Enter")
    await page.until(f"{LIVE} && {reads('btc_price_usd', '99.5')}")


async def test_numbers_are_read_out_now_and_then(page: Page, site: Site) -> None:
    """Not each of them: a listener hears something else, too."""
    await page.open(site.url)
    await page.until("announcer.textContent.includes('112,884.0 US dollars')")
    await page.look(
        "said = 0, new MutationObserver(() => said++).observe(announcer,"
        " {childList: true, characterData: true, subtree: true})"
    )
    for price in (1.5, 2.5, 3.5, 4.5):
        await site.change(btc_price_usd=price)
        await page.until(reads("btc_price_usd", str(price)))
    assert await page.look("said") == 0
