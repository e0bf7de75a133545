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

from shmcache.ask import FAILED, WAIT, WON, Replies, Reply
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


NONE16 = b"\0" * 16


def token(name: str) -> bytes:
    return name.encode().ljust(16, b".") if name else NONE16


def ask(
    run: Run, offer: str, instead_of: str = "", waited: str = "", identity: str = ""
) -> Reply:
    """The key's part of the answer."""
    keys = (G, S, V, L, W, E)
    words = b"0" + token(offer) + token(instead_of) + token(waited) + b"c"
    data = run("acquire", keys, "incarna1", identity, LIFE, words)
    (reply,) = Replies(data, 0).each(1)
    return reply


def acquire(run: Run, offer: str, instead_of: str = "", waited: str = "") -> list[Any]:
    """Lease, what is left of it, and the token that stands or the error."""
    reply = ask(run, offer, instead_of, waited)
    return [reply.lease, reply.wait_ms, reply.text]


def put(run: Run, name: str, clock: int = 0, *tags: int) -> Any:
    incarnation = run("acquire", (G, S), "other123", "", LIFE)[:8]
    args = (token(name), "value", "", -1, incarnation, clock, *tags)
    return run("put_fenced", (G, V, L, W), *args)[0]


def invalidate(
    run: Run, kind: str, name: Any, set_by: str = "", instead_of: str = ""
) -> list[Any]:
    keys = (G, S, V, L, W) if kind == "d" else (G, S)
    words = kind.encode() + bytes(8) + token(set_by) + token(instead_of)
    words += str(name).encode()
    args = ("incarna1", "", "-", "me", 1000, 1000, words)
    return list(run("invalidate", keys, *args))


def test_first_offer_wins_and_the_second_waits(run: Run, client: redis.Redis) -> None:
    assert acquire(run, "one") == [WON, LIFE, token("one")]
    lease, left, stands = acquire(run, "two")
    assert (lease, stands) == (WAIT, token("one")) and 0 < left <= LIFE
    assert client.smembers(W) == {b"c"}


def test_who_asks_for_nothing_leaves_nothing(run: Run, client: redis.Redis) -> None:
    data = run("acquire", (G, S), "incarna1", "", LIFE)
    assert Replies(data, 0).clock.incarnation == b""
    assert not client.keys()


@pytest.mark.parametrize(
    ("instead_of", "lease"), [("one", WON), ("other", WAIT), ("", WAIT)]
)
def test_lease_passes_on_only_instead_of_its_token(run, instead_of, lease) -> None:
    acquire(run, "one")
    assert acquire(run, "two", instead_of)[0] == lease


@pytest.mark.parametrize("life", [3_600_000, -1], ids=["clock-set-back", "endless"])
def test_lease_longer_than_any_of_ours_is_shortened(run, client, life) -> None:
    acquire(run, "one")
    client.set(L, token("one"), px=life if life > 0 else None)
    assert acquire(run, "two") == [WAIT, LIFE, token("one")]
    assert 0 < client.pttl(L) <= LIFE


def test_lease_of_a_host_with_longer_ones_stays(run, client) -> None:
    client.set(L, token("one"), px=5000)
    assert LIFE < acquire(run, "two")[1] <= 5000 and client.pttl(L) > LIFE


@pytest.mark.parametrize("foreign", [b"", b"x", b"t" * 17])
def test_lease_that_is_no_token_does_not_stand(run, client, foreign) -> None:
    client.set(L, foreign)
    assert acquire(run, "one")[0] == WON
    assert client.get(L) == token("one")


@pytest.mark.parametrize(
    "fields",
    [{"i": "abc"}, {"c": "abc"}, {"c": "-1"}, {"c": 10**17}, {"C": "abc"}, {"t7": ""}],
    ids=str,
)
def test_generations_that_are_not_ours_stand_in_nobodys_way(
    run, client, fields
) -> None:
    """And what they cannot tell of is taken for void."""
    invalidate(run, "d", "key")
    client.hset(G, mapping=fields)
    assert acquire(run, "one")[0] == WON
    unreadable = fields.keys() & {"C", "t7"}
    assert put(run, "one", 0, 7) == (b"raised" if unreadable else b"stored")
    client.hset(G, mapping=fields)
    clock = invalidate(run, "t", 7)[1]
    assert clock == 1 + len(unreadable)
    invalidate(run, "c", "")
    assert acquire(run, "two")[0] == WON
    assert put(run, "two", clock + 1, 7) == b"stored"


