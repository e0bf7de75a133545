from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from shmcache_server.config import Config
from shmcache_server.key import (
    KEY_MAX,
    Keys,
    Refused,
    conditional,
    cookies_beside,
    credentialed,
    credentials,
    for_a_cache,
    plain_host,
)
from shmcache_server.routes import NONE, Route
from shmcache_server.tables import HeadersConfig, OriginConfig, ServerConfig


def fields(**named: str) -> CIMultiDictProxy[str]:
    pairs = {name.replace("_", "-"): value for name, value in named.items()}
    return CIMultiDictProxy(CIMultiDict(pairs))


def lines(*pairs: tuple[str, str]) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict(pairs))


def keys(
    origin: str = "http://origin",
    hosts: tuple[str, ...] = (),
    routes: tuple[Route, ...] = (),
    trusted_peers: tuple[str, ...] = (),
) -> Keys:
    return Keys(
        Config(
            server=ServerConfig(hosts=hosts),
            origin=OriginConfig(url=origin),
            headers=HeadersConfig(trusted_peers=trusted_peers),
            routes=routes,
        )
    )


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


# -- as received


@pytest.mark.parametrize(
    ("target", "other"),
    [
        *(("/a/b", "/a%2Fb"), ("/a/b", "/a//b"), ("/a/b", "/a/./b"), ("/a", "/a/")),
        *(("/b", "/a/../b"), ("/a", "/a;b"), ("/a", "/a?"), ("/a", "/%61")),
        *(("/%c3", "/%C3"), ("/a", "/A"), ("/a?b&c", "/a?c&b"), ("/a?b", "/a?b=")),
        *(("/a", "/a%00"), ("/a b"[:2], "/a+b"), ("/a%20b", "/a+b"), ("/a", "//a")),
    ],
)
def test_target_is_the_bytes_received(target, other) -> None:
    made, routed = keys(), keys(routes=(Route(ttl=1.0),))
    block = fields(Host="a")
    assert made.of(block, target) != made.of(block, other)
    assert made.of(block, target).endswith(target)
    assert routed.of(block, other) == made.of(block, other)


def test_without_routes_a_key_is_prefix_and_target() -> None:
    made, block = keys(), fields(Host="A.example:80", Accept_Encoding="gzip")
    assert made.uniform and made.of(block, "/b") == made.prefix(block) + "/b"
    assert made.prefix(block)[16:] == "z9:a.example"
    keyed = made.lead(block).keyed("/b")
    assert keyed == (made.of(block, "/b"), "/b", NONE, "a.example", "")


@pytest.mark.parametrize(
    "made", [keys(routes=(Route(),)), keys(trusted_peers=("10.0.0.0/8",))]
)
def test_prefix_alone_makes_no_key_where_more_decides(made) -> None:
    with pytest.raises(Refused):
        made.prefix(fields(Host="a"))
    assert not made.uniform and made.of(fields(Host="a"), "/") == keys().of(
        fields(Host="a"), "/"
    )


# -- by route

LIST = Route(path="/list", query_ignored=("utm_*",), query_sorted=True)
LANG = Route(path="/lang", fields=("X-Lang",), cookies=("lang", "cur"))
ROUTED = keys(routes=(LIST, LANG, Route(path="/me", cache=False)))


@pytest.mark.parametrize(
    ("target", "selected"),
    [
        ("/list?b&a&utm_source=x", "/list?a&b"),
        ("/list?utm_source=x", "/list"),
        ("/lists?b&utm_source=x", "/lists?b&utm_source=x"),
    ],
)
def test_key_and_origin_have_what_the_route_selects(target, selected) -> None:
    block = fields(Host="a")
    keyed = ROUTED.lead(block).keyed(target)
    assert keyed.key == keys().of(block, selected) and keyed.target == selected


def test_query_as_received_is_forwarded_where_the_route_says_so() -> None:
    route = Route(query_kept=("a",), forward_query_as_received=True)
    keyed = keys(routes=(route,)).lead(fields(Host="a")).keyed("/?b&a")
    assert keyed.target == "/?b&a" and keyed.key.endswith("/?a")


