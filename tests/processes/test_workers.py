"""Workers that share one L1, and lose nothing but their own requests when killed."""

from __future__ import annotations

import http.client
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.helpers import Answer, Server, connections, served, until
from tests.processes.conftest import Origin


@pytest.fixture
def server(tmp_path, origin: Origin) -> Iterator[Server]:
    with served(tmp_path / "server.log", origin.url, workers=4) as running:
        yield running


class Client:
    """One keep-alive connection, and the worker it reached."""

    def __init__(self, server: Server) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        self.get("/healthz")  # answered: a worker has accepted it
        near = self._http.sock.getsockname()[1]
        self.pid = next(p for p in server.pids() if near in _clients(server, p))

    def get(self, path: str) -> Answer:
        began = time.monotonic()
        self._http.request("GET", path)
        response = self._http.getresponse()
        body = response.read()
        fields = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, fields, body, time.monotonic() - began)

    def close(self) -> None:
        self._http.close()


def _clients(server: Server, pid: int) -> set[int]:
    return connections(pid, local=server.port)


@pytest.fixture
def connect(server: Server) -> Iterator[Callable[[int], list[Client]]]:
    """Opens connections until every worker has so many; closed at the end."""
    clients: list[Client] = []

    def open_until(at_least: int) -> list[Client]:
        def enough() -> bool:
            clients.append(Client(server))
            pids = [c.pid for c in clients]
            return all(pids.count(p) >= at_least for p in server.pids())

        until(enough, 20, "connections to every worker")
        return clients

    yield open_until
    for client in clients:
        client.close()


def test_value_of_one_worker_is_a_hit_in_every_other(connect, origin) -> None:
    clients = connect(1)
    path = origin.path()
    first = clients[0].get(path)
    until(lambda: clients[0].get(path).hit, 5, "stored")
    others = {c.pid: c.get(path) for c in clients}
    assert not first.hit and first.body == origin.body(path)
    assert len(others) == 4
    assert all(a.hit and a.body == first.body for a in others.values())
    assert origin.count(path) == 1


def test_killed_worker_takes_only_its_own_connections(server, connect, origin) -> None:
    path = origin.path()
    server.warm(path)
    clients = connect(1)
    victim = clients[0].pid
    os.kill(victim, signal.SIGKILL)
    for client in clients:
        if client.pid != victim:
            answer = client.get(path)
            assert answer.status == 200 and answer.hit
    until(lambda: victim not in server.pids() and len(server.pids()) == 4, 2)
    assert all(c.get(path).hit for c in connect(1) if c.pid != victim)
    assert origin.count(path) == 1


def test_killed_only_worker_is_replaced_with_warm_l1(
    tmp_path, origin, measured
) -> None:
    path = origin.path()
    with served(tmp_path / "server.log", origin.url, workers=1) as server:
        body = server.warm(path).body
        os.kill(server.pids()[0], signal.SIGKILL)
        began = time.monotonic()
        answer = until(lambda: _answered(server, path), 10)
        took = time.monotonic() - began
    measured(f"worker killed, the next one served a warm hit after {took:.3f} s")
    assert answer.status == 200 and answer.hit and answer.body == body
    assert origin.count(path) == 1
    assert took <= 2.0


def _answered(server: Server, path: str) -> Answer | None:
    try:
        return server.get(path)
    except (OSError, http.client.HTTPException):
        return None  # the dying worker's own connection


def test_killed_fetching_worker_waiters_go_on(
    server, connect, origin, measured
) -> None:
    clients = connect(3)
    path = origin.path(delay=1.0)
    with ThreadPoolExecutor(len(clients)) as pool:
        answers = {c: pool.submit(c.get, path) for c in clients}
        until(lambda: origin.count(path) == 1, 5, "the fetch")
        fetching = [p for p in server.pids() if connections(p, remote=origin.port)]
        assert len(fetching) == 1
        os.kill(fetching[0], signal.SIGKILL)
        killed = time.monotonic()
        rest = [f.result() for c, f in answers.items() if c.pid != fetching[0]]
        took = time.monotonic() - killed
    measured(f"fetching worker killed, all waiters answered after {took:.3f} s")
    assert {(a.status, a.body) for a in rest} == {(200, origin.body(path))}
    assert origin.count(path) == 2
    assert took <= 2.0
