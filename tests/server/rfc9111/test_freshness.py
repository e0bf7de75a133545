from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmcache_server.rfc9111.directives import DELTA_MAX, parse
from shmcache_server.rfc9111.freshness import (
    Windows,
    arrival_age,
    grace,
    heuristic,
    lifetime,
    may_be_stale,
    parse_date,
    said_age,
    satisfies,
    windows,
    wishes,
)

DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
NOW = 784111777


@pytest.mark.parametrize(
    "text",
    [DATE, "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"],
    ids=["imf", "rfc850", "asctime"],
)
def test_each_form_of_a_date_is_read(text) -> None:
    assert parse_date(text) == NOW


@pytest.mark.parametrize(
    "text", [None, "", "0", "-1", "soon", "Sun, 99 Nov 1994 1:1:1"]
)
def test_what_is_no_date_is_none(text) -> None:
    assert parse_date(text) is None


@pytest.mark.parametrize(
    ("said", "expires", "seconds"),
    [
        ("", None, None),
        ("public", None, None),
        ("max-age=60", None, 60),
        ("max-age=60, s-maxage=5", None, 5),
        ("s-maxage=0, max-age=60", None, 0),
        ("max-age=60", "Sun, 06 Nov 1994 08:49:38 GMT", 60),
        ("", "Sun, 06 Nov 1994 08:50:37 GMT", 60),
        ("", DATE, 0),
        ("", "Sun, 06 Nov 1994 07:00:00 GMT", 0),
        ("", "0", 0),
    ],
)
def test_lifetime_is_what_the_origin_said(said, expires, seconds) -> None:
    assert lifetime(parse([said]), expires, DATE, NOW + 5) == seconds


def test_expires_without_a_date_runs_from_now() -> None:
    assert lifetime({}, "Sun, 06 Nov 1994 08:50:37 GMT", None, NOW + 0.9) == 60


@pytest.mark.parametrize(
    ("age", "date", "delay", "seconds"),
    [
        (None, DATE, 0.5, 0.5),
        (None, None, 0.5, 0.5),
        ("10", DATE, 0.5, 10.5),
        ("10, 20", DATE, 0.0, 10.0),
        ("old", DATE, 0.0, 0.0),
        ("-5", DATE, 0.0, 0.0),
        (None, "Sun, 06 Nov 1994 08:49:07 GMT", 0.0, 30.0),
        ("40", "Sun, 06 Nov 1994 08:49:07 GMT", 1.0, 41.0),
    ],
)
def test_initial_age_is_the_greater_of_both(age, date, delay, seconds) -> None:
    lines = [] if age is None else [age]
    assert arrival_age(lines, date, delay, NOW + 0.7) == seconds


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("max-age=1", 0),
        ("max-age=1, stale-while-revalidate=30", 30),
        ("max-age=1, stale-while-revalidate=30, must-revalidate", 0),
        ("max-age=1, stale-while-revalidate=30, proxy-revalidate", 0),
        ("s-maxage=1, stale-while-revalidate=30", 0),
        ("max-age=1, stale-while-revalidate=no", 0),
    ],
)
def test_grace_unless_stale_is_forbidden(said, seconds) -> None:
    assert grace(parse([said])) == seconds


def test_expires_without_a_valid_date_runs_from_now() -> None:
    expires = "Sun, 06 Nov 1994 08:50:37 GMT"
    assert lifetime({}, expires, "foo", NOW) == 60
    assert lifetime({}, expires, "Sun, 06 Nov 1994 08:51:37 GMT", NOW) == 0


@pytest.mark.parametrize(
    ("lines", "age", "strictly"),
    [
        ([], 0, 0),
        (["7200"], 7200, 7200),
        (["007200"], 7200, 7200),
        (["2147483649"], DELTA_MAX, DELTA_MAX),
        (["9" * 5000], DELTA_MAX, DELTA_MAX),
        (["7200,0"], 7200, DELTA_MAX),
        (["0, 7200"], 0, DELTA_MAX),
        (["7200", "0"], 7200, DELTA_MAX),
        (["0", "7200"], 0, DELTA_MAX),
        (["abc"], 0, DELTA_MAX),
        (["-7200"], 0, DELTA_MAX),
        (["7200.0"], 0, DELTA_MAX),
        (["7200;foo=bar"], 0, DELTA_MAX),
        ([""], 0, DELTA_MAX),
    ],
)
def test_age_is_the_first_number_or_none(lines, age, strictly) -> None:
    assert said_age(lines) == age
    assert said_age(lines, strict=True) == strictly
    assert arrival_age(lines, DATE, 0.5, NOW) == age + 0.5