def test_route_of_another_method_does_not_count() -> None:
    made = keys(routes=(Route(methods=("GET",), query_ignored=("a",)),))
    block = fields(Host="a")
    assert made.of(block, "/?a", method="HEAD") != made.of(block, "/?a")
    assert made.of(block, "/?a", method="HEAD") == keys().of(block, "/?a")


SAME = [
    [("X-Lang", "de")],
    [("x-lang", "de")],
    [("X-Lang", "de"), ("X-Other", "1"), ("Cookie", "s=1")],
]
DIFFERENT = [
    [],
    [("X-Lang", "de")],
    [("X-Lang", "DE")],
    [("X-Lang", "")],
    [("X_Lang", "de")],
    [("X-Lang", "de"), ("X-Lang", "en")],
    [("X-Lang", "de, en")],
    [("X-Lang", "de"), ("X_Lang", "en")],
    [("Cookie", "lang=de")],
    [("Cookie", "lang=de; lang=en")],
    [("Cookie", "cur=de")],
    [("Cookie", "lang=de; cur=de")],
    [("Cookie", "lang")],
    [("Cookie", "lang=")],
    [("Cookie", 'lang="de"')],
    [("Cookie", "x=1,lang=de")],
    [("Cookie", "x=1,lang=en")],
    [("X-Lang", "de"), ("Cookie", "lang=de")],
    [("X-Lang", "d\udce9")],
    [("X-Lang", "d%E9")],
    [("X-Lang", "d#")],
]


def test_added_fields_and_cookies_tell_requests_apart() -> None:
    made = {ROUTED.of(lines(("Host", "a"), *more), "/lang") for more in DIFFERENT}
    assert len(made) == len(DIFFERENT)
    assert all(key.isascii() and key.isprintable() and "#" not in key for key in made)


@pytest.mark.parametrize("more", SAME)
def test_what_is_not_added_does_not_matter(more) -> None:
    wanted = ROUTED.of(lines(("Host", "a"), ("X-Lang", "de")), "/lang")
    assert ROUTED.of(lines(("Host", "a"), *more), "/lang") == wanted
    other = lines(("Host", "a"), *more)
    assert ROUTED.of(other, "/other") == keys().of(fields(Host="a"), "/other")


@pytest.mark.parametrize(
    ("gone", "field"),
    [
        *(("X-Lang", "X-Lang"), ("close, x-lang", "X-Lang"), ("x-lang", "X_Lang")),
        *(("x_lang", "X_Lang"), ("Cookie", "Cookie")),
    ],
)
def test_field_taken_off_by_connection_is_not_in_the_key(gone, field) -> None:
    block = lines(("Host", "a"), ("Connection", gone), (field, "lang=de"))
    assert ROUTED.of(block, "/lang") == ROUTED.of(fields(Host="a"), "/lang")
    assert not ROUTED.lead(block).keyed("/lang").cookie


@pytest.mark.parametrize(
    ("field", "cookie", "others"),
    [
        ("lang=de", "lang=de", False),
        ("lang=de; cur=eur", "lang=de; cur=eur", False),
        ("cur=eur; lang=de; lang=en", "cur=eur; lang=de; lang=en", False),
        ("s=1; lang=de", "lang=de", True),
        ("s=1", "", True),
        ("s=1, lang=de", "s=1, lang=de", False),
        ('lang="a;b"', 'lang="a;b"', False),
        ("s=1 lang=de", "s=1 lang=de", False),
    ],
)
def test_cookies_of_the_key_are_no_credentials(field, cookie, others) -> None:
    block = fields(Host="a", Cookie=field)
    keyed = ROUTED.lead(block).keyed("/lang")
    assert keyed.cookie == cookie
    assert cookies_beside(block, keyed.cookie) is others and credentials(block)
    assert credentials(block, keyed.cookie) is others


def test_authorization_is_credentials() -> None:
    assert credentials(fields(Authorization="x")) and not credentials(fields(Host="a"))


