"""Smuggling from the client's side (T5): what we take for one request, the origin does.

Every case holds `GET /smuggled`, which is a request only to who reads it the wrong way.
The origin's reader is strict; it also fails a test by a request that the server has not
written itself.
"""

from __future__ import annotations

import contextlib

import pytest

from tests.security.client import Client, Silent, get
from tests.security.conftest import Front
from tests.security.origin import said
from tests.security.wire import Message

HIDDEN = b"GET /smuggled HTTP/1.1\r\nHost: front\r\n\r\n"
HOST = b"Host: front\r\n"
BODY = b"0\r\n\r\n" + HIDDEN


def post(*lines: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    head = [b"POST /case HTTP/" + version, b"Host: front", *lines, b"", b""]
    return b"\r\n".join(head) + body


def chunked(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", body=body)


def bare(start: bytes, *lines: bytes, end: bytes = b"\r\n") -> bytes:
    return end.join([start, b"Host: front", *lines, b"", b""]) + HIDDEN


LENGTH = b"Content-Length: %d"
WHOLE = LENGTH % len(BODY)
CODINGS = [
    *(b"chunked", b" chunked", b"\tchunked", b"\x0bchunked", b"chunked\x0b"),
    *(b"xchunked", b"chunked, identity", b"identity", b"identity, chunked"),
    *(b'"chunked"', b"chunked;q=1", b"gzip, chunked", b"chunked, chunked", b"CHUNKED"),
    *(b"", b"chunked,", b",chunked", b"chunked\0", b"\xa0chunked", b"chunked x"),
    *(b"\r\n chunked", b"\n chunked", b"chunked\r\n x", b"chun\rked", b"trailers"),
]
LENGTHS = [
    *(b"+5", b"-5", b"0x5", b"5,5", b"5, 6", b"5 6", b"", b"5;", b"5\x0b", b"\x0b5"),
    *(b"\xef\xbc\x95", b"1e1", b"5.0", b"5\0", b'"5"', b"0b101", b"5_0", b"\r\n 5"),
    *(b"18446744073709551621", b"99999999999999999999999", b"5\r\nContent-Length: 6"),
    *(b"5\r\nContent-Length: 5", b"0\r\ncontent-length: 5", b"5\nContent-Length: 0"),
]
CHUNKS = {
    "wraps-64": b"10000000000000005\r\nhello\r\n" + BODY,
    "endless": b"F" * 40 + b"\r\nhello\r\n" + BODY,
    "plus": b"+5\r\nhello\r\n" + BODY,
    "minus": b"-5\r\nhello\r\n" + BODY,
    "prefixed": b"0x5\r\nhello\r\n" + BODY,
    "space-before": b" 5\r\nhello\r\n" + BODY,
    "nothing": b"\r\nhello\r\n" + BODY,
    "no-digit": b"g\r\nhello\r\n" + BODY,
    "underscore": b"0_5\r\nhello\r\n" + BODY,
    "bare-lf": b"5\nhello\r\n" + BODY,
    "bare-cr": b"5\rhello\r\n" + BODY,
    "end-by-lf": b"5\r\nhello\n" + BODY,
    "end-by-cr": b"5\r\nhello\r" + BODY,
    "longer-than-told": b"5\r\nhelloxx\r\n" + BODY,
    "shorter-than-told": b"5\r\nhel\r\n" + BODY,
    "last-by-lf": b"0\n\n" + HIDDEN,
    "last-with-data": b"0\r\nhello\r\n" + HIDDEN,
    "extension-with-lf": b"5;a=b\nhello\r\n" + BODY,
    "extension-with-cr": b"5;a\rb\r\nhello\r\n" + BODY,
    "extension-with-nul": b"5;a=\0\r\nhello\r\n" + BODY,
    "extension-open": b'5;a="b\r\nhello\r\n' + BODY,
    "trailer-with-space": b"0\r\nX : y\r\n\r\n" + HIDDEN,
    "trailer-with-lf": b"0\r\nX: y\n\r\n" + HIDDEN,
    "trailer-with-nul": b"0\r\nX: \0\r\n\r\n" + HIDDEN,
    "trailer-folded": b"0\r\nX: a\r\n b\r\n\r\n" + HIDDEN,
}
LINES = {
    "bare-lf": bare(b"GET /case HTTP/1.1", end=b"\n"),
    "bare-cr": bare(b"GET /case HTTP/1.1", end=b"\r"),
    "lf-cr": bare(b"GET /case HTTP/1.1", end=b"\n\r"),
    "lf-in-fields": bare(b"GET /case HTTP/1.1", b"A: b\nC: d"),
    "cr-in-value": bare(b"GET /case HTTP/1.1", b"A: b\rC: d"),
    "nul-in-value": bare(b"GET /case HTTP/1.1", b"A: b\0"),
    "nul-in-name": bare(b"GET /case HTTP/1.1", b"A\0: b"),
    "control-in-name": bare(b"GET /case HTTP/1.1", b"A\x01: b"),
    "high-in-name": bare(b"GET /case HTTP/1.1", b"\xc4\xb0: b"),
    "space-before-colon": bare(b"GET /case HTTP/1.1", b"A : b"),
    "tab-before-colon": bare(b"GET /case HTTP/1.1", b"A\t: b"),
    "space-in-name": bare(b"GET /case HTTP/1.1", b"A B: c"),
    "no-colon": bare(b"GET /case HTTP/1.1", b"A"),
    "no-name": bare(b"GET /case HTTP/1.1", b": b"),
    "folded": bare(b"GET /case HTTP/1.1", b"A: b\r\n c"),
    "folded-by-tab": bare(b"GET /case HTTP/1.1", b"A: b\r\n\tContent-Length: 5"),
    "folded-at-first": b"GET /case HTTP/1.1\r\n A: b\r\n" + HOST + b"\r\n" + HIDDEN,
    "cr-cr-lf": b"GET /case HTTP/1.1\r\n" + HOST + b"\r\r\n" + HIDDEN,
    "lf-at-the-end": b"GET /case HTTP/1.1\r\n" + HOST + b"\n" + HIDDEN,
    "0.9": b"GET /case\r\n" + HIDDEN,
    "0.9-by-lf": b"GET /case\n" + HIDDEN,
    "no-version": bare(b"GET /case "),
    "version-1.2": bare(b"GET /case HTTP/1.2"),
    "version-1.10": bare(b"GET /case HTTP/1.10"),
    "version-01.1": bare(b"GET /case HTTP/01.1"),
    "version-2.0": bare(b"GET /case HTTP/2.0"),
    "version-2": bare(b"GET /case HTTP/2"),
    "version-lower": bare(b"GET /case http/1.1"),
    "version-spaced": bare(b"GET /case HTTP/1.1 "),
    "version-cut": bare(b"GET /case HTTP/1."),
    "version-twice": bare(b"GET /case HTTP/1.1 HTTP/1.1"),
    "version-other": bare(b"GET /case ICE/1.0"),
    "preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HIDDEN,
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + HIDDEN,
    "space-before": b" " + bare(b"GET /case HTTP/1.1"),
    "space-in-target": bare(b"GET /ca se HTTP/1.1"),
    "tabs": bare(b"GET\t/case\tHTTP/1.1"),
    "form-feed": bare(b"GET\x0c/case HTTP/1.1"),
    "lf-in-target": bare(b"GET /case\n HTTP/1.1"),
    "cr-in-target": bare(b"GET /case\rx HTTP/1.1"),
    "nul-in-target": bare(b"GET /case\0 HTTP/1.1"),
    "high-in-target": bare(b"GET /case\xff HTTP/1.1"),
    "colon-in-method": bare(b"GET: /case HTTP/1.1"),
    "braces-in-method": bare(b"G{T} /case HTTP/1.1"),
    "method-missing": bare(b" /case HTTP/1.1"),
    "host-twice": bare(b"GET /case HTTP/1.1", b"Host: front"),
    "host-missing": b"GET /case HTTP/1.1\r\n\r\n" + HIDDEN,
    "connect": bare(b"CONNECT front:80 HTTP/1.1"),
    "connect-path": bare(b"CONNECT /case HTTP/1.1"),
    "trace": bare(b"TRACE /case HTTP/1.1"),
    "absolute": bare(b"GET http:///case HTTP/1.1"),
    "asterisk": bare(b"GET * HTTP/1.1"),
}
REFUSED = {
    "cl-te": post(WHOLE, b"Transfer-Encoding: chunked", body=BODY),
    "te-cl": post(b"Transfer-Encoding: chunked", LENGTH % 4, body=b"2d\r\n" + BODY),
    "te-cl-0": post(b"Transfer-Encoding: chunked", LENGTH % 0, body=BODY),
    "te-te": post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: x", body=BODY),
    "te-te-both": post(*[b"Transfer-Encoding: chunked"] * 2, body=BODY),
    "te-1.0": post(b"Transfer-Encoding: chunked", body=BODY, version=b"1.0"),
    "te-1.0-alone": post(
        *(b"Connection: keep-alive", b"Transfer-Encoding: chunked"),
        body=b"5\r\nhello\r\n0\r\n\r\n",
        version=b"1.0",
    ),
    "te-1.0-length": post(
        b"Transfer-Encoding: chunked", WHOLE, body=BODY, version=b"1.0"
    ),
    "length-spaced": post(b"Content-Length : 5", body=b"hello" + HIDDEN),
    **{f"te-{c!r}": post(b"Transfer-Encoding:" + c, WHOLE, body=BODY) for c in CODINGS},
    **{f"length-{v!r}": post(b"Content-Length: " + v, body=BODY) for v in LENGTHS},
    **{f"chunk-{name}": chunked(body) for name, body in CHUNKS.items()},
    **{f"line-{name}": data for name, data in LINES.items()},
}


@pytest.fixture(autouse=True)
def echo(front: Front) -> None:
    def answer(asked: Message) -> bytes:
        return said("" if asked.start[0] == b"HEAD" else asked.target, age=0)

    front.origin.answer = answer


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_ambiguous_request_is_refused(front, path, data) -> None:
    """It is the last of its connection; and connections to the origin are in order."""
    with Client(front.port) as client:
        client.send(data)
        answered = client.answer()
        assert answered is None or answered.status in (400, 404, 405, 408, 501, 505)
        assert client.closed(), client.data
    assert front.origin.heard == []
    front.echoes(path)


ENDLESS = {
    "chunk-32": chunked(b"100000005\r\nhello\r\n" + BODY),
    "chunk-64": chunked(b"FFFFFFFFFFFFFFFF\r\nhello\r\n" + BODY),
    **{
        f"length-{n}": post(LENGTH % n, body=HIDDEN)
        for n in (2**31, 2**32, 2**32 + 5, 2**63 - 1)
    },
}


@pytest.mark.parametrize("data", ENDLESS.values(), ids=ENDLESS)
def test_body_of_absurd_length_has_no_request_in_it(front, path, data) -> None:
    """It is refused, or waited for."""
    with Client(front.port, 0.2) as client:
        client.send(data)
        with contextlib.suppress(Silent):
            answered = client.answer()
            assert answered is None or answered.status == 400
    assert front.origin.heard == []
    front.echoes(path)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1])
