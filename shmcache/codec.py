"""Values to bytes and back: one msgpack document each.

What `decode` gives back equals what was encoded, its types included (but a `bytearray`
comes back as `bytes`): what msgpack has no form for is an extension, and what it would
quietly turn into something else, a subclass of `dict` or an `IntEnum`, is refused by
its type's name. Decoding executes and imports nothing: classes of the user's own are
known by having been named to the codec.

Extensions
    Each is a code and a document of its own. A registered object is its class' name and
    its fields: who has not registered it, or whose class has other fields by now, finds
    an unreadable value, which is a miss.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag
from typing import Any, NamedTuple, Protocol, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack  # type: ignore[import-untyped]
import msgspec
from msgpack import packb

from .errors import CodecError, ConfigError

TUPLE, SET, FROZENSET, DATETIME, DATE, TIME, TIMEDELTA, DECIMAL, UUID_, OBJECT = range(
    1, 11
)
COMPRESSED = b"\xc1"
"""The byte that begins no msgpack document: a compressed one follows."""
DEPTH_MAX = 32
"""Of extensions in extensions. Lists and maps end at msgpack's own stack."""
DECODED_MAX = 16 * 1024**2
"""Bytes that a compressed document may have: as many as L2 takes of any."""


class Codec(Protocol):
    """How values become the bytes of a record."""

    def encode(self, value: Any) -> bytes:
        """One document; `CodecError` names a type that has none."""
        ...

    def decode(self, data: bytes) -> Any:
        """The value; `CodecError` if the bytes are not one whole document."""
        ...


class Kind(NamedTuple):
    """How objects of one class are taken apart and put together; to be named among the
    `types` of a cache where the class alone does not tell."""

    cls: type
    apart: Callable[[Any], Any]
    """To what has a form of its own."""
    together: Callable[[Any], Any]


class Msgpack:
    """Plain values: None, bool, int, float, str, bytes, list, tuple, set, frozenset,
    dict, datetime, date, time, timedelta, Decimal, UUID; and objects of `types`."""

    def __init__(
        self, types: Iterable[type | Kind] = (), compress_above: int | None = None
    ) -> None:
        """`ConfigError` names a type that cannot be registered."""
        kinds = [t if isinstance(t, Kind) else _kind(t) for t in types]
        self._by_class = {kind.cls: kind for kind in kinds}
        self._by_name = {_full(kind.cls): kind for kind in kinds}
        if len(self._by_name) < len(kinds):
            raise ConfigError("types: two of one name, or one of them twice")
        self._zstd = None if compress_above is None else _Zstd(compress_above)
        # made once: a decoded hit is the library's hot path
        self._pack = self._packing(0)
        self._unpack = self._unpacking(0)

    def encode(self, value: Any) -> bytes:
        try:
            packed: Any = packb(value, strict_types=True, default=self._pack)
        except CodecError:
            raise
        except Exception as error:  # a lone surrogate, a loop
            raise CodecError(
                f"a value of type {_name(value)} cannot be cached: {error}"
            ) from error
        data: bytes = packed
        return data if self._zstd is None else self._zstd.compressed(data)

    def decode(self, data: bytes) -> Any:
        try:  # a header that claims more than there is allocates nothing
            return self._unpack(data)
        except CodecError:
            raise
        except Exception as error:  # cut short, bad UTF-8, nested too deeply
            if data[:1] == COMPRESSED:
                return self.decode(_Zstd.plain(data))
            raise CodecError(f"not one msgpack document: {error}") from error

    def _packing(self, depth: int) -> Callable[[Any], msgpack.ExtType]:
        """What packs the extensions within `depth` others, and refuses all else."""

        def pack(value: Any) -> msgpack.ExtType:
            kind = type(value)
            if kind is int:
                raise CodecError("an int beyond 64 bits cannot be cached")
            if (plain := _APART.get(kind)) is not None:
                code, parts = plain[0], plain[1](value)
            elif (known := self._by_class.get(kind)) is not None:
                code, parts = OBJECT, [_full(kind), known.apart(value)]
            else:
                raise CodecError(_refusal(value))
            if depth == DEPTH_MAX:
                raise CodecError(f"a {kind.__name__} nested too deeply")
            inner = self._packing(depth + 1)
            data = packb(parts, strict_types=True, default=inner)
            return msgpack.ExtType(code, data)

        return pack

    def _unpacking(self, depth: int) -> Callable[[bytes], Any]:
        """What unpacks a document within `depth` extensions."""

        def extension(code: int, inner: memoryview) -> Any:
            if depth == DEPTH_MAX:
                raise CodecError("extensions nested too deeply")
            data = bytes(inner)
            parts = self._unpacking(depth + 1)(data)
            if code == OBJECT:
                name, fields = parts
                if name not in self._by_name:
                    raise CodecError(f"a {name}, which is not among the `types` here")
                return self._by_name[name].together(fields)
            if code not in _TOGETHER:
                raise CodecError(f"unknown extension {code}")
            expected, together = _TOGETHER[code]
            if type(parts) is not expected:
                raise CodecError(f"extension {code} of a {_name(parts)}")
            return together(parts)

        return msgspec.msgpack.Decoder(ext_hook=extension).decode


