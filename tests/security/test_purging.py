"""Purges by who may not (T18): nothing is purged, and the token goes nowhere."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.security.client import Client, get
from tests.security.conftest import Front, fronting, watched
from tests.security.origin import said
from tests.security.wire import Message

TOKEN = "0123456789abcdef-Token"
RIGHT = f"Authorization: Bearer {TOKEN}"
BASIC = base64.b64encode(f"purge:{TOKEN}".encode()).decode()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("purging") / "log"


@pytest.fixture(scope="module")
def purging(log: Path) -> Iterator[Front]:
    with fronting(log.parent, f'[purge]\ntoken = "{TOKEN}"\n') as front:
        yield front


@pytest.fixture
def front(purging: Front) -> Iterator[Front]:
    """The server that has a token."""
    yield from watched(purging)


@pytest.fixture(autouse=True)
def counted(front: Front) -> None:
    """Each answer of the origin tells which it is."""
    front.origin.answer = lambda asked: said(
        f"{len(front.origin.heard)}", "Cache-Tag: t", 'Cache-Groups: "g"'
    )


def kept(front: Front, path: str) -> bool:
    """Whether everybody still gets what was stored first."""
    return {answered.body for answered in front.victims(path)} == {b"1"}


def ask(front: Front, data: bytes) -> Message | None:
    with Client(front.port) as client:
        client.send(data)
        return client.answer()


def purge(target: str, *lines: str) -> bytes:
    return get(target, *lines, method="PURGE")


def test_who_has_the_token_purges(front, path) -> None:
    assert kept(front, path)
    answered = ask(front, purge(path, RIGHT))
    assert answered and answered.status == 200
    assert not kept(front, path)


WRONG = {
    "none": [],
    "empty": ["Authorization:"],
    "scheme-alone": ["Authorization: Bearer"],
    "no-scheme": [f"Authorization: {TOKEN}"],
    "other-scheme": [f"Authorization: Token {TOKEN}"],
    "basic": [f"Authorization: Basic {BASIC}"],
    "beginning": [f"Authorization: Bearer {TOKEN[:-1]}"],
    "longer": [f"Authorization: Bearer {TOKEN}x"],
    "other-case": [f"Authorization: Bearer {TOKEN.upper()}"],
    "quoted": [f'Authorization: Bearer "{TOKEN}"'],
    "behind-another": [f"Authorization: Bearer x, Bearer {TOKEN}"],
    "second-line": ["Authorization: Bearer x", RIGHT],
    "high": ["Authorization: Bearer \xff\xfe"],
    "cookie": [f"Cookie: token={TOKEN}; Authorization=Bearer {TOKEN}"],
    "proxy": [f"Proxy-{RIGHT}"],
    "underscore": [f"HTTP_{RIGHT}"],
    "forwarded": [f"X-Forwarded-{RIGHT}", "X-Forwarded-For: 127.0.0.1"],
}
NAMED = ["", "Shmcache-Purge: all", "Cache-Tag: t", 'Cache-Groups: "g"']


@pytest.mark.parametrize("lines", WRONG.values(), ids=WRONG)
def test_wrong_token_purges_nothing(front, path, lines) -> None:
    assert kept(front, path)
    for named in NAMED:
        more = [named] if named else []
        answered = ask(front, purge(path, *more, *lines))
        assert answered and answered.status == 401
        assert answered.get("WWW-Authenticate") == "Bearer"
    assert kept(front, path) and len(front.origin.heard) == 1


@pytest.mark.parametrize(
    "target", ["http://front{}", "//front{}", "*", "front:80", "{}#x", "", "{}/", "{}?"]
)
def test_other_form_of_a_target_purges_no_other(front, path, target) -> None:
    """Also where who asks has the token."""
    assert kept(front, path)
    answered = ask(front, purge(target.format(path), RIGHT))
    assert answered is None or answered.status in (200, 400)
    assert kept(front, path) and len(front.origin.heard) == 1


@pytest.mark.parametrize("host", ["other", "front.", "xfront", "127.0.0.1"])
def test_purge_for_another_host_purges_not_ours(front, path, host) -> None:
    assert kept(front, path)
    for more in ([], ["Shmcache-Purge: prefix"], ['Cache-Groups: "g"']):
        answered = ask(front, purge(path, RIGHT, f"Host: {host}", *more))
        assert answered and answered.status == 200
    assert kept(front, path)


@pytest.mark.parametrize(
    "name",
    ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X_Http_Method"],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_overridden_method_purges_nothing(front, path, method, name) -> None:
    assert kept(front, path)
    with Client(front.port) as client:
        client.send(get(path, f"{name}: PURGE", RIGHT, method=method))
        answered = client.answer(method)
        assert answered and answered.status == 200
    assert kept(front, path)


@pytest.mark.parametrize("target", ["/purge?all=1", "/purge", "/stats"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_listener_of_clients_is_no_admins(front, path, target, method) -> None:
    """They are paths of the origin, as any."""
    assert kept(front, path)
    answered = ask(front, get(target, RIGHT, "Content-Length: 0", method=method))
    assert answered and answered.status == 200 and len(front.origin.heard) == 2
    assert kept(front, path)


@pytest.mark.parametrize(
    "request_",
    [
        get("/purge?all=1", RIGHT),
        get("/purge?all=1", "Content-Length: 0", method="POST"),
        get("/purge?all=1", RIGHT, "Host: evil.example", method="POST"),
        get("/purge?all=1", RIGHT, "Host: 127.0.0.1.evil.example", method="POST"),
        get("/purge?all=1", RIGHT, "Host: [::1", method="POST"),
        get("//127.0.0.1/purge?all=1", RIGHT, "Host: evil.example", method="POST"),
    ],
)
def test_page_in_an_operators_browser_purges_nothing(front, path, request_) -> None:
    """It reaches the admin listener, by a name of its own or without the token."""
    assert kept(front, path)
    port = int(front.server.flags[-1].rpartition(":")[2])
    with Client(port) as client:
        client.send(request_.replace(b"Host: front", b"Host: 127.0.0.1"))
        answered = client.answer()
        assert answered and answered.status in (400, 401, 404, 405, 421)
    assert kept(front, path)


def test_token_is_told_to_nobody(front, path, log) -> None:
    """Neither to the origin nor in the log, nor in an answer."""
    answers = [ask(front, purge(path, line)) for line in (RIGHT, f"{RIGHT}x")]
    answers.append(ask(front, purge(f"{path}#", RIGHT)))
    assert all(one is not None and TOKEN not in str(one.raw) for one in answers)
    assert front.origin.heard == [] and TOKEN not in log.read_text()
