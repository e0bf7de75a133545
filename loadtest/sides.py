"""Sides: the two measuring processes of a benchmark, each pinned to a core.

Each opens every store for itself, so that what is shared is shared between processes
and what is private is each one's own. They are told what to do one command at a time;
a command for both begins at a barrier.
"""

from __future__ import annotations

import gc
import multiprocessing as mp
import os
import random
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Barrier
from time import perf_counter_ns
from typing import Any

from shmcache_server.embedded import die_with_parent

from .stores import KINDS, Place, Store, document, documents

_CONTEXT = mp.get_context("fork")
_ANSWER_WITHIN = 120.0
_CHUNK = 64
"""Sets of a writer between two looks at whether it should end."""


@dataclass(frozen=True)
class Workload:
    """So many records of so many bytes."""

    records: int
    value_bytes: int

    @property
    def name(self) -> str:
        return f"{self.records:,} of {self.value_bytes:,} B"


@dataclass(frozen=True)
class Task:
    """One timed measurement: these keys, so often."""

    store: str
    verb: str
    """get, set; or loop: the loop alone."""
    first: int
    count: int
    passes: int


def own_ns() -> int:
    """A clock that stands while this thread could run and another has its core: what
    else goes on on the machine is no store's cost. Where the kernel does not count
    that (CONFIG_SCHED_INFO), it is a plain clock."""
    try:
        with open("/proc/thread-self/schedstat") as file:
            waited = int(file.read().split()[1])
    except OSError:
        waited = 0
    return perf_counter_ns() - waited


def time_get(get: Any, keys: Sequence[Any], passes: int) -> int:
    begun = own_ns()
    for _ in range(passes):
        for key in keys:
            get(key)
    return own_ns() - begun


def time_set(put: Any, keys: Sequence[Any], value: Any, passes: int) -> int:
    begun = own_ns()
    for _ in range(passes):
        for key in keys:
            put(key, value)
    return own_ns() - begun


def time_loop(keys: Sequence[Any], passes: int) -> int:
    begun = own_ns()
    for _ in range(passes):
        for _key in keys:
            pass
    return own_ns() - begun