class _Zstd:
    """Documents above a size are compressed, where that makes them smaller."""

    def __init__(self, above: int) -> None:
        try:
            import zstandard
        except ImportError:
            raise ConfigError(
                "compress_above: needs zstandard: pip install 'shmcache[zstd]'"
            ) from None
        self._above = above
        self._compress = zstandard.ZstdCompressor().compress

    def compressed(self, data: bytes) -> bytes:
        if not self._above < len(data) <= DECODED_MAX:
            return data
        packed: bytes = COMPRESSED + self._compress(data)
        return packed if len(packed) < len(data) else data

    @staticmethod
    def plain(data: bytes) -> bytes:
        """`CodecError` where zstandard is not installed here, too."""
        try:
            import zstandard
        except ImportError:
            raise CodecError("compressed, and zstandard is not installed") from None
        try:
            size = zstandard.frame_content_size(data[1:])
            if not 0 < size <= DECODED_MAX:
                raise CodecError(f"compressed, and {size} bytes when it is not")
            found: bytes = zstandard.ZstdDecompressor().decompress(data[1:])
        except zstandard.ZstdError as error:
            raise CodecError(f"not one compressed document: {error}") from error
        if found[:1] == COMPRESSED:
            raise CodecError("compressed twice")
        return found


class _Json:
    """What JSON has a form for: a tuple comes back as a list, a date as text."""

    def encode(self, value: Any) -> bytes:
        try:
            return msgspec.json.encode(value)
        except Exception as error:
            raise CodecError(
                f"a value of type {_name(value)} cannot be cached: {error}"
            ) from error

    def decode(self, data: bytes) -> Any:
        try:
            return msgspec.json.decode(data)
        except Exception as error:
            raise CodecError(f"not one JSON document: {error}") from error


class _Document:
    """Values that are bytes already; both ways untouched."""

    def encode(self, value: Any) -> bytes:
        if not isinstance(value, bytes):
            raise CodecError(f"expected a document as bytes, not {_name(value)}")
        return value

    def decode(self, data: bytes) -> Any:
        return data


Moment = TypeVar("Moment", datetime, time)


def _moment(moment: datetime | time) -> list[Any]:
    """Its text, its fold, and its zone's name where it has one."""
    zone = moment.tzinfo
    if isinstance(zone, ZoneInfo) and zone.key:
        return [moment.replace(tzinfo=None).isoformat(), moment.fold, zone.key]
    if zone is not None and type(zone) is not timezone:
        raise CodecError(f"a time in a {_name(zone)} cannot be cached: use ZoneInfo")
    return [moment.isoformat(), moment.fold]


def _told(kind: type[Moment], parts: list[Any]) -> Moment:
    text, fold, *zone = parts
    moment = kind.fromisoformat(text).replace(fold=fold)
    return moment.replace(tzinfo=ZoneInfo(*zone)) if zone else moment


