"""Private answers: what was made for one client is never another's (RFC 9111 §3, §7).

The origin's answers name who asked. By example, then by answers whose fields are drawn.
"""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.security.client import Client, get
from tests.security.conftest import Front, fronting
from tests.security.origin import said
from tests.security.wire import Message

MINE, THEIRS, NOBODYS = "one", "two", ""
ALONE = {
    "set-cookie": ["Cache-Control: max-age=60", "Set-Cookie: id=1"],
    "set-cookie-public": ["Cache-Control: public, s-maxage=60", "Set-Cookie: id=1"],
    "set-cookie-second": ["Cache-Control: public", "set-cookie: a", "SET-COOKIE: b"],
    "set-cookie-hop": ["Connection: set-cookie", "Set-Cookie: a"],
    "set-cookie-excepted": ['Cache-Control: max-age=60, no-cache="x"', "Set-Cookie: a"],
    "private": ["Cache-Control: private, max-age=60"],
    "private-upper": ["Cache-Control: PRIVATE, max-age=60"],
    "private-last": ["Cache-Control: public, max-age=60", "Cache-Control: private"],
    "private-public": ["Cache-Control: private, public, s-maxage=60"],
    "private-hop": ["Connection: cache-control", "Cache-Control: private, max-age=60"],
    "private-quoted": ['Cache-Control: private="", max-age=60'],
    "private-semicolon": ["Cache-Control: max-age=60; private"],
    "private-spaced": ["Cache-Control: max-age=60 private"],
    "no-store": ["Cache-Control: no-store, max-age=60"],
    "no-store-public": ["Cache-Control: public, max-age=60, no-store"],
    "no-store-quoted": ['Cache-Control: max-age=60, x="a, b", no-store'],
    "open-quote": ['Cache-Control: max-age=60, x="a, private'],
    "vary-star": ["Cache-Control: max-age=60", "Vary: *"],
    "vary-star-too": ["Cache-Control: public, max-age=60", "Vary: Accept, *"],
    "vary-star-second": ["Cache-Control: max-age=60", "Vary: Accept", "vary: *"],
    "vary": ["Cache-Control: public, max-age=60", "Vary: Cookie, Authorization, X-Who"],
    "vary-lines": [
        "Cache-Control: s-maxage=9",
        "Vary: x-who",
        "vary: COOKIE,authorization",
    ],
    "nothing": ["Cache-Control:"],
    "expired": ["Cache-Control: max-age=0"],
    "old": ["Cache-Control: max-age=60", "Age: 61"],
    "no-cache": ["Cache-Control: no-cache, max-age=60"],
}
# What a client is known by, and what the origin answers by.
KNOWN = ["Cookie: id={}", "Authorization: Basic {}", "X-Who: {}"]

_FOR_ALL = {"public", "s-maxage"}
FREEING = {"Cookie": _FOR_ALL, "Authorization": {*_FOR_ALL, "must-revalidate"}}
"""By which directives an answer to these is for all."""


def by(kind: str, who: str) -> list[str]:
    return [kind.format(who)] if who else []


def whom(asked: Message) -> str:
    """Whose request it is."""
    told = asked.get("Cookie") + asked.get("Authorization") + asked.get("X-Who")
    return told.rpartition("=")[2].rpartition(" ")[2]


def naming(*lines: str) -> object:
    return lambda asked: said(whom(asked), *lines)


@pytest.mark.parametrize("lines", ALONE.values(), ids=ALONE)
@pytest.mark.parametrize("kind", KNOWN, ids=lambda kind: kind.partition(":")[0])
def test_private_answer_is_its_clients_only(front, path, kind, lines) -> None:
    front.origin.answer = naming(*lines)
    for who in (MINE, MINE, THEIRS, NOBODYS, THEIRS, MINE, NOBODYS):
        with Client(front.port) as client:
            for _ in range(2):
                client.send(get(path, *by(kind, who)))
                answered = client.answer()
                assert answered and answered.body.decode() == who


@pytest.mark.parametrize("directive", ["private=yes", "private=true", "private=1"])
def test_private_with_an_odd_argument_is_private(front, path, directive) -> None:
    """RFC 9111 §5.2.2.7 has names of fields there, quoted; no field is called so."""
    front.origin.answer = naming(f"Cache-Control: {directive}, max-age=60")
    for who in (MINE, THEIRS):
        assert front.get(path, *by(KNOWN[2], who)).body.decode() == who


@pytest.mark.parametrize(
    ("kind", "said_too"),
    [
        *((KNOWN[0], too) for too in ("", "must-revalidate", "proxy-revalidate")),
        *((KNOWN[1], too) for too in ("", "proxy-revalidate", "must-understand")),
    ],
)
def test_answer_to_credentials_is_its_clients_only(front, path, kind, said_too) -> None:
    front.origin.answer = naming("Cache-Control: max-age=60, " + said_too)
    for who in (MINE, THEIRS, MINE, THEIRS):
        assert front.get(path, *by(kind, who)).body.decode() == who
    assert front.get(path).body.decode() == NOBODYS


