"""Users: locust's clients, one class for each way to ask.

They count and hardly look: a status, and that there is a body. Each answer is filed
under its fate, so that locust's table says what the cache did. `witness.py` reads.
"""

from __future__ import annotations

import random
import time
from itertools import count
from time import perf_counter
from typing import Any

import gevent
from gevent.event import AsyncResult
from locust import task
from locust.contrib.fasthttp import FastHttpUser
from locust.exception import CatchResponseError, StopUser

from .fates import FAILED, REFUSED, fate
from .scenarios import Scenario

_FIELDS = {"Accept-Encoding": "identity"}
"""As the witness has it: who takes gzip has another key."""
_OVER = 1.0
"""Seconds from an answer to when all others of its wave are there."""
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
        super().__init__(environment)

    def fate_of(self, answer) -> tuple[str, str]:
        """What to file it under, and what is wrong with it."""
        fields = answer.headers or {}
        if answer.status_code == 200 and answer.content:
            return fate(fields.get("Cache-Status", "")), ""
        refused = self.scenario.budget and "Retry-After" in fields
        if answer.status_code == 503 and refused:
            return REFUSED, ""
        why = getattr(answer, "error", None) or ""
        return FAILED, f"{answer.status_code} {why}".strip()


class _Paced(_Client):
    """Asks at its pace, over a connection that it keeps."""

    abstract = True

    def on_start(self) -> None:
        """Not all at one moment. Locust's own pace counts from when a client was
        made, which is one moment for all."""
        gevent.sleep(random.random() / self.scenario.pace)
        self._due = perf_counter()

    def wait_time(self) -> float:
        self._due += 1 / self.scenario.pace
        return max(0.0, self._due - perf_counter())

    def ask(self, path: str) -> None:
        with self.client.get(path, headers=_FIELDS, catch_response=True) as answer:
            answer.request_meta["name"], wrong = self.fate_of(answer)
            answer.failure(wrong) if wrong else answer.success()


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
            self._ask(self.scenario.hot[0], due)
            if not self.connected:
                self.client.client.clientpool.close()
        raise StopUser

    def _ask(self, path: str, due: float) -> None:
        """Locust is told once the wave is over: to count an answer takes longer than
        the server took for it, and others wait behind that."""
        told: dict[str, Any] = {"name": FAILED, "exception": None}
        body = b""
        try:
            answer = self.client.client.urlopen(self.host + path, headers=_FIELDS)
            body = answer.content
            took = time.time() - due
            told["name"], wrong = self.fate_of(answer)
            told["exception"] = CatchResponseError(wrong) if wrong else None
        except Exception as e:  # its library has many
            told["exception"], took = e, time.time() - due
        gevent.sleep(_OVER)
        self.environment.events.request.fire(
            request_type="GET",
            start_time=due,
            response_time=1000 * took,
            response_length=len(body),
            context={},
            **told,
        )

    def _connect(self) -> None:
        """By a request that locust does not count, nor the cache."""
        self.client.client.urlopen(f"{self.host}/healthz").content  # noqa: B018


class Newcomers(Crowd):
    """Clients that connect when they ask."""

    connected = False
