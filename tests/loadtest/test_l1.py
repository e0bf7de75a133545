"""The L1 benchmark: its stores hold what they are filled with, its sides measure."""

import os
from itertools import islice

import msgpack
import pytest

from loadtest import l1, sides, stores
from loadtest.l1 import LOOP, Measured, Plan, Row, measure, scaling
from loadtest.sides import Workload
from loadtest.stores import DECODED, DICT, OURS, Kind, document, documents
from tests.helpers import segment_name, shm_names

LOAD = Workload(300, 300)


@pytest.mark.parametrize("size", [100, 300, 4096])
def test_documents_have_their_length_and_differ(size):
    first, second = documents(2, size)
    assert len(first) == len(second) == size
    assert msgpack.unpackb(first) == document(0, size)
    assert msgpack.unpackb(second) == document(1, size)


def broken(place):
    raise ImportError("no such peer")


def fails_later(place):
    def get(key):
        raise OSError("disk gone")

    return stores.Store(get, lambda key, value: None)


@pytest.fixture
def measured(monkeypatch):
    kinds = [kind for kind in stores.KINDS if kind.name in (OURS, DECODED, DICT)]
    kinds += [Kind("broken", broken), Kind("fails later", fails_later, shared=True)]
    for module in (l1, stores, sides):
        monkeypatch.setattr(module, "KINDS", kinds)
    name = segment_name()
    monkeypatch.setattr(l1, "fresh_name", lambda: name)
    cores = sorted(os.sched_getaffinity(0))
    yield measure(LOAD, Plan(2, 200_000), "", [cores[0], cores[-1]])
    assert not shm_names(name)


def test_rounds_fill_every_figure_of_every_store(measured):
    for name in (OURS, DECODED, DICT):
        row = measured.rows[name]
        assert not row.missing and row.held == 1
        assert {f: len(r) for f, r in row.rounds.items()} == dict.fromkeys(
            l1.FIGURES, 2
        )
        assert all(ns > 0 for r in row.rounds.values() for ns in r)
    assert set(measured.rows[LOOP].rounds) == {"get"}
    assert [len(line) for line in l1.lines(measured)] == [len(l1.HEAD)] * 6


def test_store_that_fails_is_a_dash_and_a_reason(measured):
    lines = {line[1]: line for line in l1.lines(measured)}
    for name, why in (("broken", "no such peer"), ("fails later", "disk gone")):
        assert why in measured.rows[name].missing
        assert lines[name][3:] == ["-"] * (len(l1.HEAD) - 3)


def test_scaling_of_two_is_perfect():
    row = Row(DICT, False)
    row.rounds.update({"get": [10.0, 20.0], "get 2": [10.0, 20.0]})
    assert scaling(Measured(LOAD, {DICT: row}), DICT) == 2
    assert scaling(Measured(LOAD, {DICT: Row(DICT, False)}), DICT) is None


@pytest.mark.parametrize("each", [10.0, 100.0, 1e6])
def test_tasks_lie_within_the_keys(each):
    load = Workload(1000, 300)
    tasks = list(islice(Plan(9, 50_000).tasks(OURS, "get", each, load, 0), 50))
    for task in tasks:
        assert 0 <= task.first <= load.records - task.count
        assert task.count and task.passes
    if tasks[0].count < load.records:
        assert tasks[0].first != tasks[1].first
