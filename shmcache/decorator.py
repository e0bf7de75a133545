"""cached(): a function's results, keyed by its arguments.

The decorated function is a function still, with a few more on it: `key`, `invalidate`
and `refresh` of a call's arguments, `cache_clear` of all, `cache_info`, and the
function as it was, `__wrapped__`. Its records bear a tag of its own, by which all are
removed at once, and the ones that `tags` names.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import replace
from types import MethodType
from typing import (
    Any,
    Concatenate,
    NamedTuple,
    ParamSpec,
    Protocol,
    TypeVar,
    cast,
    overload,
)

from . import terms
from .arguments import Binder, Template, fitted, name_of, spelled
from .fill import wrap
from .keys import KEY_MAX
from .tags import TAG_MAX

P = ParamSpec("P")
Q = ParamSpec("Q")
S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R", covariant=True)
Condition = Callable[[Any], bool] | None
PREFIX_MAX = 300
"""Bytes that a namespace takes of a key, and a little more."""


Functions = weakref.WeakValueDictionary[str, Any]
"""Those that are decorated without a key, by name."""


class CacheInfo(NamedTuple):
    """Of one function, in this process."""

    hits: int
    """Calls that did not run it."""
    misses: int


class AsyncCached(Protocol[P, R]):
    """A coroutine function whose results are kept."""

    __wrapped__: Callable[..., Any]
    __name__: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...

    @overload
    def __get__(self, instance: None, owner: Any) -> AsyncCached[P, R]: ...
    @overload
    def __get__(
        self: AsyncCached[Concatenate[S, Q], R], instance: S, owner: Any
    ) -> AsyncCached[Q, R]: ...

    def key(self, *args: Any, **kwargs: Any) -> str:
        """Under which the call's result stands; with `noself`, without its object."""
        ...

    async def invalidate(self, *args: Any, **kwargs: Any) -> None:
        """Remove the call's result, here and in the fleet; arguments as of `key`."""
        ...

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it now, and store what it returns in place of what stands."""
        ...

    async def cache_clear(self) -> None:
        """Remove all its results, here and in the fleet."""
        ...

    def cache_info(self) -> CacheInfo: ...


class SyncCached(Protocol[P, R]):
    """A function whose results are kept; as `AsyncCached`, without awaiting."""

    __wrapped__: Callable[..., Any]
    __name__: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...

    @overload
    def __get__(self, instance: None, owner: Any) -> SyncCached[P, R]: ...
    @overload
    def __get__(
        self: SyncCached[Concatenate[S, Q], R], instance: S, owner: Any
    ) -> SyncCached[Q, R]: ...

    def key(self, *args: Any, **kwargs: Any) -> str: ...
    def invalidate(self, *args: Any, **kwargs: Any) -> None: ...
    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def cache_clear(self) -> None: ...
    def cache_info(self) -> CacheInfo: ...


class Keys:
    """How calls are named: templates for key and tags, as they were given."""

    def __init__(self, key: str | None, tags: Iterable[str], noself: bool) -> None:
        if isinstance(tags, str | bytes) or not isinstance(tags, Iterable):
            raise ValueError(f"tags={tags!r}: expected a sequence of names")
        self.key, self.tags, self.noself = key, tuple(tags), noself


class Calls:
    """The calls of one function: their keys and tags, and how many there were."""

    def __init__(self, function: Callable[..., Any], named: Keys) -> None:
        self.name = name_of(function)
        self.total = self.ran = 0
        binder = Binder(function, named.noself)
        self._bind, self._names = binder.bind, binder.names
        self._noself = named.noself
        self._key = (
            None if named.key is None else Template(named.key, self._names, "key")
        )
        tags = [Template(tag, self._names, "tags") for tag in named.tags]
        self.tag = fitted(f"cached:{self.name}", TAG_MAX)
        self._fixed = None
        if all(tag.fixed for tag in tags):
            self._fixed = (self.tag, *(tag.text.format() for tag in tags))
        self._tags = tags

    def values(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Any, ...]:
        """Of a call of the function."""
        return self._bind(*(args[1:] if self._noself else args), **kwargs)

    def named(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Any, ...]:
        """Of the arguments that are in the key."""
        return self._bind(*args, **kwargs)

    def key(self, values: tuple[Any, ...]) -> str:
        if self._key is not None:
            return fitted(self._key(values), KEY_MAX - PREFIX_MAX)
        return spelled(self.name, self._names, values)

    def tags(self, values: tuple[Any, ...]) -> tuple[str, ...]:
        if self._fixed is not None:
            return self._fixed
        return (self.tag, *(fitted(tag(values), TAG_MAX) for tag in self._tags))

    def info(self) -> CacheInfo:
        return CacheInfo(max(0, self.total - self.ran), self.ran)

    def shown(self, wrapper: Any, *verbs: Callable[..., Any]) -> Any:
        """The decorated function, with what it can do beside being called."""
        for verb in verbs:
            setattr(wrapper, verb.__name__, verb)
        wrapper.cache_info = self.info
        wrapper.key = lambda *args, **kwargs: self.key(self.named(args, kwargs))
        return wrapper


class _Decorator:
    def __init__(
        self, cache: Any, named: Keys, condition: Condition, wishes: Mapping[str, Any]
    ) -> None:
        """`cache`: one that is awaited, or one that blocks."""
        terms.of(**wishes)  # what is wrong is told here
        self._cache = cache
        self._named = named
        self._condition = condition
        self._wishes = wishes

    def _claim_name(self, function: Any) -> None:
        """Two functions of one name would be given each other's results: lambdas,
        closures of one factory, methods of two objects."""
        if self._named.key is not None:
            return
        name = name_of(function)
        known = self._cache.functions.get(name)
        if (
            isinstance(function, MethodType)
            or function.__closure__
            or function.__name__ == "<lambda>"
            or (known is not None and known is not function)
        ):
            raise ValueError(
                f"cached: {name} does not tell this function from others of its name: "
                "give it key='...'"
            )
        self._cache.functions[name] = function

    def _kept(self, value: Any) -> Any:
        """The value, as one that is not stored where the condition says so."""
        fill = wrap(value)
        if self._condition is None or self._condition(fill.value):
            return value
        return replace(fill, ttl=0)


class AsyncDecorator(_Decorator):
    """What `Cache.cached` returns."""

    def __call__(self, function: Callable[P, Awaitable[T]]) -> AsyncCached[P, T]:
        """`ValueError` if it cannot be: told where it is decorated."""
        refuse(function, awaited=True)
        self._claim_name(function)
        calls, cache, wishes = Calls(function, self._named), self._cache, self._wishes

        run: Any = function

        async def ran(args: Any, kwargs: Any) -> Any:
            calls.ran += 1
            return self._kept(await run(*args, **kwargs))

        @functools.wraps(function)
        async def wrapper(*args: P.args, **kwargs: P.kwargs) -> Any:
            values = calls.values(args, kwargs)
            key, tags = calls.key(values), calls.tags(values)
            calls.total += 1
            return await cache.get_or_set(
                key, lambda: ran(args, kwargs), tags=tags, **wishes
            )

        async def invalidate(*args: Any, **kwargs: Any) -> None:
            await cache.delete(calls.key(calls.named(args, kwargs)))

        async def refresh(*args: P.args, **kwargs: P.kwargs) -> Any:
            values = calls.values(args, kwargs)
            key, tags = calls.key(values), calls.tags(values)
            return await cache.recompute(
                key, lambda: ran(args, kwargs), tags=tags, **wishes
            )

        async def cache_clear() -> None:
            await cache.delete_tags(calls.tag)

        made = calls.shown(wrapper, invalidate, refresh, cache_clear)
        return cast("AsyncCached[P, T]", made)


class SyncDecorator(_Decorator):
    """What `SyncCache.cached` returns."""

    def __call__(self, function: Callable[P, T]) -> SyncCached[P, T]:
        """`ValueError` if it cannot be: told where it is decorated."""
        refuse(function, awaited=False)
        self._claim_name(function)
        calls, cache, wishes = Calls(function, self._named), self._cache, self._wishes

        run: Any = function

        def ran(args: Any, kwargs: Any) -> Any:
            calls.ran += 1
            return self._kept(run(*args, **kwargs))

        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> Any:
            values = calls.values(args, kwargs)
            key, tags = calls.key(values), calls.tags(values)
            calls.total += 1
            return cache.get_or_set(key, lambda: ran(args, kwargs), tags=tags, **wishes)

        def invalidate(*args: Any, **kwargs: Any) -> None:
            cache.delete(calls.key(calls.named(args, kwargs)))

        def refresh(*args: P.args, **kwargs: P.kwargs) -> Any:
            values = calls.values(args, kwargs)
            key, tags = calls.key(values), calls.tags(values)
            return cache.recompute(key, lambda: ran(args, kwargs), tags=tags, **wishes)

        def cache_clear() -> None:
            cache.delete_tags(calls.tag)

        made = calls.shown(wrapper, invalidate, refresh, cache_clear)
        return cast("SyncCached[P, T]", made)


def refuse(function: Any, *, awaited: bool) -> None:
    """`ValueError` for what cannot be decorated."""
    if isinstance(function, classmethod | staticmethod):
        kind = type(function).__name__
        raise ValueError(f"cached: put it below @{kind}, not above")
    if not (inspect.isfunction(function) or isinstance(function, MethodType)):
        raise ValueError(
            f"cached: {function!r} is no function; it is used with its parentheses, "
            "@cache.cached()"
        )
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise ValueError(
            f"cached: {name_of(function)} is a generator, whose items come one by one: "
            "return a list"
        )
    if inspect.iscoroutinefunction(function) != awaited:
        raise ValueError(
            f"cached: {name_of(function)} is no coroutine function: make it one, or "
            "use SyncCache"
            if awaited
            else f"cached: {name_of(function)} is a coroutine function: use Cache"
        )
