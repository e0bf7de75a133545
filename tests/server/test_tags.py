"""What a stored response is purged by, beside its key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from shmcache import tags as library
from shmcache_server.tables import PurgeConfig
from shmcache_server.tags import (
    hidden,
    invalidated,
    of_group,
    of_label,
    of_prefix,
    of_url,
    tags_of,
)

HOST = "example.org"


def said(*lines: tuple[str, str]) -> CIMultiDict[str]:
    return CIMultiDict(lines)


def borne(*lines: tuple[str, str], target: str = "/", prefixes: int = 0) -> set[str]:
    return set(tags_of(HOST, target, said(*lines), prefixes))


def test_limit_is_the_librarys() -> None:
    from shmcache_server import tags

    assert (tags.TAGS_MAX, tags._NAME_MAX < library.TAG_MAX) == (library.TAGS_MAX, True)


def test_nothing_said_bears_nothing() -> None:
    assert borne(target="/a/b?c") == set()


@pytest.mark.parametrize(
    ("lines", "labels"),
    [
        ([("Cache-Tag", "a, b ,,\tc")], "abc"),
        ([("Cache-Tag", "a"), ("cache-tag", "b,a")], "ab"),
        ([("Surrogate-Key", " a  b\tc ")], "abc"),
        ([("Surrogate-Key", "a"), ("Cache-Tag", "b")], "ab"),
        ([("Cache-Tag", " , ")], ""),
    ],
    ids=["commas", "lines", "spaces", "both", "none"],
)
def test_labels_are_read_from_both_fields(lines, labels) -> None:
    assert borne(*lines) == {of_label(label)[0] for label in labels}


def test_label_keeps_its_case_and_its_spaces() -> None:
    assert of_label("A b")[0] in borne(("Cache-Tag", "A b"))
    assert of_label("a b")[0] not in borne(("Cache-Tag", "A b"))


def test_group_is_of_its_host_and_a_label() -> None:
    tags = borne(("Cache-Groups", '"scripts", "a b";x=1'))
    assert {of_group(HOST, "a b")[0], of_label("a b")[0]} <= tags
    assert of_group("other.org", "a b")[0] not in tags


@pytest.mark.parametrize("groups", ["scripts", '"a', '("a")', "1"])
def test_groups_that_are_no_strings_are_none(groups) -> None:
    assert borne(("Cache-Groups", groups)) == set()


@pytest.mark.parametrize(
    ("target", "prefix", "held"),
    [
        ("/a/b/c?q", "/", True),
        ("/a/b/c?q", "/a", True),
        ("/a/b/c?q", "/a/b/", True),
        ("/a?q=/x", "/a", True),
        ("/a/", "/a", True),
        ("/ab", "/a", False),
        ("/", "/a", False),
        ("/%61/%2f", "/a/%2F", True),
        ("/a%2fb", "/a", False),
        ("/A", "/a", False),
        ("//a", "/a", False),
        ("/a;v=1/b", "/a", False),
    ],
)
def test_prefix_holds_what_is_below(target, prefix, held) -> None:
    assert (of_prefix(HOST, prefix, 3) in borne(target=target, prefixes=3)) is held


SEGMENTS = ["a", "b", "%61", "%2F", "%2f", "", "..", ";", "x" * 120, "%zz", "~", "%7e"]


@given(
    st.lists(st.sampled_from(SEGMENTS), max_size=4),
    st.lists(st.sampled_from(SEGMENTS), max_size=4),
    st.sampled_from(["", "?", "?a=/b"]),
)
def test_prefix_holds_all_that_is_below(above, below, query) -> None:
    target = "/" + "/".join(above + below) + query
    assert of_prefix(HOST, "/" + "/".join(above), 4) in borne(target=target, prefixes=4)


def test_prefix_is_of_its_host() -> None:
    tags = borne(target="/a", prefixes=1)
    assert of_prefix("example.or", "/g/a", 2) not in tags
    assert of_prefix("other.org", "/a", 1) not in tags


def test_prefixes_are_as_many_as_asked_for() -> None:
    target = "/" + "/".join("x" * 100)
    assert len(borne(target=target, prefixes=4)) == 5


@pytest.mark.parametrize(
    ("path", "prefixes", "words"),
    [
        ("/a", 0, "purge.prefixes is 0"),
        ("/a/b/c", 2, "at most 2 segments"),
        ("a", 2, "expected a path"),
        ("/a?b", 2, "expected a path"),
        ("/ä", 2, "expected a path"),
        ("/a b", 2, "expected a path"),
    ],
)
def test_prefix_that_nobody_bears_is_refused(path, prefixes, words) -> None:
    with pytest.raises(ValueError, match=words):
        of_prefix(HOST, path, prefixes)


def test_url_is_borne_where_variants_are() -> None:
    assert borne(("Vary", "Accept"), target="/a?b") == {of_url(HOST, "/a?b")}
    assert of_url(HOST, "/a") != of_url(HOST, "/b")


@pytest.mark.parametrize("count", [30, 31, 32, 33, 500])
def test_tags_beyond_the_limit_are_purged_all_the_same(count) -> None:
    names = [f"label-{i}" for i in range(count)]
    tags = borne(("Cache-Tag", ",".join(names)))
    assert len(tags) <= library.TAGS_MAX
    for name in names:
        assert tags & set(of_label(name))
    assert bool(tags & set(of_label("unknown"))) is (count > 32)
    library.of_tags(tags)


def test_groups_beyond_the_limit_are_purged_on_their_host() -> None:
    names = [f"group-{i}" for i in range(32)]
    lines = ("Cache-Groups", ", ".join(f'"{name}"' for name in names))
    tags = borne(lines, target="/a/b/c/d/e/f/g/h/i", prefixes=8)
    for name in names:
        assert tags & set(of_group(HOST, name)) and tags & set(of_label(name))
    assert not tags & set(of_group("other.org", names[0]))


@pytest.mark.parametrize("label", ["x" * 5000, "ä" * 90, "\udcff", "\x1f"])
def test_label_of_any_length_and_bytes_is_one(label) -> None:
    tags = borne(("Cache-Tag", label))
    assert tags == {of_label(label)[0]}
    library.of_tags(tags)


def test_invalidation_names_groups_of_its_own_host() -> None:
    fields = said(("Cache-Group-Invalidation", '"a", "b"'))
    tags = invalidated(HOST, "POST", fields)
    assert set(tags) == {*of_group(HOST, "a"), *of_group(HOST, "b")}


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_invalidation_of_a_safe_method_is_ignored(method) -> None:
    fields = said(("Cache-Group-Invalidation", '"a"'))
    assert invalidated(HOST, method, fields) == ()


@pytest.mark.parametrize(("strip", "names"), [(True, 2), (False, 0)])
def test_labels_are_hidden_from_clients_by_a_setting(strip, names) -> None:
    assert len(hidden(PurgeConfig(strip_tags=strip))) == names
    assert "Cache-Tag" not in hidden(PurgeConfig())  # in lower case
