"""The open loop: when requests are due, what counts from when, what is a failure."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from loadtest import openloop
from loadtest.fates import FATES
from loadtest.openloop import Loop, sound
from loadtest.samples import Plan

BODY = b'{"price": 1}'
HIT = b"Cache-Status: shmcache; hit; ttl=3\r\n"


def answer(body: bytes = BODY, status: bytes = b"200 OK", fields: bytes = HIT) -> bytes:
    length = b"Content-Length: %d\r\n" % len(body)
    return b"HTTP/1.1 " + status + b"\r\n" + fields + length + b"\r\n" + body


@contextmanager
def origin(
    answers: Callable[[int], bytes], connections: list[int] | None = None
) -> Iterator[str]:
    """One thread that answers one request at a time: the n-th as it is told, and an
    empty answer closes."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=600)
    lock, count = threading.Lock(), iter(range(10**9))

    def serve(one: socket.socket) -> None:
        with one:
            while data := one.recv(1 << 16):
                assert data.count(b"\r\n\r\n") == 1
                with lock:
                    said = answers(next(count))
                if not said:
                    return
                one.sendall(said)

    def accept() -> None:
        while True:
            try:
                one, (_, port) = listener.accept()
            except OSError:
                return
            if connections is not None:
                connections.append(port)
            threading.Thread(target=serve, args=(one,), daemon=True).start()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/x?y=1"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def test_latency_counts_from_when_it_was_due() -> None:
    """A server that stalls for 0.3 s holds up all that fall due meanwhile. A loop that
    waits for its answers would have seen one slow one."""

    def stalling(n: int) -> bytes:
        if n == 20:
            time.sleep(0.3)
        return answer()

    with origin(stalling) as url:
        found = Loop(url, Plan(200, 0.5, clients=2)).run()
    assert found.totals()["failures"] == 0 and len(found.took) == 100
    slow = sorted(one for one in found.took if one > 0.05)
    assert slow[-1] > 0.29 and len(slow) >= 45
    assert found.why == {}
    late = [one for one, took in zip(found.late, found.took, strict=True) if took > 0.1]
    assert sum(late) < sum(slow) / 2, "the server's, not the generator's"


def test_clients_grow_and_take_turns() -> None:
    ports: list[int] = []
    with origin(lambda n: answer(), ports) as url:
        plan = Plan(200, 0.5, clients=8, first_clients=2)
        found = Loop(url, plan).run()
    assert len(ports) == 8 and found.totals()["requests"] == 100
    assert found.totals()["hits"] == 100 and found.totals()["generator_cpu"] < 100


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (answer(status=b"503 Service Unavailable"), "503"),
        (answer(b'{"error": "no"}'), "body"),
        (answer(b"not JSON"), "body"),
        (b"HTTP/1.1 200 OK\r\n\r\n{}", "no length that can be read"),
        (b"", "closed"),
        (answer()[:-3], "no answer"),
    ],
    ids=["status", "error", "no JSON", "no length", "closed", "cut short"],
)
def test_wrong_answer_is_a_failure(monkeypatch, said: bytes, why: str) -> None:
    monkeypatch.setattr(openloop, "PATIENCE", 0.3)
    with origin(lambda n: said if n == 3 else answer()) as url:
        found = Loop(url, Plan(100, 0.1, clients=2)).run()
    totals = found.totals()
    assert (totals["requests"], totals["failures"], found.why) == (10, 1, {why: 1})


def test_server_that_hangs_fails_all_that_wait(monkeypatch) -> None:
    monkeypatch.setattr(openloop, "PATIENCE", 0.3)
    over = threading.Event()

    def hanging(n: int) -> bytes:
        if n == 2:
            over.wait(10)
        return answer()

    with origin(hanging) as url:
        found = Loop(url, Plan(100, 0.1, clients=2)).run()
        over.set()
    assert found.totals()["requests"] == 10 and found.totals()["failures"] == 8
    assert found.why == {"no answer": 2, "not sent": 6}


def test_server_that_goes_fails_what_is_due() -> None:
    """It is counted, as one that hangs is; a server that never was is an error."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        one, _ = listener.accept()
        for _ in range(3):
            one.recv(1 << 16)
            one.sendall(answer())
        listener.close()
        one.close()

    thread = threading.Thread(target=serve)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    found = Loop(url, Plan(100, 0.1, clients=1)).run()
    thread.join()
    assert found.totals()["requests"] == 10 and found.totals()["failures"] == 7
    assert "ConnectionRefusedError" in found.why and sum(found.why.values()) == 7
    with pytest.raises(ConnectionRefusedError):
        Loop(url, Plan(100, 0.1)).run()


@pytest.mark.parametrize(
    ("field", "kind"),
    [
        (b"shmcache; hit; ttl=3", "hits"),
        (b"shmcache; hit; ttl=-1", "stale"),
        (b"shmcache; fwd=miss; stored", "misses"),
        (b"shmcache; fwd=stale; collapsed", "coalesced"),
    ],
)
def test_answers_are_told_apart(field: bytes, kind: str) -> None:
    said = answer(fields=b"cache-status: " + field + b"\r\n")
    with origin(lambda n: said) as url:
        totals = Loop(url, Plan(100, 0.05)).run().totals()
    assert {name: totals[name] for name in FATES} == {
        **dict.fromkeys(FATES, 0), kind: 5
    }  # fmt: skip


@pytest.mark.parametrize(
    ("body", "good"),
    [(b'{"a": 1}', True), (b"{}", False), (b"[1]", False), (b'{"error": 1}', False)],
)
def test_body_is_read(body: bytes, good: bool) -> None:
    assert sound(body) is good


def test_command_tells_and_refuses(capsys) -> None:
    with origin(lambda n: answer(b"{}" if n else BODY)) as url:
        assert openloop.main([url, "--rate", "100", "--seconds", "0.05"]) == 1
        assert "| failures " in (said := capsys.readouterr().out)
        assert "Failed: body: 4." in said
        flags = ["--from", "50", "--rate", "150", "--seconds", "0.05", "--json"]
        assert openloop.main([url, *flags]) == 0
        began, told = capsys.readouterr().out.splitlines()
        told = json.loads(told)
        assert began == ""
        assert told["totals"]["requests"] == 5 and len(told["seconds"]) == 1
    assert openloop.main([url]) == 2
    assert openloop.main(["https://127.0.0.1/"]) == 2
    assert openloop.main([url, "--rate", "1", "--seconds", "0.1"]) == 2
    assert capsys.readouterr().err.count("\n") == 3
