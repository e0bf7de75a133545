"""The paths that wrk asks for: keys.lua, run in a Lua of our own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from loadtest.peers.wrk import SCRIPT, Asked

lupa = pytest.importorskip("lupa.luajit21")


def requests(asked: Asked) -> tuple[Callable[[], str], list[bool]]:
    """What wrk calls for each request, less the call that it throws away; and a list
    that is not empty once it was told to stop."""
    lua, stopped = lupa.LuaRuntime(), []
    lua.globals().wrk = lua.table(
        host="127.0.0.1", thread=lua.table(stop=lambda thread: stopped.append(True))
    )
    lua.execute(SCRIPT.read_text())
    lua.globals().init(lua.table(*asked.arguments()))
    request = lua.globals().request
    request()
    return request, stopped


def path(request: str) -> str:
    head, target, _ = request.split(" ", 2)
    assert head == "GET" and request.endswith(" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    return target


def test_one_key_is_always_the_first() -> None:
    request, _ = requests(Asked("/1024/k"))
    assert {path(request()) for _ in range(100)} == {"/1024/k0"}


def test_many_keys_are_drawn_by_zipf() -> None:
    request, _ = requests(Asked("/1024/k", keys=100))
    drawn = Counter(path(request()) for _ in range(20_000))
    assert len(drawn) == 100
    (_, first), (_, second) = drawn.most_common(2)
    assert first / 20_000 == pytest.approx(0.19, abs=0.02)
    assert first / second == pytest.approx(2**0.99, rel=0.15)


def test_each_key_is_asked_for_once_and_then_it_stops() -> None:
    request, stopped = requests(Asked("/1024/k", keys=5, each=True, first=2))
    assert [path(request()) for _ in range(3)] == [f"/1024/k{i}" for i in (2, 3, 4)]
    assert not stopped
    request()
    assert stopped


def test_each_key_without_an_end() -> None:
    request, stopped = requests(Asked("/1024/k", keys=0, each=True))
    assert len({request() for _ in range(1000)}) == 1000 and not stopped
