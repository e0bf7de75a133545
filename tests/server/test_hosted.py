"""An application as the origin of each worker."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time

import aiohttp
import pytest
from aiohttp import web

from shmcache import ConfigError
from shmcache_server import hosted
from shmcache_server.app import CacheRunner
from shmcache_server.config import load
from shmcache_server.tables import AppConfig
from tests.helpers import segment_name
from tests.server.apps import CLOSED

FACTORY = "tests.server.apps:counting"


def config(tmp_path, factory: str = FACTORY):
    path = tmp_path / "app.toml"
    path.write_text(f'[app]\nfactory = "{factory}"\n[app.settings]\nsay = "hi"\n')
    return load(str(path))


@pytest.fixture
async def runner(tmp_path):
    settings = config(tmp_path)
    runner = CacheRunner(settings, settings.cache(segment_name(), None))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield runner, f"http://127.0.0.1:{site.port}"
    await runner.cleanup()


async def test_application_is_asked_once_for_all_clients(runner) -> None:
    _, url = runner
    async with aiohttp.ClientSession() as session:
        got = []
        for _ in range(3):
            async with session.get(f"{url}/count") as answer:
                got.append(await answer.json())
                told = answer.headers["Cache-Status"]
    assert [one["count"] for one in got] == [1, 1, 1] and got[0]["said"] == "hi"
    assert told.startswith("shmcache; hit")


async def test_websocket_reaches_the_application(runner) -> None:
    _, url = runner
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{url}/echo") as ws,
    ):
        await ws.send_str("hello")
        assert await ws.receive_str(timeout=5) == "HELLO"


async def test_application_says_goodbye_before_connections_are_cut(runner) -> None:
    started, url = runner
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{url}/echo") as ws,
    ):
        ended = asyncio.ensure_future(started.cleanup())
        message = await ws.receive(timeout=3)
        assert message.data == aiohttp.WSCloseCode.GOING_AWAY
        await ended


async def test_application_is_closed_with_the_worker(tmp_path) -> None:
    settings = config(tmp_path)
    runner = CacheRunner(settings, settings.cache(segment_name(), None))
    await runner.setup()
    one = runner._hosted
    assert one is not None
    await runner.cleanup()
    assert one._runner.app[CLOSED] == ["goodbye", "closed"]
    with socket.socket(socket.AF_UNIX) as other, pytest.raises(ConnectionRefusedError):
        other.connect(f"\0{one.name}")


async def test_another_user_is_refused(runner, monkeypatch) -> None:
    """Whose uid is not the server's, as the kernel tells it."""
    started, _ = runner
    monkeypatch.setattr(hosted.os, "geteuid", lambda: 12345678)
    assert await status(started) == 403


async def test_another_user_reaches_no_middleware(tmp_path, monkeypatch) -> None:
    settings = config(tmp_path, "tests.server.apps:answered_by_a_middleware")
    started = CacheRunner(settings, settings.cache(segment_name(), None))
    await started.setup()
    assert await status(started) == 200
    with monkeypatch.context() as patch:
        patch.setattr(hosted.os, "geteuid", lambda: 12345678)
        assert await status(started) == 403
    await started.cleanup()


