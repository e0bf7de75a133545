from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmcache_server.rfc9111.dates import parse, write

DATE, STAMP = "Sun, 06 Nov 1994 08:49:37 GMT", 784111777
IN_2026 = 1795000000


@pytest.mark.parametrize(
    "text",
    [
        DATE,
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
        "SUN, 06 nov 1994 08:49:37 gmt",
    ],
    ids=["imf", "rfc850", "asctime", "case"],
)
def test_each_form_is_read_whatever_its_case(text) -> None:
    assert parse(text) == parse(text, IN_2026) == STAMP


@pytest.mark.parametrize(
    "text",
    [
        *(None, "", "0", "-1", "soon", "784111777"),
        *("Sun 06 Nov 1994 08:49:37 GMT", "Sun,  06 Nov 1994 08:49:37 GMT"),
        *("Sun, 6 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 94 08:49:37 GMT"),
        *("Sun, 06 Nov 1994 8:49:37 GMT", "Sun, 06 Nov 1994 08.49.37 GMT"),
        *("Sun, 06 Nov 1994 08:49:37 UTC", "Sun, 06 Nov 1994 08:49:37 AEST"),
        *("Sun, 06 Nov 1994 08:49:37 +0000", "Sun, 06 Nov 1994 08:49:37"),
        *("Sun, 06-Nov-1994 08:49:37 GMT", "Sun, 06 Nov 1994 24:00:00 GMT"),
        *("Sun, 31 Feb 1994 08:49:37 GMT", "Sun, 00 Nov 1994 08:49:37 GMT"),
        *("٠٦, 06 Nov 1994 08:49:37 GMT", "Sun, ٠٦ Nov 1994 08:49:37 GMT"),
        *("Sun, 06 Nov 0000 08:49:37 GMT", f" {DATE}", f"{DATE} ", f"{DATE}, {DATE}"),
        *("\u017fun, 06 Nov 1994 08:49:37 GMT", "x" * 100_000),
    ],
)
def test_anything_else_is_no_date(text) -> None:
    assert parse(text) is None


def test_leap_second_is_the_one_before_it() -> None:
    assert parse("Sat, 31 Dec 2016 23:59:60 GMT") == 1483228799


@pytest.mark.parametrize(
    ("text", "now", "year"),
    [
        ("Thursday, 18-Aug-50 02:01:18 GMT", None, 2050),
        ("Thursday, 18-Aug-69 02:01:18 GMT", None, 2069),
        ("Thursday, 18-Aug-70 02:01:18 GMT", None, 1970),
        ("Thursday, 18-Aug-76 02:01:18 GMT", IN_2026, 2076),
        ("Thursday, 18-Aug-77 02:01:18 GMT", IN_2026, 1977),
        ("Thursday, 18-Aug-02 02:01:18 GMT", IN_2026 - 10**9, 2002),
    ],
)
def test_year_of_two_digits_is_at_most_fifty_ahead(text, now, year) -> None:
    found = parse(text, now)
    assert found is not None
    assert write(found).split()[3] == str(year)


@given(st.integers(-(2**35), 2**37))
def test_written_date_reads_as_itself(stamp) -> None:
    assert parse(write(stamp)) == stamp


@given(st.text())
def test_no_text_raises(text) -> None:
    parse(text)
    parse(f"Sun, {text} GMT", 0)
