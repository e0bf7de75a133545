"""Start and stop of a worker's whole lane."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from dataclasses import replace

import pytest
from aiohttp import http_parser

from shmcache import ConfigError
from shmcache_server.app import CacheRunner, require_c_parser
from shmcache_server.config import Config
from shmcache_server.tables import OriginConfig, PurgeConfig, ServerConfig
from tests.helpers import python, segment_name, shm_names
from tests.server.conftest import eventually, fronting

TOKEN = "0123456789abcdef"


def config() -> Config:
    return Config(origin=OriginConfig(url="http://127.0.0.1:1"))


async def test_stopped_runner_leaves_nothing() -> None:
    async with fronting("http://127.0.0.1:1") as front:
        name = front.cache.config.name
        assert front.runner.handler.ready and shm_names(name)
    assert front.runner.handler is None and not shm_names(name)


async def test_draining_runner_is_not_ready() -> None:
    async with fronting("http://127.0.0.1:1") as front:
        await front.runner.shutdown()
        assert (await front.get("/readyz")).status == 503
        assert (await front.get("/healthz")).status == 200


async def test_slow_question_to_the_admin_listener_ends_with_the_rest() -> None:
    """One that announces a body and sends none."""
    server = ServerConfig(graceful_timeout=1)
    listener = socket.create_server(("127.0.0.1", 0))
    purge = PurgeConfig(token=TOKEN)
    told = replace(config(), server=server, purge=purge)
    runner = CacheRunner(told, told.cache(segment_name(), None), [listener])
    await runner.setup()
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    head = b"POST /purge HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
    writer.write(head + b"Authorization: Bearer " + TOKEN.encode() + b"\r\n\r\n")
    await eventually(
        lambda: any(c._request_in_progress for c in runner._admin.server.connections)
    )
    async with asyncio.timeout(5):
        await runner.cleanup()
    await reader.read()
    writer.close()


async def test_start_that_fails_lets_go_of_the_segment(monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no pool")

    monkeypatch.setattr("shmcache_server.app.Origin", refuse)
    name = segment_name()
    runner = CacheRunner(config(), config().cache(name, None))
    with pytest.raises(OSError, match="no pool"):
        await runner.setup()
    assert not shm_names(name)


def test_python_parser_is_refused(monkeypatch) -> None:
    require_c_parser()
    monkeypatch.setattr(
        http_parser, "HttpRequestParser", http_parser.HttpRequestParserPy
    )
    with pytest.raises(ConfigError, match="aiohttp: its C parser"):
        require_c_parser()


def test_server_without_the_c_parser_does_not_start() -> None:
    process = python(
        *("-m", "shmcache_server", "serve", "--origin", "http://127.0.0.1:1"),
        *("--bind", "127.0.0.1:0"),
        env={"AIOHTTP_NO_EXTENSIONS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    _, said = process.communicate(timeout=20)
    assert process.returncode == 2
    assert said.startswith("shmcache: aiohttp: its C parser") and said.count("\n") == 1
