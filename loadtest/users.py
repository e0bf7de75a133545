"""Users: locust's clients, one class for each way to ask.

They count and hardly look: a status, and that there is a body. Each answer is filed
under its fate, so that locust's table says what the cache did. `witness.py` reads.
"""

from __future__ import annotations

import random
import time
from itertools import count

import gevent
from gevent.event import AsyncResult
from locust import constant_throughput, task
from locust.contrib.fasthttp import FastHttpUser
from locust.exception import StopUser

from .fates import FAILED, REFUSED, fate
from .scenarios import Scenario

_FIELDS = {"Accept-Encoding": "identity"}
"""As the witness has it: who takes gzip has another key."""
BEGIN: AsyncResult = AsyncResult()
"""When the first wave is due, seconds of the epoch."""
_numbers = count()


class _Client(FastHttpUser):
    """One of a scenario's clients, on one of its hosts."""

    abstract = True
    connection_timeout = network_timeout = 20.0
    concurrency = 1

    def __init__(self, environment) -> None:
        self.scenario: Scenario = environment.scenario
        bases = environment.parsed_options.bases.split(",")
        self.host = bases[next(_numbers) % len(bases)]
        self._pause = constant_throughput(self.scenario.pace)
        super().__init__(environment)

    def wait_time(self) -> float:
        return self._pause(self)

    def ask(self, path: str, due: float | None = None) -> None:
        """`due`: since when the client waits, if not since now."""
        with self.client.get(path, headers=_FIELDS, catch_response=True) as answer:
            meta = answer.request_meta
            if due is not None:
                meta["response_time"] = 1000 * (time.time() - due)
            fields = answer.headers or {}
            if answer.status_code == 200 and answer.content:
                meta["name"] = fate(fields.get("Cache-Status", ""))
                answer.success()
            elif answer.status_code == 503 and self._refused(fields):
                meta["name"] = REFUSED
                answer.success()
            else:
                meta["name"] = FAILED
                answer.failure(f"{answer.status_code} {answer.error or ''}".strip())

    def _refused(self, fields) -> bool:
        return bool(self.scenario.budget) and "Retry-After" in fields


class _Paced(_Client):
    """Asks at its pace, over a connection that it keeps."""

    abstract = True

    def on_start(self) -> None:
        """Not all at one moment: their beats would stay the same."""
        gevent.sleep(random.random() / self.scenario.pace)


class Reader(_Paced):
    """Asks for one URL."""

    @task
    def read(self) -> None:
        self.ask(self.scenario.hot[0])


class Storm(_Paced):
    """Asks for URLs that nobody asked for, and now and then for one that many do."""

    @task
    def read(self) -> None:
        hot = random.random() < 0.1
        self.ask(random.choice(self.scenario.hot if hot else self.scenario.cold_paths))


class Crowd(_Client):
    """Asks in waves, all clients at once. Its time counts from when the wave was due,
    so that a late client is a slow answer."""

    connected = True
    """Before the wave; else it connects with each."""

    @task
    def waves(self) -> None:
        for after in self.scenario.shape.dues():
            if self.connected:
                self._connect()
            due = BEGIN.get() + after
            gevent.sleep(max(0.0, due - time.time()))
            self.ask(self.scenario.hot[0], due)
            if not self.connected:
                self.client.client.clientpool.close()
        raise StopUser

    def _connect(self) -> None:
        """By a request that locust does not count, nor the cache."""
        self.client.client.urlopen(f"{self.host}/healthz").content  # noqa: B018


class Newcomers(Crowd):
    """Clients that connect when they ask."""

    connected = False
