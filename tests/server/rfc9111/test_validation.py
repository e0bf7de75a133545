from __future__ import annotations

import pytest

from shmcache_server.rfc9111.validation import not_modified

DATE, STAMP = "Sun, 06 Nov 1994 08:49:37 GMT", 784111777


@pytest.mark.parametrize(
    ("tags", "etag", "same"),
    [
        (['"a"'], '"a"', True),
        (['W/"a"'], '"a"', True),
        (['"a"'], 'W/"a"', True),
        (['"b", "a"'], '"a"', True),
        (['"b"', '"a"'], '"a"', True),
        (['"a,b"'], '"a,b"', True),
        (['"b"'], '"a"', False),
        (['"A"'], '"a"', False),
        (["a"], '"a"', False),
        (["*"], None, True),
        (['"a"'], None, False),
        (['"é"'], '"é"', True),
    ],
)
def test_tags_are_compared_weakly(tags, etag, same) -> None:
    assert not_modified(tags, None, etag, None) is same


@pytest.mark.parametrize(
    ("since", "modified", "same"),
    [
        (DATE, STAMP, True),
        (DATE, STAMP - 1, True),
        (DATE, STAMP + 1, False),
        (DATE, None, False),
        ("soon", STAMP, False),
        (None, STAMP, False),
    ],
)
def test_date_is_compared_where_there_is_no_tag(since, modified, same) -> None:
    assert not_modified([], since, '"a"', modified) is same


def test_tag_outranks_date() -> None:
    assert not not_modified(['"b"'], DATE, '"a"', STAMP)
    assert not_modified(['"a"'], DATE, '"a"', STAMP + 1)
    assert not not_modified([""], DATE, '"a"', STAMP)
