"""The market service as processes: the server with its workers, and the simulator of
all vendors."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import aiohttp
import pytest

from loadtest.service import DASHBOARD, calls, config, serving
from loadtest.vendors import Vendors, running
from shmcache_server.arbiter import segment_name as segment_name_of
from shmcache_server.config import load
from shmcache_server.market import settings
from tests.helpers import (
    ROOT,
    SHM,
    alive,
    descendants,
    end,
    free_port,
    python,
    until,
)
from tests.processes.test_cold_key import CLIENTS, SECONDS
from tests.redis_server import redis_server
from tests.server.market.vendor import CALLED, KEYS, PRICE

SAMPLE = {
    "btc_price_usd": 112884.0,
    "market_cap_usd": 3912296730719.0854,
    "volume_24h_usd": 115403358622.58966,
    "fng_value": 50,
    "rsi_14": 42.3291744124084,
}


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, key in KEYS.items():
        monkeypatch.setenv(name, key)


@pytest.fixture
def vendors() -> Iterator[Vendors]:
    with running("--still", "--latency", "0.05") as vendors:
        yield vendors


class Load:
    """Clients that ask for the dashboard without a pause, until told to stop."""

    def __init__(self, ports: list[int], count: int = 3) -> None:
        self.answers: list[tuple[float, int, dict[str, Any]]] = []
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(ports[i % len(ports)],))
            for i in range(count)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def since(self, when: float) -> list[dict[str, Any]]:
        return [shown for at, _, shown in list(self.answers) if at > when]

    def _ask(self, port: int) -> None:
        import http.client

        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        while not self._over.is_set():
            connection.request("GET", DASHBOARD)
            answer = connection.getresponse()
            body = answer.read()
            shown = json.loads(body) if answer.status == 200 else {}
            self.answers.append((time.time(), answer.status, shown))
            self._over.wait(0.01)
        connection.close()


def test_deployed_settings_are_the_defaults(monkeypatch) -> None:
    told = load(str(ROOT / "deploy" / "market.toml"))
    assert settings.of(told.app.settings) == settings.Settings()
    assert {*told.app.settings} == {*settings.Settings.__slots__}
    assert told.origin.tunnels >= settings.Settings().clients


@pytest.mark.parametrize("hosts", [1, 2])
def test_cold_dashboard_is_one_call_for_each_part(
    tmp_path, measured: Callable[[str], None], hosts: int
) -> None:
    """8 workers, of one host or of two that share a Redis."""
    wave = ROOT / "tests" / "processes" / "wave.py"
    with ExitStack() as stack:
        vendors = stack.enter_context(running("--still", "--latency", "1"))
        l2 = stack.enter_context(redis_server()).url if hosts > 1 else "none"
        how = {"hosts": hosts, "workers": 8 // hosts, "l2": l2}
        servers = stack.enter_context(serving(tmp_path, config(vendors), **how))
        addresses = [f"127.0.0.1:{server.port}" for server in servers]
        command = [sys.executable, str(wave), str(CLIENTS), *addresses]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        crowd = stack.enter_context(subprocess.Popen(command, **pipes))  # type: ignore[call-overload]
        told = {}
        for line in ("connect", DASHBOARD):
            print(line, file=crowd.stdin, flush=True)
            told = json.loads(crowd.stdout.readline())
        crowd.stdin.close()
        shown = json.loads(servers[0].get(DASHBOARD).body)
        counted = calls(vendors)
    assert told["statuses"] == {"200": CLIENTS} and len(told["bodies"]) == 1
    assert counted == dict.fromkeys(CALLED, 1)
    assert {name: shown[name] for name in SAMPLE} == SAMPLE
    measured(
        f"market: {CLIENTS} clients, {hosts} host(s), 8 workers, cold, vendors of 1 s: "
        f"all answered within {told['span']:.3f} s"
    )
    assert told["span"] < SECONDS


def test_expiry_under_load_is_one_call_a_second(tmp_path, vendors) -> None:
    text = config(vendors, 1.0)
    with serving(tmp_path, text) as (server,), Load([server.port]) as load:
        until(lambda: load.answers, 10)
        began = time.time()
        until(lambda: time.time() > began + 4.0, 6)
        busiest, counted = calls(vendors, "busiest", 1.0), calls(vendors)
    assert {status for _, status, _ in load.answers} == {200}
    assert busiest == dict.fromkeys(CALLED, 1) and min(counted.values()) >= 3
    ages = [at - shown["last_updated"] for at, _, shown in load.answers]
    assert max(ages) < 2.5 and len(ages) > 100


def test_dead_vendors_are_served_stale(tmp_path, vendors, measured) -> None:
    """And fresh again once they are back."""
    text = config(vendors, 2.0)
    with serving(tmp_path, text) as (server,), Load([server.port]) as load:
        first = until(lambda: load.since(0.0), 10)[0]
        for vendor in ("coingecko", "alternative", "taapi", "binance", "cmc"):
            vendors.fault(vendor, "failing", status=503)
        states = {"stale"}
        shown = until(lambda: _in_state(load, states), 10, "all parts stale")
        assert shown["partial_failure"] is False
        assert {name: shown[name] for name in SAMPLE} == SAMPLE
        for name, part in shown["parts"].items():
            assert part["as_of"] == first["parts"][name]["as_of"]
        vendors.reset()
        back = time.time()
        until(lambda: _in_state(load, {"fresh"}, back), 10, "all parts fresh")
        took = time.time() - back
    assert {status for _, status, _ in load.answers} == {200}
    measured(f"market: fresh {took:.2f} s after the vendors were back, ttl 2 s")
    assert took < 5.0


def _in_state(
    load: Load, states: set[str], since: float = 0.0
) -> dict[str, Any] | None:
    for shown in load.since(since)[-20:]:
        if {part["state"] for part in shown["parts"].values()} == states:
            return shown
    return None


def test_silent_vendors_hold_up_nobody(tmp_path, vendors) -> None:
    text = "[app.settings]\ndeadline = 2.0\n" + config(vendors, 1.0)
    with serving(tmp_path, text) as (server,), Load([server.port]) as load:
        until(lambda: load.answers, 10)
        for vendor in ("coingecko", "alternative", "taapi", "binance", "cmc"):
            vendors.fault(vendor, "hang")
        until(lambda: _in_state(load, {"stale"}), 15, "all parts stale")
        slowest = max(server.get(DASHBOARD).seconds for _ in range(20))
    assert {status for _, status, _ in load.answers} == {200} and slowest < 0.5


def test_budget_holds_for_the_fleet(tmp_path, vendors) -> None:
    """2 hosts of 2 workers, a ttl below what the budget allows: cached, then stale, or
    from the next vendor; never over the budget, as the vendor counts."""
    text = config(vendors, 1.0, coingecko={"calls": 2, "seconds": 5.0})
    with redis_server() as redis:
        how = {"hosts": 2, "workers": 2, "l2": redis.url}
        with serving(tmp_path, text, **how) as servers:
            with Load([server.port for server in servers], 4) as load:
                until(lambda: calls(vendors).get("/rsi", 0) >= 6, 20)
            limits = json.loads(servers[0].get("/api/rate-limits").body)
            busiest = calls(vendors, "busiest", 5.0)
        assert {status for _, status, _ in load.answers} == {200}
        assert busiest[PRICE] == 2
        assert {shown["parts"]["btc"]["source"] for shown in load.since(0)} == {
            *("coingecko", "binance")
        }
        assert limits["coingecko"]["budget"] == 2 and limits["coingecko"]["fleet"]


def test_nothing_to_serve_is_503(tmp_path, vendors) -> None:
    for vendor in ("coingecko", "alternative", "taapi", "binance", "cmc"):
        vendors.fault(vendor, "error_body")
    with serving(tmp_path, config(vendors)) as (server,):
        answer = server.get(DASHBOARD)
        assert answer.status == 503 and int(answer.headers["retry-after"]) >= 1
        assert "rate limit" in json.loads(answer.body)["error"]
        counted = calls(vendors)
        for _ in range(20):
            assert server.get(DASHBOARD).status == 503
        assert sum(calls(vendors).values()) - sum(counted.values()) <= len(counted)
        log = server.log.read_text()
    assert "Traceback" not in log and "sesame" not in log


async def test_clients_of_ws_hear_of_changes(tmp_path) -> None:
    """Through the server, from another worker's fetch too; and go with it."""
    with running("--latency", "0.05") as vendors:
        with serving(tmp_path, config(vendors, 1.0)) as (server,):
            url = f"http://127.0.0.1:{server.port}"
            async with aiohttp.ClientSession() as session, asyncio.timeout(20):
                sockets = [await session.ws_connect(f"{url}/ws") for _ in range(6)]
                for socket in sockets:
                    seen = {(await socket.receive_json())["btc_price_usd"]}
                    while len(seen) < 3:
                        seen.add((await socket.receive_json())["btc_price_usd"])
                busiest = calls(vendors, "busiest", 1.0)
                for socket in sockets[1:]:
                    await socket.close()
                server.process.terminate()
                message = await sockets[0].receive(timeout=3)
                while message.type is aiohttp.WSMsgType.TEXT:
                    message = await sockets[0].receive(timeout=3)
                assert message.data == aiohttp.WSCloseCode.GOING_AWAY
        assert busiest == dict.fromkeys(CALLED, 1)