@pytest.mark.parametrize("line", ["Set-Cookie: id=1", "X-Mine: id=1"])
@pytest.mark.parametrize("directive", ["private", "no-cache"])
def test_named_field_is_its_clients_only(front, path, line, directive) -> None:
    """The rest of the answer may be for all."""
    name = line.partition(":")[0]
    front.origin.answer = lambda asked: said(
        b"page", f'Cache-Control: max-age=60, {directive}="{name}"', line
    )
    front.get(path)
    asked = len(front.origin.heard)
    answers = front.victims(path)
    with_it = sum(bool(answered.all(name)) for answered in answers)
    assert with_it <= len(front.origin.heard) - asked


@pytest.mark.parametrize("lines", ALONE.values(), ids=ALONE)
def test_private_answer_is_not_shared_while_it_comes(front, path, lines) -> None:
    """Those who wait for one fetch, on either worker."""
    go = threading.Event()

    def answer(asked: Message) -> bytes:
        go.wait(5)
        return said(whom(asked), *lines)

    front.origin.answer = answer
    clients = [Client(front.port) for _ in range(8)]
    try:
        for n, client in enumerate(clients):
            client.send(get(path, f"{KNOWN[n % 3].format(n)}"))
        go.set()
        for n, client in enumerate(clients):
            answered = client.answer()
            assert answered and answered.body.decode() == str(n)
    finally:
        for client in clients:
            client.__exit__(None, None, None)


def test_answer_validated_before_each_use_keeps_no_worker_busy(tmp_path, path) -> None:
    """What somebody with credentials got, and is for all, is asked for by nobody."""
    with fronting(tmp_path) as front:
        front.origin.answer = naming("Cache-Control: public, no-cache", 'ETag: "a"')
        for n in range(40):
            for who in (MINE, THEIRS, MINE, NOBODYS, THEIRS):
                with Client(front.port) as client:
                    client.send(get(f"{path}{n}", *by(KNOWN[0], who)))
                    answered = client.answer()
                    assert answered and answered.status == 200


@dataclass
class Drawn:
    """What an origin says of an answer."""

    directives: list[str]
    lines: list[str]
    status: str

    @property
    def fields(self) -> list[str]:
        return [f"Cache-Control: {', '.join(self.directives)}", *self.lines]

    def alone(self, kind: str) -> bool:
        """Whether it is for none but its client: RFC 9111 §3, §4.1, §7.3."""
        said = {directive.lower() for directive in self.directives}
        fields = {line.partition(":")[0].lower() for line in self.lines}
        vary = " ".join(li for li in self.lines if li.startswith("Vary:")).lower()
        return (
            ("no-store" in said and "must-understand" not in said)
            or "private" in said
            or "set-cookie" in fields
            or "*" in vary
            or kind.partition(":")[0].lower() in vary
        )

    def known_only(self, kind: str) -> bool:
        """Whether it is for none but its client and those who ask in nobody's name:
        §3.5; and, stricter than that, what is made for a Cookie."""
        names = {directive.partition("=")[0].lower() for directive in self.directives}
        field = kind.partition(":")[0]
        return field in FREEING and not names & FREEING[field]


def cased(word: str) -> st.SearchStrategy[str]:
    return st.sampled_from([word, word.upper(), word.title()])


DIRECTIVES = st.lists(
    st.sampled_from(
        [
            *("public", "private", "no-store", "no-cache", "must-revalidate"),
            *("proxy-revalidate", "must-understand", "no-transform", "immutable"),
            *("max-age=60", "max-age=0", "s-maxage=60", "s-maxage=0", "max-age=1.5"),
            *('private="x-mine"', 'no-cache="x-mine"', "stale-while-revalidate=60"),
            *("stale-if-error=60", "a", 'b="c, private"', "max-age=99999999999999"),
        ]
    ).flatmap(cased),
    max_size=5,
)
LINES = st.lists(
    st.sampled_from(
        [
            *("Set-Cookie: a=b", "set-cookie: a", "Vary: *", "Vary: Accept"),
            *("Vary: Cookie", "Vary: Authorization", "Vary: x-who, cookie"),
            *("Vary: Accept-Encoding", "Expires: Fri, 30 Nov 2126 00:00:00 GMT"),
            *("Expires: 0", "Pragma: no-cache", 'ETag: "a"', "Age: 5", "Age: 500"),
            *("Last-Modified: Mon, 30 Nov 2020 00:00:00 GMT", "X-Mine: a"),
            *("Surrogate-Control: max-age=60", "Content-Type: text/css"),
            *("Content-Location: /other", "Warning: 110 a", "Cache-Status: a; hit"),
        ]
    ),
    max_size=4,
    unique=True,
)
STATUSES = st.sampled_from(
    ["200 OK", "203 Non", "404 None", "410 Gone", "301 Moved", "500 No", "299 Odd"]
)
ANSWERS = st.builds(Drawn, directives=DIRECTIVES, lines=LINES, status=STATUSES)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(drawn=ANSWERS, kind=st.sampled_from(KNOWN))
def test_what_is_private_is_asked_for_again(front: Front, drawn, kind) -> None:
    path = f"/{secrets.token_hex(6)}"
    front.origin.answer = lambda asked: said(
        whom(asked), *drawn.fields, status=drawn.status, age=0
    )
    for who in (MINE, THEIRS, MINE, NOBODYS, THEIRS):
        answered = front.get(path, *by(kind, who))
        assert answered.status == int(drawn.status[:3])
        body = answered.body.decode()
        if drawn.alone(kind):
            assert body == who
        elif drawn.known_only(kind):
            assert body in (who, NOBODYS)
