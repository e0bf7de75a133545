"""The live page in a real browser, before the whole service and its vendors."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from loadtest import vendors
from loadtest.vendors import Vendors
from tests.helpers import ROOT, Server
from tests.server.market import browser
from tests.server.market.browser import Browser, Page
from tests.server.market.test_service import config, serving
from tests.server.market.vendor import KEYS

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHOTS = ROOT / "build" / "page"
CONTRAST = Path(__file__).with_name("contrast.js").read_text()
NAMED = {"article", "button", "columnheader", "heading", "img", "image", "link"}
NAMED |= {"region", "rowheader", "table"}
SHAPES = {"phone": (360, 780), "desktop": (1280, 900)}
SCHEMES = ("light", "dark")
CALM = {"prefers_reduced_motion": "reduce"}
PRICE = "document.querySelector('#btc_price_usd .value .unseen').textContent"
LOOK = "dispatchEvent(new Event('online'))"
"""Makes the page look at once, not when it is time."""


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}/"


def link(state: str) -> str:
    """That the connection is said to be so."""
    return f"document.querySelector('#state')?.textContent === {state!r}"


LOADED = f"{link('Live')} && {PRICE}"


def state(name: str, text: str) -> str:
    """That a reading is said to be so."""
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


@contextmanager
def market(folder: Path, vendors: Vendors, more: str = "") -> Iterator[Server]:
    """The service before these vendors, whose figures live for a second. Its name is
    not a test's, for it outlives one."""
    name = f"page-{os.getpid()}-{secrets.token_hex(4)}"
    with pytest.MonkeyPatch.context() as environment:
        for key, value in KEYS.items():
            environment.setenv(key, value)
        text = more + config(vendors, ttl=1.0)
        with serving(folder, text, name=name) as [server]:
            yield server


@pytest.fixture(scope="module")
def simulator() -> Iterator[Vendors]:
    with vendors.running("--latency", "0.05") as started:
        yield started


