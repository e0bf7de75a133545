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
    combined,
    cover,
    head_206,
    head_416,
    held,
    holds,
    multipart,
    one,
    parse,
    plan,
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
    ("line", "size", "got"),
    [
        ("bytes 4-8/10", 5, (Span(4, 9), 10)),
        ("bytes 0-4/*", 5, (Span(0, 5), None)),
        ("bytes 4-9/10", 5, (Span(4, 9), 10)),
        ("bytes 4-4/5", 1, (Span(4, 5), 5)),
        ("bytes 4-7/10", 5, None),
        ("bytes 4-8/10", 0, None),
        ("bytes 8-4/10", 1, None),
        ("bytes 4-8/8", 5, None),
        ("bytes */10", 1, None),
        ("bytes 0-" + "9" * 5000 + "/*", 1, None),
        ("4-8/10", 5, None),
    ],
)
def test_piece_is_what_came_of_a_part(line, size, got) -> None:
    assert held([line], size) == got
    assert held([], size) is None
    assert held([line, line], size) is None


@pytest.mark.parametrize(
    ("line", "length", "span"),
    [
        ("bytes=6-8", 10, (6, 9)),
        ("bytes=6-", 10, (6, 10)),
        ("bytes=-4", 10, (6, 10)),
        ("bytes=6-99", 10, (6, 10)),
        ("bytes=10-", 10, None),
        ("bytes=-0", 10, None),
        ("bytes=4-4,6-6", 10, None),
        ("bytes=x", 10, None),
        ("bytes=6-8", None, (6, 9)),
        ("bytes=6-", None, None),
        ("bytes=-4", None, None),
    ],
)
def test_one_range_is_where_its_bytes_are(line, length, span) -> None:
    """To the end, or from it: that needs the length."""
    assert one(parse([line]), length) == span


@pytest.mark.parametrize(
    ("spans", "wanted", "found"),
    [
        ([(4, 9)], (6, 8), [0]),
        ([(4, 9)], (4, 9), [0]),
        ([(4, 9)], (3, 5), None),
        ([(4, 9)], (8, 10), None),
        ([(0, 4), (4, 9)], (2, 6), [0, 1]),
        ([(4, 9), (0, 5)], (2, 6), [1, 0]),
        ([(0, 4), (5, 9)], (2, 6), None),
        ([(0, 3), (2, 4), (0, 4), (4, 8)], (0, 8), [2, 3]),
        ([(2, 9), (0, 9)], (3, 5), [0]),
        ([], (0, 1), None),
    ],
    ids=lambda v: str(v).replace(" ", ""),
)
def test_few_pieces_hold_a_span_together(spans, wanted, found) -> None:
    assert cover([Span(*s) for s in spans], Span(*wanted)) == found


@given(
    st.binary(min_size=1, max_size=40), st.lists(st.tuples(*[st.integers(0, 39)] * 2))
)
def test_pieces_of_one_whole_are_its_bytes(whole, cuts) -> None:
    spans = []
    for first, other in cuts:
        start, stop = sorted((first % len(whole), other % len(whole) + 1))
        if start < stop:
            spans.append(Span(start, stop))
    known = {at for span in spans for at in range(*span)}
    for start in range(len(whole)):
        for stop in range(start + 1, len(whole) + 1):
            found = cover(spans, Span(start, stop))
            assert (found is not None) is (known >= set(range(start, stop)))
            if found is not None:
                pieces = [Piece(spans[i].start, whole[slice(*spans[i])]) for i in found]
                assert combined(pieces, Span(start, stop)) == whole[start:stop]


@given(st.lists(st.text()), st.integers(0, 100))
def test_no_text_raises(lines, length) -> None:
    plan(parse(lines), length, STORED, "".join(lines))
    plan(parse([f"bytes={''.join(lines)}"]), length, STORED)
    held([f"bytes {''.join(lines)}"], 1)
