"""Arguments: a call of a function as a key. The same call, however it is spelled, has
the same key; calls that differ in a value or in its type have others.

Without a template the key is the function's name and its arguments, as Python would
write them down: of plain values, and of what is made of them, that is canonical. An
argument that has no such form is refused by its name. What is long is hashed.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from hashlib import blake2b
from pathlib import PurePath
from string import Formatter
from typing import Any
from uuid import UUID

from .errors import KeyRejected

LONG = 200
"""Characters of arguments above which they are hashed."""
_PLAIN = frozenset(
    {
        *(type(None), bool, int, float, str, bytes, complex),
        *(date, datetime, time, timedelta, Decimal, UUID),
    }
)
Call = tuple[tuple[Any, ...], Mapping[str, Any]]


class Binder:
    """What the arguments of a call are, by name, defaults included."""

    def __init__(self, function: Callable[..., Any], noself: bool) -> None:
        """`ValueError` if `noself` and there is no argument to leave out."""
        parameters = list(inspect.signature(function).parameters.values())
        if noself:
            first = parameters[0] if parameters else None
            if first is None or first.kind not in (
                inspect.Parameter.POSITIONAL_ONLY,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
            ):
                raise ValueError(
                    f"noself: {name_of(function)} has no self to leave out"
                )
            del parameters[0]
        self.names = tuple(p.name for p in parameters)
        self.bind = _binding(parameters)
        """The values in the order of `names`; `TypeError` as of the function itself."""


def _binding(parameters: list[inspect.Parameter]) -> Callable[..., tuple[Any, ...]]:
    """A function of these parameters that returns their values: Python binds them, in
    a tenth of the time that `Signature.bind` takes."""
    given = {f"_default{i}": p.default for i, p in enumerate(parameters)}
    plain = [
        p.replace(
            annotation=p.empty, default=p.default if p.default is p.empty else _Name(i)
        )
        for i, p in enumerate(parameters)
    ]
    values = "".join(f"{p.name}, " for p in parameters)
    names: dict[str, Any] = {}
    exec(f"def bind{inspect.Signature(plain)}: return ({values})", given, names)
    bind: Callable[..., tuple[Any, ...]] = names["bind"]
    return bind


class _Name:
    """Stands for a default in the text of a signature."""

    def __init__(self, index: int) -> None:
        self._index = index

    def __repr__(self) -> str:
        return f"_default{self._index}"


class Template:
    """Text with arguments in braces, as of `str.format`."""

    def __init__(self, text: str, names: Iterable[str], what: str) -> None:
        """`ValueError` names an argument that the function does not have."""
        if not isinstance(text, str) or not text:
            raise ValueError(
                f"{what}={text!r}: expected text such as 'user:{{user_id}}'"
            )
        try:
            fields = [
                field for _, field, *_ in Formatter().parse(text) if field is not None
            ]
        except ValueError as e:
            raise ValueError(f"{what}={text!r}: {e}") from None
        used = {field.split(".")[0].split("[")[0] for field in fields}
        if unknown := used.difference(names):
            raise ValueError(
                f"{what}={text!r}: no argument {sorted(unknown)[0]!r}; it has "
                f"{', '.join(names) or 'none'}"
            )
        self.text = text
        self.fixed = not fields
        self._names = tuple(names)

    def __call__(self, values: tuple[Any, ...]) -> str:
        return self.text.format(**dict(zip(self._names, values, strict=True)))


def name_of(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def spelled(function: str, names: tuple[str, ...], values: tuple[Any, ...]) -> str:
    """The key of a call; `KeyRejected` names an argument that has no canonical form."""
    parts = []
    for name, value in zip(names, values, strict=True):
        try:
            parts.append(repr(value) if type(value) in _PLAIN else canonical(value))
        except TypeError as e:
            raise KeyRejected(
                f"{function}: argument {name!r} is {e}: give key='...{{{name}}}', or "
                "noself=True where it is the object of a method"
            ) from None
    text = ",".join(parts)
    if len(text) > LONG or not text.isascii():
        text = blake2b(
            text.encode("utf-8", "backslashreplace"), digest_size=16
        ).hexdigest()
        return f"{function}#{text}"
    return f"{function}({text})"


def canonical(value: Any) -> str:
    """Text that equal values of one type have, and no others; `TypeError` says what has
    none."""
    kind = type(value)
    if kind in _PLAIN:
        return repr(value)
    if kind is list or kind is tuple:
        return f"{kind.__name__}({','.join(map(canonical, value))})"
    if kind is set or kind is frozenset:
        return f"{kind.__name__}({','.join(sorted(map(canonical, value)))})"
    if kind is dict:
        items = (f"{canonical(k)}:{canonical(v)}" for k, v in value.items())
        return f"{{{','.join(sorted(items))}}}"
    if isinstance(value, Enum):
        return f"{name_of(kind)}.{value.name}"
    if isinstance(value, PurePath):
        return f"Path({str(value)!r})"
    if dataclasses.is_dataclass(kind):
        fields = (getattr(value, f.name) for f in dataclasses.fields(kind) if f.compare)
        return f"{name_of(kind)}({','.join(map(canonical, fields))})"
    raise TypeError(f"a {name_of(kind)}, which has no canonical form")
