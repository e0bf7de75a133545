from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmcache_server.rfc9111.fields import (
    is_token,
    of_connection,
    of_head,
    stored,
    to_lines,
    tokens,
    value,
    values,
)


@pytest.mark.parametrize(
    "name",
    [
        *("Connection", "Keep-Alive", "Proxy-Connection", "TE", "Trailer"),
        *("Transfer-Encoding", "Upgrade", "Proxy-Authenticate", "Age", "Warning"),
        *("Proxy-Authentication-Info", "Proxy-Authorization", "Set-Cookie"),
    ],
)
def test_field_of_one_answer_is_not_stored(name) -> None:
    assert stored([(name.upper(), "1"), ("A", "2")]) == [("A", "2")]


@pytest.mark.parametrize(
    "name",
    ["Content-Range", "Content-Length", "Clear-Site-Data", "Set-Cookie2", "Expires"],
)
def test_every_other_field_is_stored(name) -> None:
    assert stored([(name, "1")]) == [(name, "1")]


def test_fields_that_connection_names_end_here() -> None:
    fields = [("Connection", "a, B"), ("A", "1"), ("b", "2"), ("C", "3")]
    assert stored(fields) == [("C", "3")]
    assert of_connection(["close, X-A", " x-b "]) == {"close", "x-a", "x-b"}


def test_connection_cannot_name_what_the_rest_depends_on() -> None:
    assert of_connection(["Vary, cache-control, Set-Cookie, X"]) == {"x"}


def test_dropped_fields_are_not_stored() -> None:
    assert stored([("A", "1"), ("B", "2")], {"a"}) == [("B", "2")]


def test_lines_of_a_field_are_found_whatever_its_case() -> None:
    fields = [("A", "1"), ("a", "2")]
    assert values(fields, "A") == ["1", "2"]
    assert value(fields, "a") == "1"
    assert value(fields, "b") is None


def test_list_of_names_holds_each_once() -> None:
    assert tokens(["A, b,, a", "", "C d"]) == ("a", "b", "c d")


@pytest.mark.parametrize(
    ("text", "may"),
    [("x-a", True), ("*", True), ("", False), ("a b", False), ("a:", False)],
)
def test_field_has_a_token_for_its_name(text, may) -> None:
    assert is_token(text) is may


def test_head_is_read_and_written_as_it_was() -> None:
    lines = b"A: 1\r\nb: x: y\r\nC: \xff\xc3\xa9\r\nD: \r\n"
    fields = of_head(b"HTTP/1.1 200 OK\r\n" + lines)
    assert [name for name, _ in fields] == ["A", "b", "C", "D"]
    assert value(fields, "B") == "x: y"
    assert to_lines(fields) == lines
    assert of_head(b"HTTP/1.1 200 OK\r\n") == []


@given(st.binary())
def test_value_of_any_bytes_comes_out_again(data) -> None:
    line = b"A: %b\r\n" % data.replace(b"\r\n", b"").strip(b" \t")
    assert to_lines(of_head(b"\r\n" + line)) == line
