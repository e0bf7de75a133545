"""Arguments: a call of a function as a key. The same call, however it is spelled, has
the same key; calls that differ in a value or in its type have others.

Without a template the key is the function's name and its arguments, as Python would
write them down: of plain values, and of what is made of them, that is canonical. An
argument that has no such form is refused by its name. What is long is hashed.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag
from hashlib import blake2b
from pathlib import PurePath
from string import Formatter
from typing import Any, cast
from uuid import UUID
from zoneinfo import ZoneInfo

from .errors import KeyRejected

LONG = 200
"""Characters of arguments above which they are hashed."""
_SIMPLE = frozenset({type(None), bool, int, float, str, bytes, complex})
_PLAIN = _SIMPLE | {date, datetime, time, timedelta, Decimal, UUID}


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
        self.bind = _binding(parameters, function)
        """The values in the order of `names`; `TypeError` as of the function itself."""


def _binding(
    parameters: list[inspect.Parameter], function: Callable[..., Any]
) -> Callable[..., tuple[Any, ...]]:
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
    bind = names["bind"]
    bind.__name__, bind.__qualname__ = function.__name__, function.__qualname__
    return cast(Callable[..., tuple[Any, ...]], bind)


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
            fields = list(_fields(text))
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
        """`KeyRejected` where it would name an object by its address."""
        text = self.text.format(**dict(zip(self._names, values, strict=True)))
        if " at 0x" in text:
            raise KeyRejected(
                f"{self.text!r}: an argument is told by its address, {text!r}: name "
                "what it is known by, such as {user.id}"
            )
        return text


def _fields(text: str) -> Iterable[str]:
    """What stands in braces, in the formats within braces too."""
    for _, field, form, _ in Formatter().parse(text):
        if field is not None:
            yield field
            yield from _fields(form or "")


def name_of(thing: Any) -> str:
    """Of a function or class. What a script defines is named by the script's file: its
    processes may import it, too."""
    module = thing.__module__
    if module == "__main__":
        main = sys.modules[module]
        spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", "")
        module = spec.name if spec is not None else PurePath(file or module).stem
    return f"{module}.{thing.__qualname__}"


def fitted(text: str, most: int) -> str:
    """The text, or its hash where it has more than so many bytes."""
    raw = text.encode("utf-8", "backslashreplace")
    return text if len(raw) <= most else f"#{blake2b(raw, digest_size=16).hexdigest()}"


def spelled(function: str, names: tuple[str, ...], values: tuple[Any, ...]) -> str:
    """The key of a call; `KeyRejected` names an argument that has no canonical form."""
    parts = []
    for name, value in zip(names, values, strict=True):
        try:
            parts.append(repr(value) if type(value) in _SIMPLE else canonical(value))
        except TypeError as e:
            raise KeyRejected(
                f"{function}: argument {name!r} is {e}: name what it is known by, as "
                f"in key='...{{{name}.id}}', or give noself=True where it is the "
                "object of a method"
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
        zone = getattr(value, "tzinfo", None)
        if zone is not None and type(zone) not in (timezone, ZoneInfo):
            raise TypeError(f"a time in a {name_of(type(zone))}")
        return repr(value)
    if kind is list or kind is tuple:
        return f"{kind.__name__}({','.join(map(canonical, value))})"
    if kind is set or kind is frozenset:
        return f"{kind.__name__}({','.join(sorted(map(canonical, value)))})"
    if kind is dict:
        items = (f"{canonical(k)}:{canonical(v)}" for k, v in value.items())
        return f"{{{','.join(sorted(items))}}}"
    if isinstance(value, type):
        return f"type:{name_of(value)}"
    if isinstance(value, Enum):
        told = value.value if isinstance(value, Flag) else value.name
        return f"{name_of(kind)}.{told}"
    if isinstance(value, PurePath):
        return f"{kind.__name__}({str(value)!r})"
    if "__dataclass_fields__" in vars(kind) and kind.__bases__ == (object,):
        fields = (getattr(value, f.name) for f in dataclasses.fields(kind) if f.compare)
        return f"{name_of(kind)}({','.join(map(canonical, fields))})"
    raise TypeError(f"a {name_of(kind)}, which has no canonical form")
