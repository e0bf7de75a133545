"""dogpile's regions on a cache that processes share."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from dogpile.cache import make_region
from dogpile.cache.api import NO_VALUE

from shmcache import SyncCache
from tests.helpers import segment_name
from tests.redis_server import RedisServer


@pytest.fixture
def arguments() -> dict[str, Any]:
    return {"name": segment_name(), "size": "2MiB"}


@pytest.fixture
def region(arguments: dict[str, Any]) -> Iterator[Any]:
    made = make_region().configure("shmcache", expiration_time=60, arguments=arguments)
    yield made
    made.backend._cache.close()


def test_values_come_back(region: Any) -> None:
    region.set("a", {"x": (1, 2)})
    region.set_multi({"b": 1, "c": None})
    assert region.get("a") == {"x": (1, 2)}
    assert region.get_multi(["b", "z", "c"]) == [1, NO_VALUE, None]
    region.delete("a")
    region.delete_multi(["b"])
    assert region.get_multi(["a", "b", "c"]) == [NO_VALUE, NO_VALUE, None]
    region.set_multi({})
    assert region.get_multi([]) == []


def test_creator_runs_once_for_all_threads(region: Any) -> None:
    ran: list[int] = []

    def create() -> str:
        ran.append(1)
        time.sleep(0.05)
        return "v"

    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda _: region.get_or_create("k", create), range(8)))
    assert got == ["v"] * 8 and len(ran) == 1


def test_value_past_its_time_is_created_anew_by_one(region: Any) -> None:
    region.set("k", "old")
    assert region.get_or_create("k", lambda: "new", expiration_time=0.001) in (
        *("old", "new"),
    )
    time.sleep(0.01)
    assert region.get_or_create("k", lambda: "new", expiration_time=0.001) == "new"


def test_decorated_function_is_kept(region: Any) -> None:
    ran: list[int] = []

    @region.cache_on_arguments()
    def get(n: int) -> int:
        ran.append(n)
        return n

    assert [get(1), get(1), get(2)] == [1, 1, 2] and ran == [1, 2]
    get.invalidate(1)
    assert get(1) == 1 and ran == [1, 2, 1]


def test_mutex_is_one_for_all_threads(region: Any) -> None:
    mutex, other = (region.backend.get_mutex("k") for _ in range(2))
    assert mutex.acquire() and not other.acquire(wait=False)
    assert other.locked()
    waited = threading.Thread(target=other.acquire)
    waited.start()
    mutex.release()
    waited.join(5)
    assert not waited.is_alive()
    other.release()


def test_open_cache_will_do_if_it_knows_dogpiles_values(
    arguments: dict[str, Any],
) -> None:
    with SyncCache.open(**arguments) as cache, pytest.raises(ValueError, match="types"):
        make_region().configure("shmcache", arguments={"cache": cache})


def test_mutex_of_this_process_alone_where_redis_is_away(
    server: RedisServer,
) -> None:
    name = segment_name()
    arguments = {"name": name, "size": "2MiB", "l2": server.url, "app": name}
    region = make_region().configure("shmcache", arguments=arguments)
    region.set("other", 1)
    server.stop()
    try:
        assert region.get_or_create("k", lambda: "v") == "v"
        one, other = (region.backend.get_mutex("k") for _ in range(2))
        assert one.acquire() and not other.acquire(wait=False)
        one.release()
    finally:
        server.cont()
    region.backend._cache.close()


def test_waiter_for_a_value_past_its_time_has_it_at_once(region: Any) -> None:
    """Beside its creator."""
    region.set("k", "old")
    time.sleep(0.01)
    begun, gate = threading.Event(), threading.Event()

    def create() -> str:
        begun.set()
        gate.wait(5)
        return "new"

    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(region.get_or_create, "k", create, expiration_time=0.001)
        assert begun.wait(5)
        began = time.monotonic()
        assert region.get_or_create("k", create, expiration_time=0.001) == "old"
        assert time.monotonic() - began < 0.2
        gate.set()
        assert made.result() == "new"


def test_many_are_created_at_once(region: Any) -> None:
    """More than a host has claims for one set of."""
    names = [f"k{n}" for n in range(300)]
    found = region.get_or_create_multi(names, lambda *keys: list(keys))
    assert found == names


def test_long_key_is_hashed(region: Any) -> None:
    region.set("x" * 5000, 1)
    region.set("x" * 5001, 2)
    assert (region.get("x" * 5000), region.get("x" * 5001)) == (1, 2)


def test_cache_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="name"):
        make_region().configure("shmcache", arguments={})
