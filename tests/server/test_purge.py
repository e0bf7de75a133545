"""What requests name to be purged."""

from __future__ import annotations

import json
import re

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from shmcache_server.purge import (
    Group,
    Place,
    Purge,
    of_fields,
    of_json,
    of_query,
)

HERE = Place("example.org", "/a?b")


@pytest.mark.parametrize(
    ("body", "purge"),
    [
        (b'{"url": "http://example.org/a?b"}', Purge(urls=(HERE,))),
        (b'{"urls": ["//Example.org:80/a?b"]}', Purge(urls=(HERE,))),
        (b'{"url": "example.org"}', Purge(urls=(Place("example.org", "/"),))),
        (b'{"url": "[::1]:8080?x"}', Purge(urls=(Place("[::1]", "/?x"),))),
        (b'{"tags": ["a", "b c"]}', Purge(tags=("a", "b c"))),
        (
            b'{"group": "a b", "host": "example.org"}',
            Purge(groups=(Group("example.org", "a b"),)),
        ),
        (
            b'{"prefix": "https://example.org/a"}',
            Purge(prefixes=(Place("example.org", "/a"),)),
        ),
        (b'{"all": true, "soft": true}', Purge(everything=True, soft=True)),
        (b'{"all": true, "wait": 0}', Purge(everything=True, wait=0)),
    ],
)
def test_purge_is_read_from_json(body, purge) -> None:
    assert of_json(body) == purge


def test_purge_is_read_from_a_query() -> None:
    purge = Purge(tags=("a", "b c"), soft=True, wait=0.5)
    assert of_query("tag=a&tag=b+c&soft=1&wait=0.5&all=0") == purge
    assert of_query("all=1&tags=%C3%A4%ff") == Purge(tags=("ä\udcff",), everything=True)
    for query in ("tag=", "all", "all=", "tag=a&soft="):  # a variable that is not set
        with pytest.raises(ValueError, match=r"expected (text|1 or 0)"):
            of_query(query)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "expected a JSON object"),
        (b"[]", "expected a JSON object"),
        (b"[" * 100_000, "expected a JSON object"),
        (b"\xff", "expected a JSON object"),
        (b"{}", "nothing to purge"),
        (b'{"all": false}', "nothing to purge"),
        (b'{"tag": []}', "nothing to purge"),
        (b'{"tag": ""}', "tag='': expected text"),
        (b'{"tag": 1}', "tag=1: expected text"),
        (b'{"tagg": "a"}', "'tagg' is not known: expected url, tag"),
        (b'{"url": "/a"}', "'/a': expected a URL, as http"),
        (b'{"url": "http://u@h/a"}', "expected a URL"),
        (b'{"url": "ftp://h/a"}', "expected a URL"),
        (b'{"url": "http:/h/a"}', "expected a URL"),
        (b'{"prefix": "h:/a"}', "expected a URL"),
        (b'{"url": "http://h/a b"}', "expected a URL"),
        (b'{"url": "http://h/a#b"}', "expected a URL"),
        ('{"url": "http://h/ä"}'.encode(), "expected a URL"),
        (b'{"group": "a"}', "group: expected with one host"),
        (b'{"tag": "a", "host": "h"}', "group: expected with one host"),
        (b'{"all": "yes"}', "all: expected 1 or 0"),
        (b'{"all": 1}', "all: expected 1 or 0"),
        (b'{"all": ""}', "all: expected 1 or 0"),
        (b'{"all": true, "wait": 61}', "wait=61: expected 0 to 60"),
        (b'{"all": true, "wait": NaN}', "wait=nan: expected 0 to 60"),
        (b'{"all": true, "wait": true}', "wait=True: expected a number"),
        (b'{"all": true, "wait": "long"}', "wait='long': expected a number"),
        (json.dumps({"tag": ["a"] * 1001}).encode(), "1001 names: expected at most"),
    ],
)
def test_wrong_json_is_told(body, said) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        of_json(body)


def fields(*lines: tuple[str, str]) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict(lines))


@pytest.mark.parametrize(
    ("lines", "purge"),
    [
        ([], Purge(urls=(HERE,))),
        ([("Shmcache-Purge", "soft")], Purge(urls=(HERE,), soft=True)),
        ([("Shmcache-Purge", "wait=0.5")], Purge(urls=(HERE,), wait=0.5)),
        (
            [("Shmcache-Purge", "prefix"), ("Shmcache-Purge", "soft")],
            Purge(prefixes=(HERE,), soft=True),
        ),
        ([("Shmcache-Purge", "all")], Purge(everything=True)),
        ([("Cache-Tag", "a, b"), ("Surrogate-Key", "c")], Purge(tags=("a", "b", "c"))),
        ([("Cache-Groups", '"a"')], Purge(groups=(Group("example.org", "a"),))),
    ],
)
def test_purge_is_read_from_fields(lines, purge) -> None:
    assert of_fields(*HERE, fields(*lines)) == purge


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (("Cache-Groups", "scripts"), "Cache-Groups: expected strings"),
        (("Cache-Groups", '"a", b'), "Cache-Groups: expected strings"),
        (("Cache-Groups", ""), "Cache-Groups: expected strings"),
        (("Cache-Groups", ", ".join(f'"{n}"' for n in range(1001))), "1001 names"),
        (("Cache-Tag", " ,"), "Cache-Tag, Surrogate-Key: expected labels"),
        (("Surrogate-Key", ""), "Cache-Tag, Surrogate-Key: expected labels"),
    ],
)
def test_field_that_names_nothing_purges_not_the_target(line, said) -> None:
    with pytest.raises(ValueError, match=said):
        of_fields(*HERE, fields(line))


def test_every_group_of_a_field_is_purged() -> None:
    names = [f"group-{n}" for n in range(200)]
    line = ("Cache-Groups", ", ".join(f'"{name}"' for name in names))
    assert [group.name for group in of_fields(*HERE, fields(line)).groups] == names


@pytest.mark.parametrize(
    "said", ["hard", "soft=1", "wait", "wait=-1", "soft;", '"', "ü"]
)
def test_wrong_field_is_told(said) -> None:
    with pytest.raises(ValueError, match=r"Shmcache-Purge|wait=-1: expected"):
        of_fields(*HERE, fields(("Shmcache-Purge", said)))
