"""Keys: 1 to 1024 bytes, text as UTF-8; a namespace is a prefix of its own."""

from __future__ import annotations

from hashlib import blake2b

from .errors import KeyRejected

Key = str | bytes
KEY_MAX = 1024
_SEPARATOR = b"\x1f"


def to_bytes(key: Key) -> bytes:
    """The key's bytes; `KeyRejected` if it is mistyped, empty or too long."""
    if isinstance(key, str):
        try:
            raw = key.encode()
        except UnicodeEncodeError as e:
            raise KeyRejected(f"key {key!r}: not encodable as UTF-8") from e
    elif isinstance(key, bytes):
        raw = key
    else:
        kind = type(key).__name__
        raise KeyRejected(f"key {key!r}: expected str or bytes, got {kind}")
    if raw[:1] == _SEPARATOR:
        raise KeyRejected(f"key {key!r}: keys that begin with \\x1f are namespaces'")
    return _sized(raw)


def within(prefix: bytes, key: bytes) -> bytes:
    """The key in a namespace whose keys begin with `prefix`."""
    return _sized(prefix + key) if prefix else key


def _sized(raw: bytes) -> bytes:
    if not 0 < len(raw) <= KEY_MAX:
        raise KeyRejected(
            f"key of {len(raw)} bytes: expected 1 to {KEY_MAX}; hash long keys first"
        )
    return raw


def prefix(name: str) -> bytes:
    """What the keys of namespace `name` begin with; no other key begins so."""
    if not (isinstance(name, str) and 0 < len(name) <= 64 and name.isprintable()):
        raise KeyRejected(f"namespace {name!r}: expected 1 to 64 printable characters")
    return _SEPARATOR + name.encode() + _SEPARATOR


def error_key(key: bytes) -> bytes:
    """Where a failed compute leaves its words for those who waited on the host."""
    return b"\x1f\x1f" + blake2b(key, digest_size=16).digest()


def lock_key(key: bytes) -> bytes:
    """What is claimed and leased for the lock of that name; no value stands there."""
    return b"\x1f\x1fl" + blake2b(key, digest_size=16).digest()


def holder_key(index: int, word: int) -> bytes:
    """Where the holder of a claim leaves its key, for who may have to reap it."""
    return b"\x1f\x1f%x.%x" % (index, word)
