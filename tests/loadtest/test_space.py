"""What a segment has room for, measured on a small one; stores timed in C."""

import json
import stat

from loadtest import space
from loadtest.space import LEAST, MOST, Found, key_of, sizes_of_many


def test_keys_differ_and_their_lengths_are_spread():
    keys = [key_of(n) for n in range(1600)]
    assert len(set(keys)) == 1600
    assert sorted({len(key) for key in keys}) == list(range(8, 24))


def test_sizes_of_many_are_log_uniform():
    sizes = sizes_of_many(4000)
    assert min(sizes) >= LEAST and max(sizes) <= MOST
    middle = (LEAST * MOST) ** 0.5
    assert 0.45 < sum(size < middle for size in sizes) / 4000 < 0.55


def test_small_segment_is_measured_full(tmp_path):
    found = space.small(2)
    assert 56 <= found.head_and_padding < 64
    assert 0 < found.index < 64 and 0 < found.ghosts < 32
    assert 2000 < found.records < 2 * space.MIB / (56 + space.VALUE_BYTES)
    assert 0.5 < found.live < 1
    assert 0 <= found.private_kib < 1024
    targets = {t.what: t.found for t in Found([found], "none").targets()}
    assert targets["2 MiB: overhead of 300 B, bytes"] == found.overhead


def test_stores_in_c_are_dashed_where_not_built(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(space, "PROGRAM", tmp_path / "none")
    found = Found([], space.latencies([64], 1000, 1))
    found.show()
    assert "bench-l1` builds it" in capsys.readouterr().out
    assert [target.met for target in found.targets()] == [None]


def test_stores_in_c_are_medians_of_runs(tmp_path, monkeypatch):
    line = {"name": "fresh", "mean": 1, "p50": 2, "p99": 3, "p999": 6000, "max": 9}
    program = tmp_path / "store"
    program.write_text(f"#!/bin/sh\necho '{json.dumps(line)}'\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(space, "PROGRAM", program)
    found = Found([], space.latencies([64, 256], 1000, 3))
    assert [(t.found, t.met) for t in found.targets()] == [(6.0, False)] * 2
