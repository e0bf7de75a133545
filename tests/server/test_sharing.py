"""Sharing: what the rules and the operator make of a response."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from shmcache_server.config import Config
from shmcache_server.rfc9111.storing import Asked
from shmcache_server.sharing import Sharing
from shmcache_server.tables import CachingConfig, OriginConfig

NOW = 1_700_000_000.0
DATE = "Tue, 14 Nov 2023 22:13:20 GMT"
LONG_AGO = "Sat, 14 Oct 2023 22:13:20 GMT"  # 31 days


def of(status: int = 200, default_ttl: float = 0.0, **fields: str):
    held = CIMultiDict({n.replace("_", "-"): v for n, v in fields.items()})
    caching = CachingConfig(heuristics="Heuristics-Off" not in held)
    origin = OriginConfig(url="http://origin", default_ttl=default_ttl)
    sharing = Sharing(Config(origin=origin, caching=caching))
    return sharing.of(Asked(), status, held, NOW)


@pytest.mark.parametrize(
    ("fields", "lifetime", "grace"),
    [
        ({"Cache_Control": "max-age=60"}, 60, 0),
        ({"Cache_Control": "max-age=60, stale-while-revalidate=9"}, 60, 9),
        ({"Cache_Control": "max-age=60", "CDN_Cache_Control": "max-age=7"}, 7, 0),
        ({"Cache_Control": "no-cache", "ETag": '"a"'}, 0, 0),
        ({"Last_Modified": LONG_AGO, "Date": DATE}, 86400, 0),
    ],
)
def test_lifetime_and_grace(fields, lifetime, grace) -> None:
    shared = of(**fields)
    assert (shared.lifetime, shared.grace) == (lifetime, grace)


def test_guess_may_be_turned_off() -> None:
    assert of(Last_Modified=LONG_AGO, Date=DATE, Heuristics_Off="1").lifetime == 0


def test_what_can_neither_be_used_nor_validated_is_not_stored() -> None:
    assert of(Cache_Control="no-cache") is None
    assert of() is None
    assert of(default_ttl=9.0).lifetime == 9


def test_names_are_those_beside_the_encoding() -> None:
    said = {"Cache_Control": "max-age=60", "Vary": "Foo, Accept-Encoding, accept"}
    assert of(**said).names == ("accept", "foo")
    assert of(status=206, **said).names == ("accept", "foo", "range")


def test_fields_for_one_client_are_dropped() -> None:
    assert of(Cache_Control='max-age=60, private="x-me"').drop == {"x-me"}


def test_windows_are_the_origins_else_the_operators() -> None:
    caching = CachingConfig(stale_if_error=5.0, stale_if_cut_off=50.0)
    sharing = Sharing(Config(origin=OriginConfig(url="http://o"), caching=caching))

    def windows(said: str):
        found = sharing.windows(CIMultiDict({"Cache-Control": said}))
        return found.if_error, found.if_cut_off

    assert windows("max-age=1") == (5, 50)
    assert windows("max-age=1, stale-if-error=70") == (70, 70)
    assert windows("max-age=1, must-revalidate") == (0, 0)