_APART: dict[type, tuple[int, Callable[[Any], Any]]] = {
    tuple: (TUPLE, list),
    set: (SET, list),
    frozenset: (FROZENSET, list),
    datetime: (DATETIME, lambda t: _moment(t)),
    date: (DATE, date.isoformat),
    time: (TIME, lambda t: _moment(t)),
    timedelta: (TIMEDELTA, lambda t: [t.days, t.seconds, t.microseconds]),
    Decimal: (DECIMAL, str),
    UUID: (UUID_, lambda u: u.bytes),
}
_TOGETHER: dict[int, tuple[type, Callable[[Any], Any]]] = {
    TUPLE: (list, tuple),
    SET: (list, set),
    FROZENSET: (list, frozenset),
    DATETIME: (list, lambda parts: _told(datetime, parts)),
    DATE: (str, date.fromisoformat),
    TIME: (list, lambda parts: _told(time, parts)),
    TIMEDELTA: (list, lambda parts: timedelta(*parts)),
    DECIMAL: (str, Decimal),
    UUID_: (bytes, lambda data: UUID(bytes=data)),
}

MSGPACK: Codec = Msgpack()
DOCUMENT: Codec = _Document()
_CODECS: dict[str, Codec] = {"json": _Json(), "raw": DOCUMENT, "document": DOCUMENT}


def of(
    name: str, types: Iterable[type | Kind] = (), compress_above: int | None = None
) -> Codec:
    """A cache's codec, by its settings; `ConfigError` names one that is wrong."""
    types = tuple(types)
    if name == "msgpack":
        if types or compress_above is not None:
            return Msgpack(types, compress_above)
        return MSGPACK
    if types or compress_above is not None:
        raise ConfigError(
            f"types and compress_above are for codec='msgpack', not {name!r}"
        )
    return _CODECS[name]


def _kind(cls: type) -> Kind:
    """A class of objects that are their fields."""
    if not isinstance(cls, type):
        raise ConfigError(f"types: expected classes, not {cls!r}")
    if issubclass(cls, Flag):
        return Kind(cls, lambda flags: flags.value, cls)
    if issubclass(cls, Enum):
        return Kind(cls, lambda member: member.name, cls.__getitem__)
    if "__dataclass_fields__" in vars(cls):
        return _of_dataclass(cls)
    if issubclass(cls, msgspec.Struct):
        return Kind(cls, msgspec.structs.asdict, lambda fields: cls(**fields))
    if issubclass(cls, tuple) and hasattr(cls, "_asdict"):
        return Kind(cls, lambda value: value._asdict(), lambda fields: cls(**fields))
    if hasattr(cls, "model_validate") and hasattr(cls, "model_dump"):
        return _of_pydantic(cls)
    raise ConfigError(
        f"types: {_full(cls)} is neither a dataclass, a named tuple, an Enum, nor a "
        "model of msgspec or pydantic"
    )


def _of_dataclass(cls: Any) -> Kind:
    """Its fields as they stand, also those that are no arguments: it is not made anew,
    which would run its `__post_init__` on what that has made."""
    names = [field.name for field in dataclasses.fields(cls)]

    def together(fields: dict[str, Any]) -> Any:
        if fields.keys() != set(names):
            raise CodecError(f"a {_full(cls)} with the fields {sorted(fields)}")
        made = cls.__new__(cls)
        for name, value in fields.items():
            object.__setattr__(made, name, value)
        return made

    return Kind(cls, lambda value: {n: getattr(value, n) for n in names}, together)


def _of_pydantic(cls: Any) -> Kind:
    """By its fields' own names, where pydantic can (2.11)."""
    by_name = {}
    if "by_name" in inspect.signature(cls.model_validate).parameters:
        by_name = {"by_name": True, "by_alias": False}
    return Kind(
        cls,
        lambda value: value.model_dump(round_trip=True),
        lambda fields: cls.model_validate(fields, **by_name),
    )


def _refusal(value: Any) -> str:
    """Of a type that has no form."""
    words = f"a value of type {_name(value)} cannot be cached"
    try:
        _kind(type(value))
    except ConfigError:
        return words
    return f"{words}: name its class in `types`"


def _full(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else _full(kind)