async def status(runner: CacheRunner) -> int:
    """Of the application's answer to who connects to its socket."""
    assert runner._hosted is not None
    reader, writer = await asyncio.open_unix_connection(
        sock=_connected(runner._hosted.name)
    )
    writer.write(b"GET /count HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    got = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    return int(got.split()[1])


def _connected(name: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(f"\0{name}")
    return sock


def test_keys_are_those_of_any_worker(tmp_path) -> None:
    one, other = config(tmp_path), config(tmp_path)
    assert one.origin.base == other.origin.base == f"unix://@{FACTORY}"


async def test_wrong_factory_is_named(tmp_path) -> None:
    for factory, words in (
        ("tests.server.none:none", "cannot be had"),
        ("tests.server.apps:missing", "cannot be had"),
        ("tests.server.apps:os", "expected a function"),
        ("tests.server.apps:none", "expected it to make an aiohttp"),
    ):
        settings = config(tmp_path, factory)
        runner = CacheRunner(settings, settings.cache(segment_name(), None))
        with pytest.raises(ConfigError, match="app.factory=.*" + words):
            await runner.setup()


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("tests.no_such:x", "No module named 'tests.no_such'; is it on PYTHONPATH?"),
        ("nowhere.at.all:x", "No module named 'nowhere'; is it on PYTHONPATH?"),
        ("tests.server.apps:missing", "cannot be had: AttributeError"),
        ("tests.server.apps:os", "expected a function"),
        ("broken:x", "cannot be had: ZeroDivisionError: division by zero"),
        ("leaving:x", "ended the process that loaded it"),
    ],
)
def test_factory_is_had_before_the_fork(tmp_path, monkeypatch, factory, words) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "leaving.py").write_text("raise SystemExit\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError) as raised:
        hosted.check(AppConfig(factory))
    assert str(raised.value).startswith(f"app.factory={factory!r}: ")
    assert words in str(raised.value)


def test_module_that_loads_for_ever_is_told(tmp_path, monkeypatch) -> None:
    (tmp_path / "endless.py").write_text("import signal\nsignal.pause()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(hosted, "CHECK_SECONDS", 1)
    with pytest.raises(ConfigError, match="took over 1 s"):
        hosted.check(AppConfig("endless:x"))


def test_process_that_a_module_leaves_is_not_waited_for(tmp_path, monkeypatch) -> None:
    left = tmp_path / "left"
    (tmp_path / "forking.py").write_text(
        "import os, pathlib, signal\n"
        "def x(context): ...\n"
        "pid = os.fork()\n"
        "if not pid:\n"
        "    signal.alarm(20)\n"
        "    signal.pause()\n"
        f"pathlib.Path({str(left)!r}).write_text(str(pid))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        began = time.monotonic()
        assert hosted.check(AppConfig("forking:x")) == []
        assert time.monotonic() - began < 10
    finally:
        os.kill(int(left.read_text()), signal.SIGKILL)


def test_application_judges_its_settings(tmp_path, monkeypatch) -> None:
    (tmp_path / "judging.py").write_text(
        "from shmcache import ConfigError\n"
        "def x(context): ...\n"
        "def check(settings):\n"
        "    if settings['n'] < 0:\n"
        "        raise ConfigError('app.settings.n: below 0')\n"
        "    return ['n is not much'] if settings['n'] < 5 else ()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert hosted.check(AppConfig("judging:x", settings={"n": 9})) == []
    assert hosted.check(AppConfig("judging:x", settings={"n": 1})) == ["n is not much"]
    for said, words in (({"n": -1}, "n: below 0"), ({}, "app.settings: KeyError: 'n'")):
        with pytest.raises(ConfigError, match=words):
            hosted.check(AppConfig("judging:x", settings=said))
    assert "judging" not in sys.modules, "a reload must find it as it stands then"


def test_origin_beside_it_is_refused(tmp_path) -> None:
    path = tmp_path / "both.toml"
    path.write_text(f'[app]\nfactory = "{FACTORY}"\n')
    with pytest.raises(ConfigError, match="origin: set beside"):
        load(str(path), {"origin": "http://a"})


@pytest.mark.parametrize("value", ["'market'", "'a b:c'", "3"])
def test_factory_is_a_module_and_a_function(tmp_path, value) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(f"[app]\nfactory = {value}\n")
    with pytest.raises(ConfigError, match=r"wrong.toml:2: factory=.*: expected"):
        load(str(path))


def test_settings_are_the_applications_own(tmp_path) -> None:
    assert json.dumps(config(tmp_path).app.settings) == '{"say": "hi"}'
