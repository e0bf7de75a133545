"""What a vendor's refusals are taken for."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmcache_server.market.answers import Answer, Unusable, document

NOW = 1_700_000_000.0
GECKO = {"status": {"error_code": 429, "error_message": "You've exceeded the Rate ..."}}
TAAPI = {"error": "You have exceeded your request limit (TAAPI.IO rate-limit)!"}
FINNHUB = {"error": "API limit reached. Please try again later. Remaining Limit: 0"}
BINANCE = {"code": -1003, "msg": "Too much request weight used; current limit is 6000"}
CMC = {"status": {"error_code": 1008, "error_message": "rate limit"}, "data": None}
BANNED = {"code": -1003, "msg": "IP banned until 1700000200000. Please use WebSocket"}


def answer(body: object, status: int = 200, **fields: str) -> Answer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, {k.replace("_", "-"): v for k, v in fields.items()}, raw)


def refused(given: Answer) -> Unusable:
    with pytest.raises(Unusable) as raised:
        document(given, NOW)
    return raised.value


@pytest.mark.parametrize("body", [GECKO, TAAPI, FINNHUB, BINANCE, CMC])
def test_rate_limit_in_a_200_is_one(body) -> None:
    error = refused(answer(body))
    assert error.why == "its rate limit, in a 200" and error.again


@pytest.mark.parametrize(
    "body",
    [
        {"errors": ["symbol is required"]},
        {"metadata": {"error": "no data"}},
        {"status": {"error_code": 1001, "error_message": "invalid key"}},
        {"code": -1121, "msg": "Invalid symbol."},
    ],
)
def test_error_in_a_200_is_one(body) -> None:
    error = refused(answer(body))
    assert error.why == "an error in a 200" and not error.again


@pytest.mark.parametrize(
    ("status", "fields", "until", "again"),
    [
        (429, {}, None, True),
        (429, {"Retry_After": "7"}, NOW + 7, False),
        (429, {"Retry_After": "Tue, 14 Nov 2023 22:14:00 GMT"}, NOW + 40, False),
        (429, {"Retry_After": "soon"}, None, True),
        (429, {"Retry_After": "999999999"}, NOW + 86400, False),
        (503, {"Retry_After": "30"}, NOW + 30, False),
        (500, {}, None, True),
        (451, {}, None, False),
        (404, {}, None, False),
        (302, {}, None, False),
    ],
)
def test_status_says_when_to_ask_again(status, fields, until, again) -> None:
    error = refused(answer(b"<html>", status, **fields))
    assert (error.until, error.again, error.banned) == (until, again, False)


@pytest.mark.parametrize(
    ("body", "fields", "until"),
    [
        (BANNED, {}, NOW + 200),
        (BANNED, {"Retry_After": "300"}, NOW + 300),
        ({"error": "Forbidden"}, {"Retry_After": "60"}, NOW + 60),
        ({"error": "Forbidden"}, {}, NOW + 120),
        ({"msg": "IP banned until 9999999999999"}, {}, NOW + 86400),
        ({"msg": "IP banned until 1000000000000"}, {}, NOW + 120),  # by its clock
        ({"error": "Forbidden"}, {"Retry_After": "0"}, NOW + 120),
    ],
)
def test_ban_lasts_as_long_as_it_says(body, fields, until) -> None:
    error = refused(answer(body, 418, **fields))
    assert error.banned and error.until == until


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b'{"a": 1', b"<html>", b"[1]", b"7", b'{"a": NaN}'),
        *(b'{"a": -Infinity}', b"[" * 100_000, b"\xff\xfe"),
    ],
)
def test_what_is_no_object_is_refused(body) -> None:
    refused(answer(body))


@given(st.binary(max_size=200), st.integers(100, 599), st.text(max_size=30))
def test_any_bytes_are_a_document_or_unusable(body, status, wait) -> None:
    try:
        assert type(document(Answer(status, {"Retry-After": wait}, body), NOW)) is dict
    except Unusable as e:
        assert e.until is None or NOW <= e.until <= NOW + 86400
