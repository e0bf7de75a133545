"""Django's contract, and what it stores by itself: pages, fragments, sessions."""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import django
import pytest
from django.conf import settings

NAME = f"django-{os.getpid()}-{secrets.token_hex(4)}"
settings.configure(
    CACHES={
        "default": {
            "BACKEND": "shmcache.adapters.django.ShmCache",
            "LOCATION": NAME,
            "KEY_PREFIX": "p",
            "OPTIONS": {"size": "2MiB", "MAX_ENTRIES": 9},
        }
    },
    ROOT_URLCONF="tests.adapters.test_django",
    SESSION_ENGINE="django.contrib.sessions.backends.cache",
    SECRET_KEY="none",
    ALLOWED_HOSTS=["testserver"],
    USE_TZ=True,
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
)
django.setup()

from django.core.cache import cache, caches  # noqa: E402
from django.core.exceptions import ImproperlyConfigured  # noqa: E402
from django.http import HttpRequest, HttpResponse, JsonResponse  # noqa: E402
from django.template import Context, Template  # noqa: E402
from django.test import Client, RequestFactory  # noqa: E402
from django.urls import path  # noqa: E402
from django.utils.safestring import SafeString, mark_safe  # noqa: E402
from django.views.decorators.cache import cache_page  # noqa: E402

from shmcache.adapters.django import ShmCache  # noqa: E402
from tests.helpers import until  # noqa: E402

RAN: list[str] = []


class Point(NamedTuple):
    x: int


@cache_page(60)
def page(request: HttpRequest) -> HttpResponse:
    RAN.append(request.path)
    response = JsonResponse({"n": len(RAN)})
    response["X-Own"] = "yes"
    response.set_cookie("a", "b", max_age=60)
    return response


urlpatterns = [path("page/", page)]


@pytest.fixture(scope="module", autouse=True)
def closed() -> Iterator[None]:
    yield
    cache._cache.close()


@pytest.fixture(autouse=True)
def emptied() -> None:
    cache.clear()
    RAN.clear()


def test_values_come_back() -> None:
    cache.set("a", {"x": (1, 2)}, 60)
    assert cache.get("a") == {"x": (1, 2)}
    assert (cache.get("z"), cache.get("z", 7), "a" in cache) == (None, 7, True)
    cache.set("none", None)
    assert cache.get("none", 7) is None
    assert (cache.add("a", 1), cache.add("b", 1)) == (False, True)
    assert (cache.delete("b"), cache.delete("b")) == (True, False)
    assert cache.set_many({"c": 1, "d": 2}) == []
    assert cache.get_many(["c", "d", "z"]) == {"c": 1, "d": 2}
    cache.delete_many(["c"])
    assert cache.get_many(["c", "d"]) == {"d": 2}
    assert (cache.incr("d"), cache.decr("d", 5)) == (3, -2)
    with pytest.raises(ValueError, match="not found"):
        cache.incr("z")
    assert cache.incr_version("d") == 2
    assert (cache.get("d"), cache.get("d", version=2)) == (None, -2)
    assert cache.touch("d", 60, version=2) and not cache.touch("z", 60)


@pytest.mark.parametrize("timeout", [0, -1])
def test_timeout_of_nothing_stores_nothing(timeout: int) -> None:
    cache.set("a", 1)
    cache.set("a", 2, timeout)
    assert cache.get("a") is None
    assert cache.add("b", 1, timeout) and cache.get("b") is None
    cache.set("c", 1)
    assert cache.touch("c", timeout) and cache.get("c") is None


def test_long_key_is_hashed() -> None:
    long = "k" * 5000
    with pytest.warns(RuntimeWarning):
        cache.set(long, 1)
        cache.set(long + "x", 2)
        assert (cache.get(long), cache.get(long + "x")) == (1, 2)


def test_prefix_and_version_are_in_the_key() -> None:
    cache.set("a", 1, version=3)
    assert caches["default"]._cache.get("p:3:a") == 1


def test_default_is_computed_once_for_all_threads() -> None:
    ran: list[int] = []

    def compute() -> str:
        ran.append(1)
        time.sleep(0.05)
        return "v"

    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda _: cache.get_or_set("k", compute), range(8)))
    assert got == ["v"] * 8 and len(ran) == 1
    assert cache.get_or_set("w", "value") == "value"
    assert cache.get_or_set("n", None) is None and "n" in cache


def test_threads_share_one_cache() -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(caches["default"]._cache))
    thread.start()
    thread.join()
    assert found == [cache._cache]


