"""Cache poisoning (T1, T2): what an attacker sends beside the key reaches nobody else.

The origin is as naive as can be: its answer holds every byte of the request, and may be
stored for a minute. Each attack bears the word `evil`; no answer to a victim may.
"""

from __future__ import annotations

import pytest

from tests.security.client import Client, get
from tests.security.conftest import Front
from tests.security.origin import said
from tests.security.wire import Message

EVIL = b"evil"
# What frameworks and their proxies take for URL, host, scheme, client or method.
NAMES = [
    *("Forwarded", "X-Forwarded", "X-Forwarded-For", "X-Forwarded-Host"),
    *("X-Forwarded-Proto", "X-Forwarded-Protocol", "X-Forwarded-Scheme"),
    *("X-Forwarded-Port", "X-Forwarded-Prefix", "X-Forwarded-Path"),
    *("X-Forwarded-Server", "X-Forwarded-Ssl", "X-Forwarded-Uri", "X-Forwarded-By"),
    *("X-Forwarded-Method", "X-Original-URL", "X-Original-URI", "X-Rewrite-URL"),
    *("X-Host", "X-Original-Host", "X-HTTP-Host-Override", "X-Scheme", "X-Url-Scheme"),
    *("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X-Method"),
    *("Front-End-Https", "X-Real-IP", "X-Client-IP", "True-Client-IP", "Client-IP"),
    *("CF-Connecting-IP", "Fastly-Client-IP", "X-Cluster-Client-IP", "X-Remote-User"),
    *("Proxy", "Script-Name", "X-Script-Name", "X-Envoy-Original-Path"),
    *("CloudFront-Forwarded-Proto", "Remote-User"),
]


def echo(asked: Message) -> bytes:
    """All of the request."""
    return said(asked.raw)


def clean(answers: list[Message]) -> bool:
    """Whether nothing of the attack is in them."""
    return all(a.status == 200 and EVIL not in a.raw.lower() for a in answers)


@pytest.fixture(autouse=True)
def naive(front: Front) -> None:
    front.origin.answer = echo


@pytest.mark.parametrize("name", NAMES)
def test_unkeyed_field_reaches_no_victim(front, path, name) -> None:
    spellings = [name, name.upper(), name.replace("-", "_"), name.replace("-", "_", 1)]
    for n, spelling in enumerate(spellings):
        line = f"{spelling}: evil.example"
        front.get(f"{path}{n}", line)
        front.get(f"{path}{n}", line)
        assert clean(front.victims(f"{path}{n}"))
    assert not any(EVIL in asked.raw for asked in front.origin.heard)


def test_field_that_is_passed_on_does_reach_others(front, path) -> None:
    """Without Vary: were it not so, nothing here would be stored, and all be clean."""
    front.get(path, "X-Any: evil")
    assert all(EVIL in answered.body for answered in front.victims(path))
    assert len(front.origin.about(path)) == 1


def test_victims_are_answered_by_the_fast_lane_too(front, path) -> None:
    before = front.fast_hits()
    front.get(path)
    front.victims(path)
    assert front.fast_hits() > before


TRICKS = {
    "twice": ["X-Forwarded-Host: front", "X-Forwarded-Host: evil"],
    "listed": ["X-Forwarded-Host: front, evil"],
    "both-spellings": ["X_Forwarded_Host: evil", "X-Forwarded-Host: front"],
    "empty-first": ["X-Forwarded-Host:", "X-Forwarded-Host: evil"],
    "named-as-hop": ["Connection: X-Forwarded-Host", "X-Forwarded-Host: evil"],
    "ours-named-as-hop": [
        "Connection: close, X-Forwarded-For, X-Forwarded-Host, Via, Host, Evil",
        "Evil: evil",
    ],
    "quoted": ['Forwarded: for="[::1]";host="evil";proto=evil'],
    "tabbed": ["X-Forwarded-Host:\tevil"],
    "spaced-colon": ["X-Forwarded-Host : evil"],
    "folded": ["X-Any: a\r\n X-Forwarded-Host: evil"],
    "folded-first": [" X-Forwarded-Host: evil"],
    "bare-lf": ["X-Any: a\nX-Forwarded-Host: evil"],
    "bare-cr": ["X-Any: a\rX-Forwarded-Host: evil"],
    "nul": ["X-Any\0X-Forwarded-Host: evil"],
    "oversize": ["X-Any: " + "evil" * 4000],
    "many": [f"X-Forwarded-Host: evil{n}" for n in range(100)],
    "too-many": [f"X-Any-{n}: evil" for n in range(1000)],
    "hop-by-hop": ["TE: evil", "Trailer: evil", "Keep-Alive: evil"],
    "proxy-credentials": ["Proxy-Authorization: Basic evil", "Proxy-Connection: evil"],
    "upgrade": ["Connection: upgrade", "Upgrade: evil"],
    "expect": ["Expect: evil"],
    "wishes": ["Cache-Control: evil, max-age=0", "Pragma: evil"],
}


