"""Django: a cache backend that all processes of a host share, Redis behind it.

    CACHES = {
        "default": {
            "BACKEND": "shmcache.adapters.django.ShmCache",
            "LOCATION": "shop",                  # the cache's name
            "OPTIONS": {"size": "64MiB", "l2": "redis://127.0.0.1:6379/0"},
        }
    }

The contract is `BaseCache`'s, sync and async; `get_or_set` runs its default once for
all processes, which Django's own backends do not. Values are msgpack, not pickle: plain
ones, safe strings, and responses, so that `cache_page` works. What else is to be stored
is named in OPTIONS `types`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from http.cookies import SimpleCookie
from typing import Any

from asgiref.sync import sync_to_async
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache
from django.core.exceptions import ImproperlyConfigured
from django.http import (
    HttpResponse,
    HttpResponseNotFound,
    HttpResponsePermanentRedirect,
    HttpResponseRedirect,
    JsonResponse,
)
from django.template.response import SimpleTemplateResponse, TemplateResponse
from django.utils.module_loading import import_string
from django.utils.safestring import SafeString

from shmcache import (
    MISSING,
    ComputeFailed,
    ConfigError,
    Kind,
    ReentrantCompute,
    SyncCache,
    ValueTooLarge,
)
from shmcache.keys import KEY_MAX

_CULLING = ("MAX_ENTRIES", "CULL_FREQUENCY")
"""Options of Django's that say nothing here: bytes are bounded, not entries."""
_RESPONSES = (
    *(HttpResponse, HttpResponseNotFound, HttpResponseRedirect, JsonResponse),
    *(HttpResponsePermanentRedirect, SimpleTemplateResponse, TemplateResponse),
)


log = logging.getLogger("shmcache.django")


