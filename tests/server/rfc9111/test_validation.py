from __future__ import annotations

import pytest

from shmcache_server.rfc9111.validation import (
    Validators,
    conditions,
    head_agrees,
    head_validates,
    not_modified,
    strong,
    updated,
)

DATE, STAMP = "Sun, 06 Nov 1994 08:49:37 GMT", 784111777
EARLIER, LATER = "Sun, 06 Nov 1994 08:49:36 GMT", "Sun, 06 Nov 1994 08:49:38 GMT"


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


# -- the origin


def test_validators_are_read_from_the_fields() -> None:
    fields = [("etag", '"a"'), ("Last-Modified", DATE), ("Date", LATER)]
    assert Validators.of(fields) == Validators('"a"', DATE, LATER)
    assert Validators.of([]) == Validators()


@pytest.mark.parametrize(
    ("stored", "sent"),
    [
        (
            [Validators('"a"', DATE)],
            {"If-None-Match": '"a"', "If-Modified-Since": DATE},
        ),
        ([Validators('W/"a"')], {"If-None-Match": 'W/"a"'}),
        ([Validators(None, DATE)], {"If-Modified-Since": DATE}),
        ([Validators("a", "soon")], {}),
        ([Validators('"a"\r\nX: y')], {}),
        ([Validators('"a"', DATE), Validators('"b"')], {"If-None-Match": '"a", "b"'}),
        ([Validators(None, DATE), Validators(None, LATER)], {}),
        ([], {}),
    ],
)
def test_origin_is_asked_by_what_is_a_validator(stored, sent) -> None:
    assert dict(conditions(stored)) == sent
    if len(stored) == 1:
        assert stored[0].usable is bool(sent)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (Validators('"a"'), Validators('"a"'), True),
        (Validators('W/"a"'), Validators('W/"a"'), False),
        (Validators('"a"', DATE, LATER), Validators('"b"', DATE, LATER), False),
        (Validators('"a"', DATE, LATER), Validators(None, DATE, LATER), False),
        (Validators(None, DATE, LATER), Validators(None, DATE, LATER), True),
        (Validators(None, DATE, DATE), Validators(None, DATE, DATE), False),
        (Validators(None, DATE), Validators(None, DATE), False),
        (Validators(), Validators(), False),
    ],
)
def test_strong_validator_tells_the_same_bytes(one, other, same) -> None:
    assert (strong(one) == strong(other) != "") is same


@pytest.mark.parametrize(
    "name",
    [
        *("Content-Length", "Content-Encoding", "Content-Range", "Content-MD5", "ETag"),
        *("Connection", "Transfer-Encoding", "Set-Cookie", "Age", "X-Private"),
    ],
)
def test_304_leaves_what_tells_of_the_bytes(name) -> None:
    stored = [(name, "1"), ("B", "2")]
    assert updated(stored, [(name.lower(), "9")], {"x-private"}) == stored


@pytest.mark.parametrize(
    "name",
    [
        *("Cache-Control", "Expires", "Content-Type", "Content-Location", "Date"),
        *("Content-Foo", "Last-Modified", "Vary", "X-Frame-Options"),
    ],
)
def test_304_replaces_every_line_of_a_field(name) -> None:
    stored = [(name, "1"), ("B", "2"), (name.lower(), "3")]
    answer = [(name, "8"), (name, "9")]
    assert updated(stored, answer) == [("B", "2"), (name, "8"), (name, "9")]


@pytest.mark.parametrize(
    ("answer", "agrees"),
    [
        ([("A", "1")], True),
        ([("etag", '"a"'), ("content-length", "5")], True),
        ([("ETag", '"b"')], False),
        ([("Content-Length", "6")], False),
        ([("Last-Modified", DATE)], False),
    ],
)
def test_head_is_of_the_stored_response_or_not(answer, agrees) -> None:
    assert head_agrees([("ETag", '"a"'), ("Content-Length", "5")], answer) is agrees


@pytest.mark.parametrize(
    ("answer", "shows"),
    [
        ([], False),
        ([("Content-Length", "5")], False),
        ([("ETag", '"a"')], True),
        ([("ETag", '"b"'), ("Last-Modified", DATE)], False),
        ([("ETag", "a")], False),
        ([("Last-Modified", DATE)], True),
        ([("Last-Modified", LATER)], False),
        ([("Last-Modified", "never")], False),
    ],
)
def test_head_shows_by_a_validator_that_it_holds(answer, shows) -> None:
    stored = [("ETag", '"a"'), ("Last-Modified", DATE), ("Content-Length", "5")]
    assert head_validates(stored, answer) is shows
    assert not head_validates([("ETag", "a"), ("Last-Modified", "never")], answer)