def test_all_keys_of_a_routed_url_are_those_of_its_route() -> None:
    block = fields(Host="a", X_Lang="de")
    every = ROUTED.all(block, "/lang")
    for asked in (block, fields(Host="a")):
        key = ROUTED.of(asked, "/lang")
        assert {key, credentialed(key)} <= set(every)
    assert ROUTED.of(block, "/list?a&b") in ROUTED.all(block, "/list?b&utm_x&a")


# -- a trusted peer

TRUSTING = keys(hosts=("a.example",), trusted_peers=("10.0.0.0/8",))
CLAIM = fields(Host="inner", X_Forwarded_Host="A.example", X_Forwarded_Proto="https")


def test_believed_host_and_scheme_are_in_the_key() -> None:
    own = TRUSTING.of(fields(Host="a.example"), "/")
    secure = TRUSTING.of(CLAIM, "/", trusted=True)
    plain = fields(Host="a.example", X_Forwarded_Proto="http")
    assert len({own, secure, TRUSTING.of(plain, "/", trusted=True)}) == 3
    assert TRUSTING.of(fields(Host="a.example"), "/", trusted=True) == own
    keyed = TRUSTING.lead(CLAIM, trusted=True).keyed("/")
    assert keyed.host == "a.example" and keyed.key == secure


def test_stranger_claims_in_vain() -> None:
    with pytest.raises(Refused) as caught:
        TRUSTING.of(CLAIM, "/")
    assert caught.value.status == 421
    claim = fields(Host="a.example", X_Forwarded_Host="b", X_Forwarded_Proto="https")
    assert TRUSTING.of(claim, "/") == TRUSTING.of(fields(Host="a.example"), "/")


@pytest.mark.parametrize(("host", "status"), [("evil.example", 421), ("a b", 400)])
def test_believed_host_must_be_served(host, status) -> None:
    claim = fields(Host="a.example", X_Forwarded_Host=host)
    with pytest.raises(Refused) as caught:
        TRUSTING.of(claim, "/", trusted=True)
    assert caught.value.status == status


def test_all_keys_of_a_url_are_of_any_scheme() -> None:
    every = TRUSTING.all(CLAIM, "/", trusted=True)
    for scheme in ("http", "https", "ftp"):
        block = fields(Host="a.example", X_Forwarded_Proto=scheme)
        assert TRUSTING.of(block, "/", trusted=True) in every
        assert TRUSTING.of(block, "/") in every


SELECTING = keys(
    routes=(
        Route(methods=("HEAD",), query_ignored=("a",)),
        Route(path="/a", query_ignored=("u*",), query_sorted=True),
        Route(path="/b", query_kept=("a",), forward_query_as_received=True),
    ),
    trusted_peers=("10.0.0.0/8",),
)


@given(
    st.builds(
        "/{}{}?{}".format,
        st.sampled_from(["a", "b", "c", "A", "%61", "a/..", "x" * 1010]),
        st.text("/;%2f", max_size=3),
        st.lists(st.sampled_from(["a=1", "a", "u", "%75=2", "", ";u", "b+"])).map(
            "&".join
        ),
    ),
    st.sampled_from(["GET", "HEAD"]),
    st.lists(
        st.sampled_from(
            [("X-Forwarded-Proto", "https"), ("Accept-Encoding", "gzip"), ("X", "y")]
        )
    ),
)
def test_all_keys_of_a_url_are_all(target, method, more) -> None:
    block = lines(("Host", "h"), *more)
    key = SELECTING.of(block, target, method=method, trusted=True)
    assert {key, credentialed(key)} <= {*SELECTING.all(fields(Host="H:80"), target)}


# -- no two requests share a key


class Request(NamedTuple):
    """What an answer may depend on, and nothing else that is in a key."""

    gzip: bool
    scheme: str
    host: str
    credentials: bool
    target: str
    langs: tuple[tuple[str, str], ...]
    cookies: tuple[str, ...]

    def key(self, made: Keys) -> str:
        pairs = [("Host", self.host), *self.langs]
        if self.scheme:
            pairs.append(("X-Forwarded-Proto", self.scheme))
        if self.gzip:
            pairs.append(("Accept-Encoding", "gzip"))
        if self.cookies:
            pairs.append(("Cookie", "; ".join(self.cookies)))
        key = made.of(lines(*pairs), self.target, trusted=True)
        return credentialed(key) if self.credentials else key


