from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmcache import ConfigError
from shmcache_server.config import Config, load
from shmcache_server.routes import NONE, Route, Routes
from shmcache_server.tables import HeadersConfig

ROOT = Path(__file__).resolve().parents[2]
ORIGIN = {"origin": "http://127.0.0.1:9"}


def route_of(tmp_path: Path, text: str) -> tuple[Route, ...]:
    path = tmp_path / "s.toml"
    path.write_text(text)
    return load(str(path), ORIGIN).routes


# -- which route


@pytest.mark.parametrize(
    ("path", "covered", "others"),
    [
        ("/", ["/", "/a", "//", "/a/b"], []),
        ("/api", ["/api", "/api/", "/api/x"], ["/", "/apix", "/ap", "/API", "/x/api"]),
        ("/api/", ["/api/", "/api/x"], ["/api", "/apix"]),
        ("/img-*", ["/img-", "/img-1", "/img-1/x"], ["/img", "/img/", "/x/img-"]),
        ("/a.b", ["/a.b"], ["/axb"]),
        ("/caf%C3%A9", ["/caf%C3%A9", "/caf%C3%A9/x"], ["/caf", "/caf%c3%a9"]),
    ],
)
def test_path_is_a_prefix_on_segment_borders(path, covered, others) -> None:
    route = Route(path=path)
    assert [p for p in (*covered, *others) if route.covers(p)] == covered


CONFUSED = [
    "/static/../account", "/static/..%2faccount", "/static/%2e%2e/account",
    "/static/%2E%2E%2Faccount", "/static/..;/account", "/static/..%5caccount",
    "/static/..\\account", "/static/%252e%252e/account", "/static/..%252faccount",
    "/static/.;x/../account", "/static/x/%2e%2e/..//account", "/static/..//account",
    "/static/..%2faccount%00.css", "/static/..%2faccount%3f.css",
    "/static/../ACCOUNT", "/static/..%2faccount%23.css", "/static/..%2faccount%0a.css",
]  # fmt: skip
READ_IN_THREE_WAYS = [
    # What `..` takes away: an empty segment, one with parameters, an escaped one...
    "/static/../account//../static/x", "/static/../account/..;/..;/static/x",
    "/static/%2e%2e/account/..%2fstatic/x", "/static/%2e%2e/account/%252e%252e/static",
    # ... and the rest of the path behind an escaped `?`, `#`, NUL or space.
    "/static%3f/../account", "/static/x%23/../../account", "/static/%00/../../account",
    "/static/%20/../../account", "/static/%2e%2e%3b/account/..;/static",
]  # fmt: skip


@pytest.mark.parametrize("key", ["ttl", "default_ttl"])
def test_ttl_of_what_is_never_cached_is_refused(tmp_path, key) -> None:
    file = tmp_path / "s.toml"
    for lines in ((f"{key} = 5", "cache = false"), ("cache = false", f"{key} = 5")):
        with pytest.raises(ConfigError) as e:
            route_of(tmp_path, "[[route]]\n" + "\n".join(lines))
        words = f"{key}=5.0: not beside cache = false"
        assert str(e.value) == f"{file}:3: route 1: {words}"


@pytest.mark.parametrize("path", [*CONFUSED, *READ_IN_THREE_WAYS])
def test_caching_route_covers_only_what_stays_under_it(path) -> None:
    assert not Route(path="/static").covers(path)
    assert not Route(path="/static/*").covers(path)


@pytest.mark.parametrize(
    "path",
    [
        *CONFUSED,
        *READ_IN_THREE_WAYS,
        *("//account", "/%61ccount", "/account;x.css", "/account%2fx", "/./account"),
        *("/account%00.css", "/Account/x", "/x/..%2faccount", "/account%3bx.css"),
        "/;%3fx/account",
    ],
)
def test_passing_route_covers_whatever_may_be_it(path) -> None:
    assert Route(path="/account", cache=False).covers(path)


