"""Parts of a stored response."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from shmcache_server import parts, stored
from shmcache_server.rfc9111.ranges import Span

HEAD = (
    b'HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nETag: "a"\r\n'
    b"Content-Length: 10\r\n"
)
FOUND = stored.unpack(stored.pack(HEAD, 200, b"0123456789"))


def part(range_: str, **fields: str):
    held = CIMultiDict({"Range": range_})
    held.update({n.replace("_", "-"): v for n, v in fields.items()})
    return parts.of(CIMultiDictProxy(held), FOUND)


@pytest.mark.parametrize(
    ("range_", "told", "body"),
    [
        ("bytes=0-0", b"bytes 0-0/10", b"0"),
        ("bytes=2-4", b"bytes 2-4/10", b"234"),
        ("bytes=7-", b"bytes 7-9/10", b"789"),
        ("bytes=-3", b"bytes 7-9/10", b"789"),
        ("bytes=5-99", b"bytes 5-9/10", b"56789"),
    ],
)
def test_one_part(range_, told, body) -> None:
    found = part(range_)
    assert (found.status, found.body) == (206, body)
    assert b"\r\nContent-Range: " + told + b"\r\n" in found.head
    assert b"\r\nContent-Length: %d\r\n" % len(body) in found.head
    assert found.head.count(b"Content-Length") == 1
    assert b'\r\nETag: "a"\r\n' in found.head


def test_nothing_of_it() -> None:
    found = part("bytes=10-")
    assert found.status == 416 and found.body == b""
    assert b"\r\nContent-Range: bytes */10\r\n" in found.head


@pytest.mark.parametrize("range_", ["lines=1-2", "bytes=4-2", "bytes=x", ""])
def test_what_is_no_range_is_left_aside(range_) -> None:
    assert part(range_) is None


def test_other_representation_is_answered_whole() -> None:
    assert part("bytes=0-0", If_Range='"b"') is None
    assert part("bytes=0-0", If_Range='"a"').status == 206


@pytest.mark.parametrize("range_", ["bytes=0-0", "bytes=10-", "bytes=0-1,8-"])
def test_what_clients_do_not_get_is_in_no_part(range_) -> None:
    head, hidden = HEAD + b"Cache-Tag: a\r\n", frozenset({"cache-tag"})
    found = stored.unpack(stored.pack(head, 200, b"0123456789", hidden=hidden))
    held = CIMultiDictProxy(CIMultiDict({"Range": range_}))
    assert b"Cache-Tag" not in parts.of(held, found).head


def test_several_parts() -> None:
    found = part("bytes=0-1,8-")
    assert found.status == 206
    kind = next(
        line for line in found.head.split(b"\r\n") if line.startswith(b"Content-Type")
    )
    boundary = kind.rpartition(b"=")[2]
    assert kind.startswith(b"Content-Type: multipart/byteranges; boundary=")
    assert found.head.count(b"Content-Type") == 1
    pieces = found.body.split(b"--" + boundary)
    assert [p.rpartition(b"\r\n\r\n")[2].strip() for p in pieces[1:-1]] == [
        b"01",
        b"89",
    ]
    assert pieces[-1] == b"--\r\n"
    assert b"\r\nContent-Length: %d\r\n" % len(found.body) in found.head


def test_joined_parts_have_the_fields_of_the_newest() -> None:
    one, other = (
        stored.unpack(
            stored.pack(
                b'HTTP/1.1 206 Part\r\nETag: "a"\r\nX: %d\r\nContent-Range: bytes '
                b"%d-%d/10\r\nContent-Length: 5\r\n" % (start, start, start + 4),
                206,
                b"0123456789"[start : start + 5],
            )
        )
        for start in (1, 4)
    )
    pieces = [(1, one), (4, other)]
    found = parts.joined(pieces, other, Span(2, 8), 10)
    assert (found.status, found.body, found.etag) == (206, b"234567", '"a"')
    assert found.head == (
        b'HTTP/1.1 206 Partial Content\r\nETag: "a"\r\nX: 4\r\n'
        b"Content-Range: bytes 2-7/10\r\nContent-Length: 6\r\n"
    )
    found = parts.joined(pieces, one, Span(1, 9), 9, whole=True)
    assert (found.status, found.body) == (200, b"12345678")
    assert found.head == (
        b'HTTP/1.1 200 OK\r\nETag: "a"\r\nX: 1\r\nContent-Length: 8\r\n'
    )
