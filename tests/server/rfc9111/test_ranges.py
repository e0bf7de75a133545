from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmcache_server.rfc9111.ranges import (
    MOST,
    Parts,
    Piece,
    Span,
    Spec,
    combine,
    complete,
    found,
    head_206,
    head_416,
    holds,
    missing,
    multipart,
    parse,
    piece,
    plan,
    same,
)
from shmcache_server.rfc9111.validation import Validators

DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
SECOND_AFTER = "Sun, 06 Nov 1994 08:49:38 GMT"
STORED = Validators(etag='"a"', last_modified=DATE, date=SECOND_AFTER)


@pytest.mark.parametrize(
    ("line", "specs"),
    [
        ("bytes=0-1", (Spec(0, 1),)),
        ("BYTES=1-", (Spec(1, None),)),
        ("bytes=-5", (Spec(None, 5),)),
        ("bytes= 0-0 ,\t2-3 ", (Spec(0, 0), Spec(2, 3))),
    ],
)
def test_ranges_of_bytes_are_parsed(line, specs) -> None:
    assert parse([line]) == specs


@pytest.mark.parametrize(
    "line",
    [
        *("", "bytes", "bytes=", "bytes=a", "bytes=1", "bytes=2-1", "bytes=0-1,"),
        *("items=0-1", "bytes=0-1;x", "bytes=--1", "bytes=-", "bytes=٣-", "bytes =0-1"),
        *("bytes=" + "9" * 5000 + "-", "bytes=" + "0-0," * 100_000),
        "bytes=" + ",".join(["0-0"] * (MOST + 1)),
    ],
)
def test_range_that_is_none_is_ignored(line) -> None:
    assert parse([line]) is None
    assert parse([]) is None
    assert parse(["bytes=0-1", "bytes=0-1"]) is None


@pytest.mark.parametrize(
    ("line", "spans"),
    [
        ("bytes=0-1", [(0, 2)]),
        ("bytes=1-", [(1, 11)]),
        ("bytes=-1", [(10, 11)]),
        ("bytes=-99", [(0, 11)]),
        ("bytes=0-99", [(0, 11)]),
        ("bytes=0-1,5-6", [(0, 2), (5, 7)]),
        ("bytes=0-4,5-10", [(0, 5), (5, 11)]),
        ("bytes=99-,5-6", [(5, 7)]),
        ("bytes=11-", []),
        ("bytes=-0", []),
    ],
)
def test_range_is_cut_to_the_length(line, spans) -> None:
    told = tuple(Span(*span) for span in spans)
    assert plan(parse([line]), 11, STORED) == Parts(told, 11)


@pytest.mark.parametrize("line", ["bytes=0-9,0-9", "bytes=0-,1-", "x=1"])
def test_range_that_is_too_much_gets_the_whole(line) -> None:
    assert plan(parse([line]), 11, STORED) is None


def test_nothing_has_no_range() -> None:
    assert plan(parse(["bytes=-5"]), 0, STORED) is None
    assert plan(parse(["bytes=0-"]), 0, STORED) == Parts((), 0)


@pytest.mark.parametrize(
    ("condition", "stored", "of_it"),
    [
        (None, STORED, True),
        ('"a"', STORED, True),
        ('"b"', STORED, False),
        ('W/"a"', Validators(etag='W/"a"'), False),
        ("a", STORED, False),
        (DATE, STORED, True),
        (SECOND_AFTER, STORED, False),
        (DATE, Validators(last_modified=DATE, date=DATE), False),
        (DATE, Validators(last_modified=DATE), False),
        ('"a"', Validators(), False),
    ],
)
def test_if_range_needs_a_strong_validator(condition, stored, of_it) -> None:
    assert holds(condition, stored) is of_it
    assert (plan(parse(["bytes=0-1"]), 11, stored, condition) is not None) is of_it


def test_head_of_a_part_tells_which() -> None:
    fields = [("A", "1"), ("Content-Length", "11"), ("content-range", "x")]
    part = [("A", "1"), ("Content-Range", "bytes 0-1/11")]
    assert head_206(fields, Span(0, 2), 11) == part
    assert head_206([], Span(0, 2), None) == [("Content-Range", "bytes 0-1/*")]
    assert head_416(11) == [("Content-Range", "bytes */11")]


