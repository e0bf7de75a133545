from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmcache_server.rfc9111.invalidating import (
    groups,
    invalidates,
    same_target,
    targets,
)

URL = "http://a.example/d/x?q"


@pytest.mark.parametrize(
    "method", ["POST", "PUT", "DELETE", "PATCH", "M-SEARCH", "get"]
)
def test_unsafe_method_that_succeeds_invalidates(method) -> None:
    assert invalidates(method, 200)
    assert invalidates(method, 303)
    assert not invalidates(method, 100)
    assert not invalidates(method, 404)
    assert not invalidates(method, 500)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE", "SEARCH"])
def test_safe_method_invalidates_nothing(method) -> None:
    assert not invalidates(method, 200)


@pytest.mark.parametrize(
    ("reference", "target"),
    [
        ("/y", "/y"),
        ("y", "/d/y"),
        ("../y?z#f", "/y?z"),
        ("?r", "/d/x?r"),
        ("//A.example:80", "/"),
        ("http://A.EXAMPLE:80/y", "/y"),
        ("http://inner:8000/y", "/y"),
        ("x?q", None),
        ("", None),
        ("https://a.example/y", None),
        ("http://a.example:81/y", None),
        ("http://b.example/y", None),
        ("http://a.example@b.example/y", None),
        ("http://[::1/y", None),
        ("http://a.example:x/y", None),
        ("ftp://a.example/y", None),
        ("/é", None),
    ],
)
def test_target_of_the_same_origin_is_named(reference, target) -> None:
    named = () if target is None else (target,)
    assert targets(URL, [reference], [], ["http://inner:8000"]) == named
    assert targets(URL, [], [reference], ["http://inner:8000"]) == named


def test_each_target_is_named_once() -> None:
    assert targets(URL, ["/a", "/b"], ["/a"]) == ("/a", "/b")


@pytest.mark.parametrize(
    ("lines", "is_same"),
    [
        (["/d/x?q"], True),
        (["x?q"], True),
        ([URL], True),
        (["http://inner/d/x?q"], True),
        (["http://b.example/d/x?q"], False),
        (["/d/x"], False),
        (["/d/x?q", "/d/x?q"], False),
        ([], False),
        (["http://[::1/"], False),
    ],
)
def test_content_location_is_the_url_or_not(lines, is_same) -> None:
    assert same_target(URL, lines, ["http://inner"]) is is_same


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (['"a", "b";x=1', '"a"'], ("a", "b")),
        (["a"], ()),
        (['"a", 1'], ()),
        (['"a'], ()),
        (['("a" "b")'], ()),
        (["é"], ()),
        ([], ()),
    ],
)
def test_groups_are_a_list_of_strings(lines, named) -> None:
    assert groups(lines) == named


def test_groups_are_bounded() -> None:
    assert len(groups([", ".join(f'"{n}"' for n in range(1000))])) == 128


@given(st.lists(st.text()))
def test_no_lines_raise(lines) -> None:
    targets(URL, lines, lines, lines)
    same_target(URL, lines)
    groups(lines)