def test_awaited_verbs_do_the_same() -> None:
    async def work() -> None:
        await cache.aset("a", 1)
        assert (await cache.aget("a"), await cache.aget("z", 7)) == (1, 7)
        assert (await cache.aadd("a", 2), await cache.ahas_key("a")) == (False, True)
        assert await cache.aincr("a", 4) == 5 and await cache.adecr("a") == 4
        await cache.aset_many({"b": 1})
        assert await cache.aget_many(["a", "b"]) == {"a": 4, "b": 1}
        assert await cache.aget_or_set("c", lambda: 3) == 3
        assert await cache.atouch("c", 60) and await cache.adelete("c")
        await cache.adelete_many(["b"])
        await cache.aclear()
        assert await cache.aget("a") is None
        await cache.aclose()

    asyncio.run(work())


def test_page_is_kept_with_its_fields() -> None:
    first, second = (Client().get("/page/") for _ in range(2))
    assert first.json() == second.json() == {"n": 1} and RAN == ["/page/"]
    assert second["X-Own"] == "yes" and second["Content-Type"] == "application/json"


def test_response_comes_back_whole() -> None:
    response = HttpResponse("text", status=418, reason="Teapot", charset="utf-8")
    response.set_cookie("a", "b", max_age=60)
    response.set_cookie("c", "d; e")
    cache.set("r", response)
    found = cache.get("r")
    assert (found.status_code, found.reason_phrase) == (418, "Teapot")
    assert (found.content, found.items()) == (b"text", response.items())
    assert found.cookies.output() == response.cookies.output()


def test_fragment_is_a_safe_string_still() -> None:
    cache.set("s", mark_safe("<b>"))
    assert type(cache.get("s")) is SafeString
    template = Template("{% load cache %}{% cache 60 a %}<b>{{ x }}</b>{% endcache %}")
    assert [template.render(Context({"x": x})) for x in (1, 2)] == ["<b>1</b>"] * 2


def test_session_is_kept() -> None:
    from django.contrib.sessions.backends.cache import SessionStore

    one = SessionStore()
    one["user"] = 7
    one.save()
    assert SessionStore(one.session_key)["user"] == 7


def test_object_that_needs_pickle_is_refused() -> None:
    with pytest.raises(ValueError, match="RequestFactory"):
        cache.set("a", RequestFactory())


class Teapot(HttpResponse):
    """A class of the program's own."""


def test_response_of_a_class_of_your_own_is_kept_as_a_plain_one() -> None:
    cache.set("r", Teapot("tea", status=418))
    found = cache.get("r")
    assert (found.status_code, found.content) == (418, b"tea")
    assert cache.get_or_set("s", lambda: Teapot("more")).content == b"more"


def test_value_too_large_is_not_stored_and_fails_nothing() -> None:
    large = "x" * (1 << 21)
    cache.set("a", 1)
    cache.set("a", large)
    assert cache.get("a") is None
    assert cache.add("b", large) is False
    assert cache.set_many({"c": 1, "d": large, "e": 2}) == ["d"]
    assert cache.get_many(["c", "d", "e"]) == {"c": 1, "e": 2}
    assert cache.get_or_set("f", large) == large


def test_keys_of_one_name_are_both_answered() -> None:
    cache.set("1", "v")
    assert cache.get_many([1, "1"]) == {1: "v", "1": "v"}


def test_failure_is_that_of_every_thread_that_waited() -> None:
    begun, gate = threading.Event(), threading.Event()

    def fails() -> None:
        begun.set()
        gate.wait(5)
        raise KeyError("gone")

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(cache.get_or_set, "k", fails)
        assert begun.wait(5)
        other = pool.submit(cache.get_or_set, "k", lambda: "mine")
        flights = cache._cache._view._flights
        until(lambda: flights._waiters == 2, what="the other waits too")
        gate.set()
        assert isinstance(one.exception(), KeyError)
        assert other.exception() is one.exception()


def test_default_that_asks_for_its_own_key_is_computed() -> None:
    def outer() -> str:
        return "outer " + cache.get_or_set("k", lambda: "inner")

    assert cache.get_or_set("k", outer) == "outer inner"


@pytest.mark.parametrize(
    "location, options, words",
    [
        ("redis://a", {}, "l2"),
        (["a", "b"], {}, "LOCATION"),
        ("one", {"sizes": "2MiB"}, "sizes"),
        ("one", {"size": "x"}, "size"),
        (NAME, {"size": "4MiB"}, "different OPTIONS"),
    ],
)
def test_wrong_setting_is_named(location: Any, options: Any, words: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=words):
        ShmCache(location, {"OPTIONS": options})


def test_type_is_named_by_its_path() -> None:
    name = f"{NAME}-types"
    made = ShmCache(
        name,
        {"OPTIONS": {"size": "2MiB", "types": ["tests.adapters.test_django.Point"]}},
    )
    made.set("p", Point(1))
    assert made.get("p") == Point(1)
    made._cache.close()
