"""Denial by cached errors (T4): what one client's request caused, no other is answered.

The origin answers an error to what bears the word `evil`, and else a page.
"""

from __future__ import annotations

import re

import pytest

from tests.helpers import until
from tests.security.client import Client, get
from tests.security.conftest import Front
from tests.security.origin import Last, said
from tests.security.wire import Message

ERRORS = [
    *("400 Bad Request", "401 Unauthorized", "402 Payment Required", "403 Forbidden"),
    *("405 Method Not Allowed", "406 Not Acceptable", "407 Proxy Authentication"),
    *("408 Request Timeout", "409 Conflict", "411 Length Required", "412 Failed"),
    *("413 Too Large", "415 Unsupported", "416 Range Not Satisfiable", "417 Failed"),
    *("421 Misdirected Request", "422 Unprocessable", "425 Too Early", "426 Upgrade"),
    *("428 Required", "429 Too Many", "431 Fields Too Large", "451 Legal", "499 Left"),
    *("500 Error", "501 Not Implemented", "502 Bad Gateway", "503 Unavailable"),
    *("504 Timeout", "505 Version", "511 Network Authentication", "520 Any", "599 Any"),
]
OF_ONE_REQUEST = {401, 407, 408, 412, 413, 416, 417, 421, 425, 426, 428, 429, 431, 511}
POISONED_MOST = 10
"""Seconds of an error that the origin itself declares fresh for longer."""


def failing(status: str, *lines: str, bad: bytes = b"evil") -> object:
    def answer(asked: Message) -> bytes:
        if bad in asked.raw.lower():
            return said(b"broken", *lines, status=status)
        return said(b"page")

    return answer


@pytest.mark.parametrize("status", ERRORS)
def test_error_without_freshness_is_nobody_elses(front, path, status) -> None:
    front.origin.answer = failing(status, "Cache-Control:")
    for _ in range(2):
        assert front.get(path, "X-Any: evil").status == int(status[:3])
    assert {a.body for a in front.victims(path)} == {b"page"}


GUESSED = {"405", "414", "501"}
"""Those of which RFC 9110 §15.1 lets a cache guess the freshness: they are everybody's
for caching.error_ttl, as the fresh ones are."""


@pytest.mark.parametrize("status", [s for s in ERRORS if s[:3] not in GUESSED])
def test_error_with_a_date_is_nobody_elses(front, path, status) -> None:
    """A guess is no reason to answer one client's error to others."""
    dated = "Last-Modified: Mon, 30 Nov 2020 00:00:00 GMT"
    front.origin.answer = failing(status, "Cache-Control:", dated)
    front.get(path, "X-Any: evil")
    assert {a.body for a in front.victims(path)} == {b"page"}


@pytest.mark.parametrize("status", ERRORS)
def test_fresh_error_is_nobody_elses_for_long(front, path, status) -> None:
    """An origin that declares all that it answers fresh."""
    front.origin.answer = failing(status, "Cache-Control: public, max-age=3600")
    front.get(path, "X-Any: evil")
    for answered in front.victims(path):
        if answered.body != b"page":
            assert int(status[:3]) not in OF_ONE_REQUEST
            left = re.search(r"hit; ttl=(-?\d+)", answered.get("Cache-Status"))
            assert left and int(left[1]) <= POISONED_MOST


CAUSES = {
    "oversize": ["X-Any: " + "evil" * 1900],
    "oversize-cookie": ["Cookie: a=" + "evil" * 1900],
    "oversize-in-all": [f"X-Any-{n}: evil{'x' * 1000}" for n in range(20)],
    "oversize-for-us": ["X-Any: evil" + "x" * 9000],
    "bell": ["X-Any: evil\a"],
    "newline": ["X-Any: evil\n"],
    "carriage-return": ["X-Any: evil\r"],
    "escape": ["X-Any: evil\x1b"],
    "delete": ["X-Any: evil\x7f"],
    "high": ["X-Any: evil\xff"],
    "quote": ['X-Any: evil"'],
    "override": ["X-HTTP-Method-Override: evil"],
    "accept": ["Accept: evil/evil"],
    "charset": ["Accept-Charset: evil"],
    "coding": ["Accept-Encoding: evil"],
    "type": ["Content-Type: evil"],
    "content-coding": ["Content-Encoding: evil"],
    "host-of-another": ["X-Forwarded-Host: evil"],
    "scheme": ["X-Forwarded-Proto: evil"],
    "agent": ["User-Agent: evil <script>"],
    "cookie": ["Cookie: evil"],
    "credentials": ["Authorization: evil"],
    "websocket": ["Upgrade: websocket", "Connection: Upgrade", "X-Key: evil"],
    "range": ["Range: bytes=evil"],
    "middleware": ["X-Middleware-Subrequest: evil"],
}


@pytest.mark.parametrize("lines", CAUSES.values(), ids=CAUSES)
def test_error_that_a_field_caused_is_nobody_elses(front, path, lines) -> None:
    front.origin.answer = failing("400 Bad Request", "Cache-Control:")
    for _ in range(2):
        with Client(front.port) as client:
            client.send(get(path, *lines))
            client.answer()
    assert {a.body for a in front.victims(path)} == {b"page"}


def test_redirect_that_a_scheme_caused_is_nobody_elses(front, path) -> None:
    """A loop for everybody, were it stored."""
    front.origin.answer = failing("301 Moved", f"Location: https://front{path}")
    for name in ("X-Forwarded-Proto", "X-Forwarded-Scheme", "Front-End-Https"):
        front.get(path, f"{name}: evil")
    assert {a.body for a in front.victims(path)} == {b"page"}


def test_refused_request_is_nobody_elses(front, path) -> None:
    """What the server itself refuses, it does not store either."""
    for line in ("Host: a b", "X-Any: \0", "Content-Length: x", "X-Any: " + "x" * 9000):
        with Client(front.port) as client:
            client.send(get(path, line))
            answered = client.answer()
            assert answered and answered.status == 400 and client.closed()
    assert {a.body for a in front.victims(path)} == {b"hello"}


def test_unreachable_origin_is_told_to_nobody_later(front: Front, path: str) -> None:
    front.origin.answer = lambda asked: Last(b"")
    assert front.get(path).status == 502
    front.origin.answer = lambda asked: said(b"page")
    assert {a.body for a in front.victims(path)} == {b"page"}


def test_refresh_that_an_attacker_starts_spoils_nothing(front, path) -> None:
    """It bears the attacker's fields."""
    swr = "Cache-Control: max-age=1, stale-while-revalidate=60"
    front.origin.answer = lambda asked: said(b"page", swr)
    front.get(path)
    front.origin.answer = failing("400 Bad Request", "Cache-Control: max-age=60")
    until(lambda: "ttl=-" in front.get(path, "X-Any: evil").get("Cache-Status"), 5)
    until(lambda: any(b"evil" in a.raw for a in front.origin.about(path)), 5)
    assert {a.body for a in front.victims(path)} == {b"page"}
