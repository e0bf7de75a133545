"""Processes that open one Cache by name: one segment, one compute a key."""

from __future__ import annotations

import os
import signal
import time

from tests.helpers import segment_name, until
from tests.processes.peers import Compute
from tests.redis_server import redis_server


def test_set_in_one_process_peek_in_another(hosts) -> None:
    one, other = hosts.start(2)
    assert other.do("peek", key="btc") == "MISSING"
    one.do("set", key="btc", value={"price": 1})
    assert other.do("peek", key="btc") == {"price": 1}


def test_delete_in_one_process_is_a_miss_in_another(hosts) -> None:
    one, other = hosts.start(2)
    one.do("set", key="btc", value=1)
    assert other.do("peek", key="btc") == 1
    one.do("delete", key="btc")
    assert other.do("peek", key="btc") == "MISSING"
    assert other.do("get", key="btc") == "MISSING"


def test_cold_key_in_four_processes_one_compute(hosts, tmp_path) -> None:
    compute = Compute(tmp_path)
    four = hosts.start(4)
    answers = [p.start("get_or_set", key="btc", **compute.order) for p in four]
    until(compute.pids, 5, "the compute")
    compute.let_go()
    assert [a.result(10) for a in answers] == [{"computed by": compute.pids()[0]}] * 4
    assert len(compute.pids()) == 1


def test_killed_computing_process_another_goes_on(hosts, tmp_path, measured) -> None:
    compute = Compute(tmp_path)
    four = hosts.start(4)
    answers = {p: p.start("get_or_set", key="btc", **compute.order) for p in four}
    first = until(compute.pids, 5, "the compute")[0]
    os.kill(first, signal.SIGKILL)
    killed = time.monotonic()
    until(lambda: len(compute.pids()) == 2, 1, "another process computing")
    took = time.monotonic() - killed
    measured(f"computing process killed, another took over after {took:.3f} s")
    compute.let_go()
    rest = [a.result(10) for p, a in answers.items() if p.pid != first]
    assert rest == [{"computed by": compute.pids()[1]}] * 3
    assert len(compute.pids()) == 2


def test_cold_key_on_two_hosts_one_compute(hosts, tmp_path) -> None:
    compute = Compute(tmp_path)
    with redis_server() as redis:
        fleet = (redis.url, segment_name())
        four = [*hosts.start(2, *fleet), *hosts.start(2, *fleet)]
        answers = [p.start("get_or_set", key="btc", **compute.order) for p in four]
        compute.let_go()
        came = [a.result(10) for a in answers]
        hosts.end()
    assert came == [{"computed by": compute.pids()[0]}] * 4
    assert len(compute.pids()) == 1


def test_delete_on_one_host_reaches_the_other(hosts) -> None:
    with redis_server() as redis:
        fleet = (redis.url, segment_name())
        (one,), (other,) = hosts.start(1, *fleet), hosts.start(1, *fleet)
        one.do("set", key="btc", value=1)
        assert other.do("get", key="btc") == 1
        one.do("delete", key="btc")
        until(lambda: other.do("peek", key="btc") == "MISSING", 2, "the delete")
        hosts.end()
