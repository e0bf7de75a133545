"""What is encoded comes back equal, type for type; nothing else does."""

from __future__ import annotations

import contextlib
import enum
from collections import OrderedDict, namedtuple
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmcache import codec
from shmcache.codec import DEPTH_MAX, DOCUMENT, MSGPACK, Msgpack
from shmcache.errors import CodecError, ConfigError

Point = namedtuple("Point", "x y")


class Colour(enum.IntEnum):
    RED = 1


plain = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary()
)
leaves = (
    plain
    | st.datetimes(timezones=st.none() | st.just(UTC))
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(leaves, inner, max_size=4)
        | st.sets(leaves, max_size=4)
        | st.frozensets(leaves, max_size=4)
    ),
    max_leaves=20,
)


def typed(value: Any) -> Any:
    """The value with its types spelt out: 1 == True == 1.0 otherwise."""
    if isinstance(value, list | tuple):
        return type(value), [typed(v) for v in value]
    if isinstance(value, dict):
        return dict, [(typed(k), typed(v)) for k, v in value.items()]
    if isinstance(value, set | frozenset):
        return type(value), sorted(map(typed, value), key=repr)
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
        ({1, object()}, "object"),
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
        msgpack.packb(msgpack.ExtType(77, b"")),
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


def test_aware_time_keeps_its_instant_and_offset() -> None:
    zone = timezone(timedelta(hours=5, minutes=30))
    moment = datetime(2026, 3, 29, 2, 30, tzinfo=zone, fold=0)
    back = MSGPACK.decode(MSGPACK.encode(moment))
    assert (back, back.utcoffset()) == (moment, moment.utcoffset())


@pytest.mark.parametrize("fold", [0, 1])
def test_zone_is_kept_by_its_name(fold: int) -> None:
    berlin = ZoneInfo("Europe/Berlin")
    moment = datetime(2026, 10, 25, 2, 30, tzinfo=berlin, fold=fold)
    back = MSGPACK.decode(MSGPACK.encode(moment))
    assert back.tzinfo is berlin and back.fold == fold
    assert back.replace(tzinfo=None) == moment.replace(tzinfo=None)
    assert back + timedelta(200) == moment + timedelta(200)
    noon = time(12, tzinfo=berlin)
    assert MSGPACK.decode(MSGPACK.encode(noon)).tzinfo is berlin


class Odd(tzinfo):
    def utcoffset(self, _: Any) -> timedelta:
        return timedelta(hours=1)


def test_zone_of_another_kind_is_refused() -> None:
    with pytest.raises(CodecError, match=r"Odd.*ZoneInfo"):
        MSGPACK.encode(datetime(2026, 1, 1, tzinfo=Odd()))


@pytest.mark.parametrize("value", [Decimal("NaN"), Decimal("-0.00"), Decimal("1E+5")])
def test_decimal_comes_back_digit_for_digit(value: Decimal) -> None:
    assert str(MSGPACK.decode(MSGPACK.encode(value))) == str(value)


# -- registered types


@dataclass
class User:
    name: str
    born: date | None = None
    friends: list[User] = field(default_factory=list)
    seen: int = field(default=0, init=False)


class Order(msgspec.Struct):
    number: int
    by: User


class Power(enum.Flag):
    R = 1
    W = 2


class Size(enum.Enum):
    SMALL = "s"


class Model:
    """As pydantic's are."""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields

    def model_dump(self, *, round_trip: bool) -> dict[str, Any]:
        assert round_trip
        return self.fields

    @classmethod
    def model_validate(cls, fields: dict[str, Any]) -> Model:
        return cls(**fields)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Model) and self.fields == other.fields


@dataclass(frozen=True, slots=True)
class Doubled:
    """What its `__post_init__` has done is not done again."""

    n: int
    given: InitVar[int] = 0

    def __post_init__(self, given: int) -> None:
        object.__setattr__(self, "n", self.n * 2 + given)


REGISTERED = Msgpack((User, Order, Point, Size, Colour, Model, Power, Doubled))
ADA = User("Ada", date(1815, 12, 10), [User("Charles")])


@pytest.mark.parametrize(
    "value",
    [
        *(ADA, Order(7, ADA), Point(1, (2,)), Size.SMALL, Colour.RED, Model(a={1})),
        *(Power.R | Power.W, Power(0), Doubled(3, 1)),
        {"deep": [{Size.SMALL: (ADA,)}]},
    ],
    ids=lambda value: type(value).__name__,
)
def test_object_of_a_registered_class_comes_back(value: Any) -> None:
    back = REGISTERED.decode(REGISTERED.encode(value))
    assert back == value and type(back) is type(value)


def test_class_that_was_not_registered_is_named() -> None:
    with pytest.raises(CodecError, match=r"User.*`types`"):
        MSGPACK.encode(ADA)
    with pytest.raises(CodecError, match=r"User.*not among the `types`"):
        MSGPACK.decode(REGISTERED.encode(ADA))


def test_object_whose_class_has_changed_is_unreadable() -> None:
    @dataclass
    class Later:
        surname: str

    Later.__module__, Later.__qualname__ = User.__module__, User.__qualname__
    with pytest.raises(CodecError, match=r"surname|name"):
        Msgpack((Later,)).decode(REGISTERED.encode(User("Ada")))


@pytest.mark.parametrize("cls", [dict, object, "User", User("x")])
def test_class_that_cannot_be_registered_is_named(cls: Any) -> None:
    with pytest.raises(ConfigError, match="types"):
        Msgpack((cls,))


def test_one_class_is_registered_once() -> None:
    with pytest.raises(ConfigError, match="types"):
        Msgpack((User, User))


# -- by settings


@pytest.mark.parametrize(
    ("name", "value"),
    [("raw", b"any \x00 bytes"), ("json", {"a": [1, 2.5, None, "\u20ac"]})],
)
def test_other_codecs_bring_back_what_they_take(name: str, value: Any) -> None:
    made = codec.of(name)
    assert made.decode(made.encode(value)) == value


@pytest.mark.parametrize(("name", "value"), [("raw", "text"), ("json", object())])
def test_other_codecs_refuse_by_name(name: str, value: Any) -> None:
    with pytest.raises(CodecError, match=type(value).__name__):
        codec.of(name).encode(value)


def test_json_that_is_none_is_refused() -> None:
    with pytest.raises(CodecError, match="JSON"):
        codec.of("json").decode(b"{")


def test_types_are_for_msgpack_alone() -> None:
    with pytest.raises(ConfigError, match="types"):
        codec.of("json", (User,))


def test_large_document_is_compressed_and_a_small_one_is_not() -> None:
    pytest.importorskip("zstandard")
    made = codec.of("msgpack", (), 1000)
    small, large = "x" * 500, "x" * 50_000
    assert made.encode(small) == MSGPACK.encode(small)
    assert len(made.encode(large)) < 1000
    assert (
        MSGPACK.decode(made.encode(large)) == made.decode(made.encode(large)) == large
    )


def test_compressed_bomb_is_refused() -> None:
    zstandard = pytest.importorskip("zstandard")
    bomb = zstandard.ZstdCompressor().compress(bytes(codec.DECODED_MAX + 1))
    with pytest.raises(CodecError, match="bytes"):
        MSGPACK.decode(codec.COMPRESSED + bomb)
    twice = zstandard.ZstdCompressor().compress(codec.COMPRESSED + b"x")
    for data in (codec.COMPRESSED, codec.COMPRESSED + b"x", codec.COMPRESSED + twice):
        with pytest.raises(CodecError):
            MSGPACK.decode(data)
