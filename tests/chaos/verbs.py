"""What a worker of chaos calls on its Cache, verb by verb, and how often.

A verb that reads hands what it found to `Worker.found`; one that writes lets
`Worker.void` carry out its call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from shmcache import MISSING, Cache
from tests.chaos.journal import HARD, NO, SOFT, now
from tests.chaos.keys import SPECS, TAGS, Spec, tagged, within

if TYPE_CHECKING:
    from tests.chaos.worker import Worker


def can(verb: str) -> bool:
    return hasattr(Cache, verb)


async def peek(w: Worker, spec: Spec) -> None:
    begin = now()
    value = w.view(spec).peek(spec.name)
    w.found(begin, "peek", spec.full, value)


async def entry(w: Worker, spec: Spec) -> None:
    begin = now()
    e = w.view(spec).entry(spec.name)
    if e is not None and e.state != "dead":
        w.found(begin, "entry", spec.full, e.value, e.state, e.source)


async def get(w: Worker, spec: Spec) -> None:
    begin = now()
    value = await w.view(spec).get(spec.name, MISSING)
    w.found(begin, "get", spec.full, value)


async def get_many(w: Worker, spec: Spec) -> None:
    begin = now()
    names = [s.name for s in SPECS if s.namespace == spec.namespace]
    found = await w.view(spec).get_many(names)
    for s in SPECS:
        if s.namespace == spec.namespace:
            w.found(begin, "get_many", s.full, found.get(s.name, MISSING))


async def get_or_set(w: Worker, spec: Spec) -> None:
    begin = now()
    value = await w.view(spec).get_or_set(spec.name, w.origin(spec), **w.terms(spec))
    w.found(begin, "get_or_set", spec.full, value)


async def get_or_set_entry(w: Worker, spec: Spec) -> None:
    begin, view = now(), w.view(spec)
    e = await view.get_or_set_entry(spec.name, w.origin(spec), **w.terms(spec))
    w.found(begin, "get_or_set_entry", spec.full, e.value, e.state, e.source)


async def put(w: Worker, spec: Spec) -> None:
    name, value = w.value(spec.full)
    work = w.view(spec).set(spec.name, value, **w.terms(spec))
    await w.void("set", (spec.full,), HARD, work, name)


async def add(w: Worker, spec: Spec) -> None:
    name, value = w.value(spec.full)
    work = w.view(spec).add(spec.name, value, **w.terms(spec))
    await w.void("add", (spec.full,), NO, work, name, asks=True)


async def compare_and_set(w: Worker, spec: Spec) -> None:
    view = w.view(spec)
    e = view.entry(spec.name)
    if e is None:
        return
    name, value = w.value(spec.full)
    work = view.compare_and_set(spec.name, value, version=e.version, **w.terms(spec))
    await w.void("compare_and_set", (spec.full,), HARD, work, name, asks=True)


async def touch(w: Worker, spec: Spec) -> None:
    work = w.view(spec).touch(spec.name, spec.ttl)
    await w.void("touch", (spec.full,), NO, work, asks=True)


async def set_many(w: Worker, spec: Spec) -> None:
    """Of keys whose lives differ: all get the shortest, and everybody's tags."""
    specs = w.random.sample([s for s in SPECS if s.namespace == spec.namespace], 2)
    made = {s: w.value(s.full) for s in specs}
    work = w.view(spec).set_many(
        {s.name: value for s, (_, value) in made.items()},
        ttl=min(s.ttl for s in specs),
        grace=min(s.grace for s in specs),
        tags=TAGS,
    )
    each = [((s.full,), name) for s, (name, _) in made.items()]
    await w.voids("set_many", each, HARD, work)


async def delete_many(w: Worker, spec: Spec) -> None:
    specs = w.random.sample([s for s in SPECS if s.namespace == spec.namespace], 2)
    work = w.view(spec).delete_many([s.name for s in specs])
    await w.void("delete_many", tuple(s.full for s in specs), HARD, work)


async def delete(w: Worker, spec: Spec) -> None:
    await w.void("delete", (spec.full,), HARD, w.view(spec).delete(spec.name))


async def expire(w: Worker, spec: Spec) -> None:
    await w.void("expire", (spec.full,), SOFT, w.view(spec).expire(spec.name))


async def delete_tags(w: Worker, spec: Spec) -> None:
    tag = w.random.choice(TAGS)
    work = w.view(spec).delete_tags(tag)
    await w.void("delete_tags", tagged(tag, spec.namespace), HARD, work)


async def expire_tags(w: Worker, spec: Spec) -> None:
    tag = w.random.choice(TAGS)
    work = w.view(spec).expire_tags(tag)
    await w.void("expire_tags", tagged(tag, spec.namespace), SOFT, work)


async def clear_soft(w: Worker, spec: Spec) -> None:
    work = w.view(spec).clear(soft=True)
    await w.void("clear_soft", within(spec.namespace), SOFT, work)


async def clear(w: Worker, spec: Spec) -> None:
    await w.void("clear", within(spec.namespace), HARD, w.view(spec).clear())


VERBS: dict[str, tuple[float, Callable[[Worker, Spec], Awaitable[None]]]] = {
    "peek": (30, peek),
    "entry": (10, entry),
    "get": (15, get),
    "get_many": (3, get_many),
    "get_or_set": (20, get_or_set),
    "get_or_set_entry": (20, get_or_set_entry),
    "set": (3, put),
    "set_many": (1, set_many),
    "add": (1, add),
    "compare_and_set": (1, compare_and_set),
    "touch": (1, touch),
    "delete": (3, delete),
    "delete_many": (1, delete_many),
    "expire": (1, expire),
    "delete_tags": (0.5, delete_tags),
    "expire_tags": (0.5, expire_tags),
    "clear": (0.2, clear),
    "clear_soft": (0.2, clear_soft),
}
"""How often each is called, and what it does. One that the Cache does not have is left
out."""
REQUIRES = {"clear_soft": "clear"}
