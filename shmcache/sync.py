"""SyncCache: the same verbs, blocking, for threads and for processes without a loop.

Hits of L1 are answered inline, by the thread that asks. All else runs on an event loop
in a thread of the library's own, where the process' `Cache` lives: so blocking and
asyncio processes on one segment share flights, claims and leases.

Who computes
    The thread that asked. It waits for its answer, and where its call is elected to
    compute it is told so, runs the function, and hands in the result: what a function
    finds in its thread (a database connection, a request) is there. Nobody waits for a
    refresh of what was answered stale: that runs in a thread of a small pool, in the
    context of who asked.

After a fork
    A child has neither its parent's threads nor its slot. Its first call opens the
    cache anew. Of what was the parent's only our copies of its descriptors are closed:
    to close more would be to close what is the parent's, too.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import copy
import inspect
import logging
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Self, TypeVar, Unpack, overload

from . import nesting
from .cache import Cache
from .clock import SYSTEM, Clock
from .config import SIZE_MIN, CacheConfig, parse_size
from .context import Context
from .decorator import Condition, Functions, Keys, SyncDecorator
from .entry import MISSING, Entry
from .errors import CacheError, ComputeFailed
from .fill import UNSET
from .hosts import Confirmation
from .keys import Key
from .lock import Lock
from .policy import Ttl
from .stats import Hot, Stats
from .terms import Lives, Tags, TtlOf, Wishes

log = logging.getLogger("shmcache")

T = TypeVar("T")
K = TypeVar("K", bound=Key)
CLOSE_SECONDS = 10.0
TURNS = 4
"""Of the loop, from where a flight has answered its callers (with a stale value, while
it goes on) to where their threads are told: shield, task, callback, and one more."""
REFRESHERS = 4
"""Threads at most that refresh what was answered stale."""


class SyncCache:
    """One cache for all the processes that open its name, for programs that block.

    One instance serves all threads of a process, and its forked children.
    """

    def __init__(self, config: CacheConfig, *, clock: Clock = SYSTEM) -> None:
        """`SegmentError` if the segment cannot be made or attached, `ConfigError` if
        a setting is wrong."""
        self.config = config
        self._process = _Process(config, clock)
        self.functions: Functions = Functions()
        """Those that `cached` decorates, by name, in this namespace."""
        self._space: str | None = None
        self._view: Cache | None = None
        """This process'; None until it is asked for, and in a child."""
        self._opened()

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

    def close(self) -> None:
        """End what is under way, give up the slot; the last process to close removes
        the segment, unless it is kept. A process that ends closes what it opened."""
        self._process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- read path

    def peek(self, key: Key, default: Any = MISSING) -> Any:
        """The value if L1 has it, fresh or stale, else `default`. No I/O."""
        return (self._view or self._opened()).peek(key, default)

    def entry(self, key: Key) -> Entry | None:
        """What L1 has, with age, ttl and state; a dead record too, as `dead`."""
        return (self._view or self._opened()).entry(key)

    def get(self, key: Key, default: Any = MISSING) -> Any:
        """The value from L1 or L2, fresh or stale, else `default`. Computes nothing."""
        cache = self._view or self._opened()
        value = cache.peek(key, MISSING)
        if value is not MISSING:
            return value
        if cache.config.l2 is None:
            return default
        return self._run(cache.get(key, default))

    def get_many(self, wanted: Iterable[K]) -> dict[K, Any]:
        """The values that L1 or L2 has, in one round trip for all."""
        return self._run((self._view or self._opened()).get_many(wanted))

    @overload
    def get_or_set(
        self, key: Key, compute: Callable[[], T], **wishes: Unpack[Wishes]
    ) -> T: ...

    @overload
    def get_or_set(
        self, key: Key, compute: Callable[[Context], T], **wishes: Unpack[Wishes]
    ) -> T: ...

    def get_or_set(
        self, key: Key, compute: Callable[..., Any], **wishes: Unpack[Wishes]
    ) -> Any:
        """The value, computed once for the fleet if nobody has it: `Cache.get_or_set`
        says how. `compute` is run by this very thread."""
        cache = self._view or self._opened()
        found = cache.at_once(key, compute, wishes)
        if found is not MISSING:
            return found
        turn = _Turn(cache._bound(compute, cache._key(key)), self._process)
        if (standing := cache.look(key)) is not None and standing.state == "stale":
            turn.leave()  # this thread waits for no refresh
            stale = None if cache.config.soft_timeout else cache.entry(key)
            if stale is not None and stale.state != "dead":
                self._process.submit(_refresh(cache, key, turn, wishes))
                return stale.value
        return turn.served(cache.get_or_set(key, turn, **wishes))

    def get_or_set_entry(
        self, key: Key, compute: Callable[..., Any], **wishes: Unpack[Wishes]
    ) -> Entry:
        """As `get_or_set`, with age, ttl, state, source and version."""
        cache = self._view or self._opened()
        turn = _Turn(cache._bound(compute, cache._key(key)), self._process)
        return turn.served(cache.get_or_set_entry(key, turn, **wishes))

    def get_or_set_many(
        self,
        wanted: Iterable[K],
        compute: Callable[[list[Any]], Mapping[Any, Any]],
        **wishes: Unpack[Wishes],
    ) -> dict[K, Any]:
        """The values of many keys; those that nobody has are computed at once, by this
        very thread: `Cache.get_or_set_many`."""
        turn = _Turn(compute, self._process)
        cache = self._view or self._opened()
        return turn.served(cache.get_or_set_many(wanted, turn, **wishes))

    def refresh(
        self, key: Key, compute: Callable[..., Any], **wishes: Unpack[Wishes]
    ) -> None:
        """See that one background refresh of the key runs; waits for nothing."""
        cache = self._view or self._opened()
        turn = _Turn(cache._bound(compute, cache._key(key)), self._process)
        turn.leave()
        self._run(_refresh(cache, key, turn, wishes))

    def recompute(
        self, key: Key, compute: Callable[..., Any], **wishes: Unpack[Wishes]
    ) -> Any:
        """Compute now, by this very thread, whatever stands: `Cache.recompute`."""
        cache = self._view or self._opened()
        turn = _Turn(cache._bound(compute, cache._key(key)), self._process)
        return turn.served(cache.recompute(key, turn, **wishes))

    # -- write path

    def set(
        self,
        key: Key,
        value: Any,
        *,
        ttl: TtlOf = None,
        grace: Ttl = 0.0,
        tags: Tags = (),
    ) -> None:
        """Store a value on this host and in the fleet."""
        cache = self._view or self._opened()
        self._run(cache.set(key, value, ttl=ttl, grace=grace, tags=tags))

    def set_many(
        self,
        values: Mapping[K, Any],
        *,
        ttl: TtlOf = None,
        grace: Ttl = 0.0,
        tags: Tags = (),
    ) -> None:
        """`set` of each, in the two round trips of one."""
        cache = self._view or self._opened()
        self._run(cache.set_many(values, ttl=ttl, grace=grace, tags=tags))

    def add(
        self,
        key: Key,
        value: Any,
        *,
        ttl: TtlOf = None,
        grace: Ttl = 0.0,
        tags: Tags = (),
    ) -> bool:
        """Store a value where none stands; whether it did."""
        cache = self._view or self._opened()
        return self._run(cache.add(key, value, ttl=ttl, grace=grace, tags=tags))

    def compare_and_set(
        self,
        key: Key,
        value: Any,
        *,
        version: int,
        ttl: TtlOf = None,
        grace: Ttl = 0.0,
        tags: Tags = (),
    ) -> bool:
        """Store a value where just that one stands whose `Entry.version` this is."""
        cache = self._view or self._opened()
        lives: Any = {"ttl": ttl, "grace": grace, "tags": tags}
        return self._run(cache.compare_and_set(key, value, version=version, **lives))

    def touch(self, key: Key, ttl: Ttl, *, grace: Any = UNSET) -> bool:
        """Let what stands live for `ttl` seconds from now; whether something stood."""
        return self._run((self._view or self._opened()).touch(key, ttl, grace=grace))

    def pop(self, key: Key, default: Any = MISSING) -> Any:
        """Remove the key, and return the value that stood there, else `default`."""
        return self._run((self._view or self._opened()).pop(key, default))

    def incr(
        self,
        key: Key,
        delta: float = 1,
        *,
        initial: float | None = 0,
        ttl: TtlOf = None,
        grace: Ttl = 0.0,
        tags: Tags = (),
    ) -> Any:
        """Add to the number that stands, and return the sum; its life goes on."""
        cache = self._view or self._opened()
        lives: Any = {"ttl": ttl, "grace": grace, "tags": tags}
        return self._run(cache.incr(key, delta, initial=initial, **lives))

    def decr(
        self, key: Key, delta: float = 1, *, initial: float | None = 0, **wishes: Any
    ) -> Any:
        """As `incr`, downwards."""
        return self.incr(key, -delta, initial=initial, **wishes)

    def delete(self, key: Key) -> None:
        """Remove the key on this host and in the fleet."""
        self._run((self._view or self._opened()).delete(key))

    def delete_many(self, unwanted: Iterable[Key]) -> None:
        """Remove the keys, in one round trip for all."""
        self._run((self._view or self._opened()).delete_many(unwanted))

    def expire(self, key: Key) -> None:
        """Make what stands stale."""
        self._run((self._view or self._opened()).expire(key))

    def delete_tags(self, *names: str) -> None:
        """Remove all that bears one of the tags, of this namespace."""
        self._run((self._view or self._opened()).delete_tags(*names))

    def expire_tags(self, *names: str) -> None:
        """Make stale all that bears one of the tags, of this namespace."""
        self._run((self._view or self._opened()).expire_tags(*names))

    def clear(self, *, soft: bool = False) -> None:
        """Remove everything of this namespace; with `soft` it is made stale."""
        self._run((self._view or self._opened()).clear(soft=soft))

    def confirmed(self, wait: float = 1.0) -> Confirmation:
        """How many of the fleet's live hosts have applied what was invalidated here."""
        return self._run((self._view or self._opened()).confirmed(wait))

    @contextlib.contextmanager
    def lock(self, name: Key, *, wait: Ttl = None) -> Iterator[Lock]:
        """One holder in the fleet: `Cache.lock`. Of what it gives, `token` and
        `lost.is_set()` are for threads."""
        lock = (self._view or self._opened()).lock(name, wait=wait)
        try:
            self._run(lock.acquire())
            yield lock
        finally:
            with contextlib.suppress(CacheError):  # closed meanwhile, which frees it
                self._run(_released(lock))

    # -- views

    def cached(
        self,
        ttl: TtlOf = None,
        *,
        key: str | None = None,
        tags: Tags = (),
        condition: Condition = None,
        noself: bool = False,
        **wishes: Unpack[Lives],
    ) -> SyncDecorator:
        """Decorates a function or method: `Cache.cached`."""
        made = Keys(key, tags, noself)
        return SyncDecorator(self, made, condition, {"ttl": ttl, **wishes})

    def namespace(self, name: str) -> Self:
        """The same cache under keys and tags of their own; closing either closes
        both."""
        if self._space is not None:
            raise CacheError(f"namespace {name!r}: namespaces do not nest")
        view = copy.copy(self)
        view._space, view._view, view.functions = name, None, Functions()
        view._opened()
        return view

    def stats(self) -> Stats:
        """Counters of the host, summed over its processes, and its occupancy."""
        return (self._view or self._opened()).stats()

    def hot_keys(self) -> tuple[list[Hot], list[Hot]]:
        """Of the host: the keys hit most, and those whose computes took longest."""
        return (self._view or self._opened()).hot_keys()

    # -- inside

    def _opened(self) -> Cache:
        """This process' cache, opened if it is not."""
        return self._process.open(self)

    def _run(self, verb: Coroutine[Any, Any, T]) -> T:
        return self._process.run(verb)


