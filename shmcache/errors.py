"""The errors users may see.

    CacheError
    ├── ConfigError         a setting is wrong; names it, what was expected, what to do
    ├── KeyRejected         an empty, too long or mistyped key
    ├── ValueTooLarge       the record can never fit its tier
    ├── SegmentError        the shared memory cannot be made or attached
    │   ├── LayoutMismatch  another build's or another boot's segment
    │   └── SegmentGone     it was removed while we attached
    ├── CodecError          the value cannot be encoded, or the bytes are not a value
    ├── TierUnavailable     L2 did not answer in time, or its breaker is open
    ├── LockTimeout         a lock was not to be had in time
    ├── Overloaded          more flights or waiters than this process may have
    ├── ReentrantCompute    a compute asked for the very key that it computes
    ├── ComputeTimeout      the compute function outlived its hard timeout
    └── ComputeFailed       the compute failed: in another process, or a while ago

A miss is no error.
"""

__all__ = [
    "CacheError",
    "CodecError",
    "ComputeFailed",
    "ComputeTimeout",
    "ConfigError",
    "KeyRejected",
    "LayoutMismatch",
    "LockTimeout",
    "Overloaded",
    "ReentrantCompute",
    "SegmentError",
    "SegmentGone",
    "TierUnavailable",
    "ValueTooLarge",
]


class CacheError(Exception):
    """Base of all that the library raises on its own account."""


class ConfigError(CacheError, ValueError):
    """A setting is wrong."""


class KeyRejected(CacheError, ValueError):
    """A key is not `str` or `bytes` of 1 to 1024 bytes."""


class ValueTooLarge(CacheError, ValueError):
    """A record is larger than its tier can ever hold."""


class SegmentError(CacheError, OSError):
    """The shared memory cannot be made or attached."""


class LayoutMismatch(SegmentError):
    """The segment was made by another build, boot, owner or configuration."""


class SegmentGone(SegmentError):
    """The segment was removed while it was being attached."""


class CodecError(CacheError, ValueError):
    """A value cannot be encoded, or bytes are not what the codec wrote."""


class TierUnavailable(CacheError):
    """A tier did not answer in time, refused, or is behind an open breaker."""


class LockTimeout(CacheError, TimeoutError):
    """Somebody else had a lock for longer than was to be waited."""


class Overloaded(CacheError):
    """This process has `flights_max` computes or `waiters_max` callers under way."""


class ReentrantCompute(CacheError):
    """A compute asked for its own key: it would wait for itself."""


class ComputeTimeout(CacheError, TimeoutError):
    """A compute function outlived its hard timeout."""


class ComputeFailed(CacheError):
    """The compute function failed in the process that ran it, just now or as long ago
    as its failure was to be remembered.

    `kind` is the name of its exception's class there; the text is its message.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}" if message else kind)
        self.kind = kind
        self.message = message