def test_several_ranges_are_a_multipart_body() -> None:
    kind, before, end = multipart([Span(0, 1), Span(3, 5)], 9, "text/plain", "b")
    assert kind == "multipart/byteranges; boundary=b"
    told = b"Content-Type: text/plain\r\nContent-Range: bytes %b/9\r\n\r\n"
    assert before == [
        b"--b\r\n" + told % b"0-0",
        b"\r\n--b\r\n" + told % b"3-4",
    ]
    assert end == b"\r\n--b--\r\n"


@pytest.mark.parametrize(
    ("line", "data", "got"),
    [
        ("bytes 4-8/10", b"01234", (Piece(4, b"01234"), 10)),
        ("bytes 0-4/*", b"01234", (Piece(0, b"01234"), None)),
        ("bytes 4-9/10", b"01234", (Piece(4, b"01234"), 10)),
        ("bytes 4-4/5", b"0", (Piece(4, b"0"), 5)),
        ("bytes 4-7/10", b"01234", None),
        ("bytes 4-8/10", b"", None),
        ("bytes 8-4/10", b"0", None),
        ("bytes 4-8/8", b"01234", None),
        ("bytes */10", b"0", None),
        ("bytes 0-" + "9" * 5000 + "/*", b"0", None),
        ("4-8/10", b"01234", None),
    ],
)
def test_piece_is_what_came_of_a_part(line, data, got) -> None:
    assert piece([line], data) == got
    assert piece([], data) is None
    assert piece([line, line], data) is None


@pytest.mark.parametrize(
    ("line", "span", "data"),
    [
        ("bytes=6-8", (6, 9), b"234"),
        ("bytes=4-4", (4, 5), b"0"),
        ("bytes=6-", None, None),
        ("bytes=-1", None, None),
        ("bytes=3-5", None, None),
        ("bytes=4-4,6-6", None, None),
        ("bytes=20-", None, None),
    ],
)
def test_range_within_a_piece_is_found(line, span, data) -> None:
    pieces = [Piece(4, b"01234")]
    expected = None if span is None else (Span(*span), data)
    assert found(pieces, 10, parse([line])) == expected


def test_range_to_the_end_needs_the_length() -> None:
    pieces = [Piece(5, b"01234")]
    assert found(pieces, 10, parse(["bytes=-5"])) == (Span(5, 10), b"01234")
    assert found(pieces, None, parse(["bytes=-5"])) is None
    assert found(pieces, None, parse(["bytes=6-"])) is None
    assert found(pieces, None, parse(["bytes=6-7"])) == (Span(6, 8), b"12")


def test_pieces_that_touch_become_one() -> None:
    pieces = combine([Piece(0, b"01"), Piece(8, b"89")], Piece(2, b"234"))
    assert pieces == (Piece(0, b"01234"), Piece(8, b"89"))
    assert missing(pieces, 12) == ((5, 8), (10, 12))
    assert complete(pieces, 10) is None
    pieces = combine(pieces, Piece(4, b"4567"))
    assert complete(pieces, 10) == b"0123456789"
    assert missing(pieces, 10) == ()
    assert complete(pieces, None) is None


def test_newer_bytes_win() -> None:
    assert combine([Piece(0, b"aaaa")], Piece(1, b"BB")) == (Piece(0, b"aBBa"),)


@given(
    st.binary(min_size=1, max_size=40), st.lists(st.tuples(*[st.integers(0, 39)] * 2))
)
def test_pieces_of_one_whole_are_its_bytes(whole, cuts) -> None:
    pieces: tuple[Piece, ...] = ()
    held = set()
    for one, other in cuts:
        start, stop = sorted((one % len(whole), other % len(whole) + 1))
        if start < stop:
            pieces = combine(pieces, Piece(start, whole[start:stop]))
            held |= set(range(start, stop))
    for one in pieces:
        assert one.data == whole[one.span.start : one.span.stop]
    assert sum(len(one.data) for one in pieces) == len(held)
    gaps = {at for gap in missing(pieces, len(whole)) for at in range(*gap)}
    assert gaps == set(range(len(whole))) - held
    assert complete(pieces, len(whole)) == (whole if not gaps else None)


def test_same_ranges_are_the_same_request() -> None:
    asked = parse(["bytes=-5"])
    assert same(asked, parse(["BYTES= -5"]))
    assert not same(asked, parse(["bytes=-4"]))
    assert not same(None, None)


@given(st.lists(st.text()), st.integers(0, 100))
def test_no_text_raises(lines, length) -> None:
    plan(parse(lines), length, STORED, "".join(lines))
    plan(parse([f"bytes={''.join(lines)}"]), length, STORED)
    piece([f"bytes {''.join(lines)}"], b"a")
