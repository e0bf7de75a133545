from __future__ import annotations

import msgpack
import pytest

from shmcache_server.stored import VERSION, StoredResponse, pack, unpack

HEAD = (
    b'HTTP/1.1 200 OK\r\nETag: W/"a\xff"\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 '
    b"GMT\r\nCache-Control: max-age=1\r\nX-Long: yes\r\nVia: 1.1 shmcache\r\n"
    b"Content-Length: 3\r\n"
)


def test_response_comes_back_as_it_was() -> None:
    found = unpack(pack(HEAD, 200, b"\0\xff\r"))
    assert found == StoredResponse(200, 'W/"a\udcff"', 784111777, HEAD, b"\0\xff\r")


def test_response_without_validators() -> None:
    found = unpack(pack(b"HTTP/1.1 204 No Content\r\n", 204, b""))
    assert found is not None and (found.etag, found.last_modified) == (None, None)


DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.mark.parametrize(
    ("lines", "modified"),
    [
        (
            [b"last-modified: " + DATE, b"Date: " + DATE.replace(b"37", b"38")],
            784111777,
        ),
        ([b"Date: " + DATE], 784111777),
        ([b"Last-Modified: soon", b"Date: " + DATE], None),
        ([b"Date: soon"], None),
        ([], None),
    ],
)
def test_date_stands_for_last_modified(lines, modified) -> None:
    head = b"\r\n".join([b"HTTP/1.1 200 OK", *lines, b""])
    assert unpack(pack(head, 200, b"")).modified == modified


def test_document_is_one_map_with_the_body_as_bin() -> None:
    found = msgpack.unpackb(pack(HEAD, 200, b"abc"), unicode_errors="surrogateescape")
    assert found["b"] == b"abc" and found["v"] == VERSION


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"\xc0",
        b"\xc1",
        msgpack.packb([1]),
        msgpack.packb({"v": VERSION + 1}),
        msgpack.packb({"v": VERSION, "s": 200}),
        pack(HEAD, 200, b"abc")[:-1],
        pack(HEAD, 200, b"abc") + b"\0",
    ],
)
def test_what_is_no_response_of_ours_is_none(document) -> None:
    assert unpack(document) is None


def test_304_keeps_what_it_must_repeat() -> None:
    found = unpack(pack(HEAD, 200, b"abc"))
    assert found is not None
    assert found.not_modified_head().split(b"\r\n") == [
        b"HTTP/1.1 304 Not Modified",
        b'ETag: W/"a\xff"',
        b"Cache-Control: max-age=1",
        b"Via: 1.1 shmcache",
        b"",
    ]
