"""HTTP dates: RFC 9110 §5.6.7, read as RFC 9111 §4.2 asks of a cache."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import formatdate
from functools import lru_cache

_MONTHS = (
    *("jan", "feb", "mar", "apr", "may", "jun"),
    *("jul", "aug", "sep", "oct", "nov", "dec"),
)
_DAY = "(?:mon|tue|wed|thu|fri|sat|sun)"
_LONG_DAY = "(?:mon|tues|wednes|thurs|fri|satur|sun)day"
_MONTH = f"(?P<month>{'|'.join(_MONTHS)})"
_TIME = "(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_FORMS = tuple(
    re.compile(form, re.ASCII | re.IGNORECASE)  # RFC 9111 §4.2: whatever the case
    for form in (
        rf"{_DAY}, (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_TIME} GMT",
        rf"{_LONG_DAY}, (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_TIME} GMT",
        rf"{_DAY} {_MONTH} (?P<day>[0-9 ][0-9]) {_TIME} (?P<year>[0-9]{{4}})",
    )
)
"""IMF-fixdate, RFC 850's, asctime's. A zone other than GMT is none of them."""
_LONGEST = 40
"""Characters; the longest date has 33."""
_AHEAD, _LAST = 50, 2069
"""How many years ahead one of two digits may be; the last, where `now` is not told."""


def parse(text: str | None, now: float | None = None) -> int | None:
    """Seconds of the epoch of a date, None if it is none of the three forms.

    A year of two digits that seems more than 50 years ahead of `now` is the past's.
    """
    read = _read(text) if text and len(text) <= _LONGEST else None
    if read is None:
        return None
    seconds, short = read
    if not short:
        return seconds
    last = _LAST if now is None else datetime.fromtimestamp(now, UTC).year + _AHEAD
    date = datetime.fromtimestamp(seconds, UTC)
    if date.year <= last:
        return seconds
    try:
        return int(date.replace(year=date.year - 100).timestamp())
    except ValueError:  # 29 February 2000 has no like in 1900
        return None


def write(seconds: float) -> str:
    """The date of these seconds of the epoch, as IMF-fixdate."""
    return formatdate(int(seconds), usegmt=True)


@lru_cache(1024)
def _read(text: str) -> tuple[int, bool] | None:
    """The seconds, and whether its year has two digits: it is of the 2000s then."""
    for form in _FORMS:
        if match := form.fullmatch(text):
            break
    else:
        return None
    year, short = int(match["year"]), len(match["year"]) == 2
    month = _MONTHS.index(match["month"].lower()) + 1
    second = int(match["second"])
    if second == 60:  # a leap second: the nearest earlier time, RFC 9111 §4.2
        second = 59
    try:
        date = datetime(
            year + 2000 if short else year,
            month,
            int(match["day"]),
            int(match["hour"]),
            int(match["minute"]),
            second,
            tzinfo=UTC,
        )
    except ValueError:
        return None
    return int(date.timestamp()), short