class ShmCache(BaseCache):
    """One for each alias and thread, as Django makes them; of a name, all share one."""

    def __init__(self, name: str, params: dict[str, Any]) -> None:
        super().__init__(params)
        options = dict(params.get("OPTIONS") or {})
        for option in _CULLING:
            options.pop(option, None)
        self._cache = _shared(name or "django", options)

    # -- what Django asks for

    def add(
        self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: Any = None
    ) -> bool:
        name, ttl = self._named(key, version), self._ttl(timeout)
        if ttl == 0:
            return self._cache.get(name) is MISSING
        try:
            return self._cache.add(name, _storable(value), ttl=ttl)
        except ValueTooLarge as error:
            _too_large(name, error)
            return False

    def get(self, key: Any, default: Any = None, version: Any = None) -> Any:
        return self._cache.get(self._named(key, version), default)

    def set(
        self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: Any = None
    ) -> None:
        """What is too large is not stored, as by Memcached; the log tells of it."""
        name = self._named(key, version)
        try:
            self._cache.set(name, _storable(value), ttl=self._ttl(timeout))
        except ValueTooLarge as error:
            _too_large(name, error)

    def touch(
        self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: Any = None
    ) -> bool:
        name, ttl = self._named(key, version), self._ttl(timeout)
        if ttl == 0:
            return self._cache.pop(name) is not MISSING
        return self._cache.touch(name, ttl)

    def delete(self, key: Any, version: Any = None) -> bool:
        name = self._named(key, version)
        stood = self._cache.get(name) is not MISSING
        self._cache.delete(name)
        return stood

    def has_key(self, key: Any, version: Any = None) -> bool:
        return self._cache.get(self._named(key, version)) is not MISSING

    def incr(self, key: Any, delta: int = 1, version: Any = None) -> Any:
        try:
            return self._cache.incr(self._named(key, version), delta, initial=None)
        except LookupError:
            raise ValueError(f"Key '{key}' not found") from None

    def get_or_set(
        self,
        key: Any,
        default: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: Any = None,
    ) -> Any:
        """Computed once, for all processes of the fleet; it may be stored as None. What
        failed elsewhere is tried here too, for its own exception."""

        def compute() -> Any:
            return _storable(default() if callable(default) else default)

        name, ttl = self._named(key, version), self._ttl(timeout)
        try:
            return self._cache.get_or_set(name, compute, ttl=ttl)
        except (ComputeFailed, ReentrantCompute):
            return compute()

    def get_many(self, keys: Iterable[Any], version: Any = None) -> dict[Any, Any]:
        named = {key: self._named(key, version) for key in keys}
        found = self._cache.get_many(set(named.values())) if named else {}
        return {key: found[name] for key, name in named.items() if name in found}

    def set_many(
        self,
        data: Mapping[Any, Any],
        timeout: Any = DEFAULT_TIMEOUT,
        version: Any = None,
    ) -> list[Any]:
        """The keys of what is too large, which alone is not stored."""
        ttl, failed = self._ttl(timeout), []
        named = {
            self._named(key, version): _storable(value) for key, value in data.items()
        }
        if not named:
            return []
        try:
            self._cache.set_many(named, ttl=ttl)
        except ValueTooLarge:
            for key, value in data.items():
                name = self._named(key, version)
                try:
                    self._cache.set(name, _storable(value), ttl=ttl)
                except ValueTooLarge as error:
                    _too_large(name, error)
                    failed.append(key)
        return failed

    def delete_many(self, keys: Iterable[Any], version: Any = None) -> None:
        if named := [self._named(key, version) for key in keys]:
            self._cache.delete_many(named)

    def clear(self) -> None:
        """Everything under this name, of all aliases."""
        self._cache.clear()

    def close(self, **kwargs: Any) -> None:
        """At the end of each request: nothing is to be closed."""

    # -- the same, awaited: hits of L1 are answered inline

    async def aget(self, key: Any, default: Any = None, version: Any = None) -> Any:
        value = self._cache.peek(self._named(key, version), MISSING)
        if value is not MISSING:
            return value
        return await _threaded(self.get)(key, default, version)

    async def aadd(self, *args: Any, **kwargs: Any) -> bool:
        return await _threaded(self.add)(*args, **kwargs)

    async def aset(self, *args: Any, **kwargs: Any) -> None:
        await _threaded(self.set)(*args, **kwargs)

    async def atouch(self, *args: Any, **kwargs: Any) -> bool:
        return await _threaded(self.touch)(*args, **kwargs)

    async def adelete(self, *args: Any, **kwargs: Any) -> bool:
        return await _threaded(self.delete)(*args, **kwargs)

    async def ahas_key(self, *args: Any, **kwargs: Any) -> bool:
        return await _threaded(self.has_key)(*args, **kwargs)

    async def aincr(self, *args: Any, **kwargs: Any) -> Any:
        return await _threaded(self.incr)(*args, **kwargs)

    async def aget_or_set(self, *args: Any, **kwargs: Any) -> Any:
        return await sync_to_async(self.get_or_set)(*args, **kwargs)

    async def aget_many(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return await _threaded(self.get_many)(*args, **kwargs)

    async def aset_many(self, *args: Any, **kwargs: Any) -> list[Any]:
        return await _threaded(self.set_many)(*args, **kwargs)

    async def adelete_many(self, *args: Any, **kwargs: Any) -> None:
        await _threaded(self.delete_many)(*args, **kwargs)

    async def aclear(self) -> None:
        await _threaded(self.clear)()

    async def aclose(self, **kwargs: Any) -> None:
        pass

    # -- inside

    def _named(self, key: Any, version: Any) -> str:
        name = str(self.make_and_validate_key(key, version=version))
        if len(name.encode()) <= KEY_MAX:
            return name
        return f"\x7f{blake2b(name.encode()).hexdigest()}"

    def _ttl(self, timeout: Any) -> float | None:
        """Seconds; what has none or fewer stores nothing."""
        if timeout is DEFAULT_TIMEOUT:
            timeout = self.default_timeout
        return None if timeout is None else max(0.0, float(timeout))


def _threaded(verb: Callable[..., Any]) -> Callable[..., Any]:
    """In a thread of asyncio's pool: it needs none of Django's connections."""

    async def awaited(*args: Any, **kwargs: Any) -> Any:
        return await asyncio.to_thread(verb, *args, **kwargs)

    return awaited


_CACHES: dict[str, tuple[dict[str, Any], SyncCache]] = {}
_LOCK = threading.Lock()


def _born() -> None:
    """In a forked child: its parent's threads are not there to unlock it."""
    global _LOCK
    _LOCK = threading.Lock()


os.register_at_fork(after_in_child=_born)


def _shared(name: str, options: dict[str, Any]) -> SyncCache:
    """Django makes a backend for each thread; of one name, all have one cache."""
    if not isinstance(name, str) or "://" in name:
        raise ImproperlyConfigured(
            f"CACHES: LOCATION={name!r}: expected the cache's name, such as 'shop'; "
            "Redis is OPTIONS 'l2'"
        )
    with _LOCK:
        if name in _CACHES:
            known, cache = _CACHES[name]
            if known != options:
                raise ImproperlyConfigured(
                    f"CACHES: two of LOCATION {name!r} with different OPTIONS"
                )
            return cache
        given = dict(options)
        own = [
            import_string(t) if isinstance(t, str) else t
            for t in given.pop("types", ())
        ]
        try:
            cache = SyncCache.open(name, types=(*_KINDS, *own), **given)
        except (ConfigError, TypeError) as error:  # an option that there is not
            raise ImproperlyConfigured(f"CACHES: LOCATION {name!r}: {error}") from error
        _CACHES[name] = (options, cache)
        return cache


def _storable(value: Any) -> Any:
    """A response of a class of your own as a plain one, which has all that is sent."""
    if isinstance(value, HttpResponse) and type(value) not in _RESPONSES:
        return _together(_apart(value))
    return value


def _too_large(name: str, error: ValueTooLarge) -> None:
    log.warning("%r is not stored: %s", name, error)


def _apart(response: Any) -> dict[str, Any]:
    """A response as its parts: one that is rendered by now."""
    return {
        "status": response.status_code,
        "reason": response.reason_phrase,
        "fields": [list(field) for field in response.items()],
        "cookies": response.cookies.output(header="", sep="\r\n"),
        "body": bytes(response.content),
    }


def _together(parts: dict[str, Any]) -> HttpResponse:
    response = HttpResponse(parts["body"], status=parts["status"])
    response.reason_phrase = parts["reason"]
    for name in list(response.headers):
        del response.headers[name]
    for name, value in parts["fields"]:
        response.headers[name] = value
    for line in parts["cookies"].split("\r\n"):
        cookie: Any = SimpleCookie(line)
        response.cookies.update(cookie)
    return response


_KINDS = (
    *(Kind(cls, _apart, _together) for cls in _RESPONSES),
    Kind(SafeString, str.__str__, SafeString),
)
