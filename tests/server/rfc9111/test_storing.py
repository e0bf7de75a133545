from __future__ import annotations

from dataclasses import replace

import pytest

from shmcache_server.rfc9111.directives import parse
from shmcache_server.rfc9111.freshness import lifetime as said_lifetime
from shmcache_server.rfc9111.storing import Answered, Asked, lifetime


def answered(said: str, status: int = 200) -> Answered:
    directives = parse([said])
    return Answered(status, directives, said_lifetime(directives, None, None, 0))


@pytest.mark.parametrize("status", [200, 203, 204, 300, 301, 302, 307, 308, 404, 410])
def test_understood_status_with_freshness_is_stored(status) -> None:
    assert lifetime(Asked(), answered("max-age=9", status)) == 9


@pytest.mark.parametrize("status", [100, 201, 206, 304, 400, 401, 403, 429, 500, 503])
def test_other_status_is_not(status) -> None:
    assert lifetime(Asked(), answered("max-age=9, public", status)) is None


@pytest.mark.parametrize("status", [203, 301, 404])
def test_default_ttl_is_for_200_alone(status) -> None:
    assert lifetime(Asked(), answered("", status), 5) is None
    assert lifetime(Asked(), answered(""), 5) == 5


@pytest.mark.parametrize(
    "said",
    ["no-store", "private", 'private="x"', "no-cache", 'no-cache="x"', "max-age=0"],
)
def test_forbidden_by_the_response(said) -> None:
    assert lifetime(Asked(), answered(f"{said}, max-age=9, public"), 5) is None


@pytest.mark.parametrize("said", ["", "public"])
def test_nothing_said_of_freshness_stores_nothing(said) -> None:
    assert lifetime(Asked(), answered(said)) is None


def test_own_cookie_or_vary_is_not_shared() -> None:
    fresh = answered("public, max-age=9")
    assert lifetime(Asked(), replace(fresh, set_cookie=True)) is None
    assert lifetime(Asked(), replace(fresh, vary_shareable=False)) is None


@pytest.mark.parametrize(
    ("said", "authorization", "cookie"),
    [
        ("max-age=9", None, None),
        ("max-age=9, public", 9, 9),
        ("s-maxage=9", 9, 9),
        ("max-age=9, must-revalidate", 9, None),
    ],
)
def test_request_of_a_known_client(said, authorization, cookie) -> None:
    assert lifetime(Asked(authorization=True), answered(said)) == authorization
    assert lifetime(Asked(cookie=True), answered(said)) == cookie


def test_request_that_says_no_store() -> None:
    assert lifetime(Asked(no_store=True), answered("public, max-age=9")) is None
