"""The protocol: whole replies, wherever their bytes were cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmcache.resp import (
    NoScriptError,
    ProtocolError,
    Replies,
    ReplyError,
    pack,
)

VALUES = st.recursive(
    st.none() | st.binary(max_size=40) | st.integers(-(1 << 63), (1 << 63) - 1),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)


def encoded(value: object) -> bytes:
    match value:
        case None:
            return b"$-1\r\n"
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(value), value)
        case int():
            return b":%d\r\n" % value
        case list():
            return b"*%d\r\n" % len(value) + b"".join(map(encoded, value))
    raise AssertionError(value)


@given(st.lists(VALUES, max_size=5), st.lists(st.integers(1, 9), min_size=1))
def test_replies_come_whole_wherever_they_are_cut(values, cuts) -> None:
    data, replies, found, turn = b"".join(map(encoded, values)), Replies(), [], 0
    while data:
        size = cuts[turn % len(cuts)]
        found += replies.feed(data[:size])
        data, turn = data[size:], turn + 1
    assert found == values
    assert not replies.partial


def test_value_larger_than_its_reads_is_put_together_once() -> None:
    replies, value = Replies(), bytes(range(256)) * 4096
    data = encoded(value) + encoded(7)
    parts = [data[i : i + 65536] for i in range(0, len(data), 65536)]
    assert [r for part in parts[:-1] for r in replies.feed(part)] == []
    assert replies.partial
    assert replies.feed(parts[-1]) == [value, 7]


def test_error_reply_is_a_value_with_a_code() -> None:
    moved, unknown = Replies().feed(b"-MOVED 7 h:1\r\n-NOSCRIPT No matching\r\n")
    assert isinstance(moved, ReplyError) and moved.code == "MOVED"
    assert str(moved) == "MOVED 7 h:1"
    assert isinstance(unknown, NoScriptError)


def test_simple_string_null_array_and_empty_array() -> None:
    assert Replies().feed(b"+OK\r\n*-1\r\n*0\r\n") == [b"OK", None, []]


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"\x15\x03\x01\x00\x02",
        b"$x\r\n",
        b":\r\n",
        b"$-2\r\n",
        b"*9999999999\r\n",
    ],
    ids=["http", "tls", "size", "integer", "negative", "many"],
)
def test_what_is_not_redis_ends_it_at_once(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        Replies().feed(data)


@pytest.mark.parametrize("begin", [b"$5000000000\r\n", b"*1000000000\r\n", b""])
def test_reply_without_an_end_is_not_gathered_for_ever(
    monkeypatch: pytest.MonkeyPatch, begin: bytes
) -> None:
    monkeypatch.setattr("shmcache.resp.REPLY_MAX", 100_000)
    replies = Replies()
    part = (b":1\r\n" if begin[:1] == b"*" else b"$2\r\nab\r\n") * 2_500
    if not begin:
        for _ in range(100):  # many whole ones are none
            replies.feed(part)
        begin = b"$200000\r\n"
    replies.feed(begin)
    with pytest.raises(ProtocolError, match="no end"):
        for _ in range(20):
            replies.feed(part)


def test_commands_are_packed_into_one_write() -> None:
    packed = pack([(b"SET", "k\N{EURO SIGN}", 7), ("PING",)])
    assert packed == (
        b"*3\r\n$3\r\nSET\r\n$4\r\nk\xe2\x82\xac\r\n$1\r\n7\r\n*1\r\n$4\r\nPING\r\n"
    )
