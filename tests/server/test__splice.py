from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmcache_server import stored
from shmcache_server._splice import Known, Sender, splice
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


# -- known

BLOCK = b" HTTP/1.1\r\nHost: a\r\n\r\n"


class Written:
    """A transport that keeps what is written, of a socket or of none."""

    def __init__(self, sock: socket.socket | None = None, **more: object) -> None:
        self.data = b""
        self._known = {"socket": sock, **more}

    def get_extra_info(self, name: str) -> Any:
        return self._known.get(name)

    def get_write_buffer_size(self) -> int:
        return len(self.data)

    def write(self, data: bytes) -> None:
        self.data += data


def sender(transport: Written) -> Sender:
    return Sender(transport)  # type: ignore[arg-type]


def ask(data: bytes, found: object, longest: int = 4096, most: int = 16384):
    keys: list[bytes] = []
    written = Written()

    def hit(key: bytes) -> object:
        keys.append(key)
        return found

    known = Known(hit, longest=longest, most=most)  # type: ignore[arg-type]
    known.know(BLOCK, b"p:")
    told = known.answer(data, sender(written))
    return told, keys, written.data


DOCUMENT = stored.pack(HEAD, 200, b"abc")
FRESH = (DOCUMENT, False, 1, 2)


def test_known_request_is_answered_under_its_key() -> None:
    told, keys, written = ask(b"GET /x?y" + BLOCK, FRESH)
    assert (told, keys) == (True, [b"p:/x?y"])
    assert written == splice(DOCUMENT, 1, 2)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET /",
        b"GET / HTTP/1.1\r\n",
        b"GET / HTTP/1.0\r\nHost: a\r\n\r\n",
        b"HEAD /" + BLOCK,
        b"GET *" + BLOCK,
        b"GET /#" + BLOCK,
        b"GET /\x7f" + BLOCK,
        b"GET /\xe9" + BLOCK,
        b"GET /\t" + BLOCK,
        b"GET /\r\n" + BLOCK,
        b"GET / /" + BLOCK,
        b"GET  /" + BLOCK,
        b"GET /" + BLOCK + b"x",
        b"GET /" + BLOCK[:-1],
        (b"GET /" + BLOCK) * 2,
        b"GET /" + b"x" * 1023 + BLOCK,
        b"GET /" + b"x" * 5000 + BLOCK,
    ],
)
def test_what_is_no_known_request_asks_for_nothing(data: bytes) -> None:
    assert ask(data, FRESH) == (None, [], b"")


def test_longest_key_and_request_are_answered() -> None:
    data = b"GET /" + b"x" * 1021 + BLOCK
    assert ask(data, FRESH)[0] is True
    assert ask(data, FRESH, longest=len(data))[0] is True
    assert ask(data, FRESH, longest=len(data) - 1)[0] is None


@pytest.mark.parametrize(
    ("found", "most"), [((DOCUMENT, True, 1, -2), 9999), (FRESH, len(DOCUMENT) - 1)]
)
def test_what_needs_more_is_handed_back(found: object, most: int) -> None:
    told, _, written = ask(b"GET /" + BLOCK, found, most=most)
    assert told is found and written == b""


@pytest.mark.parametrize(
    ("found", "told"), [(None, False), ((b"another's", False, 1, 2), None)]
)
def test_what_is_not_there_is_not_answered(found: object, told: object) -> None:
    assert ask(b"GET /" + BLOCK, found)[::2] == (told, b"")


def test_block_of_before_is_not_taken_for_another() -> None:
    keys: list[bytes] = []
    known = Known(keys.append, longest=4096, most=16384)  # type: ignore[arg-type]
    other = BLOCK.replace(b"a", b"b")
    known.know(BLOCK, b"a:")
    known.know(other, b"b:")
    for block in (BLOCK, BLOCK, other, BLOCK):
        assert known.answer(b"GET /" + block, sender(Written())) is False
    odd = b"GET /" + BLOCK[:-2] + b"\n\n"
    assert known.answer(odd, sender(Written())) is None
    assert keys == [b"a:/", b"a:/", b"b:/", b"a:/"]
    assert len(known) == 2


def test_forgotten_block_is_not_known() -> None:
    known = Known(lambda key: FRESH, longest=4096, most=16384)
    known.know(BLOCK, b"a:")
    assert known.answer(b"GET /" + BLOCK, sender(Written())) is True
    known.forget()
    assert known.answer(b"GET /" + BLOCK, sender(Written())) is None
    assert len(known) == 0


# -- sender

ANSWER = splice(DOCUMENT, 1, 2)
assert ANSWER is not None


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def answer(out: Sender, document: bytes = DOCUMENT) -> None:
    known = Known(lambda key: (document, False, 1, 2), longest=4096, most=1 << 30)
    known.know(BLOCK, b"a:")
    assert known.answer(b"GET /" + BLOCK, out) is True


def test_answer_is_sent_at_once_where_nothing_waits(ends) -> None:
    transport = Written(ends[0])
    answer(sender(transport))
    assert (ends[1].recv(4096), transport.data) == (ANSWER, b"")


def test_answer_goes_behind_what_waits(ends) -> None:
    transport = Written(ends[0])
    out = sender(transport)
    answer(out)
    ends[1].recv(4096)
    out.fall_behind()
    transport.write(b"slow")
    answer(out)
    assert transport.data == b"slow" + ANSWER
    transport.data = b""  # it is written by now
    answer(out)
    assert (ends[1].recv(4096), transport.data) == (ANSWER, b"")


def test_rest_that_the_socket_does_not_take_is_the_transports(ends) -> None:
    large = stored.pack(HEAD, 200, b"x" * (1 << 22))
    transport = Written(ends[0])
    out = sender(transport)
    answer(out, large)
    whole = splice(large, 1, 2)
    assert whole is not None and 0 < len(transport.data) < len(whole)
    ends[1].setblocking(False)
    taken = b""
    while len(taken) + len(transport.data) < len(whole):
        taken += ends[1].recv(1 << 20)
    assert taken + transport.data == whole
    answer(out)  # there is room in the socket now
    assert taken + transport.data == whole + ANSWER


def test_error_is_left_to_the_transport(ends) -> None:
    ends[1].close()
    transport = Written(ends[0])
    answer(sender(transport))
    assert transport.data == ANSWER


def test_nothing_goes_past_tls(ends) -> None:
    transport = Written(ends[0], sslcontext=object())
    answer(sender(transport))
    assert transport.data == ANSWER