def test_stream_and_page_are_served(tmp_path, vendors) -> None:
    with redis_server() as redis:
        with serving(tmp_path, config(vendors), l2=redis.url) as (server,):
            shown = json.loads(server.get(DASHBOARD).body)

            def latest() -> dict[str, Any] | None:
                answer = server.get("/api/stream/latest")
                return json.loads(answer.body) if answer.status == 200 else None

            assert until(latest, 5) == shown
            assert b"<title>Market</title>" in server.get("/").body
        key = "shmcache:shmcache.app:market_data_stream"
        assert redis.command("XLEN", key) == 1


def test_showcase_shows_the_page_and_stops_cleanly(tmp_path) -> None:
    """`make market`: the deployed settings, with the simulator's addresses alone."""
    port = free_port()
    with (tmp_path / "log").open("w") as out:
        process = python(
            *("-m", "loadtest.showcase", "--bind", f"127.0.0.1:{port}"),
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        until(lambda: "Ctrl-C" in (tmp_path / "log").read_text(), 30, "where it is")
        family = descendants(process.pid)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{DASHBOARD}") as answer:
            shown = json.loads(answer.read())
        assert shown["partial_failure"] is False
        assert {p["source"] for p in shown["parts"].values()} == {
            *("coingecko", "coingecko_global", "alternative", "taapi"),
        }
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 0
    finally:
        end(process)
    assert not any(map(alive, family))
    name = segment_name_of(("127.0.0.1", port))
    (left,) = SHM.glob(f"*{name}*")
    left.unlink()
    assert left.name.endswith(f"{name}.app.limits"), "it outlives a stop"
