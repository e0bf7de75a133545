"""One cache for all the worker processes of a host, one fetch per key for the fleet.

The map
    cache          Cache: the read path and the write path; start here
    sync           SyncCache: the same for programs that block (adapters, testing)
    decorator, batch, lock    a function's results; many keys; a block of code
    parts          what it is made of, and its life; writes, lookup: set, plain gets
    flight         one computation per key in this process; job, compute, nesting
    claim, holder  one computation per key on this host; who has it asks L2 and fills
                   (reaper: what the dead leave)
    lease          one computation per key in the fleet
    invalidation   deletes, by way of the outbox to a stream; follower, stream:
                   applied on every host (hosts: who has; conditional: add, compare
                   and set)
    l2, part, asks, operations    Redis, behind a deadline and a breaker
    topology, link, wire, resp    its servers and connections (sentinel, cluster)
    l1             the shared-memory segment; its core is C, in _core/table.h
                   (inspect, check: what tools may see of it)
    fill, context, terms, tags, entry, policy    what is wished, told and answered
    codec, envelope, record, arguments           values and keys
    segment, clock, keys, config, stats, errors    the ground
"""

from .cache import Cache
from .codec import Kind
from .config import CacheConfig, parse_size
from .context import Context
from .entry import MISSING, Entry
from .errors import (
    CacheError,
    CodecError,
    ComputeFailed,
    ComputeTimeout,
    ConfigError,
    KeyRejected,
    LayoutMismatch,
    LockTimeout,
    Overloaded,
    ReentrantCompute,
    SegmentError,
    SegmentGone,
    TierUnavailable,
    ValueTooLarge,
)
from .fill import Fill
from .hosts import Confirmation
from .lock import Lock
from .parts import Prepared
from .stats import Hot, Stats
from .sync import SyncCache

__all__ = [
    "MISSING",
    "Cache",
    "CacheConfig",
    "CacheError",
    "CodecError",
    "ComputeFailed",
    "ComputeTimeout",
    "ConfigError",
    "Confirmation",
    "Context",
    "Entry",
    "Fill",
    "Hot",
    "KeyRejected",
    "Kind",
    "LayoutMismatch",
    "Lock",
    "LockTimeout",
    "Overloaded",
    "Prepared",
    "ReentrantCompute",
    "SegmentError",
    "SegmentGone",
    "Stats",
    "SyncCache",
    "TierUnavailable",
    "ValueTooLarge",
    "parse_size",
]
