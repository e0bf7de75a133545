"""Claims through the binding: one holder, its waiters, its note, its successor."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shmcache._core import binding
from shmcache._core.binding import Table

Attach = Callable[[int], Table]


@pytest.fixture
def pair(attach: Attach) -> tuple[Table, Table]:
    """The processes of slots 1 and 2."""
    return attach(1), attach(2)


def held(table: Table, key: str = "k") -> tuple[int, int]:
    rc, index, word, _ = table.claim_take(key)
    assert rc == binding.OK
    return index, word


def test_first_taker_holds_and_the_next_waits(pair: tuple[Table, Table]) -> None:
    one, two = pair
    index, word = held(one)
    state, slot, incarnation, _, _ = Table.claim_parts(word)
    assert (state, slot, incarnation) == (binding.HELD, 1, one.incarnation)
    assert two.claim_take("k") == (binding.HELD, index, word, 0)
    assert one.claim_take("k") == (binding.HELD, index, word, 0)
    held(two, "another key")


def test_freed_claim_tells_how_it_ended_and_whom_to_wake(
    pair: tuple[Table, Table],
) -> None:
    one, two = pair
    index, word = held(one)
    assert two.claim_wait(index, word)
    assert one.claim_free(index, word, binding.FREED_PASS) == (binding.OK, 1 << 2)
    assert Table.claim_parts(two.claim_word(index))[0] == binding.FREED_PASS
    assert Table.claim_parts(word)[1:] == Table.claim_parts(two.claim_word(index))[1:]
    assert one.claim_free(index, word, binding.FREED) == (binding.LOST, 0)
    assert not two.claim_wait(index, word)
    _, again = held(two)
    assert Table.claim_parts(again)[3] == Table.claim_parts(word)[3] + 1


def test_slots_from_64_on_wait_without_a_bit(attach: Attach) -> None:
    one, high, last = attach(1), attach(64), attach(63)
    index, word = held(one)
    assert high.claim_wait(index, word) and last.claim_wait(index, word)
    assert one.claim_free(index, word, binding.FREED) == (binding.OK, 1 << 63)


def test_taken_over_claim_is_lost_to_its_holder(pair: tuple[Table, Table]) -> None:
    one, two = pair
    index, word = held(one)
    assert two.claim_wait(index, word)
    rc, mine, wake = two.claim_over(index, word)
    assert (rc, wake) == (binding.OK, 1 << 2)
    assert Table.claim_parts(mine)[:3] == (binding.HELD, 2, two.incarnation)
    assert one.claim_over(index, word)[:2] == (binding.LOST, mine)
    assert one.claim_free(index, word, binding.FREED_STORED)[0] == binding.LOST
    assert one.claim_note(index, word, 1, 2) == binding.LOST
    times = {"birth": 0, "fresh_until": 10, "dead_at": 10, "stamp": 0, "now": 0}
    assert one.put("k", b"1", claim=(index, word), **times) == binding.LOST
    assert two.put("k", b"2", claim=(index, mine), **times) == binding.OK
    assert two.peek_at("k", 0) == b"2"


def test_note_is_read_under_its_word_only(pair: tuple[Table, Table]) -> None:
    one, two = pair
    index, word = held(one)
    assert two.claim_noted(index, word) is None
    assert one.claim_note(index, word, 3, 77) == binding.OK
    assert two.claim_noted(index, word) == (3, 77, b"")
    assert one.claim_note(index, word, 4, 78, bytes(range(16))) == binding.OK
    assert two.claim_noted(index, word) == (4, 78, bytes(range(16)))
    _, mine, _ = two.claim_over(index, word)
    assert one.claim_noted(index, mine) is None


def test_late_note_of_a_superseded_holder_binds_to_nothing(
    pair: tuple[Table, Table],
) -> None:
    """It was stopped after it had looked at its word, and writes one field now."""
    one, two = pair
    index, word = held(one)
    _, mine, _ = two.claim_over(index, word)
    two.claim_note(index, mine, 9, 99, b"t" * 16)
    one.words("claims").store(index * 8 + 3, 1)
    assert two.claim_noted(index, mine) is None
    assert not two.claim_void(index, mine, "k")


def test_claim_is_void_once_its_key_was_raised_above_its_stamp(
    pair: tuple[Table, Table],
) -> None:
    one, two = pair
    index, word = held(one)
    one.raise_key("k", one.number())
    assert not two.claim_void(index, word, "k")  # new: nothing noted yet
    one.claim_note(index, word, one.clock(), 0)
    assert not two.claim_void(index, word, "k")
    one.raise_key("k", one.number())
    assert two.claim_void(index, word, "k")
    assert two.claim_over(index, word)[0] == binding.OK


def test_claim_is_void_once_all_was_cleared_above_its_stamp(
    pair: tuple[Table, Table],
) -> None:
    one, two = pair
    index, word = held(one)
    one.claim_note(index, word, one.clock(), 0)
    one.raise_all(one.number(), soft=True)
    assert not two.claim_void(index, word, "k")
    one.raise_all(one.number())
    assert two.claim_void(index, word, "k")


def test_void_claim_that_is_taken_over_is_valid_until_noted(
    pair: tuple[Table, Table],
) -> None:
    one, two = pair
    index, word = held(one)
    one.claim_note(index, word, one.clock(), 0)
    two.raise_key("k", two.number())
    _, mine, _ = two.claim_over(index, word)
    assert not one.claim_void(index, mine, "k")
    two.claim_note(index, mine, two.clock(), 0)
    assert not one.claim_void(index, mine, "k")
    times = {"birth": 0, "fresh_until": 10, "dead_at": 10, "now": 0}
    assert one.put("k", b"1", stamp=0, claim=(index, word), **times) == binding.LOST
    assert two.put("k", b"2", stamp=1, claim=(index, mine), **times) == binding.OK


def test_claim_calls_check_what_they_are_given(segment: object, table: Table) -> None:
    index, word = held(table)
    with pytest.raises(IndexError):
        table.claim_word(table.geometry["claim_sets"] * 8)
    with pytest.raises(ValueError, match="FREED"):
        table.claim_free(index, word, binding.HELD)
    with pytest.raises(ValueError, match="16 bytes"):
        table.claim_note(index, word, 0, 0, b"short")
    with pytest.raises(binding.SegmentError, match="take_slot"):
        Table(segment).claim_take("k")
