"""Stores: our L1 and its peers, each opened in its own best way.

An opener takes a `Place` and gives a `Store`, or raises: then the table has a dash and
the reason. Calls that are timed are the peer's own, with nothing of ours around them
where that can be had: keys are `str`, or `bytes` for peers that know nothing else.
"""

from __future__ import annotations

import secrets
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgpack

SHM = Path("/dev/shm")
MIB = 1 << 20
TTL = 3600.0

Get = Callable[[Any], Any]
Set = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Place:
    """What a store is opened for."""

    name: str
    """Of files and segments: no other run, store or workload has it."""
    records: int
    value_bytes: int
    create: bool
    """Make and fill it; else attach to what the first process made."""
    redis: str
    """The server's unix socket; empty where there is none."""

    @property
    def room(self) -> int:
        """Bytes for all records, three times, in steps of 64 MiB: what is measured is
        a hit, and a log that a writer fills without pause forgets what nobody reads."""
        need = 3 * self.records * (self.value_bytes + 96)
        return -(-need // (64 * MIB)) * 64 * MIB


@dataclass
class Store:
    """An opened store, as the timing loops see it."""

    get: Get
    set: Set
    close: Callable[[], object] = lambda: None
    bytes_keys: bool = False
    documents: bool = False
    """`set` takes the document and `get` gives it: packed and unpacked inside."""
    fill: Callable[[Sequence[Any], Sequence[bytes]], object] | None = None
    """All records at once, where one by one takes long."""
    session: Callable[[], Any] | None = None
    """A context manager that gives the `get` of one measurement."""

    @contextmanager
    def reading(self) -> Iterator[Get]:
        if self.session is None:
            yield self.get
        else:
            with self.session() as get:
                yield get

    def fill_all(self, keys: Sequence[Any], values: Sequence[bytes]) -> None:
        if self.fill:
            self.fill(keys, values)
        else:
            for key, value in zip(keys, values, strict=True):
                self.set(key, value)


Opener = Callable[[Place], Store]


# --- the documents -----------------------------------------------------------------


def document(number: int, value_bytes: int) -> dict[str, Any]:
    """A record of a shop's price, whose msgpack document has exactly that length."""
    found: dict[str, Any] = {
        "id": 1 << 63 | number,  # nine bytes, whatever the number
        "sku": "A-4711",
        "price": 129.95,
        "stock": 42,
        "about": "",
    }
    length = 0
    for _ in range(2):  # the length's own length grows with it
        found["about"] = "x" * length
        length += value_bytes - len(msgpack.packb(found))
    return found | {"about": "x" * length}


def documents(count: int, value_bytes: int) -> list[bytes]:
    """`count` packed documents, each an object of its own and no two alike."""
    packed = msgpack.packb(document(0, value_bytes))
    at = packed.index(struct.pack(">BQ", 0xCF, 1 << 63)) + 1
    head, tail = packed[:at], packed[at + 8 :]
    return [head + struct.pack(">Q", 1 << 63 | i) + tail for i in range(count)]


# --- ours --------------------------------------------------------------------------


def open_l1(place: Place) -> Store:
    from shmcache.l1 import L1
    from shmcache.record import FOREVER

    l1 = L1.open(place.name, place.room, record_bytes=place.value_bytes)
    l1.join()
    born = l1.clock.now()
    store = l1.table.put

    def put(key: str, value: bytes) -> int:
        return store(key, value, born, FOREVER, FOREVER, 0)

    return Store(l1.peek, put, partial(l1.close, keep=False))


def open_l1_decoded(place: Place) -> Store:
    """With the library's own codec, as `Cache` uses it."""
    from shmcache.codec import MSGPACK

    raw = open_l1(place)
    peek, put, encode, decode = raw.get, raw.set, MSGPACK.encode, MSGPACK.decode

    def get(key: str) -> Any:
        raw = peek(key)
        return None if raw is None else decode(raw)

    return Store(
        get,
        lambda key, value: put(key, encode(value)),
        raw.close,
        documents=True,
        fill=raw.fill_all,
    )


# --- in the process ----------------------------------------------------------------


def open_dict(place: Place) -> Store:
    store: dict[str, bytes] = {}
    return Store(store.get, store.__setitem__)


def open_cachebox_lru(place: Place) -> Store:
    import cachebox

    store: Any = cachebox.LRUCache(2 * place.records)
    return Store(store.get, store.insert)


def open_cachebox_ttl(place: Place) -> Store:
    import cachebox

    store: Any = cachebox.TTLCache(2 * place.records, TTL)
    return Store(store.get, store.insert)


def open_moka(place: Place) -> Store:
    import moka_py

    store: Any = moka_py.Moka(2 * place.records, ttl=TTL)
    return Store(store.get, store.set)


def open_cachetools(place: Place) -> Store:
    import cachetools

    store: Any = cachetools.TTLCache(2 * place.records, TTL)
    return Store(store.get, store.__setitem__)


# --- shared by processes -----------------------------------------------------------


def open_lmdb(place: Place) -> Store:
    """A read transaction is begun once a measurement: its best case, though what
    others store meanwhile is not seen, and no page of the snapshot is used again, so
    the map must have room for all that a writer beside it writes. Each set is a
    transaction, else it is not shared."""
    import lmdb

    folder = SHM / place.name
    env = lmdb.open(
        str(folder), map_size=4096 * MIB, sync=False, metasync=False,
        writemap=True, readahead=False,
    )  # fmt: skip

    @contextmanager
    def session() -> Iterator[Get]:
        with env.begin() as transaction:
            yield transaction.get

    def put(key: bytes, value: bytes) -> None:
        with env.begin(write=True) as transaction:
            transaction.put(key, value)

    def fill(keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        with env.begin(write=True) as transaction:
            for key, value in zip(keys, values, strict=True):
                transaction.put(key, value)

    def get(key: bytes) -> bytes | None:
        with env.begin() as transaction:
            return transaction.get(key)

    def close() -> None:
        env.close()
        shutil.rmtree(folder, ignore_errors=True)

    return Store(get, put, close, bytes_keys=True, fill=fill, session=session)


def open_lmdb_each(place: Place) -> Store:
    """A read transaction for each get, which sees what others stored."""
    store = open_lmdb(place)
    store.session = None
    return store


def open_lmdb_msgpack(place: Place) -> Store:
    raw = open_lmdb(place)
    pack, unpack, put = msgpack.packb, msgpack.unpackb, raw.set

    def decoding(get: Get) -> Get:
        def decoded(key: bytes) -> Any:
            packed = get(key)
            return None if packed is None else unpack(packed)

        return decoded

    @contextmanager
    def session() -> Iterator[Get]:
        with raw.reading() as get:
            yield decoding(get)

    return Store(
        decoding(raw.get),
        lambda key, value: put(key, pack(value)),
        raw.close,
        bytes_keys=True,
        documents=True,
        fill=raw.fill,
        session=session,
    )


def open_diskcache(place: Place) -> Store:
    import diskcache

    folder = SHM / place.name
    store = diskcache.Cache(str(folder), size_limit=2 * place.room)

    def fill(keys: Sequence[str], values: Sequence[bytes]) -> None:
        with store.transact():
            for key, value in zip(keys, values, strict=True):
                store.set(key, value)

    def close() -> None:
        store.close()
        shutil.rmtree(folder, ignore_errors=True)

    return Store(store.get, store.set, close, fill=fill)


def open_ultradict(place: Place) -> Store:
    """Each process keeps a full copy; sets travel through a shared buffer, under a
    lock where the processes are two."""
    from UltraDict import UltraDict

    made = {"create": True, "buffer_size": place.room, "full_dump_size": place.room}
    store = UltraDict(
        name=place.name, shared_lock=True, auto_unlink=False,
        **(made if place.create else {"create": False}),
    )  # fmt: skip
    if not place.create:
        len(store)  # take the copy now

    def close() -> None:
        store.close()
        for path in SHM.glob(f"{place.name}*"):
            path.unlink(missing_ok=True)

    return Store(store.get, store.__setitem__, close)


def open_redis(place: Place) -> Store:
    import redis

    if not place.redis:
        raise RuntimeError("no redis-server")
    client = redis.Redis(unix_socket_path=place.redis, protocol=3)
    if place.create:
        client.flushall()

    def fill(keys: Sequence[str], values: Sequence[bytes]) -> None:
        client.mset(dict(zip(keys, values, strict=True)))

    return Store(client.get, client.set, client.close, fill=fill)


@dataclass(frozen=True)
class Kind:
    """A row of the table: a store's name and how it is opened."""

    name: str
    open: Opener
    shared: bool = False
    large: bool = False
    """It can be filled with a million records in the time there is."""


def open_lmdb_msgpack_each(place: Place) -> Store:
    store = open_lmdb_msgpack(place)
    store.session = None
    return store


OURS, DECODED = "shmcache L1, raw bytes", "shmcache L1, decoded"
DICT, MOKA = "dict", "moka-py with ttl"
LMDB, LMDB_MSGPACK = "LMDB, raw bytes", "LMDB with msgpack"
LMDB_EACH = "LMDB, a transaction each"
LMDB_MSGPACK_EACH = "LMDB with msgpack, one each"

KINDS = [
    Kind(OURS, open_l1, shared=True, large=True),
    Kind(DICT, open_dict, large=True),
    Kind(MOKA, open_moka, large=True),
    Kind(LMDB, open_lmdb, shared=True, large=True),
    Kind(LMDB_EACH, open_lmdb_each, shared=True, large=True),
    Kind(DECODED, open_l1_decoded, shared=True),
    Kind(LMDB_MSGPACK, open_lmdb_msgpack, shared=True),
    Kind(LMDB_MSGPACK_EACH, open_lmdb_msgpack_each, shared=True),
    Kind("cachebox LRU", open_cachebox_lru, large=True),
    Kind("cachebox TTL", open_cachebox_ttl),
    Kind("cachetools TTL", open_cachetools),
    Kind("diskcache", open_diskcache, shared=True),
    Kind("UltraDict", open_ultradict, shared=True),
    Kind("redis, unix socket", open_redis, shared=True),
]


def fresh_name() -> str:
    """A name in /dev/shm that nobody else has."""
    return f"bench{secrets.token_hex(6)}"


def remove_all(name: str) -> None:
    """What stands in /dev/shm under a name, whoever left it."""
    for path in SHM.glob(f"*{name}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
