"""Cache: the read path (peek, get, get_or_set) and the write path (set, delete).

Read path, with the numbers that stand in the README, the log and the trace names
    1. Peek L1: a lock-free read. Fresh: return it. (Almost at its end, chance may
       begin a refresh early.)
    2. Stale, inside grace: see that one background refresh runs, and return it, at
       once or after the soft timeout.
    3. Miss: join the flight (`flight.py`).
    4. Claim the key on the host (`claim.py`), note the clock, peek once more.
    5. Ask Redis for value or lease, in one round trip (`holder.py`, `l2.py`).
    6. Compute under the lease (`holder.py`, `compute.py`).
    7. Fill L2, then L1, each only where token and claim still stand.

Write path
    `delete` is an invalidation (`invalidation.py`): when it has returned, no get that
    starts on this host is answered with what was fetched before it. `set` is a delete
    that takes the key's lease, and a fill (`writes.py`).

What is wrong with an argument is told before any I/O, as `ValueError`, `KeyRejected`
or `CodecError`.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any, Self, TypeVar, Unpack, overload

from . import context, entry, keys, policy, tags, terms
from .batch import Batch
from .clock import SYSTEM, Clock
from .compute import shared_error
from .config import SIZE_MIN, CacheConfig, parse_size
from .context import Context
from .decorator import AsyncDecorator, Functions, Keys
from .entry import MISSING, Entry
from .errors import CacheError, CodecError, TierUnavailable
from .fill import UNSET, Terms
from .hosts import Confirmation
from .job import OnWait, Outcome, Until
from .keys import Key
from .l1 import Hit
from .lock import Lock
from .parts import Parts, Prepared, open_l1
from .policy import Ttl
from .record import DEAD, ERROR, FRESH, STALE, VALUE, Record
from .stats import Hot, Stats
from .terms import Errors, Lives, Tags, TtlOf, Wishes
from .writes import Writes

T = TypeVar("T")
K = TypeVar("K", bound=Key)


class Cache:
    """One cache for all the processes that open its name, for asyncio programs.

    Opening attaches the segment; what needs an event loop starts with the first
    verb that is awaited. One instance belongs to one process and one loop.
    """

    def __init__(self, config: CacheConfig, *, clock: Clock = SYSTEM) -> None:
        """`SegmentError` if the segment cannot be made or attached, `ConfigError` if
        a setting is wrong."""
        self.config = config
        self._parts = parts = Parts(config, clock)
        self._l1, self._l2, self._codec = parts.l1, parts.l2, parts.codec
        self._decoded = parts.codec.decode
        self._claims, self._flights = parts.claims, parts.flights
        self._invalidations = parts.invalidations
        self._writes = Writes(parts)
        self._prefix = b""
        self.functions: Functions = Functions()
        """Those that `cached` decorates, by name, in this process and namespace."""
        self.hit: Callable[[bytes], Hit | None] = parts.l1.hit
        """What L1 has, looked up as fast as can be, for who answers many: document
        (undecoded), whether it is stale, age and what is left of its ttl in whole
        seconds, rounded down. None: `entry` tells more. Knows no namespace."""

    @classmethod
    def open(
        cls,
        name: str,
        *,
        size: str | int = "64MiB",
        l2: str | None = None,
        keep: bool = False,
        **settings: Any,
    ) -> Self:
        """A cache from its name; `settings` are `CacheConfig`'s."""
        size_bytes = parse_size(size, least=SIZE_MIN)
        return cls(CacheConfig(name, size_bytes, l2=l2, keep=keep, **settings))

    @staticmethod
    def prepare(config: CacheConfig) -> Prepared:
        """Make the segment and hold it, without a process slot, thread or loop: for a
        master before it forks."""
        return Prepared(open_l1(config, SYSTEM))

    async def start(self) -> None:
        """Bind to the running loop. The verbs do it by themselves."""
        await self._parts.start()

    async def close(self) -> None:
        """End flights and connections, give up the slot; the last process to close
        removes the segment, unless it is kept."""
        await self._parts.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def check_l2(self) -> str | None:
        """`ConfigError` if L2 refuses us (password, rights, version). None if it
        answered, else why it did not: it will be tried again."""
        try:
            if self._l2 is not None:
                await self._l2.check()
        except TierUnavailable as e:
            return str(e)
        return None

    # -- read path

    def peek(self, key: Key, default: Any = MISSING) -> Any:
        """Step 1: the value if L1 has it, fresh or stale, else `default`. No I/O."""
        spaced = self._key(key) if self._prefix else None
        # the table takes text as it is: encoding it would cost half of a hit
        document = self._l1.peek(spaced) if spaced else self._l1.peek(key, False)
        if document is None:
            record = self._standing(spaced or self._key(key))
            if record is None or record.kind != VALUE or record.state == DEAD:
                return default
            document = record.value
        try:
            return self._decoded(document)
        except CodecError:  # an unreadable value is a miss
            return default

    def entry(self, key: Key) -> Entry | None:
        """What L1 has, with age, ttl and state; a dead record too, as `dead`."""
        record = self._standing(self._key(key))
        return None if record is None else self._readable(record)

    def look(self, key: Key) -> Entry | None:
        """As `entry`, for who has asked already: counts nothing."""
        return self._what_stands(self._key(key))

    async def get(self, key: Key, default: Any = MISSING) -> Any:
        """The value from L1 or L2, fresh or stale, else `default`. Computes nothing."""
        value = self.peek(key, MISSING)
        if not self._parts.ready:
            self._parts.begin()
        if value is not MISSING or self._l2 is None:
            return default if value is MISSING else value
        await self.start()
        record = await self._parts.lookup.one(self._key(key))
        return default if record is None else self._decode(record.value, default)

    async def get_many(self, wanted: Iterable[K]) -> dict[K, Any]:
        """The values that L1 or L2 has, as `get` would, in one round trip for all."""
        listed = self._listed("get_many", wanted)
        found = {key: self.peek(key, MISSING) for key in listed}
        if self._l2 is not None:
            absent = {k: self._key(k) for k, v in found.items() if v is MISSING}
            if not absent:
                self._parts.begin()
                return found
            await self.start()
            records = await self._parts.lookup.many(list(set(absent.values())))
            for key, raw in absent.items():
                if raw in records:
                    found[key] = self._decode(records[raw].value, MISSING)
        return {key: value for key, value in found.items() if value is not MISSING}

    @overload
    async def get_or_set(
        self,
        key: Key,
        compute: Callable[[], Awaitable[T]] | Callable[[Context], Awaitable[T]],
        **wishes: Unpack[Wishes],
    ) -> T: ...

    @overload
    async def get_or_set(
        self,
        key: Key,
        compute: Callable[[], T] | Callable[[Context], T],
        **wishes: Unpack[Wishes],
    ) -> T: ...

    async def get_or_set(
        self,
        key: Key,
        compute: Callable[..., Any],
        *,
        ttl: TtlOf = None,
        grace: Ttl = 0.0,
        negative_ttl: Any = UNSET,
        tags: Tags = (),
        errors: Errors = (),
        error_ttl: Ttl = 1.0,
    ) -> Any:
        """The value, computed once for the fleet if nobody has it.

        `ttl`: seconds fresh, or a timedelta, or text such as "1h30m", or a function
        that says it of the value (None for ever, 0 stores nothing); `grace` seconds
        more served stale while one refresh runs, `negative_ttl` for a value that is
        None. `tags`: at most 32 names of 1 to 128 bytes. `compute` takes nothing, or
        its `Context`; it returns the value, or a `Fill` that says more. Its exception
        reaches every caller that waited: as itself in its own process, as
        `ComputeFailed` in others. `errors` are exceptions that count as answers: they
        stand in place of the value for `error_ttl` seconds, and who asks meanwhile gets
        `ComputeFailed`.

        `ReentrantCompute` inside the key's own compute, `Overloaded` above the caps.
        """
        wanted = terms.of(
            *(ttl, grace, tags, negative_ttl, errors, error_ttl, self._prefix)
        )
        if not callable(compute):
            _refuse_value(compute)
        value = self._fresh(key)
        if value is not MISSING:
            if not self._parts.ready:
                self._parts.begin()
            return value
        raw = self._key(key)
        compute = self._bound(compute, raw)
        await self.start()
        found = self._standing(raw)
        return _told(await self._resolve(raw, found, compute, wanted)).value

    def at_once(self, key: Key, compute: Any, wishes: Wishes) -> Any:
        """What `get_or_set` would answer without waiting, `MISSING` if it would wait;
        what is wrong with its arguments is told."""
        _refuse_value(compute)
        self._terms(**wishes)
        value = self._fresh(key)
        if value is MISSING:
            self._key(key)
        return value

    async def get_or_set_entry(
        self, key: Key, compute: Callable[..., Any], **wishes: Unpack[Wishes]
    ) -> Entry:
        """As `get_or_set`, with age, ttl, state, source and version."""
        raw, wanted = self._key(key), self._terms(**wishes)
        compute = self._bound(compute, raw)
        await self.start()
        return _told(await self._resolve(raw, self._standing(raw), compute, wanted))

    async def get_or_set_many(
        self,
        wanted: Iterable[K],
        compute: Callable[[list[Any]], Any],
        **wishes: Unpack[Wishes],
    ) -> dict[K, Any]:
        """The values of many keys, in their order. Those that nobody has are computed
        at once: `compute` is given a list of them, as they were named, and returns a
        mapping of values (or `Fill`s), or awaits one. Each is elected by itself, so
        what is computed elsewhere just now is waited for. A key that `compute` has no
        value for is not in the answer. Its failure is that of all it was given."""
        listed, wished = self._listed("get_or_set_many", wanted), self._terms(**wishes)
        _refuse_value(compute)
        raw = {key: self._key(key) for key in listed}
        found = {key: self._fresh(key) for key in raw}
        named = {raw[key]: key for key, value in found.items() if value is MISSING}
        if not named:
            self._parts.begin()
            return found
        await self.start()
        batch = Batch(self._l1, compute, named)
        answers = await asyncio.gather(
            *(self._of_batch(batch, key, wished) for key in named),
            return_exceptions=True,
        )
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        computed = dict(zip(named, answers, strict=True))
        values = {k: computed[raw[k]] if v is MISSING else v for k, v in found.items()}
        return {key: value for key, value in values.items() if value is not MISSING}

    async def _of_batch(self, batch: Batch, raw: bytes, wanted: Terms) -> Any:
        try:
            compute = partial(batch.value, raw)
            entry = _told(
                await self._resolve(raw, self._standing(raw), compute, wanted)
            )
        finally:
            batch.answered(raw)
        absent = raw in batch.absent and entry.source == "compute"
        return MISSING if absent else entry.value

    async def resolve(
        self,
        key: Key,
        compute: Callable[[], Any],
        *,
        until: Until = None,
        on_wait: OnWait = None,
        **wishes: Unpack[Wishes],
    ) -> Entry | None:
        """`get_or_set_entry` for who has looked by `entry` already: no hit or miss is
        counted again. None once `until` is done: a compute that goes on may have
        answered its caller by it. `on_wait` is told the `slot` of the process of this
        host that computes, where a flight of this call waits for it."""
        raw, wanted = self._key(key), self._terms(**wishes)
        await self.start()
        found = self._l1.look(raw)
        return await self._resolve(raw, found, compute, wanted, until, on_wait)

    @property
    def slot(self) -> int:
        """This process' number among those of the host's segment."""
        return self._l1.table.slot

    def refresh(
        self, key: Key, compute: Callable[..., Any], **wishes: Unpack[Wishes]
    ) -> None:
        """See that one background refresh of the key runs; waits for nothing. One that
        failed is not tried again before a second, doubling to 30."""
        raw, wanted = self._key(key), self._terms(**wishes)
        if not self._parts.ready:
            raise CacheError("the cache is closed, or not started: await start()")
        self._parts.belongs()
        self._flights.refresh(raw, self._bound(compute, raw), wanted)

    async def recompute(
        self, key: Key, compute: Callable[..., Any], **wishes: Unpack[Wishes]
    ) -> Any:
        """Compute now, whatever stands, and store it in its place, unless the key is
        invalidated meanwhile. What stands is made stale first, and what is being
        computed: both may be older than what this call is to see."""
        raw, wanted = self._key(key), self._terms(**wishes)
        compute = self._bound(compute, raw)
        await self.start()
        await self._invalidations.expire(raw)
        outcome = await self._flights.recomputed(raw, compute, wanted)
        return self._entry_of(outcome).value

    # -- write path

    async def set(
        self,
        key: Key,
        value: Any,
        *,
        ttl: TtlOf = None,
        grace: Ttl = 0.0,
        tags: Tags = (),
    ) -> None:
        """Store a value on this host and in the fleet; what is being fetched for the
        key meanwhile is refused. `ValueTooLarge` if no tier can hold it."""
        wanted = self._terms(ttl=ttl, grace=grace, tags=tags)
        await self._writes.set(self._key(key), value, wanted)

    async def set_many(
        self,
        values: Mapping[K, Any],
        *,
        ttl: TtlOf = None,
        grace: Ttl = 0.0,
        tags: Tags = (),
    ) -> None:
        """`set` of each, in the two round trips of one."""
        if not isinstance(values, Mapping):
            raise ValueError(f"set_many: expected a mapping of keys, not {values!r}")
        self._listed("set_many", values)
        wanted = self._terms(ttl=ttl, grace=grace, tags=tags)
        raw = {self._key(key): value for key, value in values.items()}
        await self._writes.set_many(raw, wanted)

    async def add(
        self,
        key: Key,
        value: Any,
        *,
        ttl: TtlOf = None,
        grace: Ttl = 0.0,
        tags: Tags = (),
    ) -> bool:
        """Store a value where none stands, fresh or stale; whether it did. Where L2
        does not answer, the host decides alone: this is no lock between hosts."""
        wanted = self._terms(ttl=ttl, grace=grace, tags=tags)
        return await self._writes.add(self._key(key), value, wanted)

    async def compare_and_set(
        self,
        key: Key,
        value: Any,
        *,
        version: int,
        ttl: TtlOf = None,
        grace: Ttl = 0.0,
        tags: Tags = (),
    ) -> bool:
        """Store a value where just that one stands whose `Entry.version` this is;
        whether it did. Where L2 does not answer, or is full, the host decides alone."""
        wanted = self._terms(ttl=ttl, grace=grace, tags=tags)
        if type(version) is not int or not 0 < version < 2**64:
            raise ValueError(f"version={version!r}: expected an Entry's version")
        return await self._writes.replace(self._key(key), value, wanted, version)

    async def touch(self, key: Key, ttl: Ttl, *, grace: Any = UNSET) -> bool:
        """Let what stands live for `ttl` seconds from now, and its grace, or another
        one, after that; False if nothing stands, or something else by now."""
        kept = grace if grace is UNSET else policy.seconds(grace, "grace")
        return await self._writes.touch(self._key(key), policy.seconds(ttl), kept)

    async def pop(self, key: Key, default: Any = MISSING) -> Any:
        """Remove the key, and return the value that stood there, fresh or stale, else
        `default`. Of many that try, one gets it; where L2 does not answer, one of a
        host."""
        record = await self._writes.pop(self._key(key))
        return default if record is None else self._decode(record.value, default)

    async def incr(
        self,
        key: Key,
        delta: float = 1,
        *,
        initial: float | None = 0,
        ttl: TtlOf = None,
        grace: Ttl = 0.0,
        tags: Tags = (),
    ) -> Any:
        """Add to the number that stands, and return the sum; its life goes on. Where
        none stands `initial` does, for `ttl`; None: `LookupError`. `TypeError` if no
        number stands. Sums are exact while L2 answers; each takes two round trips, so a
        counter that many hosts write is better kept elsewhere."""
        for name, number in (("delta", delta), ("initial", initial or 0)):
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise ValueError(f"{name}={number!r}: expected a number")
        wanted = self._terms(ttl=ttl, grace=grace, tags=tags)
        return await self._writes.incr(self._key(key), delta, initial, wanted)

    async def decr(
        self, key: Key, delta: float = 1, *, initial: float | None = 0, **wishes: Any
    ) -> Any:
        """As `incr`, downwards."""
        return await self.incr(key, -delta, initial=initial, **wishes)

    async def delete(self, key: Key) -> None:
        """Remove the key on this host and in the fleet."""
        await self.delete_many((key,))

    async def delete_many(self, unwanted: Iterable[Key]) -> None:
        """Remove the keys on this host and in the fleet, in one round trip for all."""
        raw = [self._key(key) for key in self._listed("delete_many", unwanted)]
        await self.start()
        await self._invalidations.delete(*raw)

    async def expire(self, key: Key) -> None:
        """Make what stands stale: it is served, as long as its ttl and grace last,
        while one refresh runs; what has no grace is gone. What is being fetched for
        the key meanwhile is stale too."""
        raw = self._key(key)
        await self.start()
        await self._invalidations.expire(raw)

    async def delete_tags(self, *names: str) -> None:
        """Remove all that bears one of the tags, of this namespace."""
        numbers = tags.of_tags(self._listed("delete_tags", names), self._prefix)
        await self.start()
        await self._invalidations.delete_tags(*numbers)

    async def expire_tags(self, *names: str) -> None:
        """Make stale all that bears one of the tags, of this namespace."""
        numbers = tags.of_tags(self._listed("expire_tags", names), self._prefix)
        await self.start()
        await self._invalidations.expire_tags(*numbers)

    async def clear(self, *, soft: bool = False) -> None:
        """Remove everything of this namespace; of a cache itself, all its namespaces
        too. With `soft` it is made stale."""
        await self.start()
        sent = self._invalidations
        if not self._prefix:
            await sent.clear(soft=soft)
            return
        number = tags.of_namespace(self._prefix)
        await (sent.expire_tags if soft else sent.delete_tags)(number)

    async def confirmed(self, wait: float = 1.0) -> Confirmation:
        """How many of the fleet's live hosts have applied what was invalidated here
        before: once all have, or after `wait` seconds as it stands (0: at once), and
        no later than an operation of L2 takes beyond that."""
        seconds = policy.seconds(wait, "wait")
        await self.start()
        return await self._invalidations.confirmed(seconds or 0.0)

    # -- for those who share what is not stored yet

    def note(self) -> int:
        """The invalidation clock now: what is begun after it is as new as it says."""
        return self._l1.table.clock()

    def raised(
        self, key: Key, note: int, tags: Tags = (), *, soft: bool = False
    ) -> bool:
        """Whether the key, or one of the tags, was invalidated after `note`; with
        `soft`, or made stale."""
        numbers = self._terms(tags=tags).tags
        return self._l1.table.highest(self._key(key), numbers, soft) > note

    async def caught_up(self, within: float = 1.0) -> bool:
        """Whether this host has applied all that the fleet was told to invalidate
        before this was called; waits for it at most `within` seconds. Who stores what
        was made before its flight began looks after this whether it was `raised`."""
        await self.start()
        return await self._invalidations.caught_up(within)

    def lock(self, name: Key, *, wait: Ttl = None) -> Lock:
        """To be held by `async with`: one holder in the fleet, by the election that
        computes go through (`lock.py` says what it is worth). `LockTimeout` after
        `wait` seconds, 0 where nobody waits; None: for ever."""
        seconds = policy.seconds(wait, "wait")
        return Lock(self._parts, keys.lock_key(self._key(name)), str(name), seconds)

    # -- views

    def cached(
        self,
        ttl: TtlOf = None,
        *,
        key: str | None = None,
        tags: Tags = (),
        condition: Callable[[Any], bool] | None = None,
        noself: bool = False,
        **wishes: Unpack[Lives],
    ) -> AsyncDecorator:
        """Decorates a coroutine function or method: its results, by its arguments;
        `ttl` and the rest are `get_or_set`'s.

        `key`: a template of the arguments, such as "user:{user_id}"; else the
        function's name and all of them, typed, which must be plain values. `tags`:
        templates too. `noself`: the first argument is the object whose method it is,
        and not in the key. A result for which `condition` is false is not stored.
        """
        if inspect.iscoroutinefunction(ttl):
            raise ValueError("cached: it is used with its parentheses, @cache.cached()")
        made = Keys(key, tags, noself)
        return AsyncDecorator(self, made, condition, {"ttl": ttl, **wishes})

    def namespace(self, name: str) -> Self:
        """The same cache under keys and tags of their own; closing either closes
        both."""
        if self._prefix:
            raise CacheError(f"namespace {name!r}: namespaces do not nest")
        view = copy.copy(self)
        view._prefix = keys.prefix(name)
        view.functions = Functions()
        return view

    def stats(self) -> Stats:
        """Counters of the host, summed over its processes, and its occupancy."""
        parts, l2 = self._parts, self._l2
        if parts.closing is not None:
            raise CacheError("the cache is closed")
        return self._l1.stats("none" if l2 is None else l2.state, parts.following)

    def hot_keys(self) -> tuple[list[Hot], list[Hot]]:
        """Of the host, all namespaces: the keys hit most, and those whose computes took
        longest in all; at most 64 each, the weightiest first."""
        from .inspect import View  # who starts a program waits for no tool

        with View.open(self._l1.segment.path.name) as view:
            return view.hot(self._l1.clock)

    # -- inside

    def _key(self, key: Key) -> bytes:
        return keys.within(self._prefix, keys.to_bytes(key))

    @staticmethod
    def _listed(verb: str, names: Iterable[Any]) -> list[Any]:
        if isinstance(names, str | bytes) or not isinstance(names, Iterable):
            raise ValueError(f"{verb}: expected several names, not {names!r}")
        if listed := list(names):
            return listed
        raise ValueError(f"{verb}: expected at least one, got none")

    def _terms(self, **wishes: Unpack[Wishes]) -> Terms:
        return terms.of(prefix=self._prefix, **wishes)

    def _bound(self, compute: Callable[..., Any], raw: bytes) -> Callable[[], Any]:
        """The compute with its context, if it takes one."""
        _refuse_value(compute)
        limit = self.config.hard_timeout
        return context.bound(compute, raw, limit, partial(self._what_stands, raw))

    def _what_stands(self, raw: bytes) -> Entry | None:
        record = self._l1.look(raw)
        return None if record is None else self._readable(record)

    def _fresh(self, key: Key) -> Any:
        """What L1 has, if it is fresh; counted, if it is there. Where it is not, the
        key is still to be judged."""
        peek = self._l1.peek
        document = peek(self._key(key)) if self._prefix else peek(key, False)
        return MISSING if document is None else self._decode(document, MISSING)

    def _standing(self, key: bytes) -> Record | None:
        """What L1 has; the look is counted as a hit, a stale hit or a miss."""
        record = self._l1.get(key)
        if record is not None and record.state == FRESH and record.kind == VALUE:
            self._l1.count("hits")
        return record

    async def _resolve(
        self,
        key: bytes,
        record: Record | None,
        compute: Callable[[], Any],
        wanted: Terms,
        until: Until = None,
        on_wait: OnWait = None,
    ) -> Entry | None:
        """Steps 2 to 7; `record` is what L1 has. None once `until` is done."""
        if record is not None and record.state != DEAD:
            if record.kind == ERROR and record.state == FRESH:
                raise shared_error(record.value)
            found = self._readable(record)
            if found is None and record.kind == VALUE:  # unreadable: a miss
                self._l1.table.drop(key)
            if found is not None:
                fresher = await self._fresher(key, record, compute, wanted)
                return found if fresher is None else self._entry_of(fresher)
        flights = self._flights.resolve
        try:
            outcome = await flights(key, compute, wanted, until, on_wait)
            return None if outcome is None else self._entry_of(outcome)
        except CodecError:
            # L2's, if it is not our own compute's, which fails again.
            await self._invalidations.delete(key)
            outcome = await flights(key, compute, wanted, until, on_wait)
            return None if outcome is None else self._entry_of(outcome)

    async def _fresher(
        self, key: bytes, record: Record, compute: Callable[[], Any], wanted: Terms
    ) -> Outcome | None:
        """Step 2, and an early refresh in step 1: what is there in time."""
        if record.state == STALE:
            return await self._flights.refreshed(key, compute, wanted)
        beta = self.config.early_refresh
        if beta and policy.due_early(
            self._l1.clock.now(),
            record.fresh_until,
            record.fill_us,
            beta,
            1.0 - random.random(),
        ):
            self._flights.refresh(key, compute, wanted, record)
        return None

    def _readable(self, record: Record) -> Entry | None:
        if record.kind != VALUE:
            return None
        try:
            return self._entry(record, "l1")
        except CodecError:
            return None

    def _decode(self, document: bytes, default: Any) -> Any:
        try:
            return self._codec.decode(document)
        except CodecError:  # an unreadable value is a miss
            return default

    def _entry_of(self, outcome: Outcome) -> Entry:
        assert outcome.record is not None
        return self._entry(outcome.record, outcome.source)

    def _entry(self, record: Record, source: str) -> Entry:
        return entry.of(record, source, self._codec, self._l1.clock.now())


def _refuse_value(compute: Any) -> None:
    if not callable(compute):
        raise ValueError(
            f"compute={compute!r}: expected a function, such as price, not price()"
        )


def _told(entry: Entry | None) -> Entry:
    """The entry of who waits for nothing else."""
    assert entry is not None
    return entry