@pytest.fixture(scope="module")
def site(
    running: Browser, simulator: Vendors, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    with market(tmp_path_factory.mktemp("site"), simulator) as server:
        yield server


@pytest.fixture(scope="module")
def poor(
    running: Browser, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """One part was never had, and no WebSocket is let through."""
    closed = "[origin]\ntunnels = 0\n"
    with vendors.running("--latency", "0.05") as others:
        others.fault("taapi", "failing")
        with market(tmp_path_factory.mktemp("poor"), others, closed) as server:
            yield server


@pytest_asyncio.fixture(loop_scope="module")
async def page(running: Browser) -> AsyncIterator[Page]:
    page = await running.page()
    await page.resize(*SHAPES["desktop"])
    await page.emulate(**CALM)
    yield page
    await page.close()


async def test_numbers_keep_their_digits_and_change(page: Page, site: Server) -> None:
    await page.emulate(prefers_reduced_motion="no-preference")
    await page.open(url(site))
    first = await page.until(LOADED)
    await page.until(f"{PRICE} !== {first!r} && document.getAnimations().length")
    note = await page.look("document.querySelector('#btc_price_usd .note').innerText")
    assert note.endswith(f"from {first.removesuffix(' US dollars')}")
    assert note.startswith(("\u25b2\u00a0Up", "\u25bc\u00a0Down"))
    shown = await page.look(
        "Object.fromEntries([...document.querySelectorAll('article')].map(card =>"
        " [card.id, card.querySelector('.digits').innerText]))"
    )
    pushed = [await page.pushed.get() for _ in range(page.pushed.qsize())]
    sent = json.loads(pushed[-1], parse_float=str, parse_int=str)
    assert len(shown) == 6
    for name, text in shown.items():
        digits = text.replace("of 100", "").replace(",", "").replace("\u2212", "-")
        assert digits.strip("$% \u00a0") == sent[name]
    assert page.complaints == []


async def test_what_the_cache_did_is_told(page: Page, site: Server) -> None:
    await page.open(url(site))
    rows = "document.querySelector('#answers').innerText"
    told = await page.until(
        f"/Pushed/.test({rows}) && /Hit|Stale/.test({rows}) && {rows}"
    )
    assert re.search(r"(Hit|Stale)\t\d+ s\t(\d+ s|\u2013)\t[\d.]+ ms", told)
    vendors = "document.querySelector('#vendors').innerText"
    budgets = await page.until(f"{vendors}.includes('Binance') && {vendors}")
    assert re.search(r"CoinGecko\tReady\t9\d\d of 1,000", budgets)
    assert page.complaints == []


async def test_restart_is_told_and_survived(page: Page, site: Server) -> None:
    await page.open(url(site))
    await page.until(LOADED)
    site.stop()
    await page.until(link("No connection"))
    await page.until(
        "document.querySelector('#detail').textContent.includes('next try')"
    )
    await page.until(state("btc_price_usd", "Last known"))
    last = await page.look(PRICE)
    assert last
    site.start(site.log)
    await page.until(f"{link('Live')} && {state('btc_price_usd', 'Fresh')}")
    await page.until("announcer.textContent.startsWith('Connected again')")
    await page.until(f"{PRICE} !== {last!r}")
    network = ("ERR_CONNECTION", "WebSocket", "503")
    assert [one for one in page.complaints if not any(map(one.count, network))] == []


async def test_open_socket_that_leads_nowhere_is_no_connection(
    page: Page, site: Server
) -> None:
    await page.open(url(site))
    await page.until(LOADED)
    await page.cut(True)
    await page.until(link("No connection"))
    await page.cut(False)
    await page.until(link("Live"))
    assert [one for one in page.complaints if "DISCONNECTED" not in one] == []


async def test_older_answer_replaces_nothing(page: Page, site: Server) -> None:
    """As a stale one of the cache that comes after a newer one was pushed."""
    time = "made.textContent.slice(0, 'Dashboard of 00:00:00'.length)"
    asked = "[...answers.rows].find(row => !/Pushed/.test(row.textContent))"
    await page.open(url(site))
    await page.until(LOADED)
    await page.look(
        f"times = [], new MutationObserver(() => times.push({time})).observe("
        "made, {childList: true, characterData: true, subtree: true}), 1"
    )
    await page.hold("*/api/dashboard")
    await page.look(f"{LOOK}, last = {asked}, 1")
    held = await page.held.get()
    for _ in range(2):
        await page.until(f"{time} !== {await page.look(time)!r}")
    await page.release(held)
    await page.until(f"{asked} !== last")
    times = await page.look("times")
    assert len(times) >= 2 and times == sorted(times)


async def test_refused_websocket_is_told_and_polled(page: Page, poor: Server) -> None:
    await page.open(url(poor))
    await page.until(f"{link('Polling')} && {PRICE}")
    await page.look(f"{LOOK}, 1")
    await page.until("document.querySelectorAll('#answers tr').length > 1")
    assert "Pushed" not in await page.look("answers.innerText")
    assert [one for one in page.complaints if "/ws" not in one] == []


async def test_missing_value_is_not_invented(page: Page, poor: Server) -> None:
    await page.open(url(poor))
    await page.until(state("rsi_14", "Unavailable"))
    card = await page.look("document.querySelector('#rsi_14').innerText")
    assert not re.search(r"\d", card.replace("14 d", ""))
    assert await page.look(state("btc_price_usd", "Fresh"))


async def test_dashboard_that_cannot_be_had_is_told(
    page: Page, running: Browser, tmp_path: Path
) -> None:
    with vendors.running("--latency", "0.05") as others:
        for vendor in vendors.VENDORS:
            others.fault(vendor, "failing")
        with market(tmp_path, others) as server:
            await page.open(url(server))
            await page.until(
                "!notice.hidden && /no dashboard .503./.test(notice.innerText)"
            )
            assert not await page.look(PRICE)
            others.reset()
            await page.until(f"{LOADED} && notice.hidden")
    assert [one for one in page.complaints if "503" not in one] == []


async def test_stale_part_and_banned_vendor_are_told(
    page: Page, site: Server, simulator: Vendors
) -> None:
    await page.open(url(site))
    await page.until(LOADED)
    try:
        simulator.fault("binance", "banned", retry_after=90)
        simulator.fault("coingecko", "failing")
        simulator.fault("cmc", "failing")
        await page.until(state("btc_price_usd", "Stale"))
    finally:
        for vendor in ("binance", "coingecko", "cmc"):
            simulator.fault(vendor)
    assert await page.look(PRICE)
    assert await page.look(state("fng_value", "Fresh"))
    await page.look(f"{LOOK}, 1")
    await page.until(r"/Binance\tBlocked for \d+ s/.test(vendors.innerText)")
    assert page.complaints == []
    await page.until(state("btc_price_usd", "Fresh"))


async def test_text_fits_and_has_contrast(page: Page, poor: Server) -> None:
    await page.open(url(poor))
    await page.until(state("rsi_14", "Unavailable"))
    await page.until("document.querySelectorAll('#vendors th').length > 3")
    await page.until(f"{PRICE} !== {await page.until(PRICE)!r}")
    assert await page.look("document.getAnimations().length") == 0
    for scheme, (size, shape) in itertools.product(SCHEMES, SHAPES.items()):
        await page.emulate(prefers_color_scheme=scheme, **CALM)
        await page.resize(*shape, scale=2)
        await page.shoot(SHOTS / f"{size}-{scheme}.png")
        assert await page.look("document.documentElement.scrollWidth") == shape[0]
        found = await page.look(CONTRAST)
        assert found["low"] == [] and found["texts"] > 50


async def test_everything_has_a_name(page: Page, site: Server) -> None:
    await page.open(url(site))
    await page.until(LOADED)
    names = await page.names()
    found = {role for role, _ in names if role in NAMED}
    assert found >= {"article", "button", "link", "region", "table"}
    assert [role for role, name in names if role in NAMED and not name] == []
    assert ("button", "Pause") in names and ("article", "Fear and greed") in names
    regions = {name for role, name in names if role == "region"}
    assert regions == {"Connection", "Readings", "Last answers", "Vendor budgets"}


async def test_keyboard_pauses_and_goes_on(page: Page, site: Server) -> None:
    await page.open(url(site))
    await page.until(LOADED)
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
    shown = await page.look(PRICE)
    while page.pushed.qsize():
        page.pushed.get_nowait()
    async with asyncio.timeout(10):
        for _ in range(2):
            await page.pushed.get()
    assert await page.look(PRICE) == shown
    await page.press("Enter")
    await page.until(f"{link('Live')} && {PRICE} !== {shown!r}")


async def test_numbers_are_read_out_now_and_then(page: Page, site: Server) -> None:
    """Not each of them: a listener hears something else, too."""
    await page.open(url(site))
    await page.until("announcer.textContent.includes('US dollars')")
    await page.look(
        "said = 0, new MutationObserver(() => said++).observe(announcer,"
        " {childList: true, characterData: true, subtree: true}), 1"
    )
    for _ in range(2):
        await page.until(f"{PRICE} !== {await page.look(PRICE)!r}")
    assert await page.look("said") == 0