def test_lease_that_passed_on_is_lost_to_its_old_holder(run, client) -> None:
    acquire(run, "one")
    acquire(run, "two", "one")
    assert run("renew", (L, W), token("one"), LIFE) == 0
    assert put(run, "one") == b"lost"
    assert run("abandon", (L, W, E), token("one"), "error", 1000) == 0
    assert client.get(L) == token("two") and not client.exists(V, E)


def test_renewal_never_makes_a_lease_again(run: Run, client: redis.Redis) -> None:
    acquire(run, "one")
    client.delete(L)
    assert run("renew", (L, W), token("one"), LIFE) == 0
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
    assert run("abandon", (L, W, E), token("one"), "failed", 1000) == 1
    assert acquire(run, "two", waited="one") == [FAILED, 0, b"failed"]
    assert acquire(run, "three")[0] == WON
    assert acquire(run, "four", waited="three")[0] == WAIT


def test_set_takes_the_lease_from_who_computes(run: Run, client: redis.Redis) -> None:
    acquire(run, "one")
    invalidate(run, "d", "key", "set")
    assert client.get(L) == token("set")
    assert put(run, "one") == b"lost"
    assert put(run, "set", 1) == b"stored"


def test_every_invalidation_is_an_entry_whose_id_is_the_clock(run, client) -> None:
    assert [invalidate(run, "d", "key")[1] for _ in range(3)] == [1, 2, 3]
    assert [entry for entry, _ in client.xrange(S)] == [b"1-0", b"2-0", b"3-0"]


@pytest.mark.parametrize(
    ("instead_of", "lost"), [("one", []), ("other", [0])], ids=["stands", "passed-on"]
)
def test_invalidation_instead_of_a_lease_needs_it(
    run: Run, client: redis.Redis, instead_of: str, lost: list[int]
) -> None:
    acquire(run, "one")
    client.set(V, "value")
    assert invalidate(run, "d", "key", "set", instead_of)[3:] == lost
    assert client.get(L) == token("one" if lost else "set")
    assert client.exists(V, S) == (1 if lost else 0) + (0 if lost else 1)


def settle(run: Run, identity: str, was: str) -> list[Any]:
    return list(run("invalidate", (G, S), "incarna2", identity, was, "me", 1000, 1000))


@pytest.mark.parametrize(
    ("was", "incarnation"),
    [("identity", b"incarna2"), ("", b"incarna1"), ("other678", b"incarna1")],
    ids=["as-noted", "none", "another"],
)
def test_identity_is_settled_by_compare_and_set(
    run: Run, client: redis.Redis, was: str, incarnation: bytes
) -> None:
    ask(run, "one", identity="identity")
    clock = invalidate(run, "d", "key")[1]
    assert settle(run, "newmastr", was)[:2] == [incarnation, clock]
    moved = incarnation == b"incarna2"
    assert client.hget(G, "r") == (b"newmastr" if moved else b"identity")
    assert client.exists(S) == (not moved)
    assert settle(run, "newmastr", "newmastr")[0] == incarnation


def test_identity_of_generations_that_must_be_made_is_noted(run, client) -> None:
    assert settle(run, "identity", "")[:2] == [b"incarna2", 0]
    assert client.hget(G, "r") == b"identity"


def test_names_of_one_call_have_their_own_kinds(run, client) -> None:
    keys = (G, S, V, L, W, "v2", "l2", "w2")
    client.mset({V: "one", "v2": "two"})
    kinds = [b"d", b"t", b"c", b"d", b"g"]
    words = [kind + bytes(8) + NONE16 + NONE16 + b"7" for kind in kinds]
    reply = run("invalidate", keys, "incarna1", "", "-", "me", 1000, 1000, *words)
    assert reply[1] == 5 and not client.exists(V, "v2")
    assert client.hmget(G, "t7", "C") == [b"2", b"5"]
    assert [fields[b"k"] for _, fields in client.xrange(S)] == kinds


def test_entry_is_appended_beside_what_stands_in_its_way(run, client) -> None:
    """Another key's type, or ids of a clock that was lost: a gap, and no entry lost."""
    for in_the_way in (lambda: client.set(S, "x"), lambda: client.xadd(S, {"a": 1})):
        client.delete(S)
        in_the_way()
        clock = invalidate(run, "d", "key")[1]
        assert [entry for entry, _ in client.xrange(S)] == [b"%d-0" % clock]
