"""Lists of variants: keys, marks, and what is no list."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from shmcache_server import stored
from shmcache_server.variants import SPOKEN_MOST, Spoken, Variants, unpack


def getall(**fields: str):
    held = CIMultiDict({n.replace("_", "-"): v for n, v in fields.items()})
    return lambda name: held.getall(name, ())


LIST = Variants(
    "0123456789abcdef",
    (("accept",), ("accept", "foo")),
    (Spoken(("accept-language", "foo"), "de,en;q=0.5", "de"),),
)


def test_list_comes_back_as_it_was() -> None:
    for one in (LIST, LIST._replace(spoken=()), Variants.begun((), LIST.spoken[0])):
        assert unpack(one.pack()) == one


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"\xc0",
        LIST.pack()[:-1],
        LIST.pack().replace(b"\xa1V\x02", b"\xa1V\x01"),
        stored.pack(b"HTTP/1.1 200 OK\r\n", 200, b""),
    ],
)
def test_what_is_no_list_is_none(document: bytes) -> None:
    assert unpack(document) is None


def test_newest_set_comes_first_and_stands_once() -> None:
    assert LIST.seen(("accept", "foo")).sets == (("accept", "foo"), ("accept",))
    assert LIST.seen(()).sets[0] == ()


def test_languages_that_are_known_are_few() -> None:
    found = LIST
    for i in range(2 * SPOKEN_MOST):
        found = found.seen(("accept-language",), Spoken((), str(i), "en"))
    assert len(found.spoken) == SPOKEN_MOST
    assert found.spoken[0].accepted == str(2 * SPOKEN_MOST - 1)


def test_variant_has_one_language() -> None:
    (one,) = LIST.spoken
    assert LIST.seen((), one).spoken == LIST.spoken
    assert LIST.seen((), one._replace(language="en")).spoken[0].language == "en"
    assert len(LIST.seen((), one._replace(language="en")).spoken) == 1
    assert len(LIST.seen((), one._replace(accepted="en")).spoken) == 2


def test_every_part_of_a_key_tells() -> None:
    one = LIST.key("k", ("foo",), getall(Foo="1"))
    others = {
        LIST.key("k", ("foo",), getall(Foo="2")),
        LIST.key("k", ("foo",), getall()),
        LIST.key("k", ("foo",), getall(Foo="")),
        LIST.key("k", (), getall(Foo="1")),
        LIST.key("l", ("foo",), getall(Foo="1")),
        Variants.begun(("foo",)).key("k", ("foo",), getall(Foo="1")),
    }
    assert one == LIST.key("k", ("foo",), getall(Foo="1", Bar="2"))
    assert len(others | {one}) == 7


def test_key_of_any_request_fits() -> None:
    made = LIST.key("k" * 1024, ("foo",), getall(Foo="\udcff" * 9000))
    assert len(made) <= 1024 and made.isascii()
