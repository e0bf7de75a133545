"""Random requests on raw sockets: `python -m tests.security.fuzz_headers SEED`.

Each history is one connection: a few requests of RFC 9112's grammar, most of them
damaged. Whatever they are, the server answers what a strict reader reads, or closes the
connection, in time; never with an error of its own, a traceback in its log, a worker
lost or memory kept. What it passes on is one unambiguous request each. A history that
breaks this is printed; `--only N` sends the Nth of the seed again.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.security.client import Client, Silent
from tests.security.conftest import Front, fronting
from tests.security.origin import said
from tests.security.wire import Malformed, Message, request

METHODS = ["GET"] * 40 + ["HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PURGE"]
METHODS += [
    "TRACE",
    "CONNECT",
    "PROPFIND",
    "get",
    "G",
    "GETT",
    "M-SEARCH",
    "X" * 300,
    "",
]
TARGETS = [
    *("/", "/a", "/a?b=c", "/a?b=c&d", "//", "/./", "/../", "/%00", "/%2e%2e/", "/a;b"),
    *("/a#b", "*", "http://front/a", "https://evil/a", "front:80", "/" + "a" * 2000),
    *("/" + "a" * 9000, "/?" + "a=b&" * 500, "/\\", "/%", "/%zz", "/a b", "", "/{}|^`"),
    *("/healthz", "/readyz", "/kv/a", "/stats", "/\xe9", "/~", "/a?" + "%41" * 100),
]
FRAMING = ["Host", "Connection", "Content-Length", "Transfer-Encoding", "Expect"]
FRAMING += ["TE", "Trailer", "Upgrade"]
NAMES = """
    Via Range If-Range If-Match If-None-Match If-Modified-Since If-Unmodified-Since
    Accept Cookie Accept-Encoding Accept-Language Accept-Charset Authorization
    Proxy-Authorization Cache-Control Pragma Forwarded X-Forwarded-For
    X-Forwarded-Host X-Forwarded-Proto X-HTTP-Method-Override X-Original-URL
    Max-Forwards Origin Referer User-Agent Date Content-Type Content-Encoding
    Content-Range Keep-Alive Proxy-Connection Age Vary HTTP2-Settings
    Sec-WebSocket-Key Sec-WebSocket-Version Cache-Tag Surrogate-Key Prefer
    Shmcache-Lease CDN-Loop Priority Cache-Status Early-Data Set-Cookie Location
    Warning