class _Process:
    """What the views of a cache share in one process: the cache, its loop, its pool."""

    def __init__(self, config: CacheConfig, clock: Clock) -> None:
        self._config, self._clock = config, clock
        self._views: weakref.WeakSet[SyncCache] = weakref.WeakSet()
        self._parents: list[Any] = []
        """What was of the processes that this one was forked from."""
        self._inherited: list[Cache] = []
        """Of these, what holds the segment until this process holds it itself."""
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.RLock()
        """Never held while the loop is waited for, which may wait for it."""
        self._closing = threading.RLock()
        self._shutting = False
        self._cache: Cache | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._pending: set[Future[Any]] = set()

    def forked(self) -> None:
        """In the child."""
        parent = (self._cache, self._loop, self._thread, self._pool, self._pending)
        self._parents.append(parent)
        if self._cache is not None:
            self._inherited.append(self._cache)
        for view in list(self._views):
            view._view = None
        self._begin()

    def open(self, view: SyncCache) -> Cache:
        """The view's cache in this process."""
        with self._lock:
            self._refuse()
            if self._cache is None:
                self._cache = Cache(self._config, clock=self._clock)
                _watch(self)
                while self._inherited:  # its descriptors are our own since the fork
                    self._inherited.pop()._l1.segment.detach()
                if self._config.l2 is not None:
                    # who only hits must be ready to follow the fleet's invalidations
                    self.submit(self._cache.start())
            cache, space = self._cache, view._space
            view._view = cache if space is None else cache.namespace(space)
            self._views.add(view)
            return view._view

    def _refuse(self) -> None:
        if self._closed or (self._shutting and self._cache is None):
            raise CacheError("the cache is closed")

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """That of the thread, which is started if it is not."""
        with self._lock:
            self._refuse()
            if self._loop is None:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(
                    target=self._serve, args=(loop,), name="shmcache", daemon=True
                )
                try:
                    thread.start()
                except BaseException:
                    loop.close()
                    raise
                self._loop, self._thread = loop, thread
            return self._loop

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            try:
                loop.run_forever()
                return
            except BaseException as error:  # a SystemExit there is not the loop's end
                log.error("on the loop of a SyncCache: %r", error)

    @property
    def pool(self) -> ThreadPoolExecutor:
        with self._lock:
            self._refuse()
            if self._pool is None:
                self._pool = ThreadPoolExecutor(REFRESHERS, "shmcache-refresh")
            return self._pool

    def submit(self, verb: Coroutine[Any, Any, T]) -> Future[T]:
        try:
            with self._lock:
                loop = self.loop
                if threading.current_thread() is self._thread:
                    raise CacheError(
                        "a verb of SyncCache was called on its own event loop, and "
                        "would wait for itself"
                    )
                future = asyncio.run_coroutine_threadsafe(verb, loop)
                self._pending.add(future)
        except BaseException:
            verb.close()
            raise
        future.add_done_callback(self._pending.discard)
        return future

    def run(self, verb: Coroutine[Any, Any, T]) -> T:
        future = self.submit(verb)
        try:
            return future.result()
        except CancelledError:
            raise CacheError("the cache was closed") from None
        except BaseException:  # of a signal, in the main thread
            future.cancel()
            raise

    def close(self) -> None:
        """Of several threads one does it, and the others wait; a signal's handler that
        comes in the midst of it does not."""
        with self._closing:
            with self._lock:
                if self._closed or self._shutting:
                    return
                self._shutting, cache = True, self._cache
            try:
                if cache is not None:
                    closing = asyncio.run_coroutine_threadsafe(
                        _closed(cache), self.loop
                    )
                    closing.result(CLOSE_SECONDS)
            finally:
                self._end()

    def _end(self) -> None:
        with self._lock:
            self._closed = True
            loop, thread, pool = self._loop, self._thread, self._pool
            for view in list(self._views):
                view._view = None
        _PROCESSES.discard(self)
        while self._inherited:  # never used in this child
            self._inherited.pop()._l1.close(keep=self._config.keep)
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(CLOSE_SECONDS)
            if not thread.is_alive():
                loop.close()
        for future in list(self._pending):  # no loop will end it
            future.cancel()
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)


