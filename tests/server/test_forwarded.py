from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from shmcache_server.forwarded import (
    CONDITIONS,
    UNKEYED,
    Forwarding,
    believed,
    plain_host,
    request_fields,
    unkeyed,
)
from shmcache_server.rfc9111.fields import HOP_BY_HOP

PEER, STRANGER = "10.1.2.3", "192.0.2.1"
PEERS = Forwarding(trusted_peers=["10.0.0.0/8", "2001:db8::/32"])


def block(*pairs: tuple[str, str]) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict(pairs))


def written(forwarding: Forwarding, remote: str, *pairs: tuple[str, str]) -> list[str]:
    """The values of X-Forwarded-For, -Host and -Proto."""
    return [v for _, v in forwarding.written(block(*pairs), remote, "http")]


# -- removed


@pytest.mark.parametrize("name", sorted(UNKEYED | HOP_BY_HOP))
@pytest.mark.parametrize("spell", [str, str.title, lambda n: n.replace("-", "_")])
def test_field_outside_the_key_is_removed(name, spell) -> None:
    assert list(request_fields(block((spell(name), "evil")))) == ["Via"]
    assert unkeyed(spell(name))


@pytest.mark.parametrize(
    "name", ["X-Forwarded-Foo", "x_forwarded_host", "X-Forwarded", "X-Envoy-Original"]
)
def test_families_are_removed(name) -> None:
    assert list(request_fields(block((name, "evil")))) == ["Via"] and unkeyed(name)


@pytest.mark.parametrize("name", sorted(CONDITIONS))
def test_conditions_are_removed_where_they_are_dropped(name) -> None:
    assert list(request_fields(block((name, "x")), drop=CONDITIONS)) == ["Via"]
    assert name.title() in request_fields(block((name.title(), "x")))


def test_other_fields_are_sent_as_they_came() -> None:
    sent = block(("accept", "a"), ("X-Odd", " b"), ("accept", "c"), ("X_Y", "d"))
    assert list(request_fields(sent).items())[:-1] == list(sent.items())


def test_what_connection_names_is_removed() -> None:
    sent = block(("Connection", "close, X-Hop"), ("X-Hop", "1"), ("X_Hop", "2"))
    assert list(request_fields(sent)) == ["Via"]


def test_connection_cannot_name_what_the_rest_depends_on() -> None:
    sent = block(("Connection", "Content-Type, X-Hop"), ("Content-Type", "a/b"))
    assert list(request_fields(sent)) == ["Content-Type", "Via"]


def test_via_is_gone_on_with() -> None:
    sent = request_fields(block(("Via", "1.0 a"), ("via", "1.1 b")))
    assert sent.getall("Via") == ["1.0 a, 1.1 b, 1.1 shmcache"]


@pytest.mark.parametrize("name", ["X-Tenant", "x_tenant", "X-TENANT"])
def test_more_fields_are_removed_by_the_setting(name) -> None:
    forwarding = Forwarding(removed=["X-Tenant"])
    assert list(forwarding.fields(block((name, "evil"), ("A", "b")))) == ["A", "Via"]
    assert list(Forwarding().fields(block((name, "x")))) == [name, "Via"]


def test_setting_adds_to_what_is_dropped() -> None:
    forwarding = Forwarding(removed=["x-a"])
    sent = block(("X-A", "1"), ("Cookie", "2"), ("B", "3"))
    assert list(forwarding.fields(sent, frozenset({"cookie"}))) == ["B", "Via"]


@given(st.lists(st.tuples(st.text("xX-_forwadedhst", min_size=1), st.just("v"))))
def test_no_spelling_of_a_forwarded_field_is_sent(pairs) -> None:
    for name in request_fields(block(*pairs)):
        assert not name.lower().replace("_", "-").startswith("x-forwarded")


# -- believed


@pytest.mark.parametrize(
    ("remote", "trusted"),
    [
        *((PEER, True), ("10.255.0.1", True), ("11.0.0.1", False), ("", False)),
        *(("::ffff:10.0.0.1", True), ("2001:db8::1", True), ("::1", False)),
        *((None, False), ("/run/socket", False), ("unknown", False)),
    ],
)
def test_peer_is_trusted_by_its_address(remote, trusted) -> None:
    assert PEERS.trusts(remote) is PEERS.trusts(remote) is trusted
    assert not Forwarding().trusts(remote)


def test_known_peers_are_bounded() -> None:
    forwarding = Forwarding(trusted_peers=["10.0.0.0/8"])
    for i in range(3000):
        assert forwarding.trusts(f"10.0.{i // 256}.{i % 256}")
    assert len(forwarding._trusted) <= 1024


CLAIMS = (
    ("Host", "inner:80"),
    ("X-Forwarded-For", "1.1.1.1"),
    ("X-Forwarded-Host", "evil, A.example:443"),
    ("X-Forwarded-Proto", "HTTPS"),
)


@pytest.mark.parametrize("forwarding", [Forwarding(), PEERS], ids=["nobody", "peers"])
def test_stranger_is_not_believed(forwarding) -> None:
    assert written(forwarding, STRANGER, *CLAIMS) == [STRANGER, "inner", "http"]


def test_trusted_peer_is_believed() -> None:
    told = written(PEERS, PEER, *CLAIMS)
    assert told == [f"1.1.1.1, {PEER}", "a.example", "https"]


@pytest.mark.parametrize(
    ("remote", "asked"),
    [(STRANGER, ("inner:80", "http")), (PEER, ("A.example:443", "https"))],
)
def test_request_is_for_what_its_peer_is_believed(remote, asked) -> None:
    assert PEERS.asked(block(*CLAIMS), remote, "http") == asked
    assert Forwarding().asked(block(*CLAIMS), remote, "http") == ("inner:80", "http")


def test_trusted_peer_that_says_nothing() -> None:
    assert written(PEERS, PEER, ("Host", "a")) == [PEER, "a", "http"]


def test_client_without_an_address_is_unknown() -> None:
    assert written(PEERS, "", ("Host", "a")) == ["unknown", "a", "http"]


@pytest.mark.parametrize(
    ("pairs", "host", "scheme"),
    [
        ((), "", ""),
        ((("Host", "a"),), "a", ""),
        ((("Host", "a"), ("X-Forwarded-Host", "b")), "b", ""),
        ((("Host", "a"), ("X-Forwarded-Host", "b,c")), "c", ""),
        ((("X-Forwarded-Host", "b"), ("X-Forwarded-Host", "c")), "c", ""),
        ((("Host", "a"), ("X-Forwarded-Host", "b, ")), "a", ""),
        ((("X-Forwarded-Proto", "https"),), "", "https"),
        ((("X-Forwarded-Proto", "https, http"),), "", "http"),
        ((("X-Forwarded-Proto", "javascript"),), "", ""),
        ((("X_Forwarded_Host", "b"), ("X_Forwarded_Proto", "https")), "", ""),
    ],
)
def test_of_a_list_the_last_is_believed(pairs, host, scheme) -> None:
    assert believed(block(*pairs)) == (host, scheme)


@pytest.mark.parametrize(
    ("field", "host"),
    [
        *(("A.Example:80", "a.example"), ("[::1]:8080", "[::1]"), ("", "")),
        *(("a/b", None), ("a b", None), ("a@b", None), ("a,b", None), ("a:b", None)),
    ],
)
def test_host_is_without_case_and_port(field, host) -> None:
    assert plain_host(field) == host
