from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmcache_server.rfc9111.freshness import lifetime
from shmcache_server.rfc9111.targeted import control, parse

LATER = "Sun, 06 Nov 2094 08:49:37 GMT"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["max-age=60"], {"max-age": "60"}),
        (["max-age=60;x=1, foobar"], {"max-age": "60", "foobar": None}),
        (["no-store", "private"], {"no-store": None, "private": None}),
        (['private="a, b"'], {"private": "a, b"}),
        (["max-age=1, max-age=2"], {"max-age": "2"}),
        (["max-age=-1"], {"max-age": "-1"}),
        (["x=1.5, max-age=99999999999"], {"x": "1.5", "max-age": "99999999999"}),
    ],
)
def test_dictionary_of_directives_is_read(lines, said) -> None:
    assert parse(lines) == said


@pytest.mark.parametrize(
    "line",
    [
        *("", " ", "max-age=10000, &&&&&", 'max-age="10000"', "max-age=60.0"),
        *("max-age", "MaX-aGe=3600", "max-age =100", "max-age= 100", "no-store=?0"),
        *("no-store=1", "private=1", "private=?0", "a,,b", "max-age=1,", "é"),
        *("\ud800", "max-age=" + "9" * 5000, "(" * 5000),
    ],
)
def test_invalid_or_empty_field_is_ignored(line) -> None:
    assert parse([line]) is None
    assert parse([]) is None
    said = {"cdn-cache-control": [line], "cache-control": ["max-age=5"]}
    assert control(getall(said)).directives == {"max-age": "5"}


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ({"cache-control": ["max-age=5"], "expires": [LATER]}, 5),
        ({"cdn-cache-control": ["max-age=9"], "cache-control": ["no-store"]}, 9),
        ({"cdn-cache-control": ["public"], "cache-control": ["max-age=5"]}, None),
        ({"cdn-cache-control": ["public"], "expires": [LATER]}, None),
        ({"cdn-cache-control": ["max-age=0"], "expires": [LATER]}, 0),
        (
            {
                "shmcache-cache-control": ["max-age=3"],
                "cdn-cache-control": ["max-age=9"],
            },
            3,
        ),
        ({"shmcache-cache-control": ["max-age-ms=430, max-age=9"]}, 0.43),
        ({"shmcache-cache-control": ["max-age-ms=-1"]}, 0),
        ({"cdn-cache-control": ["max-age-ms=430, max-age=9"]}, 9),
        ({"cache-control": ["max-age-ms=430, max-age=9"]}, 9),
        ({"shmcache-cache-control": ["x="], "cdn-cache-control": ["max-age=9"]}, 9),
        ({"expires": ["0", LATER]}, 0),
    ],
)
def test_most_specific_valid_field_replaces_the_rest(said, seconds) -> None:
    told = control(getall(said))
    assert lifetime(told.directives, told.expires, None, 0) == seconds


@given(st.lists(st.text()))
def test_no_lines_raise(lines) -> None:
    parse(lines)


def getall(said):
    return lambda name: said.get(name.lower(), ())