"""
VALUES = [
    *("", "a", "0", "1", "5", "-1", "+1", "1,1", "99999999999999999999", "1e3", "0x1"),
    *(
        "close",
        "keep-alive",
        "upgrade",
        "close, te",
        "Host",
        "chunked",
        "gzip, chunked",
    ),
    *(
        "identity",
        "trailers",
        "websocket",
        "h2c",
        "100-continue",
        "200-ok",
        "bytes=0-0",
    ),
    *("bytes=0-", "bytes=-1", "bytes=5-1", "bytes=0-0,-1", "bytes=" + "0-1," * 50),
    *(
        "lines=1-2",
        '"a"',
        'W/"a"',
        '"a", W/"b"',
        "*",
        "*/*",
        "text/*;q=0.5",
        "gzip;q=0",
    ),
    *(
        "gzip, br;q=1.0, *;q=0",
        "en, *;q=0.1",
        "q=",
        ";q=1",
        ",,,",
        "no-cache",
        "no-store",
    ),
    *("max-age=0", "max-age=", "max-stale", "min-fresh=99", "only-if-cached", 'x="'),
    *("a=b; c=d", "a=b;;c", "Basic eA==", "Bearer " + "x" * 500, "x" * 9000, '"' * 50),
    *("Mon, 30 Nov 2026 00:00:00 GMT", "Monday, 30-Nov-26 00:00:00 GMT", "yesterday"),
    *(
        "Thu, 99 Foo 99999 99:99:99 GMT",
        "for=_a;host=b;proto=c",
        "[::1]",
        "a:b:c",
        "%00",
    ),
    *(
        "evil.example",
        "front",
        "front:80",
        "FRONT.",
        "a b",
        "a\tb",
        " a ",
        "caf\xe9",
        "(a",
    ),
    *("\xff\xfe", "a" * 100 + "," + "b" * 100, "stale-if-error=1e9"),
]
ODD = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b":",
    b"\0",
    b"\x0b",
    b"\xff",
    b",",
]
ODD += [b"HTTP/1.1", b"HTTP/1.0", b"GET / HTTP/1.1\r\n", b"Host: a\r\n", b"\r\n ", b"#"]
ODD += [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n", b"%"]
FILLER = b"\r\n\r\n0\r\n\r\n" + b"x" * 70_000 + b"\r\n\r\n"
"""Ends whatever was begun: fields, chunks, a body of up to its length."""
GROWN_MOST, KEPT_MOST = 192 << 20, 48 << 20
"""Bytes that the workers may have grown by, in all and in the second half: what they
remember is bounded, and they collect seldom."""
SETTINGS = "[origin]\ntimeout = 1.0\n"
WITHIN = 15.0
"""Seconds in which an end must come: an upload that stalls is given up after one, and
aiohttp lingers for ten on what it has refused."""
OWN_ERRORS = {500, 502, 503}
"""What is answered only where something broke here, or at the origin: nothing does."""


@dataclass
class Found:
    """What a run came to."""

    requests: int = 0
    histories: int = 0
    answers: dict[int, int] = field(default_factory=dict)
    """How many, by status."""
    closed: int = 0
    """Histories that ended with the connection closed."""
    grown: int = 0
    """Bytes that the workers grew by."""
    kept: int = 0
    """Those of the second half."""
    wrong: list[tuple[int, str, bytes]] = field(default_factory=list)
    """Number of the history, what was wrong, and what was sent."""


def history(draw: random.Random) -> bytes:
    """What one connection sends."""
    damage = draw.choice((0.0, 0.0, 0.0, 0.3, 0.7))
    sent = b""
    for _ in range(draw.choice((1, 1, 2, 3))):
        data = _request(draw)
        while draw.random() < damage:
            data = _damaged(draw, data)
        sent += data
    return sent


def _request(draw: random.Random) -> bytes:
    method, target = draw.choice(METHODS), draw.choice(TARGETS)
    if draw.random() < 0.5:
        target = f"/{draw.randrange(10**6)}"
    version = draw.choice(("HTTP/1.1",) * 40 + ("HTTP/1.0", "HTTP/2.0", "HTTP/1.9", ""))
    lines = [f"{method} {target} {version}"]
    if draw.random() < 0.95:
        lines.append("Host: front")
    names = NAMES.split()
    count = draw.choice((0, 1, 2, 3, 5, 10, 40)) if draw.random() < 0.99 else 300
    for _ in range(count):
        lines.append(
            _field(draw, draw.choice(names if draw.random() < 0.96 else FRAMING))
        )
    body = b""
    if draw.random() < 0.2:
        body = bytes(draw.randrange(256) for _ in range(draw.randrange(40)))
        if draw.random() < 0.5:
            lines.append(f"Content-Length: {len(body)}")
        else:
            lines.append("Transfer-Encoding: chunked")
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            body += b"0\r\n\r\n"
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def _field(draw: random.Random, name: str) -> str:
    match draw.randrange(40):
        case 0:
            name = name.lower()
        case 1:
            name = name.replace("-", "_")
        case 2:
            name = "".join(draw.choice("!#$%&'*+.^_`|~09azAZ-") for _ in range(9))
        case 3:
            name += draw.choice((" ", "\t", "\0", "\xe9", "x" * 500, ":", ""))
    value = draw.choice(VALUES)
    if draw.random() < 0.1:
        value = ",".join(draw.choices(VALUES, k=3))
    if draw.random() < 0.01:
        value = bytes(draw.randrange(256) for _ in range(20)).decode("latin-1")
    return f"{name}:{draw.choice((' ', '', '  ', chr(9)))}{value}"


def _damaged(draw: random.Random, data: bytes) -> bytes:
    at, other = (draw.randrange(len(data) + 1) for _ in range(2))
    match draw.randrange(6):
        case 0:  # a byte less
            return data[:at] + data[at + 1 :]
        case 1:  # another byte
            return data[:at] + bytes([draw.randrange(256)]) + data[at + 1 :]
        case 2 | 3:  # more bytes
            return data[:at] + draw.choice(ODD) + data[at:]
        case 4:  # a piece twice
            return data[: max(at, other)] + data[min(at, other) :][:20_000]
    return data[:at]  # the end is missing


def answer(asked: Message) -> bytes:
    """The origin's: all there is to a cache's rules, by the length of the target."""
    kinds = (
        ["Cache-Control: max-age=60", 'ETag: "a"'],
        ["Cache-Control: max-age=60", "Vary: Accept, Accept-Encoding, Cookie"],
        ["Cache-Control: no-store"],
        ["Cache-Control: public, max-age=60", "Set-Cookie: a=b"],
        ["Cache-Control: private"],
    )
    body = b"" if asked.start[0] == b"HEAD" else asked.start[1][:100]
    return said(body, *kinds[len(asked.target) % len(kinds)])


def expected(sent: bytes) -> Iterator[str]:
    """The methods of the requests that are whole and unambiguous, from the first on."""
    while sent:
        try:
            found = request(sent)
        except Malformed:
            return
        if found is None:
            return
        sent = sent[len(found.raw) :]
        yield found.start[0].decode()


def send(front: Front, sent: bytes, found: Found) -> str:
    """One history; what is wrong with what came back, empty if nothing is."""
    due = list(expected(sent))
    with Client(front.port, WITHIN) as client:
        client.send(sent)
        try:
            for method in due:
                answered = client.answer(method)
                if answered is None:
                    break
                wrong = _judged(answered, sent, found)
                if wrong or _last(answered):
                    return wrong
            return "" if client.ended else _ended(client, sent, found)
        except Silent as e:
            return f"no answer, and not closed: {e}"
        except (Malformed, AssertionError) as e:
            return f"no answer that can be read: {e}"


def _last(answered: Message) -> bool:
    """Whether no other answer is due. A parser that meets an error drops the requests
    that it has read with it."""
    return answered.get("Connection") == "close" or answered.raw.startswith(
        b"HTTP/1.0 400 "
    )


def _ended(client: Client, sent: bytes, found: Found) -> str:
    """What is left of the history is no whole request, or none that is unambiguous:
    whatever it is, it must come to an end."""
    client.send(FILLER)
    while not client.ended:
        client.more()
    found.closed += 1
    if b"Traceback" in client.data:
        return f"a traceback: {client.data!r}"
    for status in re.findall(
        rb"(?:^|\r\n\r\n|\n)HTTP/1\.[01] ([0-9]{3}) ", client.data
    ):
        if int(status) in OWN_ERRORS:
            return f"an error of its own: {client.data[:400]!r}"
    return ""


def _judged(answered: Message, sent: bytes, found: Found) -> str:
    status = answered.status
    found.answers[status] = found.answers.get(status, 0) + 1
    if status in OWN_ERRORS or (
        status == 504 and b"only-if-cached" not in sent.lower()
    ):
        return f"an error of its own: {answered.raw[:400]!r}"
    return ""


def run(front: Front, seed: int, requests: int, only: int | None = None) -> Found:
    """Histories from a seed, until so many requests were sent."""
    found, workers = Found(), front.server.pids()
    front.origin.answer = answer
    before = half = front.memory()
    while found.requests < requests:
        sent = history(random.Random(f"{seed} {found.histories}"))
        number, found.histories = found.histories, found.histories + 1
        if only in (None, number):
            _watched(front, number, sent, found)
        if found.requests < requests / 2 <= found.requests + _count(sent):
            half = front.memory()
        found.requests += _count(sent)
    now = front.memory()
    found.grown, found.kept = now - before, now - half
    if front.server.pids() != workers:
        found.wrong.append((found.histories, "a worker was lost", b""))
    if found.grown > GROWN_MOST or found.kept > KEPT_MOST:
        found.wrong.append((found.histories, f"{found.grown:,} bytes more", b""))
    return found


def _watched(front: Front, number: int, sent: bytes, found: Found) -> None:
    wrong = send(front, sent, found)
    front.origin.heard.clear()
    faults, front.origin.faults = front.origin.faults, []
    found.wrong += [(number, fault, sent) for fault in (wrong, *faults) if fault]


def _count(sent: bytes) -> int:
    return max(1, sent.count(b" HTTP/1."))


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("fuzz_headers", description=__doc__)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    parser.add_argument("--requests", type=lambda n: int(float(n)), default=10_000)
    parser.add_argument("--only", type=int, help="this history of the seed alone")
    asked = parser.parse_args(args)
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        fronting(Path(folder), SETTINGS) as front,
    ):
        found = run(front, asked.seed, asked.requests, asked.only)
    statuses = ", ".join(f"{n} of {s}" for s, n in sorted(found.answers.items()))
    print(
        f"{found.requests:,} requests in {found.histories:,} connections from seed "
        f"{asked.seed}, in {time.monotonic() - began:.0f} s: {len(found.wrong)} wrong; "
        f"answers: {statuses}; {found.grown:,} bytes more, "
        f"{found.kept:,} of them in the second half"
    )
    for number, wrong, sent in found.wrong[:5]:
        print(f"\n--only {number}: {wrong}\n{sent!r}")
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
