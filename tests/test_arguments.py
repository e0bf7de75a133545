"""A call of a function as a key: canonical and typed."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

import pytest

from shmcache import KeyRejected
from shmcache.arguments import Binder, Template, canonical, spelled


def of(function: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    binder = Binder(function, False)
    return spelled("f", binder.names, binder.bind(*args, **kwargs))


def f(a: int, b: Any = 2, *rest: Any, c: Any = 3, **more: Any) -> None: ...


@pytest.mark.parametrize(
    "args, kwargs",
    [((1,), {}), ((1, 2), {}), ((), {"a": 1}), ((1,), {"c": 3, "b": 2})],
)
def test_one_call_has_one_key_however_it_is_spelled(args: Any, kwargs: Any) -> None:
    assert of(f, *args, **kwargs) == "f(1,2,tuple(),3,{})"


def test_keywords_are_in_no_order() -> None:
    assert of(f, 1, x=1, y=2) == of(f, 1, y=2, x=1)


class Kind(enum.Enum):
    ONE = 1


class Kind2(enum.IntEnum):
    ONE = 1


@dataclass(frozen=True)
class Point:
    x: Any


VALUES = [
    *(None, True, 1, 1.0, -0.0, 0.0, "1", b"1", Decimal("1"), Decimal("1.0")),
    *((1,), [1], {1}, frozenset({1}), {1: 1}, {"1": 1}, (), [], ((1,),), (1, 2)),
    *("1,2", "1','2", ("1", "2"), ("1','2",), Kind.ONE, Kind2.ONE, date(2026, 1, 1)),
    *(timedelta(1), UUID(int=1), Point(1), Point("1"), Point(Point(1))),
    *(
        PurePosixPath("/a"),
        "/a",
        {"a": {1, 2}},
        {"a": [1, 2]},
        "\u20ac",
        b"\xff",
        1e300,
    ),
]


def test_values_that_differ_in_value_or_type_have_other_keys() -> None:
    assert len({of(f, value) for value in VALUES}) == len(VALUES)
    assert len({canonical(value) for value in VALUES}) == len(VALUES)


@pytest.mark.parametrize(
    "one, other",
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({3, 1, 2}, {2, 3, 1}),
        ([{"a", "b", "c"}], [{"c", "b", "a"}]),
    ],
)
def test_equal_values_have_one_key(one: Any, other: Any) -> None:
    assert of(f, one) == of(f, other)


class Custom:
    pass


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    "value",
    [Custom(), [Custom()], {1: Custom()}, f, Text("a"), Point(Custom())],
)
def test_argument_without_a_canonical_form_is_named(value: Any) -> None:
    with pytest.raises(KeyRejected, match=r"f: argument 'b' is a .*key='.*\{b\.id\}'"):
        of(f, 1, value)


@dataclass(frozen=True)
class Paged(Point):
    pass


class Rows(list):  # type: ignore[type-arg]
    pass


@dataclass
class Table(list):  # type: ignore[type-arg]
    x: int = 0


class Odd(tzinfo):
    def utcoffset(self, _: Any) -> timedelta:
        return timedelta(0)


@pytest.mark.parametrize(
    "value", [Rows([1]), Table(), datetime(2026, 1, 1, tzinfo=Odd())]
)
def test_argument_that_is_more_than_its_fields_is_refused(value: Any) -> None:
    with pytest.raises(KeyRejected):
        of(f, value)


def test_dataclass_of_a_dataclass_is_refused() -> None:
    with pytest.raises(KeyRejected):
        of(f, Paged(1))


def test_classes_and_flags_are_told_apart() -> None:
    odd = Bits(8)
    found = {of(f, v) for v in (Bits.A, Bits(0), odd, Bits.A | odd, Custom, Text)}
    assert len(found) == 6


class Bits(enum.IntFlag):
    A = 1


def test_long_arguments_are_hashed() -> None:
    key = of(f, "x" * 5000)
    assert len(key) < 60 and key != of(f, "x" * 5001)


def test_wrong_call_fails_as_the_function_does() -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'a'"):
        of(f)


def test_defaults_of_any_kind_are_bound() -> None:
    default = Custom()

    def g(a: Any = default, *, b: Any = [1]) -> None: ...  # noqa: B006

    assert Binder(g, False).bind() == (default, [1])


def test_names_that_bind_itself_uses_do_not_clash() -> None:
    def g(bind: int, _default0: int = 7, values: int = 8) -> None: ...

    assert Binder(g, False).bind(1) == (1, 7, 8)


class Users:
    def get(self, user_id: int) -> None: ...


def test_self_is_left_out_on_request() -> None:
    binder = Binder(Users.get, True)
    assert binder.names == ("user_id",) and binder.bind(7) == (7,)
    with pytest.raises(ValueError, match="noself"):
        Binder(lambda: None, True)


# -- templates


@dataclass
class User:
    id: int


@pytest.mark.parametrize(
    "text, expected",
    [
        ("user:{user_id}", "user:7"),
        ("{user.id}/{user_id:03}", "1/007"),
        ("{tags[1]}", "b"),
        ("{name!r}", "'x'"),
        ("plain", "plain"),
        ("{{}}", "{}"),
    ],
)
def test_template_is_filled_with_the_arguments(text: str, expected: str) -> None:
    names = ("user_id", "user", "tags", "name")
    made = Template(text, names, "key")
    assert made((7, User(1), ["a", "b"], "x")) == expected
    assert made.fixed == ("7" not in expected and text in ("plain", "{{}}"))


def test_object_that_is_told_by_its_address_is_refused() -> None:
    with pytest.raises(KeyRejected, match="address"):
        Template("u:{u}", ("u",), "key")((Custom(),))


@pytest.mark.parametrize(
    "text", ["{user_id:{w}}", "{other}", "{}", "{0}", "{", "", 7, None]
)
def test_wrong_template_is_named(text: Any) -> None:
    with pytest.raises(ValueError, match="key="):
        Template(text, ("user_id",), "key")
