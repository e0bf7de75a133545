from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmcache_server import stored
from shmcache_server._splice import splice
from shmcache_server.rfc9111 import status

HEAD = b'HTTP/1.1 200 OK\r\nETag: "a"\r\nContent-Length: 3\r\n'
SECONDS = st.integers(-(2**40), 2**62)


@given(st.binary(max_size=300), st.binary(max_size=300), SECONDS, SECONDS)
def test_answer_is_head_and_times_and_body(
    head: bytes, body: bytes, age: int, ttl: int
) -> None:
    document = stored.pack(head, 200, body)
    told = (status.FIELDS % (age, status.HIT % ttl)).encode() + b"\r\n"
    assert splice(document, age, ttl) == head + told + body
    assert splice(document, age, ttl, False) == head + told


@given(st.binary(max_size=100))
def test_what_is_no_stored_response_is_none(data: bytes) -> None:
    assert splice(data, 1, 2) is None


@given(st.binary(max_size=60))
def test_offsets_of_a_damaged_document_lead_nowhere(data: bytes) -> None:
    """Whatever it answers, it reads nothing outside; sanitizers would tell."""
    answer = splice(stored.MARK + data, 1, 2)
    assert answer is None or len(answer) < len(data) + 80


@pytest.mark.parametrize("size", range(4, 30))
def test_truncated_document_is_none_or_short(size: int) -> None:
    assert splice(stored.pack(HEAD, 200, b"abc")[:size], 1, 2) is None


@pytest.mark.parametrize("size", range(1, 4))
def test_document_without_its_end_is_none(size: int) -> None:
    assert splice(stored.pack(HEAD, 200, b"abc")[:-size], 1, 2) is None
    assert splice(stored.pack(HEAD, 200, b"abc") + b"d" * size, 1, 2) is None


def test_another_version_is_none() -> None:
    document = bytearray(stored.pack(HEAD, 200, b"abc"))
    document[3] += 1
    assert splice(bytes(document), 1, 2) is None
