from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmcache_server.rfc9111.directives import (
    DELTA_MAX,
    MALFORMED,
    delta,
    named,
    of_request,
    parse,
    seconds,
    whole,
)


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ([], {}),
        (["max-age=60"], {"max-age": "60"}),
        (["MAX-AGE=60, Public"], {"max-age": "60", "public": None}),
        (["public", "max-age=1"], {"public": None, "max-age": "1"}),
        (["max-age=1, max-age=2"], {"max-age": "1"}),
        (['private="a, b", max-age=5'], {"private": "a, b", "max-age": "5"}),
        ([r'x="a\"b", no-store'], {"x": 'a"b', "no-store": None}),
        ([" , ,no-store,, "], {"no-store": None}),
        (['max-age="10"'], {"max-age": "10"}),
        (["max-age = 10"], {"max-age": "10"}),
        (["max-age="], {"max-age": ""}),
    ],
)
def test_cache_control_is_parsed(fields, found) -> None:
    assert parse(fields) == found


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        (["max-age=10;x=1, no-cache"], {"max-age", "no-cache"}),
        (["max-age=60; private"], {"max-age"}),
        (["max-age=60 private"], {"max-age"}),
        (['private="a, no-store'], {"private", "no-store"}),
        (['max-age=60, x="abc', "private"], {"max-age", "x", "private"}),
        (["=private"], set()),
        (['"private"'], set()),
        (["\xa0private"], set()),
        (['x="a"b, private'], {"x", "private"}),
        (["foo=="], {"foo"}),
        (["max-age=60/private, public"], {"max-age", "public"}),
        (["max-age=60\xa0"], {"max-age"}),
    ],
)
def test_line_that_holds_what_is_no_directive_is_malformed(fields, names) -> None:
    assert parse(fields).keys() == names | {MALFORMED}


@pytest.mark.parametrize(
    "line",
    [
        *(",", '"', "\\", 'a="', 'a="\\', ", ", "a=", "a, ", 'a="b",', "; ,", 'a=""'),
        *(" ", " \t", "=,", 'a ="\\"'),
    ],
)
def test_no_line_takes_more_than_one_reading(line) -> None:
    long = line * (100_000 // len(line))
    for text in (long, long + "x", "a" + long + '"', 'a="' + long, "a= " + long + "="):
        begun = time.perf_counter()
        parse([text])
        assert time.perf_counter() - begun < 1


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("", None),
        ("max-age=60", 60),
        ("max-age", 0),
        ("max-age=-1", 0),
        ("max-age=1.5", 0),
        ("max-age=soon", 0),
        ("max-age=٣", 0),
        ("max-age=99999999999", DELTA_MAX),
        ("max-age=" + "9" * 5000, DELTA_MAX),
        ("max-age=003600", 3600),
        ("max-age=" + "0" * 5000 + "5", 5),
        ('max-age="60"', 60),
        ("max-age='60'", 0),
        ('x="max-age=60", max-age=1', 1),
        ('max-age=1, x="max-age=60"', 1),
    ],
)
def test_delta_that_is_no_number_is_zero(said, seconds) -> None:
    assert delta(parse([said]), "max-age") == seconds


@pytest.mark.parametrize("name", ["private", "no-cache"])
@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (['="a, B"'], {"a", "b"}),
        (["=a"], {"a"}),
        (['="a"', '="b"'], {"a", "b"}),
        ([""], set()),
        (['="a"', ""], set()),
        (["", '="a"'], set()),
        (['=""'], set()),
        (['=""', '="a"'], set()),
        (['="a"', '="("'], set()),
        (['=" , "'], set()),
        (['="a b"'], set()),
        (['="a, (b)"'], set()),
    ],
)
def test_directive_with_field_names_is_limited_to_them(name, arguments, names) -> None:
    if name == "private" and "=a" in arguments:
        names = set()  # unquoted, it is `private=yes` that was meant
    for lines in (
        [name + a for a in arguments],
        [", ".join(name + a for a in arguments)],
    ):
        said = parse(lines)
        assert named(said, name) == names
        assert whole(said, name) is (not names)


def test_directive_that_does_not_stand_names_nothing() -> None:
    assert named({}, "private") == frozenset()
    assert not whole({}, "private")


@pytest.mark.parametrize("text", ["", "-1", "1.5", "+1", "1 ", "٣", "x", "0x1", "1_0"])
def test_count_of_seconds_is_digits(text) -> None:
    assert seconds(text) is None


@pytest.mark.parametrize(
    ("cache_control", "pragma", "said"),
    [
        ([], [], {}),
        ([], ["no-cache"], {"no-cache": None}),
        ([], ["x, No-Cache"], {"no-cache": None}),
        ([], ["x"], {}),
        (["max-age=5"], ["no-cache"], {"max-age": "5"}),
    ],
)
def test_pragma_speaks_where_cache_control_is_silent(
    cache_control, pragma, said
) -> None:
    assert of_request(cache_control, pragma) == said


@given(st.lists(st.text() | st.text(st.sampled_from('ab="\\, \t;'))))
def test_no_lines_raise(lines) -> None:
    said = parse(lines)
    for name in (*said, "private", "max-age"):
        delta(said, name)
        assert whole(said, name) is (name in said and not named(said, name))
