"""Tags and namespaces: their numbers, and what goes with them."""

import asyncio

import pytest

from shmcache import MISSING, Fill, tags
from shmcache.l1 import tag_number
from tests.caches import asking, held, landed
from tests.helpers import Origin

USERS = b"\x1fusers\x1f"


def test_record_bears_its_namespace_and_each_tag_once():
    assert tags.numbers(("a", "b", "a")) == (tag_number("a"), tag_number("b"))
    assert tags.numbers((), USERS) == (tags.of_namespace(USERS),)
    assert len(tags.numbers(("a",), USERS)) == 2


def test_tag_of_a_namespace_is_its_own():
    assert tags.of_tags(("a",), USERS) != tags.of_tags(("a",))
    assert tags.of_tags(("a",), USERS) == (tag_number(USERS + b"a"),)


@pytest.mark.parametrize("name", ["x", "x" * 128, "\u00e4" * 64])
def test_tag_of_legal_size_is_taken(name):
    assert tags.of_tags([name]) == (tag_number(name),)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("btc", "tags='btc'"),
        (7, "tags=7"),
        ([b"btc"], "tag b'btc'"),
        ([""], "tag of 0 bytes"),
        (["x" * 129], "tag of 129 bytes"),
        (["\u00e4" * 65], "tag of 130 bytes"),
        (["\ud800"], "not encodable"),
        (["\x1fusers\x1f"], "namespaces'"),
        ([str(i) for i in range(33)], "33 tags: expected at most 32"),
    ],
)
def test_tag_of_wrong_form_is_named(names, words):
    with pytest.raises(ValueError, match=words):
        tags.numbers(names, USERS)


async def test_record_of_32_tags_in_a_namespace_goes_with_each(pair):
    names = [f"t{i}" for i in range(32)]
    for name in names[::31]:
        view = pair[0].namespace("n")
        await view.set("k", "v", tags=names)
        assert view.peek("k") == "v"
        await pair[1].namespace("n").delete_tags(name)
        assert view.peek("k") is MISSING


async def test_deleted_tag_takes_what_bears_it_and_nothing_else(pair):
    one, other = pair
    await one.set("a", 1, tags=("x", "y"))
    await one.set_many({"b": 1}, tags=["y"])
    await one.add("c", 1, tags={"z"})
    await one.get_or_set("d", Origin(1), tags=("x",))
    await other.delete_tags("x", "z")
    assert await one.get_many(["a", "b", "c", "d", "e"]) == {"b": 1}


async def test_expired_tag_leaves_its_records_stale(pair):
    one, other = pair
    await one.set("a", 1, ttl=9, grace=9, tags=("x",))
    await one.set("b", 1, ttl=9, grace=9, tags=("y",))
    await other.expire_tags("x")
    assert (one.entry("a").state, one.entry("b").state) == ("stale", "fresh")
    assert await one.get_or_set("a", Origin(2), ttl=9, tags=("x",)) == 1
    await landed(one)
    assert other.entry("a").state == "fresh"


async def test_tags_of_a_namespace_are_not_those_of_another(pair):
    one, other = pair
    views = [one, one.namespace("a"), one.namespace("b")]
    for view in views:
        await view.set("k", "v", tags=("t",))
    await other.namespace("a").delete_tags("t")
    assert [v.peek("k", None) for v in views] == ["v", None, "v"]
    await other.delete_tags("t")
    assert [v.peek("k", None) for v in views] == [None, None, "v"]


async def test_fill_overrides_the_callers_tags(pair):
    view = pair[0].namespace("n")
    await view.get_or_set("k", Origin(Fill("v", tags=["own"])), tags=("callers",))
    await view.delete_tags("callers")
    assert view.peek("k") == "v"
    await view.delete_tags("own")
    assert view.peek("k") is MISSING


async def test_fill_with_a_bad_tag_fails_and_stores_nothing(pair):
    with pytest.raises(ValueError, match="129 bytes"):
        await pair[0].get_or_set("k", Origin(Fill("v", tags=["x" * 129])))
    assert pair[0].peek("k") is MISSING


@pytest.mark.parametrize("late", [True, False], ids=["tags of the fill", "asked for"])
async def test_fetch_overtaken_by_a_deleted_tag_is_not_stored(pair, late):
    """1. a fetch begins; 2. its tag is deleted; 3. it ends with the old value."""
    one, other = pair
    origin = held(Fill("old", tags=("x",)) if late else "old")
    asked = asking(one.get_or_set("k", origin, tags=() if late else ("x",)))
    await origin.started.wait()
    await other.delete_tags("x")
    origin.gate.set()
    assert await asked == "old"
    assert one.peek("k") is MISSING
    assert one.stats().fills_refused == 1


async def test_caller_after_a_deleted_tag_is_not_answered_from_before(pair):
    """1. a fetch begins; 2. a tag is deleted; 3. a caller joins: it gets a new one."""
    one, other = pair
    old, new = held("old"), held("new")
    early = asking(one.get_or_set("k", old, tags=("x",)))
    await old.started.wait()
    await other.delete_tags("x")
    late = asking(one.get_or_set("k", new, tags=("x",)))
    await new.started.wait()
    old.gate.set()
    new.gate.set()
    assert await asyncio.gather(early, late) == ["old", "new"]
    assert one.peek("k") == "new"
