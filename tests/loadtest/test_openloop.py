"""The open loop: when requests are due, what counts from when, what is a failure."""

from __future__ import annotations

import json
import socket
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from loadtest import openloop
from loadtest.openloop import Loop, Plan, Samples, sound
from loadtest.service import DASHBOARD, calls, config, serving
from loadtest.vendors import running
from tests.server.market.vendor import CALLED, KEYS

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


def test_due_times_are_the_rate() -> None:
    even = Plan(10, 2)
    assert even.total == 20 and even.due()[:3].tolist() == [0, 0.1, 0.2]
    rising = Plan(30, 2, first=10)
    due = rising.due()
    assert rising.total == len(due) == 40 and due[0] == 0 and due[-1] < 2
    first, last = (sum(a <= one < a + 1 for one in due) for a in (0, 1))
    assert (first, last) == (15, 25)
    growing = Plan(1, 4, clients=10, first_clients=2)
    assert [growing.clients_at(since) for since in (0, 2, 9)] == [2, 6, 10]


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
    assert {name: totals[name] for name in openloop.KINDS} == {
        **dict.fromkeys(openloop.KINDS, 0), kind: 5
    }  # fmt: skip


def test_seconds_are_those_of_the_requests() -> None:
    samples = Samples(Plan(2, 3, clients=4), lasted=3.0)
    samples.due = array("d", [0.0, 0.5, 2.5])
    samples.took = array("d", [0.001, float("nan"), 0.003])
    samples.kinds = array("b", [0, -1, 2])
    first, second, third = samples.seconds()
    assert (first.requests, first.failures, first.hits, first.p99) == (2, 1, 1, 1.0)
    assert (second.requests, second.p50) == (0, None)
    assert (third.misses, third.max, third.clients) == (1, 3.0, 4)
    assert samples.totals()["mean"] == 2.0


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
    assert capsys.readouterr().err.count("\n") == 2


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, key in KEYS.items():
        monkeypatch.setenv(name, key)


def test_ramp_of_the_market(tmp_path, keys, measured) -> None:
    """The whole service: every request answered, each part called as often as it
    lives."""
    with ExitStack() as stack:
        vendors = stack.enter_context(running("--still", "--latency", "0.05"))
        (server,) = stack.enter_context(serving(tmp_path, config(vendors, 1.0)))
        url = f"http://127.0.0.1:{server.port}{DASHBOARD}"
        found = openloop.ramp(
            url, rate=300, seconds=3, clients=(2, 20), calls=lambda: calls(vendors)
        )
        busiest = calls(vendors, "busiest", 1.0)
    totals = found.totals
    assert totals["requests"] == 900 and totals["failures"] == 0
    assert sum(totals[kind] for kind in openloop.KINDS) == 900
    assert {*found.calls} == {*CALLED} and busiest == dict.fromkeys(CALLED, 1)
    assert len(found.seconds) == 3 and found.seconds[0].calls >= len(CALLED)
    assert sum(second.calls for second in found.seconds) <= found.totals["calls"]
    assert [second.clients for second in found.seconds] == [2, 8, 14]
    assert [target.met is None for target in found.targets] == [False] * 3
    measured(
        f"open loop: 300 requests/s for 3 s: mean {totals['mean']:.2f} ms, of which the"
        f" generator's {totals['late_mean']:.2f}"
    )


def test_single_answers_of_the_market(tmp_path, keys) -> None:
    with ExitStack() as stack:
        vendors = stack.enter_context(running("--still", "--latency", "0.2"))
        served = serving(tmp_path, config(vendors), l2="embedded")
        (server,) = stack.enter_context(served)
        url = f"http://127.0.0.1:{server.port}"
        found = openloop.answers(url, 0.2, count=20)
    cold, *_, wrong = found.targets
    assert cold.found > 200 and wrong.found == 0
    assert found.totals["500 cold connections: requests"] == 500
    assert found.totals["stream's last entry: requests"] == 20
