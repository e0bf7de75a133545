"""One origin request for a cold key, however many clients, workers and servers."""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.helpers import Server, connections, served
from tests.processes.conftest import Origin
from tests.redis_server import redis_server

CLIENTS = 250
REPEATS = int(os.environ.get("SHMCACHE_REPEATS", "5"))
# One second of fetch and a tenth for all else; `make stress` asserts it. A machine
# that runs other things as well gets more in `make test`, which reports what it was.
SECONDS = float(os.environ.get("SHMCACHE_WAVE_SECONDS", "2"))

SETUPS = {  # servers, workers of each, with Redis
    "4 workers": (1, 4, False),
    "4 workers, Redis": (1, 4, True),
    "2 servers, one Redis": (2, 2, True),
}


class Crowd:
    """`CLIENTS` clients in a process of their own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def order(self, line: str) -> dict:
        print(line, file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())


@contextmanager
def crowd(servers: list[Server]) -> Iterator[Crowd]:
    script = Path(__file__).with_name("wave.py")
    addresses = [f"127.0.0.1:{s.port}" for s in servers]
    command = [sys.executable, str(script), str(CLIENTS), *addresses]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        yield Crowd(process)
        process.stdin.close()


@pytest.fixture(params=SETUPS, ids=lambda setup: setup.replace(", ", "-"))
def servers(request, tmp_path, origin) -> Iterator[tuple[str, list[Server]]]:
    count, workers, with_redis = SETUPS[request.param]
    with ExitStack() as stack:
        l2 = stack.enter_context(redis_server()).url if with_redis else "none"
        yield (
            request.param,
            [
                stack.enter_context(
                    served(tmp_path / f"{i}.log", origin.url, workers=workers, l2=l2)
                )
                for i in range(count)
            ],
        )


def test_cold_key_250_clients_one_origin_request(
    servers, origin: Origin, measured: Callable[[str], None]
) -> None:
    setup, running = servers
    spans = []
    with crowd(running) as clients:
        for _ in range(REPEATS):
            clients.order("connect")
            # One worker with all the connections would prove nothing.
            shares = [
                len(connections(p, local=s.port)) for s in running for p in s.pids()
            ]
            assert sum(shares) == CLIENTS
            assert sum(n > 0 for n in shares) >= 2, shares
            path = origin.path(delay=1.0)
            came = clients.order(path)
            assert origin.count(path) == 1, came
            assert came["statuses"] == {"200": CLIENTS}
            body = hashlib.sha256(origin.body(path)).hexdigest()
            assert came["bodies"] == {body: CLIENTS}
            spans.append(came["span"])
    median, most = statistics.median(spans), max(spans)
    measured(
        f"{CLIENTS} clients on a cold key, {setup}: last answer of a wave after "
        f"{median:.3f} s (median of {REPEATS}), {most:.3f} s at most"
    )
    assert min(spans) >= 1.0
    assert most <= SECONDS