@pytest.mark.parametrize("lines", TRICKS.values(), ids=TRICKS)
def test_tricky_field_reaches_no_victim(front, path, lines) -> None:
    for _ in range(2):
        with Client(front.port) as client:
            client.send(get(path, *lines))
            client.answer()
    assert clean(front.victims(path))


@pytest.mark.parametrize("line", ["Cookie: evil=1", "Authorization: Basic evil"])
@pytest.mark.parametrize("freedom", ["max-age=60", "max-age=60, proxy-revalidate"])
def test_credentials_reach_no_victim(front, path, line, freedom) -> None:
    front.origin.answer = lambda asked: said(asked.raw, f"Cache-Control: {freedom}")
    front.get(path, line)
    front.get(path, line)
    assert clean(front.victims(path))


HOSTS = [
    *("front:1337", "FRONT", "front.", "evil@front", "front@evil", "front:evil"),
    *("front evil", "front/evil", "front\tevil", "front:80:evil", "front%00evil"),
    *("front,evil", "[::1]evil", "front#evil", "front?evil", "front\\evil", "evil"),
    *("front:80@evil", "xn--evil", "front;evil", "http://evil", '"evil"', "front\xe9"),
]


@pytest.mark.parametrize("host", HOSTS)
def test_host_is_in_the_key_or_refused(front, path, host) -> None:
    for _ in range(2):
        with Client(front.port) as client:
            client.send(get(path, f"Host: {host}"))
            client.answer()
    answers = front.victims(path)
    assert clean(answers)
    for mark in (b"1337", b"front.", b"FRONT", b"%00", b"\xe9"):
        assert not any(mark in a.body for a in answers)


@pytest.mark.parametrize("target", ["http://evil{}", "https://front{}", "evil:80{}"])
def test_absolute_target_reaches_no_victim(front, path, target) -> None:
    for _ in range(2):
        with Client(front.port) as client:
            client.send(get(target.format(path)))
            client.answer()
    answers = front.victims(path)
    assert clean(answers) and not any(b"https" in a.body for a in answers)


@pytest.mark.parametrize(
    "line",
    [
        *("Accept: evil", "Accept-Language: evil", "User-Agent: evil"),
        *("Origin: https://evil", "Accept-Charset: evil", "X-Any: evil"),
        *("Cookie: evil", "Referer: https://evil", "X-Requested-With: evil"),
        *("RSC: evil", "Accept-Encoding: evil"),
    ],
)
def test_field_that_the_origin_varies_by_reaches_no_victim(front, path, line) -> None:
    vary = f"Vary: {line.partition(':')[0]}"
    front.origin.answer = lambda asked: said(
        asked.raw, vary, "Cache-Control: public, max-age=60"
    )
    front.get(path, line)
    front.get(path, line)
    assert clean(front.victims(path))


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "deflate", "evil", "*"])
def test_coding_of_another_reaches_no_victim(front, path, coding) -> None:
    """The origin that answers in the first coding it is offered, and tells no cache."""

    def code(asked: Message) -> bytes:
        first = asked.get("Accept-Encoding").partition(",")[0].partition(";")[0]
        coded = first not in ("", "identity")
        return said("coded", f"Content-Encoding: {first}") if coded else said("plain")

    front.origin.answer = code
    front.get(path, f"Accept-Encoding: {coding}")
    front.get(path, f"Accept-Encoding: {coding}")
    for answered in front.victims(path):
        assert answered.body == b"plain" and not answered.get("Content-Encoding")


