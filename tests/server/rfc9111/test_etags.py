from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmcache_server.rfc9111.etags import (
    any_tag,
    is_strong,
    parse,
    strongly_equal,
    valid,
    weakly_equal,
)


@pytest.mark.parametrize("tag", ['"a"', 'W/"a"', '""', '"é"', '"a,b"', '"a\\"'])
def test_entity_tag_is_quoted(tag) -> None:
    assert valid(tag)


@pytest.mark.parametrize("tag", [None, "", "a", 'w/"a"', 'W"a"', '"a', '"a b"', '"a"b'])
def test_what_is_not_is_none(tag) -> None:
    assert not valid(tag)
    assert not is_strong(tag)
    assert not strongly_equal(tag, tag)
    assert not weakly_equal(tag, tag)


@pytest.mark.parametrize(
    ("one", "other", "strongly", "weakly"),
    [
        ('"1"', '"1"', True, True),
        ('W/"1"', '"1"', False, True),
        ('W/"1"', 'W/"1"', False, True),
        ('W/"1"', 'W/"2"', False, False),
        ('"a"', '"A"', False, False),
        ('"1"', None, False, False),
    ],
)
def test_tags_compare_as_the_table_says(one, other, strongly, weakly) -> None:
    for a, b in ((one, other), (other, one)):
        assert strongly_equal(a, b) is strongly
        assert weakly_equal(a, b) is weakly


@pytest.mark.parametrize(
    ("lines", "tags"),
    [
        ([], []),
        (['"a", W/"b"', '"c"'], ['"a"', 'W/"b"', '"c"']),
        ([' , "a,b" ,,"c"'], ['"a,b"', '"c"']),
        (['a, "b"'], ['"b"']),
        (['"a"x, "b"'], ['"b"']),
        (['"a, "b"'], ['"b"']),
        (['"a, b"'], []),
        (["*"], []),
    ],
)
def test_list_of_tags_is_parsed(lines, tags) -> None:
    assert parse(lines) == tags


def test_star_alone_is_any() -> None:
    assert any_tag([" * "])
    assert not any_tag(['*, "a"'])
    assert not any_tag([])


@given(st.lists(st.text(st.sampled_from('W/"a,\\ \té*'))))
def test_only_tags_are_found(lines) -> None:
    assert all(map(valid, parse(lines)))
