from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmcache_server.rfc9111.vary import (
    SETS_MOST,
    asked,
    codings,
    letter,
    names,
    normalised,
    prefers,
    remembered,
    secondary,
)


@pytest.mark.parametrize(
    ("accept", "which"),
    [
        (None, "i"),
        ("", "i"),
        ("identity", "i"),
        ("gzip", "z"),
        ("GZIP ; q=0.1", "z"),
        ("x-gzip", "z"),
        ("br, gzip;q=0.5", "z"),
        ("gzip;q=0", "i"),
        ("gzip;q=0, *", "i"),
        ("*", "z"),
        ("*;q=0", "i"),
        ("gzip;q=x", "i"),
        ("gzipped", "i"),
    ],
)
def test_letter_tells_whether_gzip_is_taken(accept, which) -> None:
    assert letter(accept) == which


def test_origin_is_asked_for_what_the_letter_says() -> None:
    assert (asked("z"), asked("i")) == ("gzip", "identity")


# -- variants


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ([], ()),
        (["Foo"], ("foo",)),
        (["Foo, bar", "FOO", " , baz"], ("bar", "baz", "foo")),
        (["*"], None),
        (["*, *"], None),
        ([", *"], None),
        (["", "*"], None),
        (["Foo, *"], None),
        (["*, Foo"], None),
        (["a b"], None),
        (["fo\xf6"], None),
    ],
)
def test_vary_names_fields_or_nothing_matches(fields, found) -> None:
    assert names(fields) == found


def key(said, *named):
    lines = {name.lower(): values for name, values in said.items()}
    return secondary(named, lambda name: lines.get(name, ()))


@pytest.mark.parametrize(
    ("name", "one", "other", "same"),
    [
        ("foo", ["1"], ["1"], True),
        ("foo", ["1"], ["2"], False),
        ("foo", ["1"], [], False),
        ("foo", [""], [], False),
        ("foo", ["1, 2"], ["1", "2"], True),
        ("foo", ["1,2"], [" 1, 2 "], True),
        ("foo", ["1,2"], ["2,1"], False),
        ("foo", ["a"], ["A"], False),
        ("foo", ["a  b"], ["a b"], False),
        ("foo", ['"a, b"'], ['"a,b"'], False),
        ("foo", [r'"a\", b"'], [r'"a\",b"'], False),
        ("foo", ['"a", "b"'], ['"a","b"'], True),
        ("user-agent", ["a (b, c)"], ["a (b,c)"], False),
        ("cookie", ["a=1, 2"], ["a=1,2"], False),
        ("accept-language", ["en, de"], ["de, en"], True),
        ("accept-language", ["en, de"], [" eN ,  De"], True),
        ("accept-language", ["en, de"], ["en, de;q=0.5"], False),
        ("accept-language", ["en;q=1.0"], ["en"], True),
        ("accept-language", ["en;q=0.50"], ["en; Q=0.5"], True),
        ("accept-language", ["en, , de"], ["en,de"], True),
        ("accept-language", ["en"], ["en;q=2"], False),
        ("accept", ["text/html, a/b;q=0.5"], ["A/B;q=0.5,Text/HTML"], True),
        ("accept", ["a/b;x=Y"], ["a/b;x=y"], False),
        ("accept", ['a/b;x="1,2"'], ['a/b;x="1, 2"'], False),
        ("accept-encoding", ["gzip, br"], ["br;q=0.1, x-gzip, deflate"], True),
        ("accept-encoding", ["gzip"], ["gzip, br"], False),
        ("accept-encoding", [], ["identity"], True),
        ("accept-encoding", ["*"], ["gzip, br, zstd"], True),
    ],
)
def test_requests_match_if_they_mean_the_same(name, one, other, same) -> None:
    assert (key({name: one}, name) == key({name: other}, name)) is same


def test_fields_that_are_not_named_do_not_matter() -> None:
    assert key({"foo": ["1"], "other": ["2"]}, "foo") == key({"foo": ["1"]}, "foo")
    assert key({}, "bar", "foo") != key({"foo": ["1"]}, "bar", "foo")


TEXT = st.none() | st.text(st.sampled_from('ab0123:-,"\\ '), max_size=6)


@given(st.tuples(TEXT, TEXT), st.tuples(TEXT, TEXT))
def test_secondary_key_is_injective(one, other) -> None:
    def told(values):
        lines = {n: [] if v is None else [v] for n, v in zip("ab", values, strict=True)}
        normal = [normalised(n, lines[n]) for n in "ab"]
        return normal, secondary("ab", lambda n: lines[n])

    (normal, first), (other_normal, second) = told(one), told(other)
    assert (first == second) is (normal == other_normal)


def test_sets_of_a_url_are_few_and_the_newest_first() -> None:
    sets: tuple[tuple[str, ...], ...] = ()
    for name in "abcdeb":
        sets = remembered(sets, (name,))
    assert sets == (("b",), ("e",), ("d",), ("c",))
    assert len(sets) == SETS_MOST


@pytest.mark.parametrize(
    ("accept", "taken"),
    [
        (None, ()),
        ("deflate, gzip, br;q=0", ("gzip",)),
        ("*, br;q=0", ("zstd", "gzip")),
        ("br, zstd", ("zstd", "br")),
    ],
)
def test_codings_are_few_classes(accept, taken) -> None:
    assert codings(accept) == taken


@pytest.mark.parametrize(
    ("accept", "language", "first"),
    [
        (["fr;q=0.5, de;q=1.0"], "de", True),
        (["fr;q=0.5", "DE"], "De", True),
        (["fr, de"], "de", False),
        (["fr;q=0.5, de;q=0.4"], "de", False),
        (["de;q=0"], "de", False),
        (["de;q=x"], "de", False),
        (["de"], "de-AT", False),
        (["*"], "de", False),
        ([""], "", False),
        ([], None, False),
    ],
)
def test_client_prefers_one_language_alone(accept, language, first) -> None:
    assert prefers(accept, language) is first


@given(st.text(), st.lists(st.text() | st.text(st.sampled_from('a,;q=1."\\ '))))
def test_no_lines_raise(name, lines) -> None:
    names(lines)
    prefers(lines, "de")
    for field in (name, "accept", "accept-encoding", "accept-language"):
        normal = normalised(field, lines)
        if normal is not None:
            assert normalised(field, [normal]) == normal


@pytest.mark.parametrize("part", [" ", ",", '"', "\\", '\\"', '"\\', " ,", "a;q=1,"])
def test_long_line_is_normalised_at_once(part) -> None:
    line = part * 50_000
    for whole in (line, line + "\\", '"' + line + "\\", "a" + line + "a"):
        for name in ("foo", "accept", "accept-language"):
            normalised(name, [whole])