class _Process:
    """A side from within: its keys, its stores, its commands."""

    def __init__(
        self, load: Workload, redis: str, barrier: Barrier, go: Synchronized[int]
    ) -> None:
        self.load = load
        self.redis = redis
        self.barrier = barrier
        self.go = go
        self.stores: dict[str, Store] = {}
        self.document = document(0, load.value_bytes)
        self.values = documents(load.records, load.value_bytes)
        # Numbers are shuffled and not keys: those then lie in the order in which they
        # are asked for, as hot as a key that a caller has just made.
        numbers = list(range(load.records))
        random.Random(7).shuffle(numbers)
        self.keys = [f"price:{number:09d}" for number in numbers]
        self.bytes_keys = [key.encode() for key in self.keys]
        for key in self.keys:
            hash(key)  # a str remembers it: no store pays for another
        gc.collect()
        gc.freeze()
        gc.disable()

    def open(self, kind: str, name: str, create: bool, fill: bool) -> str | None:
        """None, or why there is no such store."""
        place = Place(
            name, self.load.records, self.load.value_bytes, create, self.redis
        )
        try:
            store = next(k for k in KINDS if k.name == kind).open(place)
        except Exception as error:  # a peer's troubles are not ours
            return f"{type(error).__name__}: {error}"
        self.stores[kind] = store
        if fill:
            # Other objects than those that are asked for, as it would be.
            order = range(self.load.records)
            keys = [f"price:{number:09d}" for number in order]
            store.fill_all(
                [k.encode() for k in keys] if store.bytes_keys else keys, self.values
            )
        return None

    def held(self, kind: str) -> float:
        """Share of the records that the store gives back."""
        store = self.stores[kind]
        keys = self._keys(store)[:: max(1, self.load.records // 1000)]
        found = 0
        with store.reading() as get:
            for key in keys:
                try:
                    found += get(key) is not None
                except Exception:  # nothing there to decode, or a key error
                    continue
        return found / len(keys)

    def time(self, task: Task, together: bool) -> float:
        """Nanoseconds of one operation."""
        store = self.stores.get(task.store)
        all_keys = self._keys(store) if store else self.keys
        keys = all_keys[task.first : task.first + task.count]
        # Other keys, where there are more than are timed: the last store's code and
        # index have left the core's caches, and ours must be there first.
        many = max(1, task.count * task.passes // 2)
        begin = (task.first - many) % len(all_keys)
        warm = all_keys[begin : begin + min(many, task.count)]
        if store is None:
            self._begin(together)
            spent = time_loop(keys, task.passes)
        elif task.verb == "get":
            with store.reading() as get:
                time_get(get, warm, 1)
                self._begin(together)
                spent = time_get(get, keys, task.passes)
        else:
            value = self._value(store)
            time_set(store.set, warm, value, 1)
            self._begin(together)
            spent = time_set(store.set, keys, value, task.passes)
        return spent / task.passes / len(keys)

    def _begin(self, together: bool) -> None:
        if together:
            self.barrier.wait(_ANSWER_WITHIN)

    def write(self, kind: str) -> float:
        """Set until told to stop; nanoseconds of one set."""
        store = self.stores[kind]
        keys, value = self._keys(store), self._value(store)
        at = done = 0
        self._begin(together=True)
        begun = perf_counter_ns()
        while self.go.value:
            for key in keys[at : at + _CHUNK]:
                store.set(key, value)
            at = (at + _CHUNK) % len(keys)
            done += _CHUNK
        return (perf_counter_ns() - begun) / max(1, done)

    def ready(self) -> None:
        """Nothing: keys and values stand."""

    def close(self) -> None:
        while self.stores:
            _, store = self.stores.popitem()
            try:
                store.close()
            except Exception:
                continue

    def _keys(self, store: Store) -> Sequence[Any]:
        return self.bytes_keys if store.bytes_keys else self.keys

    def _value(self, store: Store) -> Any:
        return self.document if store.documents else self.values[0]


def _serve(pipe: Connection, core: int, parent: int, build: tuple[Any, ...]) -> None:
    die_with_parent(parent, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who is asked to stop tells us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.sched_setaffinity(0, {core})
    process = _Process(*build)
    while (command := pipe.recv()) is not None:
        verb, args = command
        try:
            pipe.send((getattr(process, verb)(*args), None))
        except Exception as error:
            pipe.send((None, f"{verb}: {type(error).__name__}: {error}"))
    process.close()


class StoreError(Exception):
    """A store failed while it was measured."""


def answers(sides: Sequence[Side]) -> list[Any]:
    """Of all of them, also where one has failed: an answer left behind would be taken
    for the next one's."""
    found, wrong = [], None
    for side in sides:
        try:
            found.append(side.answer())
        except StoreError as error:
            wrong = error
    if wrong:
        raise wrong
    return found


class Side:
    """A measuring process, from outside."""

    def __init__(self, core: int, build: tuple[Any, ...]) -> None:
        self._pipe, theirs = _CONTEXT.Pipe()
        args = (theirs, core, os.getpid(), build)
        self._process = _CONTEXT.Process(target=_serve, args=args, daemon=True)
        self._process.start()
        theirs.close()

    def tell(self, verb: str, *args: Any) -> None:
        self._pipe.send((verb, args))

    def answer(self) -> Any:
        """What it found; `StoreError` if the store failed it."""
        if not self._pipe.poll(_ANSWER_WITHIN):
            raise RuntimeError(f"no answer within {_ANSWER_WITHIN:g} s")
        try:
            found, wrong = self._pipe.recv()
        except EOFError:
            raise RuntimeError("a measuring process died") from None
        if wrong:
            raise StoreError(wrong)
        return found

    def ask(self, verb: str, *args: Any) -> Any:
        self.tell(verb, *args)
        return self.answer()

    def alive(self) -> bool:
        return self._process.is_alive()

    def end(self) -> None:
        try:
            self._pipe.send(None)
            self._process.join(10)
        except OSError:
            pass
        self._process.kill()
        self._process.join()


class Pair:
    """Both sides of a workload."""

    def __init__(self, load: Workload, redis: str, cores: Sequence[int]) -> None:
        self.go: Synchronized[int] = _CONTEXT.Value("i", 0, lock=False)
        self._barrier = _CONTEXT.Barrier(2)
        build = (load, redis, self._barrier, self.go)
        self.sides = [Side(core, build) for core in cores[:2]]
        for side in self.sides:
            side.tell("ready")
        answers(self.sides)

    def alone(self, task: Task) -> float:
        return float(self.sides[0].ask("time", task, False))

    def both(self, task: Task) -> float:
        """The mean of both."""
        for side in self.sides:
            side.tell("time", task, True)
        return float(sum(answers(self.sides))) / 2

    def beside_writer(self, task: Task) -> float:
        """The first, while the second sets without pause."""
        reader, writer = self.sides
        self.go.value = 1
        writer.tell("write", task.store)
        reader.tell("time", task, True)
        try:
            found = reader.answer()
        finally:
            self.go.value = 0
            answers([writer])
        return float(found)

    def end(self) -> None:
        """Also in the middle of a command: nobody is left to wait for the other."""
        if all(side.alive() for side in self.sides):
            self._barrier.abort()
        for side in self.sides:
            side.end()