@pytest.mark.parametrize("path", ["/accounts", "/x/account", "/acc%6funts", "/a/b"])
def test_passing_route_covers_nothing_else(path) -> None:
    assert not Route(path="/account", cache=False).covers(path)


@pytest.mark.parametrize("path", ["/", "/*"])
def test_route_for_all_paths_covers_dot_segments(path) -> None:
    assert Route(path=path).covers("/a/..%2fb")


def _of_origin(path: str, decoded: int, merged: bool, cut: bool, stripped: bool) -> str:
    """A path as one origin reads it: RFC 3986 §5.2.4, after what it does before."""
    for _ in range(decoded):
        path = unquote(path, "latin-1")
    path = re.sub("%2e", ".", path, flags=re.IGNORECASE)  # WHATWG URL
    if cut:
        path = re.split("[?#]", path)[0]
    kept: list[str] = []
    for part in path.split("/")[1:]:
        name = part.partition(";")[0] if stripped else part
        if name == "..":
            del kept[-1:]
        elif name != "." and (name or not merged):
            kept.append(name)
    return "/" + "/".join(kept)


PIECES = ["/", "/..", "/%2e%2e", "%2f", "/a", "/b", ";", "%3b", "%3f", "%25", "2e"]


@given(
    st.lists(st.sampled_from(PIECES), max_size=8).map("".join),
    st.integers(0, 2),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_no_origin_reads_otherwise_what_a_route_covers(path, decoded, how) -> None:
    path = f"/{path}"
    read = _of_origin(path, decoded, *how)
    under = read == "/a" or read.startswith("/a/")
    if Route(path="/a").covers(path):
        assert under
    if under:
        assert Route(path="/a", cache=False).covers(path)


@given(st.text("/.%2fFe;aA\\0", max_size=12).map(lambda rest: f"/{rest}"))
def test_caching_route_covers_less_than_a_passing_one(path) -> None:
    caching = Route(path="/a")
    assert caching.covers(path) <= replace(caching, cache=False).covers(path)


@pytest.mark.parametrize(
    ("method", "host", "target", "number"),
    [
        ("GET", "a.example", "/x?y=/api", 2),
        ("GET", "a.example", "/api?x", 0),
        ("GET", "a.example.", "/api?x", 0),
        ("GET", "b.example", "/api", 1),
        ("POST", "b.example", "/api", None),
        ("GET", "b.example", "/x", None),
    ],
)
def test_first_route_that_covers_counts(method, host, target, number) -> None:
    made = (
        Route(host="A.example", path="/api"),
        Route(path="/api", methods=("GET", "HEAD")),
        Route(host="a.example"),
        Route(host="a.example", path="/x"),
    )
    found = Routes(made).of(method, host, target)
    assert found is (NONE if number is None else made[number])


def test_what_is_remembered_is_bounded() -> None:
    routes = Routes((Route(path="/a"), Route()))
    for i in range(9000):
        assert routes.of("GET", f"h{i}", f"/{i}?x") is routes._all[1]
    for length in (300, 8000):
        assert routes.of("GET", "h", "/a/" + "x" * length) is routes._all[0]
    assert len(routes._candidates) <= 1024 and len(routes._known) <= 4096
    assert max(len(path) for _, _, path in routes._known) <= 256


@given(st.lists(st.text("/aB%2f.;", max_size=5).map(lambda p: f"/{p}"), max_size=9))
def test_what_is_remembered_changes_nothing(paths) -> None:
    made = (Route(path="/a", cache=False), Route(path="/aB"), Route(path="/B*"))
    routes = Routes(made)
    for path in paths * 2:
        covering = (route for route in made if route.covers(path))
        assert routes.of("GET", "h", path) is next(covering, NONE)


# -- the query


@pytest.mark.parametrize(
    ("options", "target", "selected"),
    [
        ({}, "/a?b=1&&c&b=2?", "/a?b=1&&c&b=2?"),
        ({"query_ignored": ("u_*", "x")}, "/a?u_s=1&b=2&x&xy=3&u", "/a?b=2&xy=3&u"),
        ({"query_ignored": ("utm_*",)}, "/a?utm_source=1", "/a"),
        ({"query_ignored": ("utm_*",)}, "/a?", "/a?"),
        ({"query_ignored": ("utm_*",)}, "/a", "/a"),
        ({"query_ignored": ("*",)}, "/a?b&c", "/a"),
        ({"query_ignored": ("u",)}, "/a?%75=1&b", "/a?b"),
        ({"query_ignored": ("u",)}, "/a?U=1", "/a?U=1"),
        ({"query_ignored": ("u",)}, "/a?u=1;b=2&u=3", "/a?u=1;b=2"),
        ({"query_ignored": ("u",)}, "/a?b=1?u=2&u=3", "/a?b=1?u=2"),
        ({"query_ignored": ("u.s",)}, "/a?u.s=1&uxs=1", "/a?uxs=1"),
        ({"query_kept": ("id", "f[]")}, "/a?x=1&id=2&&id=3&f[]", "/a?id=2&id=3&f[]"),
        ({"query_kept": ("id",)}, "/a?i%64=2&%69d&idx", "/a?i%64=2&%69d"),
        ({"query_kept": ("id",)}, "/a?x;id=1", "/a?x;id=1"),
        ({"query_kept": ("id",)}, "/a?", "/a"),
        ({"query_sorted": True}, "/a?b=2&a=2&b=1&a=1", "/a?a=2&a=1&b=2&b=1"),
        ({"query_sorted": True}, "/a?b=%2F&a=/", "/a?a=/&b=%2F"),
        ({"query_sorted": True}, "/a?b&a=1&%61=2&a+=0", "/a?a=1&%61=2&a+=0&b"),
        ({"query_sorted": True}, "/a?b=1&0;b=2", "/a?b=1&0;b=2"),
        (
            {"query_sorted": True, "query_ignored": ("c",)},
            "/a%2F;x?b&c=1&a",
            "/a%2F;x?a&b",
        ),
    ],
)  # fmt: skip
def test_query_is_what_the_route_selects(options, target, selected) -> None:
    assert Route(**options).selected(target) == selected


PARAMETERS = st.lists(st.text("abu_=%72;+", max_size=5), min_size=1, max_size=6)
OPTIONS = st.sampled_from(
    [
        Route(query_ignored=("u*", "b")),
        Route(query_kept=("a", "r")),
        Route(query_sorted=True),
        Route(query_kept=("a*",), query_sorted=True),
    ]
)


@given(PARAMETERS, OPTIONS)
def test_selection_of_a_selection_is_itself(parameters, route) -> None:
    selected = route.selected(f"/p?{'&'.join(parameters)}")
    assert route.selected(selected) == selected


@given(PARAMETERS, OPTIONS)
def test_selection_makes_up_nothing(parameters, route) -> None:
    selected = route.selected(f"/p?{'&'.join(parameters)}").removeprefix("/p")
    left = list(parameters)
    for parameter in selected[1:].split("&") if selected else []:
        left.remove(parameter)


@given(st.permutations(["b=1", "a=1", "c", "d=&"]))
def test_sorted_query_does_not_depend_on_the_order(parameters) -> None:
    selected = Route(query_sorted=True).selected("/p?" + "&".join(parameters))
    assert selected == "/p?&a=1&b=1&c&d="


# -- the file


def test_deployed_file_shows_every_key_with_its_default(tmp_path) -> None:
    text = (ROOT / "deploy" / "shmcache.toml").read_text()
    shown = text[text.index("# [[route]]") :].splitlines()
    lines = [line.removeprefix("# ") for line in shown if line.startswith("# ")]
    (route,) = route_of(tmp_path, "\n".join(lines))
    assert replace(route, ttl=None, default_ttl=None) == NONE
    keys = [line.split("=")[0].strip() for line in lines[1:]]
    assert keys == [field.name for field in fields(Route)]


def test_routes_of_a_file_keep_their_order(tmp_path) -> None:
    text = '[[route]]\npath = "/a"\nttl = 3\n[[route]]\nhost = "b"\ncache = false\n'
    made = route_of(tmp_path, text)
    assert made == (Route(path="/a", ttl=3.0), Route(host="b", cache=False))
    assert load(None, ORIGIN).routes == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[route]]\nttl = 1\n[[route]]\nttl = 'x'\n", ":4: route 2: ttl='x': exp"),
        ("[[route]]\npaths = '/'\n", ":2: route 1: unknown key paths"),
        ("[[route]]\n[[route]]\npath = 'a'\n", ":3: route 2: path='a': expected"),
        ("[[route]]\npath = '/a?b'\n", ":2: route 1: path='/a?b'"),
        ("[[route]]\npath = '/a*b'\n", ":2: route 1: path='/a*b'"),
        ("[[route]]\npath = '/a//b'\n", ":2: route 1: path='/a//b'"),
        ("[[route]]\npath = '/a/../b'\n", ":2: route 1: path='/a/../b'"),
        ("[[route]]\npath = '/a/.'\n", ":2: route 1: path='/a/.'"),
        ("[[route]]\npath = '/a/%2E%2e/b'\n", ":2: route 1: path='/a/%2E%2e/b'"),
        ("[[route]]\npath = ''\n", ":2: route 1: path=''"),
        ("[[route]]\nhost = 'a:80'\n", ":2: route 1: host='a:80'"),
        ("[[route]]\nmethods = ['get']\n", ":2: route 1: methods='get'"),
        ("[[route]]\nmethods = 'GET'\n", ":2: route 1: methods='GET': expected a list"),
        ("[[route]]\nquery_ignored = ['*x']\n", ":2: route 1: query_ignored='*x'"),
        ("[[route]]\nquery_kept = ['']\n", ":2: route 1: query_kept=''"),
        ("[[route]]\nquery_kept=['a']\nquery_ignored=['b']\n", ":3: route 1: query_"),
        ("[[route]]\nfields = ['a b']\n", ":2: route 1: fields='a b'"),
        ("[[route]]\nfields = ['Cookie']\n", ":2: route 1: fields='Cookie'"),
        ("[[route]]\nfields = ['Authorization']\n", ":2: route 1: fields="),
        ("[[route]]\nfields = ['accept-encoding']\n", ":2: route 1: fields="),
        ("[[route]]\nfields = ['X-Forwarded-Host']\n", ":2: route 1: fields="),
        ("[[route]]\nfields = ['Range']\n", ":2: route 1: fields='Range'"),
        ("[[route]]\ncookies = ['a=b']\n", ":2: route 1: cookies='a=b'"),
        ("[[route]]\ncache = 0\n", ":2: route 1: cache=0: expected true or false"),
        ("[[route]]\nttl = -1\n", ":2: route 1: ttl=-1.0: expected 0 to"),
        ("[server]\nworkers = 2\n[route]\nttl = 1\n", ":3: route: expected tables"),
        ("route = 1\n", ":1: route: expected tables [[route]]"),
        (
            "[headers]\nremoved = ['x_a']\n[[route]]\nfields = ['X-A']\n",
            ":4: route 1: fields='X-A': headers.removed has it, too",
        ),
        ("[headers]\nremoved = ['a:']\n", ":2: removed='a:': expected names"),
        ("[headers]\ntrusted_peers = ['x']\n", ":2: trusted_peers='x': expected addr"),
        ("[headers]\ntrusted_peers = ['10.0.0.1/8']\n", ":2: trusted_peers='10.0.0.1"),
    ],
)  # fmt: skip
def test_wrong_file_names_file_line_route_and_key(tmp_path, text, words) -> None:
    with pytest.raises(ConfigError) as caught:
        route_of(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path)) and words in str(caught.value)


def test_headers_of_a_file_are_taken(tmp_path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(
        '[headers]\nremoved = ["X-A"]\ntrusted_peers = ["::1", "10.0.0.0/8"]\n'
    )
    found = load(str(path), ORIGIN).headers
    assert found == HeadersConfig(("X-A",), ("::1", "10.0.0.0/8"))
    assert Config().headers == HeadersConfig()
