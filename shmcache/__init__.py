"""One cache for all the worker processes of a host, one fetch per key for the fleet.

The map
    cache          Cache: the read path and the write path; start here
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
    fill, terms, tags, entry, policy, codec, envelope, record    values and lives
    segment, clock, keys, config, stats, errors    the ground
"""

from .cache import Cache
from .config import CacheConfig, parse_size
from .entry import MISSING, Entry
from .errors import (
    CacheError,
    CodecError,
    ComputeFailed,
    ComputeTimeout,
    ConfigError,
    KeyRejected,
    LayoutMismatch,
    Overloaded,
    ReentrantCompute,
    SegmentError,
    SegmentGone,
    TierUnavailable,
    ValueTooLarge,
)
from .fill import Fill
from .hosts import Confirmation
from .parts import Prepared
from .stats import Stats

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
    "Entry",
    "Fill",
    "KeyRejected",
    "LayoutMismatch",
    "Overloaded",
    "Prepared",
    "ReentrantCompute",
    "SegmentError",
    "SegmentGone",
    "Stats",
    "TierUnavailable",
    "ValueTooLarge",
    "parse_size",
]
