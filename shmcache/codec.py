"""Values to bytes and back: one msgpack document each.

What `decode` gives back equals what was encoded, its types included: a `tuple` is
kept as one (extension 1), and what msgpack would quietly turn into something else, a
subclass of `dict` or an `IntEnum`, is refused by its type's name. Nothing is ever
executed or imported by decoding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgpack  # type: ignore[import-untyped]
import msgspec
from msgpack import packb

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
        try:
            packed: bytes = packb(value, strict_types=True, default=_PACK_TUPLE)
        except CodecError:
            raise
        except Exception as error:  # a lone surrogate, a loop
            raise CodecError(
                f"a value of type {_name(value)} cannot be cached: {error}"
            ) from error
        return packed

    def decode(self, data: bytes) -> Any:
        try:  # a header that claims more than there is allocates nothing
            return _UNPACK(data)
        except CodecError:
            raise
        except Exception as error:  # cut short, bad UTF-8, nested too deeply
            raise CodecError(f"not one msgpack document: {error}") from error


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


def _pack_tuple(depth: int) -> Callable[[Any], msgpack.ExtType]:
    """What packs the tuples within `depth` others, and refuses all else."""

    def pack(value: Any) -> msgpack.ExtType:
        if type(value) is int:
            raise CodecError("an int beyond 64 bits cannot be cached")
        if type(value) is not tuple:
            raise CodecError(f"a value of type {_name(value)} cannot be cached")
        if depth == DEPTH_MAX:
            raise CodecError("tuples nested too deeply")
        items = packb(list(value), strict_types=True, default=_pack_tuple(depth + 1))
        return msgpack.ExtType(TUPLE, items)

    return pack


def _unpack_within(depth: int) -> Callable[[bytes], Any]:
    """What unpacks a document within `depth` tuples."""

    def extension(code: int, inner: memoryview) -> Any:
        if code != TUPLE:
            raise CodecError(f"unknown extension {code}")
        if depth == DEPTH_MAX:
            raise CodecError("tuples nested too deeply")
        items = _unpack_within(depth + 1)(bytes(inner))
        if type(items) is not list:
            raise CodecError("a tuple that is no array")
        return tuple(items)

    return msgspec.msgpack.Decoder(ext_hook=extension).decode


# made once: a decoded hit is the library's hot path
_PACK_TUPLE = _pack_tuple(0)
_UNPACK = _unpack_within(0)


def _name(value: Any) -> str:
    kind = type(value)
    module = kind.__module__
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__name__}"
