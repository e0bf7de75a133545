"""The scripts' rules of lease and fill, as tables: the same on fakeredis and on Redis.

The two run one contract, so that a drift between them shows. What reads the head of a
value needs Redis' own Lua library and is proved on Redis alone, in `test_scripts.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Any

import fakeredis
import pytest
import redis

from shmcache.ask import FAILED, NONE, WAIT, WON
from tests.redis_server import redis_server

G, S, V, L, W, E = "g", "s", "v", "l", "w", "e"
LIFE = 3000
Run = Callable[..., Any]


@pytest.fixture(scope="module", params=["fakeredis", "redis"])
def client(request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    if request.param == "fakeredis":
        with fakeredis.FakeRedis(version=(6, 2)) as fake:
            yield fake
        return
    with redis_server() as server, redis.Redis.from_url(server.url) as real:
        yield real


@pytest.fixture
def run(client: redis.Redis) -> Run:
    """Run a script by its name on an empty database."""
    client.flushall()

    def script(name: str, keys: tuple[str, ...], *args: Any) -> Any:
        text = files("shmcache.lua").joinpath(f"{name}.lua").read_text()
        return client.eval(text, len(keys), *keys, *args)

    return script


def acquire(run: Run, offer: str, instead_of: str = "", waited: str = "") -> list[Any]:
    """Lease, what is left of it, and the token that stands or the error."""
    keys = (G, S, V, L, W, E)
    reply = run("acquire", keys, "incarna1", LIFE, offer, instead_of, "", "c", waited)
    return list(reply[6:9])


def put(run: Run, token: str, clock: int = 0, *tags: int) -> Any:
    incarnation = run("acquire", (G, S), "other", LIFE)[0]
    return run(
        "put_fenced", (G, V, L, W), token, "value", "", incarnation, clock, *tags
    )


def invalidate(run: Run, kind: str, name: Any, token: str = "") -> list[Any]:
    keys = (G, S, V, L, W) if kind == "d" else (G, S)
    args = ("incarna1", kind, "me", 1000, 1000, name, "", token)
    return list(run("invalidate", keys, *args))


def test_first_offer_wins_and_the_second_waits(run: Run, client: redis.Redis) -> None:
    assert acquire(run, "one") == [WON, LIFE, b"one"]
    lease, left, stands = acquire(run, "two")
    assert (lease, stands) == (WAIT, b"one") and 0 < left <= LIFE
    assert client.smembers(W) == {b"c"}


def test_asking_without_an_offer_takes_no_lease(run: Run, client: redis.Redis) -> None:
    assert acquire(run, "")[0] == NONE
    assert not client.exists(L)


@pytest.mark.parametrize(
    ("instead_of", "lease"), [("one", WON), ("other", WAIT), ("", WAIT)]
)
def test_lease_passes_on_only_instead_of_its_token(run, instead_of, lease) -> None:
    acquire(run, "one")
    assert acquire(run, "two", instead_of)[0] == lease


def test_lease_that_passed_on_is_lost_to_its_old_holder(run, client) -> None:
    acquire(run, "one")
    acquire(run, "two", "one")
    assert run("renew", (L, W), "one", LIFE) == 0
    assert put(run, "one") == b"lost"
    assert run("abandon", (L, W, E), "one", "error", 1000) == 0
    assert client.get(L) == b"two" and not client.exists(V, E)


def test_renewal_never_makes_a_lease_again(run: Run, client: redis.Redis) -> None:
    acquire(run, "one")
    client.delete(L)
    assert run("renew", (L, W), "one", LIFE) == 0
    assert not client.exists(L)


def test_store_frees_the_lease_and_is_accepted_once(run, client) -> None:
    acquire(run, "one")
    assert put(run, "one") == b"stored"
    assert client.get(V) == b"value" and not client.exists(L, W)
    assert put(run, "one") == b"lost"


@pytest.mark.parametrize(
    ("kind", "name", "answer"),
    [
        ("d", "key", b"lost"),
        ("t", 7, b"raised"),
        ("t", 8, b"stored"),
        ("c", "", b"raised"),
        ("u", 7, b"stored"),
    ],
    ids=["key", "its-tag", "other-tag", "everything", "soft-tag"],
)
def test_store_begun_before_an_invalidation_is_refused(run, kind, name, answer) -> None:
    acquire(run, "one")
    invalidate(run, kind, name)
    assert put(run, "one", 0, 7) == answer


def test_store_begun_after_an_invalidation_is_accepted(run: Run) -> None:
    clock = invalidate(run, "t", 7)[1]
    acquire(run, "one")
    assert put(run, "one", clock, 7) == b"stored"


def test_error_is_for_those_who_waited_for_this_lease(run: Run) -> None:
    acquire(run, "one")
    assert run("abandon", (L, W, E), "one", "failed", 1000) == 1
    assert acquire(run, "two", waited="one") == [FAILED, 0, b"failed"]
    assert acquire(run, "three")[0] == WON
    assert acquire(run, "four", waited="three")[0] == WAIT


def test_set_takes_the_lease_from_who_computes(run: Run, client: redis.Redis) -> None:
    acquire(run, "one")
    invalidate(run, "d", "key", "set")
    assert client.get(L) == b"set"
    assert put(run, "one") == b"lost"
    assert put(run, "set", 1) == b"stored"


def test_every_invalidation_is_an_entry_whose_id_is_the_clock(run, client) -> None:
    assert [invalidate(run, "d", "key")[1] for _ in range(3)] == [1, 2, 3]
    assert [entry for entry, _ in client.xrange(S)] == [b"1-0", b"2-0", b"3-0"]
