"""What locust runs: a scenario's clients, and once a second a line of JSON with what
they have seen so far. `load.py` starts it; its options say which scenario."""

from __future__ import annotations

import json
import logging
import os
import time
from argparse import ArgumentParser
from collections import Counter

import gevent
from locust import LoadTestShape, events, runners, stats

from loadtest import users
from loadtest.death import Ask
from loadtest.scenarios import scenarios
from loadtest.users import Crowd, Newcomers, Reader, Storm
from shmcache_server.embedded import die_with_parent

__all__ = ["Clients", "Crowd", "Newcomers", "Reader", "Storm"]

_GET_READY = 1.0
"""Seconds from the moment that all clients are there to the first wave."""
_FIRST = 60.0
"""Seconds for the first answer to come."""
_LAST = 15.0
"""Seconds for the last reports to come."""
runners.WORKER_REPORT_INTERVAL = 0.5
runners.CPU_MONITOR_INTERVAL = 1.0


def _bucket(ms: float) -> float:
    """Locust's own has whole milliseconds, and two digits of what is longer."""
    return round(ms, 1) if ms < 100 else round(ms)


stats.bucket_response_time = _bucket


class Clients(LoadTestShape):
    """The scenario's shape, as locust asks for it. Its time counts from the first
    answer: how long clients take to be there is the machine's."""

    _waited = 0.0
    """Seconds until then."""

    def tick(self):
        environment, run_time = self.runner.environment, self.get_run_time()
        scenario, answers = environment.scenario, self.runner.stats.total.num_requests
        if not answers and run_time < _FIRST:
            self._waited = run_time
        told = scenario.shape.tick(run_time - self._waited, answers)
        if told is None:
            # quit, which comes next, waits for no request that is under way
            self.runner.stop()
            return None
        return *told, [getattr(users, scenario.user)]


@events.init_command_line_parser.add_listener
def _options(parser: ArgumentParser) -> None:
    parser.add_argument("--scenario", default="sustained", choices=[*scenarios(True)])
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--bases", default="", help="of the hosts, by commas")


@events.init.add_listener
def _init(environment, runner, **_) -> None:
    logging.getLogger("locust.stats_logger").disabled = True  # load.py has a table
    told = environment.parsed_options
    environment.scenario = scenarios(told.short)[told.scenario]
    if isinstance(runner, runners.WorkerRunner):
        die_with_parent(os.getppid())
        runner.register_message("begin", lambda msg, **_: users.BEGIN.set(msg.data))
        asks: list[Ask] = []
        events.request.add_listener(lambda **told: asks.append(_ask(**told)))
        events.test_stop.add_listener(lambda **_: runner.send_message("asks", asks))
    else:
        runner.asks = []
        runner.register_message("asks", lambda msg, **_: runner.asks.append(msg.data))
        events.test_stop.add_listener(lambda **_: _complete(runner))
        events.test_start.add_listener(lambda **_: gevent.spawn(_report, runner))
        events.spawning_complete.add_listener(lambda **_: _begin(runner))
        events.quit.add_listener(lambda **_: _tell(runner))


def _ask(start_time, response_time, exception, **_) -> Ask:
    return Ask(start_time, start_time + response_time / 1000, exception is not None)


def _complete(runner) -> None:
    """All have stopped; wait for their last reports."""
    workers = runner.environment.parsed_options.expect_workers
    with gevent.Timeout(_LAST, False):
        while len(runner.asks) < workers or (
            runner.stats.total.num_requests < sum(map(len, runner.asks))
        ):
            gevent.sleep(0.01)


def _begin(runner) -> None:
    """All clients are there."""
    runner.first = time.time() + _GET_READY
    runner.send_message("begin", runner.first)


def _report(runner) -> None:
    while True:
        _tell(runner)
        gevent.sleep(1)


def _tell(runner) -> None:
    """A line of what was counted since the start; times in ms."""
    counts: Counter[str] = Counter()
    for entry in runner.stats.entries.values():
        counts[entry.name] += entry.num_requests
    total = runner.stats.total
    workers = getattr(runner, "clients", {}).values()
    line = {
        "clients": runner.user_count,
        "requests": total.num_requests,
        "failures": total.num_failures,
        "fates": counts,
        "times": {str(ms): n for ms, n in total.response_times.items()},
        "errors": {error.error: error.occurrences for error in runner.errors.values()},
        "asks": [ask for asks in getattr(runner, "asks", ()) for ask in asks],
        "first": getattr(runner, "first", None),
        "cpu": max((worker.cpu_usage for worker in workers), default=0),
    }
    print(json.dumps(line), flush=True)
