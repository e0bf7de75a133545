"""Values to bytes and back: one msgpack document each.

What `decode` gives back equals what was encoded, its types included: a `tuple` is
kept as one (extension 1), and what msgpack would quietly turn into something else, a
subclass of `dict` or an `IntEnum`, is refused by its type's name. Nothing is ever
executed or imported by decoding.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgpack  # type: ignore[import-untyped]

from .errors import CodecError

TUPLE = 1
"""Extension code of a tuple; its data is the msgpack array."""
DEPTH_MAX = 32
"""Of tuples in tuples. Lists and maps end at msgpack's own stack."""


class Codec(Protocol):
    """How values become the bytes of a record."""

    def encode(self, value: Any) -> bytes:
        """One msgpack document; `CodecError` names a type that has none."""
        ...

    def decode(self, data: bytes) -> Any:
        """The value; `CodecError` if the bytes are not one whole document."""
        ...


class _Msgpack:
    """Plain values: None, bool, int, float, str, bytes, list, tuple, dict."""

    def encode(self, value: Any) -> bytes:
        return _pack(value, 0)

    def decode(self, data: bytes) -> Any:
        return _unpack(data, 0)


class _Document:
    """Values that are one msgpack document already; both ways untouched."""

    def encode(self, value: Any) -> bytes:
        if not isinstance(value, bytes):
            raise CodecError(f"expected a document as bytes, not {_name(value)}")
        return value

    def decode(self, data: bytes) -> Any:
        return data


MSGPACK: Codec = _Msgpack()
DOCUMENT: Codec = _Document()


def _pack(value: Any, depth: int) -> bytes:
    def other(value: Any) -> msgpack.ExtType:
        if type(value) is not tuple:
            raise CodecError(f"a value of type {_name(value)} cannot be cached")
        if depth == DEPTH_MAX:
            raise CodecError("tuples nested too deeply")
        return msgpack.ExtType(TUPLE, _pack(list(value), depth + 1))

    try:
        packed: bytes = msgpack.packb(value, strict_types=True, default=other)
    except CodecError:
        raise
    except Exception as error:  # an int beyond 64 bits, a lone surrogate, a loop
        raise CodecError(
            f"a value of type {_name(value)} cannot be cached: {error}"
        ) from error
    return packed


def _unpack(data: bytes, depth: int) -> Any:
    def extension(code: int, inner: bytes) -> Any:
        if code != TUPLE:
            raise CodecError(f"unknown extension {code}")
        if depth == DEPTH_MAX:
            raise CodecError("tuples nested too deeply")
        items = _unpack(inner, depth + 1)
        if type(items) is not list:
            raise CodecError("a tuple that is no array")
        return tuple(items)

    try:
        # No part can be longer than the whole: a header alone allocates nothing.
        return msgpack.unpackb(
            data,
            strict_map_key=False,
            ext_hook=extension,
            max_array_len=len(data),
            max_map_len=len(data),
            max_ext_len=len(data),
            max_str_len=len(data),
            max_bin_len=len(data),
        )
    except CodecError:
        raise
    except Exception as error:  # msgpack's own, bad UTF-8, an unhashable map key
        raise CodecError(f"not one msgpack document: {error}") from error


def _name(value: Any) -> str:
    kind = type(value)
    module = kind.__module__
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__name__}"