async def _closed(cache: Cache) -> None:
    """The cache, and every verb that is under way."""
    await cache.close()
    mine = asyncio.current_task()
    others = [task for task in asyncio.all_tasks() if task is not mine]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class _Turn:
    """A compute that is called on the loop, and run by the thread that asked for it as
    long as that waits; then by one of the pool."""

    def __init__(self, compute: Callable[..., Any], process: _Process) -> None:
        self._compute = compute
        self._process = process
        self._context = contextvars.copy_context()
        self._asked: SimpleQueue[_Work | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._left = False

    async def __call__(self, *given: Any) -> Any:
        work = _Work(self._compute, given)
        for _ in range(TURNS):  # who is answered already shall not compute
            await asyncio.sleep(0)
        with self._lock:
            queued = not self._left
            if queued:
                self._asked.put(work)
        if not queued:
            self._hand_over(work)
        return await work.answer

    def leave(self) -> None:
        """The thread waits no longer: what was not begun is the pool's."""
        with self._lock:
            self._left = True
        while not self._asked.empty():
            if (work := self._asked.get()) is not None and not work.answer.done():
                self._hand_over(work)

    def _hand_over(self, work: _Work) -> None:
        try:
            self._process.pool.submit(self._context.copy().run, work.run)
        except (CacheError, RuntimeError):  # closed, or the interpreter ends
            work.fail(CacheError("the cache is closed"))

    def served(self, verb: Coroutine[Any, Any, T]) -> T:
        """What the verb answers; this thread computes meanwhile, if it is asked to."""
        future = self._process.submit(verb)
        future.add_done_callback(lambda _: self._asked.put(None))
        try:
            while (work := self._asked.get()) is not None:
                if future.done():  # and nobody waits for what is to be computed
                    self._hand_over(work)
                else:
                    work.run()
            return future.result()
        except CancelledError:
            raise CacheError("the cache was closed") from None
        except BaseException:
            future.cancel()
            raise
        finally:
            self.leave()


class _Work:
    """One call of a compute: made on the loop, run in a thread."""

    def __init__(self, compute: Callable[..., Any], given: tuple[Any, ...]) -> None:
        self._loop = asyncio.get_running_loop()
        self._compute, self._given = compute, given
        self._around = nesting.around()
        self.answer: asyncio.Future[Any] = self._loop.create_future()

    def run(self) -> None:
        """What is no `Exception` is raised here too: it is the thread's own."""
        if self.answer.done():  # nobody waits for it any more
            return
        try:
            with nesting.resumed(self._around):
                result = self._compute(*self._given)
            if inspect.isawaitable(result):
                if inspect.iscoroutine(result):
                    result.close()
                raise ValueError(
                    f"compute={self._compute!r}: it has to be awaited; SyncCache runs "
                    "plain functions"
                )
        except StopIteration as error:  # no future can bear one
            self._settle(None, ComputeFailed("StopIteration", str(error)))
        except Exception as error:
            self._settle(None, error)
        except BaseException as error:
            name = type(error).__name__
            self._settle(
                None, ComputeFailed(name, "the thread that computed was ended")
            )
            raise
        else:
            self._settle(result, None)

    def fail(self, error: Exception) -> None:
        self._settle(None, error)

    def _settle(self, result: Any, error: Exception | None) -> None:
        def settle() -> None:
            if self.answer.done():
                return
            if error is not None:
                self.answer.set_exception(error)
            else:
                self.answer.set_result(result)

        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(settle)


async def _refresh(cache: Cache, key: Key, turn: _Turn, wishes: Wishes) -> None:
    await cache.start()
    cache.refresh(key, turn, **wishes)


async def _released(lock: Lock) -> None:
    lock.release()


_PROCESSES: set[_Process] = set()
"""Those that are open: a process that ends closes them."""
_watching = False


def _watch(process: _Process) -> None:
    global _watching
    _PROCESSES.add(process)
    if not _watching:
        _watching = True
        os.register_at_fork(after_in_child=_forked)
        atexit.register(_close_all)


def _forked() -> None:
    for process in list(_PROCESSES):
        process.forked()


def _close_all() -> None:
    for process in list(_PROCESSES):
        with contextlib.suppress(Exception):
            process.close()