def test_length_beyond_counting_is_refused(front, length) -> None:
    """An origin that counts with a sign has it negative."""
    with Client(front.port) as client:
        client.send(post(LENGTH % length, body=HIDDEN))
        answered = client.answer()
    front.unambiguous()
    assert answered and answered.status == 400 and front.origin.heard == []


@pytest.mark.parametrize("rest", [b"x\r\n", b"\r\nx\r\n", b"\r\n-1\r\n"])
def test_chunk_that_is_none_is_refused_when_it_comes(front, rest) -> None:
    """Its request is on the way to the origin, and holds one of the connections."""
    with Client(front.port, 0.05) as client:
        client.send(chunked(b"5\r\nhello"))
        with contextlib.suppress(Silent):
            client.more()
        client.send(rest + HIDDEN)
        client.within(2)
        answered = client.answer()
        assert answered is None or answered.status == 400
        assert client.closed() and front.origin.heard == []


KNOWN = get("/known")
WEBSOCKET = get(
    "/case",
    *("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)[:-2]
"""A handshake, whose fields go on."""
TAKEN = {
    "length": (post(LENGTH % len(HIDDEN), body=HIDDEN), HIDDEN),
    "length-zeros": (post(b"Content-Length: 0005", body=b"hello"), b"hello"),
    "length-spaced": (post(b"Content-Length:  5 \t", body=b"hello"), b"hello"),
    "get": (get("/case", LENGTH % len(HIDDEN)) + HIDDEN, HIDDEN),
    "get-known": (get("/known", LENGTH % len(KNOWN)) + KNOWN, KNOWN),
    "head": (get("/case", LENGTH % 39, method="HEAD") + HIDDEN[:39], HIDDEN[:39]),
    "delete": (get("/case", LENGTH % 5, method="DELETE") + b"hello", b"hello"),
    "chunks": (chunked(b"27\r\n" + HIDDEN[:39] + b"\r\n0\r\n\r\n"), HIDDEN[:39]),
    "chunk-zeros": (chunked(b"0005\r\nhello\r\n000\r\n\r\n"), b"hello"),
    "chunk-extension": (chunked(b"5;a=b;c\r\nhello\r\n0;d\r\n\r\n"), b"hello"),
    "chunk-quoted": (chunked(b'5;a="b;c"\r\nhello\r\n0\r\n\r\n'), b"hello"),
    "trailer": (chunked(b"5\r\nhello\r\n0\r\nX-Any: evil\r\n\r\n"), b"hello"),
    "trailer-host": (chunked(b"0\r\nHost: evil\r\nContent-Length: 9\r\n\r\n"), b""),
    "expect": (post(LENGTH % 5, b"Expect: 100-continue", body=b"hello"), b"hello"),
    "expect-other": (post(LENGTH % 5, b"Expect: x", body=b"hello"), b"hello"),
    "expect-1.0": (
        post(LENGTH % 5, b"Expect: 100-continue", body=b"hello", version=b"1.0"),
        b"hello",
    ),
    "underscores": (
        post(LENGTH % 5, b"Transfer_Encoding: chunked", b"Content_Length: 9")
        + b"hello",
        b"hello",
    ),
    "hop-named": (post(LENGTH % 5, b"Connection: content-length") + b"hello", b"hello"),
    "te-named": (
        post(b"Transfer-Encoding: chunked", b"Connection: transfer-encoding")
        + b"5\r\nhello\r\n0\r\n\r\n",
        b"hello",
    ),
    "upgrade-body": (
        post(LENGTH % 39, b"Upgrade: websocket", b"Connection: upgrade") + HIDDEN[:39],
        HIDDEN[:39],
    ),
    "websocket-body": (
        WEBSOCKET + LENGTH % 39 + b"\r\n\r\n" + HIDDEN[:39],
        HIDDEN[:39],
    ),
    "websocket-chunks": (
        WEBSOCKET + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"hello",
    ),
    "h2c-body": (
        post(LENGTH % 39, b"Upgrade: h2c", b"Connection: upgrade, http2-settings")
        + HIDDEN[:39],
        HIDDEN[:39],
    ),
    "empty-lines-before": (b"\r\n\r\n" + post(LENGTH % 5, body=b"hello"), b"hello"),
}


@pytest.mark.parametrize(("data", "body"), TAKEN.values(), ids=TAKEN)
def test_unambiguous_request_is_one(front, path, data, body) -> None:
    """Or it is refused: the connection is closed then, and the origin not asked."""
    method = "HEAD" if data.startswith(b"HEAD") else "GET"
    for cut in (len(data), data.find(b"\r\n\r\n", 4) + 4, 30):
        front.origin.heard.clear()
        with Client(front.port) as client:
            _learnt(client)
            front.origin.heard.clear()
            client.send(data[:cut])
            client.send(data[cut:])
            answered = client.answer(method)
            if answered is None or answered.status in (400, 417, 501):
                assert client.closed() and front.origin.heard == []
                continue
            assert answered.status == 200
            assert [asked.body for asked in front.origin.heard] == [body]
            sent = front.origin.heard[0].raw
            assert b"evil" not in sent and b"_" not in sent
    front.echoes(path)


def _learnt(client: Client) -> None:
    """Have the fast lane of its worker know a header block."""
    for _ in range(3):
        client.send(KNOWN)
        answered = client.answer()
        assert answered and answered.status == 200


HALVES = {
    "length": (post(LENGTH % len(KNOWN)), KNOWN, KNOWN),
    "chunk": (
        post(b"Transfer-Encoding: chunked", body=b"%x\r\n" % len(KNOWN)),
        KNOWN,
        KNOWN,
    ),
    "expect": (post(LENGTH % len(KNOWN), b"Expect: 100-continue"), KNOWN, KNOWN),
    "get": (get("/case", LENGTH % len(KNOWN)), KNOWN, KNOWN),
}


@pytest.mark.parametrize(("head", "rest", "body"), HALVES.values(), ids=HALVES)
def test_body_that_looks_like_a_hit_is_a_body(front, path, head, rest, body) -> None:
    """The fast lane knows these very bytes, and they come by themselves."""
    front.origin.answer = lambda asked: said(asked.target)
    with Client(front.port) as client:
        _learnt(client)
        front.origin.heard.clear()
        client.send(head)
        with contextlib.suppress(Silent):  # 100 Continue may come
            _patient(client, 0.05).more()
        client.send(rest)
        if b"chunked" in head:
            client.send(b"\r\n0\r\n\r\n")
        answered = _patient(client, 5).answer()
        assert answered and answered.body == b"/case"
        assert [asked.body for asked in front.origin.heard] == [body]
        client.send(KNOWN)
        answered = client.answer()
        assert answered and answered.body == b"/known"


def _patient(client: Client, within: float) -> Client:
    client.within(within)
    return client


@pytest.mark.parametrize("field", [b"X-Any: ", b"Cookie: a=", b"X-Any"])
@pytest.mark.parametrize("before", [b"", get("/before")], ids=["alone", "behind"])
def test_field_that_looks_like_a_hit_is_a_field(front, path, before, field) -> None:
    """Its beginning came before, and is in the parser; what comes is its rest."""
    front.origin.answer = lambda asked: said(asked.target)
    with Client(front.port) as client:
        _learnt(client)
        client.send(before + b"GET /other HTTP/1.1\r\nHost: front\r\n" + field)
        if before:
            answered = client.answer()
            assert answered and answered.body == b"/before"
        with pytest.raises(Silent):
            _patient(client, 0.05).more()
        client.send(KNOWN)
        answered = _patient(client, 5).answer()
        assert answered and answered.body != b"/known"
        assert client.closed() or answered.status == 200


def test_pipelined_requests_are_answered_in_order(front, path) -> None:
    """Either lane, methods mixed, in one write."""
    front.origin.answer = lambda asked: said(asked.target)
    with Client(front.port) as client:
        _learnt(client)
        client.send(
            b"".join([KNOWN, get(path), KNOWN, post(LENGTH % 5, body=b"hello"), KNOWN])
        )
        bodies = [a.body.decode() for _ in range(5) if (a := client.answer())]
        assert bodies == ["/known", path, "/known", "/case", "/known"]


def test_what_follows_an_upgrade_is_no_request_of_ours(front, path) -> None:
    """The origin keeps to HTTP: it is the client's next request, or nothing."""
    front.origin.answer = lambda asked: said(asked.target)
    with Client(front.port) as client:
        client.send(
            get(path, "Connection: upgrade", "Upgrade: websocket") + get(path + "next")
        )
        bodies = []
        while len(bodies) < 2 and (answered := client.answer()) is not None:
            bodies.append(answered.body.decode())
        assert bodies in ([path], [path, path + "next"])


def test_what_follows_a_refused_request_is_none(front, path) -> None:
    with Client(front.port) as client:
        client.send(get("/case", "Bad : field") + get(path) * 20)
        answered = client.answer()
        assert answered and answered.status == 400 and client.closed()
    assert front.origin.heard == []
