"""What the vendors answer in place of a payload: no key, a limit reached, a ban."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from .payloads import Moment, Query, Refused, cmc_status

JSON = "application/json"
NONE: Mapping[str, str] = MappingProxyType({})
_COINGECKO = (
    "You've exceeded the Rate Limit. Please visit "
    "https://www.coingecko.com/en/api/pricing to subscribe to our API plans "
    "for higher rate limits."
)
_BINANCE = (
    "Too much request weight used; current limit is 6000 request weight per 1 MINUTE. "
    "Please use WebSocket Streams for live updates to avoid polling the API."
)
_BANNED = (
    "Way too much request weight used; IP banned until {ms}. "
    "Please use WebSocket Streams for live updates to avoid bans."
)
_ELSEWHERE = (
    "Service unavailable from a restricted location according to 'b. Eligibility' in "
    "https://www.binance.com/en/terms. Please contact customer service if you believe "
    "you received this message in error."
)
_CMC = "You've exceeded your API Key's HTTP request minute rate limit. "
_AGENT = {"coingecko": 403, "binance": 418}
"""Who answers nobody without a User-Agent, and how."""


class Reply(NamedTuple):
    """What is sent back."""

    status: int
    body: bytes
    headers: Mapping[str, str] = NONE
    kind: str = JSON


def admit(vendor: str, headers: Mapping[str, str], query: Query, now: Moment) -> None:
    """Raise Refused for a request without the key or User-Agent that it needs."""
    if vendor in _AGENT and not headers.get("User-Agent"):
        said = "Forbidden: please send a User-Agent"
        raise Refused(_AGENT[vendor], {"error": said})
    if vendor == "cmc" and not headers.get("X-CMC_PRO_API_KEY"):
        said = "API key missing."
        raise Refused(401, {"status": cmc_status(now, 1002, said)})
    if vendor == "taapi" and not query.get("secret"):
        raise Refused(401, {"errors": ["Your secret is missing from the request."]})
    if vendor == "finnhub" and not query.get("token"):
        raise Refused(401, {"error": "Please use an API key."})


def limited(
    vendor: str, now: Moment, retry_after: float | None = None, status: int = 429
) -> Reply:
    """Too many requests; some report it with 200."""
    body: object
    match vendor:
        case "coingecko":
            body = {"status": {"error_code": 429, "error_message": _COINGECKO}}
        case "alternative":
            said = "Too many requests"
            body = {"name": "Fear and Greed Index", "metadata": {"error": said}}
        case "taapi":
            said = "You have exceeded your request limit (TAAPI.IO rate-limit)!"
            body = {"error": said}
        case "binance":
            body = {"code": -1003, "msg": _BINANCE}
        case "cmc":
            body = {"status": cmc_status(now, 1008, _CMC)}
        case _:
            said = "API limit reached. Please try again later. Remaining Limit: 0"
            body = {"error": said}
    return Reply(status, msgspec.json.encode(body), _after(retry_after))


def banned(until: float, seconds: float) -> Reply:
    """Until a Unix time, for so many seconds more; in Binance's words."""
    said = _BANNED.format(ms=round(until * 1000))
    body = msgspec.json.encode({"code": -1003, "msg": said})
    return Reply(418, body, _after(seconds))


def blocked() -> Reply:
    """Not from this country; in Binance's words."""
    return Reply(451, msgspec.json.encode({"code": 0, "msg": _ELSEWHERE}))


def failing(status: int, retry_after: float | None) -> Reply:
    """A page of HTML, as it comes from the vendor's front."""
    page = f"<html><body><h1>{status}</h1></body></html>\n"
    return Reply(status, page.encode(), _after(retry_after), "text/html")


def _after(seconds: float | None) -> Mapping[str, str]:
    return NONE if seconds is None else {"Retry-After": str(ceil(seconds))}