BODIES = {
    "length": get("{}", "Content-Length: 4") + b"evil",
    "chunked": get("{}", "Transfer-Encoding: chunked") + b"4\r\nevil\r\n0\r\n\r\n",
    "trailer": get("{}", "Transfer-Encoding: chunked") + b"0\r\nX-Evil: evil\r\n\r\n",
    "head": get("{}", "Content-Length: 4", method="HEAD") + b"evil",
    "form": get("{}", "Content-Type: application/x-www-form-urlencoded",
                "Content-Length: 6") + b"q=evil",
}  # fmt: skip


@pytest.mark.parametrize("data", BODIES.values(), ids=BODIES)
def test_body_of_a_get_reaches_no_victim(front, path, data) -> None:
    for _ in range(2):
        with Client(front.port) as client:
            client.send(data.replace(b"{}", path.encode()))
            client.answer("HEAD" if data.startswith(b"HEAD") else "GET")
    assert clean(front.victims(path))


QUERIES = [
    *("?a=1;b=evil", "?a=1&b=evil", "?a=1&a=evil", "?a=1%26b=evil", "?a=1%3bb=evil"),
    *("?a=1&b=evil#", "?a=1%23evil", "?a=1&utm_content=x;a=evil", "?a=1&;a=evil"),
    *("?a=1%00evil", "?a=1&%61=evil", "?a[]=1&b=evil", "?A=evil", "?a=evil&a=1"),
    *("?a=1?evil", "?a=1 evil", "?a=1\tevil", "?a=1&_method=evil", "?evil&a=1"),
]


@pytest.mark.parametrize("query", QUERIES)
def test_cloaked_parameter_reaches_no_victim(front, path, query) -> None:
    for _ in range(2):
        with Client(front.port) as client:
            client.send(get(path + query))
            client.answer()
    for target in (path + "?a=1", path, path + "?"):
        assert clean(front.victims(target))


def of_a_part(asked: Message) -> bytes:
    """An origin that knows ranges and conditions, and lets all of it be stored."""
    whole = b"0123456789"
    etag = 'ETag: "v1"'
    if asked.get("Range") == "bytes=2-3":
        return said(
            b"23", "Content-Range: bytes 2-3/10", etag, status="206 Partial Content"
        )
    if asked.get("Range"):
        return said(b"evil", etag, status="416 Range Not Satisfiable")
    if asked.get("If-None-Match") or asked.get("If-Modified-Since"):
        return b"HTTP/1.1 304 Not Modified\r\nCache-Control: max-age=60\r\n\r\n"
    if asked.get("If-Match") or asked.get("If-Unmodified-Since"):
        return said(b"evil", etag, status="412 Precondition Failed")
    return said(whole, etag)


@pytest.mark.parametrize(
    "lines",
    [
        ["Range: bytes=2-3"],
        ["Range: bytes=2-3", 'If-Range: "v1"'],
        ["Range: bytes=900-"],
        ["Range: bytes=0-,0-,0-,0-"],
        ["Range: evil"],
        ['If-None-Match: "v1"'],
        ["If-None-Match: *"],
        ["If-Modified-Since: Mon, 30 Nov 2026 00:00:00 GMT"],
        ['If-Match: "other"'],
        ["If-Unmodified-Since: Mon, 30 Nov 1999 00:00:00 GMT"],
    ],
    ids=lambda lines: "+".join(line.partition(":")[0] for line in lines),
)
def test_answer_to_a_part_reaches_no_victim(front, path, lines) -> None:
    front.origin.answer = of_a_part
    front.get(path, *lines)
    front.get(path, *lines)
    for answered in front.victims(path):
        assert (answered.status, answered.body) == (200, b"0123456789")


def test_head_poisons_no_get(front, path) -> None:
    front.origin.answer = lambda asked: (
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nCache-Control: max-age=60\r\n\r\n"
        if asked.start[0] == b"HEAD"
        else said(b"whole")
    )
    front.ask(get(path, method="HEAD"), "HEAD")
    assert {a.body for a in front.victims(path)} == {b"whole"}


@pytest.mark.parametrize(
    "method", ["POST", "get", "GETX", "OPTIONS", "PURGE", "DELETE"]
)
def test_other_method_poisons_no_get(front, path, method) -> None:
    front.origin.answer = lambda asked: said(
        b"evil" if asked.start[0] != b"GET" else b"fine", f"Content-Location: {path}x"
    )
    for _ in range(2):
        with Client(front.port) as client:
            client.send(get(path, "Content-Length: 0", method=method))
            client.answer()
    assert clean(front.victims(path))
