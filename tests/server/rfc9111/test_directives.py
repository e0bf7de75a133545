from __future__ import annotations

import pytest

from shmcache_server.rfc9111.directives import DELTA_MAX, delta, parse


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
        (["max-age=10;x=1, no-cache"], {"max-age": "10;x=1", "no-cache": None}),
        (['private="a, no-store'], {"private": "a, no-store"}),
        (["max-age="], {"max-age": ""}),
    ],
)
def test_cache_control_is_parsed(fields, found) -> None:
    assert parse(fields) == found


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
