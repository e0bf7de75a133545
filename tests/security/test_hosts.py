"""Host confusion (T2): one host, ours, and told in one place."""

from __future__ import annotations

import pytest

from tests.security.client import Client, get
from tests.security.conftest import Front
from tests.security.origin import said
from tests.security.wire import Message

OURS = [b"shop.example", b"SHOP.Example", b"shop.example:8080", b"shop.example:"]
OTHERS = {
    "other": b"Host: evil.example",
    "below": b"Host: a.shop.example",
    "above": b"Host: example",
    "begins-so": b"Host: shop.example.evil",
    "ends-so": b"Host: evil-shop.example",
    "dot": b"Host: shop.example.",
    "empty": b"Host:",
    "port-only": b"Host: :80",
    "localhost": b"Host: localhost",
    "address": b"Host: 127.0.0.2",
    "v6": b"Host: [::1]",
}
NONE = {
    "missing": b"X-Any: a",
    "twice": b"Host: shop.example\r\nHost: shop.example",
    "two": b"Host: shop.example\r\nHost: evil.example",
    "two-other-case": b"Host: shop.example\r\nhOST: evil.example",
    "listed": b"Host: shop.example, evil.example",
    "spaced": b"Host: shop.example evil.example",
    "userinfo": b"Host: evil@shop.example",
    "userinfo-behind": b"Host: shop.example@evil.example",
    "port-is-a-name": b"Host: shop.example:evil",
    "two-ports": b"Host: shop.example:80:80",
    "path": b"Host: shop.example/evil",
    "query": b"Host: shop.example?evil",
    "fragment": b"Host: shop.example#evil",
    "backslash": b"Host: shop.example\\evil",
    "quoted": b'Host: "shop.example"',
    "scheme": b"Host: http://shop.example",
    "nul": b"Host: shop.example\0",
    "high": b"Host: shop.example\xff",
    "tab": b"Host: shop.example\tevil",
    "folded": b"Host: shop.example\r\n evil",
    "encoded": b"Host: shop%2eexample",
}
TARGETS = [
    "http://shop.example{}",
    "http://evil.example{}",
    "http://evil@shop.example{}",
]


@pytest.fixture(autouse=True)
def echo(shop: Front) -> None:
    shop.origin.answer = lambda asked: said(asked.raw)


@pytest.mark.parametrize("host", OURS)
def test_own_host_is_answered(shop, path, host) -> None:
    shop.get(path, b"Host: " + host)
    answered = shop.get(path, b"Host: " + host)
    assert answered.status == 200 and b"hit" in answered.raw
    assert shop.origin.heard[0].all("X-Forwarded-Host") == ["shop.example"]


def test_spellings_of_a_host_are_one(shop, path) -> None:
    for host in OURS:
        shop.get(path, b"Host: " + host)
    assert len(shop.origin.heard) == 1


@pytest.mark.parametrize("line", OTHERS.values(), ids=OTHERS)
def test_other_host_is_misdirected(shop, path, line) -> None:
    """Also where the answer is stored for one that is ours."""
    shop.victims(path, "Host: shop.example")
    for method in ("GET", "POST", "PURGE"):
        with Client(shop.port) as client:
            client.send(get(path, line, "Content-Length: 0", method=method))
            answered = client.answer(method)
            assert answered and answered.status == 421
            assert client.closed()
    assert len(shop.origin.heard) == 1


@pytest.mark.parametrize("line", NONE.values(), ids=NONE)
def test_what_is_no_host_is_refused(shop, path, line) -> None:
    shop.victims(path, "Host: shop.example")
    with Client(shop.port) as client:
        client.send(b"GET " + path.encode() + b" HTTP/1.1\r\n" + line + b"\r\n\r\n")
        answered = client.answer()
        assert answered and answered.status in (400, 421)
        assert client.closed()
    assert len(shop.origin.heard) == 1


@pytest.mark.parametrize("target", TARGETS)
def test_absolute_target_is_no_way_around(shop, path, target) -> None:
    """RFC 9112 §3.2.2: its host is the one that counts, if it is taken at all."""
    with Client(shop.port) as client:
        client.send(get(target.format(path), "Host: evil.example"))
        answered = client.answer()
        assert answered
        if answered.status == 200:
            assert target.startswith("http://shop") and b"evil" not in answered.body
        else:
            assert answered.status in (400, 421) and client.closed()
    assert all(b"evil" not in answered.raw for answered in _plain(shop, path))


def _plain(shop: Front, path: str) -> list[Message]:
    return shop.victims(path, "Host: shop.example")


@pytest.mark.parametrize("host", ["evil.example", "evil evil"])
def test_refusal_of_a_head_has_no_body(shop, path, host) -> None:
    """RFC 9112 §6.3: the client would take it for the next answer."""
    with Client(shop.port) as client:
        client.send(get(path, f"Host: {host}", method="HEAD"))
        answered = client.answer("HEAD")
        assert answered and answered.status in (400, 421) and client.closed()


def test_old_client_without_a_host_is_misdirected(shop, path) -> None:
    with Client(shop.port) as client:
        client.send(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        answered = client.answer()
        assert answered and answered.status in (400, 421) and client.closed()
    assert shop.origin.heard == []


def test_answer_is_not_shared_between_hosts(front: Front, path: str) -> None:
    """Where every host is served, each has its own."""
    front.origin.answer = lambda asked: said(asked.get("X-Forwarded-Host"))
    hosts = ["a.example", "b.example", "a.example.", "a", "a.exampleb", "[::1]", ""]
    for _ in range(2):
        for host in hosts:
            answered = front.get(path, f"Host: {host}")
            assert answered.status in (200, 400)
            assert answered.status == 400 or answered.body.decode() == host
