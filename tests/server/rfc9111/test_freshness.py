from __future__ import annotations

import pytest

from shmcache_server.rfc9111.directives import parse
from shmcache_server.rfc9111.freshness import (
    grace,
    initial_age,
    lifetime,
    parse_date,
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
    assert initial_age(age, date, delay, NOW + 0.7) == seconds


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
