from __future__ import annotations

import time

import pytest

from shmcache_server.rfc9111.directives import DELTA_MAX, MALFORMED, delta, parse


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
    for whole in (long, long + "x", "a" + long + '"', 'a="' + long, "a= " + long + "="):
        begun = time.perf_counter()
        parse([whole])
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
    ],
)
def test_delta_that_is_no_number_is_zero(said, seconds) -> None:
    assert delta(parse([said]), "max-age") == seconds
