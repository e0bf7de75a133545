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