def test_strict_age_makes_stale_at_arrival() -> None:
    assert arrival_age(["1, 2"], None, 0, NOW, strict=True) >= DELTA_MAX


@pytest.mark.parametrize(
    ("status", "said", "modified", "seconds"),
    [
        (200, "", "Sun, 06 Nov 1994 08:32:57 GMT", 100),
        (200, "", "Sun, 06 Nov 1994 08:49:28 GMT", 0),
        (200, "", "Tue, 06 Nov 1984 08:49:37 GMT", 86400),
        (200, "", "Mon, 07 Nov 1994 08:49:37 GMT", 0),
        (200, "", None, None),
        (200, "", "yesterday", None),
        (404, "", "Sun, 06 Nov 1994 08:32:57 GMT", 100),
        (302, "", "Sun, 06 Nov 1994 08:32:57 GMT", None),
        (599, "", "Sun, 06 Nov 1994 08:32:57 GMT", None),
        (599, "public", "Sun, 06 Nov 1994 08:32:57 GMT", 100),
    ],
)
def test_guess_is_a_tenth_of_the_time_unchanged(
    status, said, modified, seconds
) -> None:
    assert heuristic(status, parse([said]), modified, DATE, NOW + 9999) == seconds
    assert heuristic(status, parse([said]), modified, None, NOW) == seconds


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("", Windows(0, 7, 9)),
        ("stale-while-revalidate=5", Windows(5, 7, 9)),
        ("stale-if-error=60", Windows(0, 60, 60)),
        ("stale-if-error=0", Windows(0, 0, 9)),
        ('no-cache="a", stale-if-error=60', Windows(0, 60, 60)),
        ("no-cache, stale-if-error=60", Windows()),
        ("must-revalidate, stale-if-error=60", Windows()),
        ("proxy-revalidate, stale-while-revalidate=60", Windows()),
        ("s-maxage=9, stale-if-error=60", Windows()),
    ],
)
def test_stale_is_served_where_nobody_forbids_it(said, found) -> None:
    assert windows(parse([said]), if_error=7, if_cut_off=9) == found
    assert may_be_stale(parse([said])) is (found != Windows())


@pytest.mark.parametrize(
    ("asked", "age", "lifetime", "said", "may"),
    [
        ("", 5, 10, "", True),
        ("", 10, 10, "", False),
        ("no-cache", 0, 10, "", False),
        ("max-age=5", 5, 10, "", True),
        ("max-age=5", 6, 10, "", False),
        ("max-age=x", 1, 10, "", False),
        ("min-fresh=5", 5, 10, "", True),
        ("min-fresh=6", 5, 10, "", False),
        ("max-stale", 1000, 10, "", True),
        ("max-stale=5", 15, 10, "", True),
        ("max-stale=5", 16, 10, "", False),
        ("max-stale=x", 15, 10, "", False),
        ("max-stale, max-age=12", 13, 10, "", False),
        ("max-stale", 15, 10, "must-revalidate", False),
        ("max-stale, min-fresh=1", 15, 10, "", False),
    ],
)
def test_client_gets_what_it_wishes_for(asked, age, lifetime, said, may) -> None:
    wished = wishes(parse([asked]))
    assert satisfies(wished, age, lifetime, parse([said])) is may
    assert not wished.only_if_cached


@pytest.mark.parametrize(
    ("asked", "may"),
    [
        ("", True),
        ("only-if-cached", True),
        ("max-age=99", False),
        ("min-fresh=1", False),
        ("max-stale=4", False),
        ("max-stale=5", True),
        ("no-cache", False),
    ],
)
def test_stale_inside_its_grace_is_for_who_says_nothing_of_ages(asked, may) -> None:
    wished = wishes(parse([asked]))
    assert satisfies(wished, 15, 10, {}, grace=6) is may
    assert not satisfies(wishes({}), 15, 10, {}, grace=5)


def test_only_if_cached_is_a_wish() -> None:
    assert wishes(parse(["only-if-cached"])).only_if_cached


@given(st.lists(st.text()), st.text(), st.text())
def test_no_text_raises(lines, expires, date) -> None:
    said = parse(lines)
    found = lifetime(said, expires, date, NOW)
    assert found is None or 0 <= found <= DELTA_MAX
    assert arrival_age(lines, date, 0, NOW) >= 0
    windows(said)
    wishes(said)
    heuristic(200, said, expires, date, NOW)