CRAFTED = "/f6:x-lang01=k4c%é#"
REQUESTS = st.builds(
    Request,
    gzip=st.booleans(),
    scheme=st.sampled_from(["", "http", "https"]),
    host=st.text("cps1.", max_size=3),
    credentials=st.booleans(),
    target=st.builds(
        "/lang{}{}{}".format,
        st.sampled_from(["/", "?"]),
        st.sampled_from(["", "x" * 850, "x" * 1000]),
        st.text("/f6:x-lang01=?", max_size=8),
    ),
    langs=st.lists(
        st.tuples(st.sampled_from(["x-lang", "x_lang"]), st.text(CRAFTED, max_size=6)),
        max_size=2,
    ).map(tuple),
    cookies=st.lists(st.text("1=:k", max_size=3).map("lang={}".format), max_size=2).map(
        tuple
    ),
)
MADE = keys(
    routes=(Route(path="/lang", fields=("X-Lang",), cookies=("lang",)),),
    trusted_peers=("10.0.0.0/8",),
)


def read(key: str) -> Request:
    """The request that a key, if it is a whole one, was made of."""
    digest, letters = key[:16], re.match(r"([zi])(c?)([ps]?)", key[16:])
    assert digest == MADE.of(fields(Host="a"), "/")[:16] and letters
    host, rest = piece(key[16 + letters.end() :])
    told: dict[tuple[str, str], list[str]] = {}
    while (kind := rest[:1]) != "/":
        name, rest = piece(rest[1:])
        count, _, rest = rest.partition("=")
        pieces = told.setdefault((kind, name), [])
        for _ in range(int(count)):
            one, rest = piece(rest)
            pieces.append(one)
    langs = told[("f", "x-lang")]
    return Request(
        gzip=letters[1] == "z",
        scheme={"": "", "p": "http", "s": "https"}[letters[3]],
        host=host,
        credentials=bool(letters[2]),
        target=rest,
        langs=tuple(zip(langs[::2], langs[1::2], strict=True)),
        cookies=tuple(told[("k", "lang")]),
    )


def piece(text: str) -> tuple[str, str]:
    """The piece that a text begins with, and what is behind it."""
    size, _, rest = text.partition(":")
    return unquote(rest[: int(size)], errors="surrogateescape"), rest[int(size) :]


@given(REQUESTS.filter(lambda one: len(one.target) < 600))
def test_key_tells_the_whole_request(one) -> None:
    assert read(one.key(MADE)) == one


@given(REQUESTS, REQUESTS)
def test_requests_share_a_key_only_if_they_are_the_same(one, other) -> None:
    first, second = one.key(MADE), other.key(MADE)
    assert (first == second) == (one == other)
    assert max(len(first.encode()), len(second.encode())) <= KEY_MAX


@given(REQUESTS, st.sampled_from(Request._fields), REQUESTS)
def test_each_piece_alone_makes_another_key(one, name, other) -> None:
    changed = one._replace(**{name: getattr(other, name)})
    assert (one.key(MADE) == changed.key(MADE)) == (one == changed)


@given(REQUESTS)
def test_key_depends_on_nothing_asked_before(one) -> None:
    fresh = keys(
        routes=(Route(path="/lang", fields=("X-Lang",), cookies=("lang",)),),
        trusted_peers=("192.0.2.0/24",),
    )
    assert one.key(MADE) == one.key(fresh) == one.key(MADE)


@pytest.mark.parametrize("length", [*range(985, 1005), 2000, 8000])
def test_long_key_is_its_beginning_and_a_digest_of_the_whole(length) -> None:
    made, block = keys(), fields(Host="a")
    target = "/" + "x" * length
    whole = made.prefix(block) + target
    key = made.of(block, target)
    if len(whole) <= KEY_MAX:
        assert key == whole
    else:
        assert key[:901] == whole[:900] + "#" and len(key) == 900 + 1 + 64
    assert key != made.of(block, target[:-1] + "y")
