"""What is encoded comes back equal, type for type; nothing else does."""

from __future__ import annotations

import contextlib
import enum
from collections import OrderedDict, namedtuple
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmcache.codec import DEPTH_MAX, DOCUMENT, MSGPACK
from shmcache.errors import CodecError

Point = namedtuple("Point", "x y")


class Colour(enum.IntEnum):
    RED = 1


leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary()
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(leaves, inner, max_size=4)
    ),
    max_leaves=20,
)


def typed(value: Any) -> Any:
    """The value with its types spelt out: 1 == True == 1.0 otherwise."""
    if isinstance(value, list | tuple):
        return type(value), [typed(v) for v in value]
    if isinstance(value, dict):
        return dict, [(typed(k), typed(v)) for k, v in value.items()]
    return type(value), repr(value)


@given(values)
def test_any_plain_value_comes_back_with_its_types(value: Any) -> None:
    assert typed(MSGPACK.decode(MSGPACK.encode(value))) == typed(value)


@given(st.binary(max_size=200))
def test_random_bytes_are_a_value_or_an_error(data: bytes) -> None:
    with contextlib.suppress(CodecError):
        MSGPACK.decode(data)


LOOP: list[Any] = []
LOOP.append((LOOP,))


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (object(), "object"),
        ({1, 2}, "set"),
        (1 + 2j, "complex"),
        (OrderedDict(a=1), "OrderedDict"),
        (Point(1, 2), "Point"),
        (Colour.RED, "Colour"),
        ([{"deep": {"in": object}}], "type"),
        (2**64, "beyond 64 bits"),
        ("\ud800", "str"),
        (LOOP, "nested"),
    ],
    ids=lambda v: type(v).__name__,
)
def test_other_types_are_refused_by_name(value: Any, named: str) -> None:
    with pytest.raises(CodecError, match=named):
        MSGPACK.encode(value)


def nested_tuples(depth: int) -> Any:
    value: Any = ()
    for _ in range(depth):
        value = (value,)
    return value


def test_tuples_nest_to_the_limit_and_no_deeper() -> None:
    deepest = nested_tuples(DEPTH_MAX - 1)
    assert MSGPACK.decode(MSGPACK.encode(deepest)) == deepest
    with pytest.raises(CodecError, match="deep"):
        MSGPACK.encode(nested_tuples(DEPTH_MAX))


def tuple_bomb() -> bytes:
    data = b"\x90"
    for _ in range(20_000):
        data = msgpack.packb(msgpack.ExtType(1, b"\x91" + data))
        if len(data) > 60_000:
            break
    return data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01\x02",
        b"\x92\x01",
        b"\xa2\xff\xfe",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xdd" + (1001).to_bytes(4, "big") + bytes(1000),
        b"\x91" * 100_000 + b"\x90",
        tuple_bomb(),
        msgpack.packb(msgpack.ExtType(7, b"")),
        msgpack.packb(msgpack.ExtType(1, b"\x01")),
        b"cos\nsystem\n(S'true'\ntR.",
    ],
    ids=[
        *("empty", "two", "truncated", "not-utf8", "reserved", "long-array"),
        *("long-map", "long-str", "many-items", "deep-lists", "deep-tuples"),
        *("unknown-extension", "tuple-of-int", "pickle"),
    ],
)
def test_what_is_no_document_is_refused(data: bytes) -> None:
    with pytest.raises(CodecError):
        MSGPACK.decode(data)


def test_list_as_key_reads_as_a_tuple() -> None:
    """No `encode` writes one; other msgpack writers may. It must be hashable."""
    assert MSGPACK.decode(b"\x81\x91\x02\x01") == {(2,): 1}


def test_documents_pass_both_ways_untouched() -> None:
    document = msgpack.packb({"a": 1})
    assert DOCUMENT.encode(document) is document
    assert DOCUMENT.decode(document) is document


def test_document_that_is_no_bytes_is_refused_by_name() -> None:
    with pytest.raises(CodecError, match="dict"):
        DOCUMENT.encode({"a": 1})


def test_long_list_comes_back() -> None:
    value = [None] * (2**20 + 1)
    assert MSGPACK.decode(MSGPACK.encode(value)) == value
