"""One look-up for each name in the process, on a thread of its own."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from shmcache import resolver
from shmcache.resolver import addresses
from tests.redis_server import eventually


class Names:
    """What the host's resolver knows; it answers for a name when it is let to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.known: dict[str, Any] = {}
        self.hangs = threading.Event()
        self.hangs.set()
        self._real = socket.getaddrinfo

    def __call__(self, host: Any, *rest: Any, **options: Any) -> Any:
        if not str(host).endswith(".test"):
            return self._real(host, *rest, **options)
        self.asked.append(host)
        assert self.hangs.wait(30)
        if host not in self.known:
            raise socket.gaierror(socket.EAI_NONAME, "not known")
        return [(0, 0, 0, "", place) for place in self.known[host]]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names)
    monkeypatch.setattr(resolver, "_known", {})
    yield names
    names.hangs.set()
    for thread in ours():
        thread.join(10)


def ours() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "shmcache-resolver"]


@pytest.fixture
def tick(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    at = [1000.0]
    monkeypatch.setattr(resolver, "monotonic", lambda: at[0])

    def tick(seconds: float) -> None:
        at[0] += seconds

    return tick


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "fe80::1%lo"])
async def test_number_needs_no_look_up(names: Names, host: str) -> None:
    assert await addresses(host) == [host]
    assert not resolver._known


async def test_addresses_come_once_each_and_in_order(names: Names) -> None:
    names.known["a.test"] = [
        *(("::2", 0, 0, 0), ("fe80::1", 0, 0, 7)),
        *(("127.0.0.2", 0), ("::2", 0, 0, 0)),
    ]
    assert await addresses("a.test") == ["::2", "fe80::1%7", "127.0.0.2"]


async def test_resolver_that_hangs_takes_one_thread_and_no_others_time(
    names: Names,
) -> None:
    """The loop's own look-ups have one thread here: one of ours would take it."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    names.hangs.clear()
    names.known["a.test"] = [("127.0.0.2", 0)]
    for _ in range(20):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await addresses("a.test")
    last = asyncio.create_task(addresses("a.test"))
    async with asyncio.timeout(5):
        assert await loop.getaddrinfo("127.0.0.1", 80)
        await loop.getaddrinfo("localhost", 80)
    assert len(ours()) == 1 and names.asked == ["a.test"]
    names.hangs.set()
    assert await last == ["127.0.0.2"]


async def test_answer_is_shared_for_a_while(names: Names, tick) -> None:
    names.known["a.test"] = [("127.0.0.2", 0)]
    for _ in range(3):
        await addresses("a.test")
    tick(4.9)
    await addresses("a.test")
    assert len(names.asked) == 1
    tick(0.2)
    names.known["a.test"] = [("127.0.0.3", 0)]
    assert await addresses("a.test") == ["127.0.0.3"]


async def test_failure_is_shared_for_a_moment(names: Names, tick) -> None:
    for _ in range(3):
        with pytest.raises(socket.gaierror):
            await addresses("a.test")
    assert len(names.asked) == 1
    names.known["a.test"] = [("127.0.0.2", 0)]
    tick(1.1)
    assert await addresses("a.test") == ["127.0.0.2"]


async def test_names_asked_for_no_more_are_forgotten(names: Names, tick) -> None:
    for n in range(50):
        names.known[f"{n}.test"] = [("127.0.0.2", 0)]
        await addresses(f"{n}.test")
        tick(1)
    assert len(resolver._known) <= 6


async def test_name_that_can_be_none_is_an_os_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(OSError, match="no name of a host"):
        await addresses("a" * 64)


async def test_forked_child_asks_anew(names: Names) -> None:
    names.hangs.clear()
    names.known["a.test"] = [("127.0.0.2", 0)]
    waiting = asyncio.create_task(addresses("a.test"))
    await eventually(lambda: names.asked)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        names.hangs.set()
        answer = resolver._asked("a.test").answer.result(10)
        os.write(write, answer[0].encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    assert os.read(read, 100) == b"127.0.0.2"
    os.close(read)
    names.hangs.set()
    assert await waiting == ["127.0.0.2"]
