"""Lists of pieces: what is listed, what of it holds a span, and what is no list."""

from __future__ import annotations

import pytest

from shmcache_server import stored
from shmcache_server.pieces import MOST, Held, Pieces, unpack
from shmcache_server.rfc9111.ranges import Span


def held(start: int, stop: int) -> Held:
    return Held(start, stop, f"bytes={start}-{stop - 1}")


def listed(*spans: tuple[int, int], validator='"a"', length: int | None = 90) -> Pieces:
    return Pieces(validator, length, tuple(held(*span) for span in spans))


LIST = listed((0, 9), (20, 30))


@pytest.mark.parametrize("found", [LIST, listed(length=None), listed((0, 9 << 40))])
def test_list_comes_back_as_it_was(found: Pieces) -> None:
    assert unpack(found.pack()) == found


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"\xc0",
        LIST.pack()[:-1],
        LIST.pack().replace(b"\xa1P\x01", b"\xa1P\x02"),
        stored.pack(b"HTTP/1.1 200 OK\r\n", 200, b""),
    ],
)
def test_what_is_no_list_is_none(document: bytes) -> None:
    assert unpack(document) is None


def test_newest_comes_first_and_takes_the_place_of_what_it_holds() -> None:
    assert LIST.seen(listed((15, 30))) == listed((15, 30), (0, 9))
    assert LIST.seen(listed((5, 25))) == listed((5, 25), (0, 9), (20, 30))


def test_length_that_is_told_once_is_known() -> None:
    assert LIST.seen(listed((40, 50), length=None)).length == 90
    assert listed((0, 9), length=None).seen(listed((40, 50))).length == 90


@pytest.mark.parametrize("new", [{"validator": '"b"'}, {"length": 91}])
def test_other_representation_begins_anew(new) -> None:
    assert LIST.seen(listed((40, 50), **new)) == listed((40, 50), **new)


def test_list_does_not_grow_for_ever() -> None:
    found = LIST
    for at in range(100, 100 + 2 * MOST, 2):
        found = found.seen(listed((at, at + 1)))
    assert len(found.held) == MOST and found.held[0] == held(at, at + 1)
    assert len(found.pack()) < 16 * 1024


def test_pieces_without_validator_are_not_joined() -> None:
    for validator in ('"a"', ""):
        found = listed((0, 9), (9, 20), validator=validator)
        assert found.cover(Span(10, 20)) == [held(9, 20)]
        both = [held(0, 9), held(9, 20)] if validator else None
        assert found.cover(Span(0, 20)) == both


def test_what_is_gone_is_left_out() -> None:
    assert LIST.less({held(0, 9)}) == listed((20, 30))
