"""dogpile.cache: a backend that all processes of a host share, with the fleet's Redis
behind it. Values are msgpack, not pickle.

    region = make_region().configure(
        "shmcache", expiration_time=60, arguments={"name": "shop", "l2": "redis://..."}
    )

`arguments` are `SyncCache.open`'s, or `cache`, one that is open. The mutex of a key is
a lock of the fleet, so that one creator runs among all processes.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

from dogpile.cache.api import NO_VALUE, CacheBackend, CachedValue, CacheMutex, KeyType

from shmcache import LockTimeout, Overloaded, SyncCache, TierUnavailable
from shmcache.keys import KEY_MAX

ALONE_SECONDS = 1.0
"""That no lock of the fleet is asked for, where one was not to be had."""

log = logging.getLogger("shmcache.dogpile")


class ShmCacheBackend(CacheBackend):
    """`ttl`, if it is among the arguments, is when what is stored is removed; dogpile's
    own `expiration_time` says when it is made anew."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        given = dict(arguments)
        self._ttl = given.pop("ttl", None)
        cache = given.pop("cache", None)
        if cache is None:
            if "name" not in given:
                raise ValueError("arguments: expected the cache's `name`, or a `cache`")
            types = (CachedValue, *given.pop("types", ()))
            cache = SyncCache.open(given.pop("name"), types=types, **given)
        elif CachedValue not in cache.config.types:
            raise ValueError(
                "cache: dogpile's CachedValue is not among its types; open it with "
                "types=(dogpile.cache.api.CachedValue,)"
            )
        self._cache: SyncCache = cache

    @staticmethod
    def key_mangler(key: KeyType) -> KeyType:
        """Of a region that has none of its own: what is too long is hashed."""
        raw = key.encode()
        return key if len(raw) <= KEY_MAX else f"\x7f{blake2b(raw).hexdigest()}"

    def get(self, key: KeyType) -> Any:
        return self._cache.get(key, NO_VALUE)

    def get_multi(self, keys: Iterable[KeyType]) -> list[Any]:
        wanted = list(keys)
        found = self._cache.get_many(wanted) if wanted else {}
        return [found.get(key, NO_VALUE) for key in wanted]

    def set(self, key: KeyType, value: Any) -> None:
        self._cache.set(key, value, ttl=self._ttl)

    def set_multi(self, mapping: Mapping[KeyType, Any]) -> None:
        if mapping:
            self._cache.set_many(mapping, ttl=self._ttl)

    def delete(self, key: KeyType) -> None:
        self._cache.delete(key)

    def delete_multi(self, keys: Iterable[KeyType]) -> None:
        if unwanted := list(keys):
            self._cache.delete_many(unwanted)

    def get_mutex(self, key: KeyType) -> _Mutex:
        return _Mutex(self._cache, key)


class _Mutex(CacheMutex):
    """As `threading.Lock`, of the fleet; of this process alone where that is not to be
    had: a creator that runs twice is better than a request that fails."""

    def __init__(self, cache: SyncCache, key: KeyType) -> None:
        self._cache = cache
        self._key = key
        with _LOCKS_LOCK:
            self._own = _LOCKS.setdefault((cache, key), _Own())
        self._held: Any = None

    def acquire(self, wait: bool = True) -> bool:
        if not self._own.lock.acquire(blocking=wait):
            return False
        if time.monotonic() < _ALONE_UNTIL.get(self._cache, 0.0):
            return True
        held = self._cache.lock(self._key, wait=None if wait else 0)
        try:
            held.__enter__()
        except LockTimeout:
            self._own.lock.release()
            return False
        except (TierUnavailable, Overloaded) as error:
            _ALONE_UNTIL[self._cache] = time.monotonic() + ALONE_SECONDS
            log.warning("%s: locked in this process alone for a while", error)
        except BaseException:
            self._own.lock.release()
            raise
        else:
            self._held = held
        return True

    def release(self) -> None:
        held, self._held = self._held, None
        try:
            if held is not None:
                held.__exit__(None, None, None)
        finally:
            self._own.lock.release()

    def locked(self) -> bool:
        if not self.acquire(wait=False):
            return True
        self.release()
        return False


class _Own:
    """A lock of this process, for as long as a mutex of its key is there."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


_ALONE_UNTIL: weakref.WeakKeyDictionary[SyncCache, float] = weakref.WeakKeyDictionary()
"""When the fleet is to be asked for a lock again."""
_LOCKS: weakref.WeakValueDictionary[Any, _Own] = weakref.WeakValueDictionary()
_LOCKS_LOCK = threading.Lock()


def _born() -> None:
    """In a forked child: its parent's threads are not there to unlock anything."""
    global _LOCKS_LOCK
    _LOCKS_LOCK = threading.Lock()
    for own in list(_LOCKS.values()):
        own.lock = threading.Lock()


os.register_at_fork(after_in_child=_born)
