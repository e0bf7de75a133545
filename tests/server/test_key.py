from __future__ import annotations

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from shmcache_server.config import Config, OriginConfig, ServerConfig
from shmcache_server.key import (
    KEY_MAX,
    Keys,
    Refused,
    conditional,
    credentialed,
    for_a_cache,
    plain_host,
)


def fields(**named: str) -> CIMultiDictProxy[str]:
    pairs = {name.replace("_", "-"): value for name, value in named.items()}
    return CIMultiDictProxy(CIMultiDict(pairs))


def keys(origin: str = "http://origin", hosts: tuple[str, ...] = ()) -> Keys:
    server = ServerConfig(hosts=hosts)
    return Keys(Config(server=server, origin=OriginConfig(url=origin)))


def test_key_tells_all_that_an_answer_depends_on() -> None:
    made = keys()
    every = {
        made.of(fields(Host="a"), "/b"),
        made.of(fields(Host="a"), "/b?"),
        made.of(fields(Host="b"), "/b"),
        made.of(fields(Host="a", Accept_Encoding="gzip"), "/b"),
        keys("http://other").of(fields(Host="a"), "/b"),
        credentialed(made.of(fields(Host="a"), "/b")),
    }
    assert len(every) == 6


def test_key_tells_where_the_host_ends() -> None:
    made = keys()
    assert made.of(fields(Host="a"), "/b/c") != made.of(fields(Host="a/b"[:1]), "/c")


@pytest.mark.parametrize("same", ["A.Example", "a.example:8080", "a.example:"])
def test_host_is_taken_without_case_and_port(same: str) -> None:
    made = keys()
    assert made.of(fields(Host=same), "/") == made.of(fields(Host="a.example"), "/")


def test_long_key_ends_in_a_digest_of_the_whole() -> None:
    made, long = keys(), "/" + "x" * 2000
    key, other = made.of(fields(Host="a"), long), made.of(fields(Host="a"), long + "y")
    assert key != other and "#" in key and max(len(key), len(other)) <= KEY_MAX
    assert len(credentialed("k" * KEY_MAX)) <= KEY_MAX


def test_all_keys_of_a_url_are_those_that_it_is_asked_by() -> None:
    made = keys()
    every = made.all(fields(Host="a"), "/b")
    for accept in ("gzip", "identity"):
        key = made.of(fields(Host="a", Accept_Encoding=accept), "/b")
        assert {key, credentialed(key)} <= set(every)
    assert len(every) == 4


@pytest.mark.parametrize(
    ("host", "target"),
    [("a b", "/"), ("a", "b"), ("a", "http://a/"), ("a", "/#"), ("a", "/\xe9")],
)
def test_request_without_a_key_is_refused(host: str, target: str) -> None:
    with pytest.raises(Refused) as caught:
        keys().of(fields(Host=host), target)
    assert caught.value.status == 400


def test_host_that_is_not_served_is_misdirected() -> None:
    made = keys(hosts=("A.example", "[::1]"))
    assert made.of(fields(Host="a.example:80"), "/")
    assert made.of(fields(Host="[::1]"), "/")
    for host in ("b.example", ""):
        with pytest.raises(Refused) as caught:
            made.of(fields(Host=host), "/")
        assert caught.value.status == 421


def test_prefixes_of_many_hosts_are_bounded() -> None:
    made = keys()
    for i in range(3000):
        made.of(fields(Host=f"h{i}"), "/")
    assert len(made._prefixes) <= 1024


@pytest.mark.parametrize("name", ["Range", "If_Match", "If_Unmodified_Since"])
def test_what_the_origin_is_to_answer(name: str) -> None:
    assert for_a_cache(fields(Host="a")) and not for_a_cache(fields(**{name: "x"}))


@pytest.mark.parametrize("name", ["If_None_Match", "If_Modified_Since"])
def test_client_with_a_copy_is_known(name: str) -> None:
    assert conditional(fields(**{name: "x"})) and not conditional(fields(Host="a"))


@pytest.mark.parametrize("field", ["a/b", "a b", "[::1", "a:b", "é", "a@b"])
def test_what_is_no_host(field: str) -> None:
    assert plain_host(field) is None
