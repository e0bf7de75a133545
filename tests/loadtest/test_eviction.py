"""The eviction benchmark: the size it seeks, its runs, its command."""

import json
import lzma
import random
import sys

import pytest

from loadtest import eviction, policies
from loadtest.eviction import PAGE, Played, Row, play, seek, smallest, targets
from loadtest.traces import read
from tests.helpers import python

MIB = 1 << 20


@pytest.fixture
def trace(tmp_path):
    """Requests of which some keys get more, over five times what 1 MiB holds."""
    pick = random.Random(3)
    numbers = [int(20_000 * pick.random() ** 3) for _ in range(12_000)]
    path = tmp_path / "tiny.csv.xz"
    text = "key,size\n" + "".join(f"{n},{1 + n % 900}\n" for n in numbers)
    path.write_bytes(lzma.compress(text.encode(), preset=0))
    return path


def test_seek_finds_the_size_of_a_line():
    sizes = []

    def held(size):
        sizes.append(size)
        return 0.9 * (size - 50 * PAGE)

    wanted = 0.9 * 950 * PAGE
    assert held(seek(held, wanted, 700 * PAGE, PAGE)) == pytest.approx(wanted, rel=0.01)
    assert len(sizes) <= 5


def test_seek_crosses_a_step():
    """At some size the shards are more, and hold less than a smaller segment."""

    def held(size):
        return size * (0.9 if size < 1000 * PAGE else 0.7)

    wanted = 800 * PAGE
    assert held(seek(held, wanted, 1100 * PAGE, PAGE)) == pytest.approx(
        wanted, rel=0.02
    )


def test_seek_finds_none_below_the_least_size():
    assert seek(lambda size: size * 0.9, 10 * PAGE, 20 * PAGE, 256 * PAGE) is None


def test_smallest_size_is_accepted_and_none_below(trace):
    least = smallest(300)
    eviction.binding.plan(least, 300)
    with pytest.raises(eviction.SegmentError):
        eviction.binding.plan(least - PAGE, 300)


def test_run_counts_what_the_table_holds_and_repeats(trace):
    read_ = read(trace, 300)
    first, again = (play(read_, MIB, 450) for _ in range(2))
    assert first == again
    assert 0 < first.live_bytes < MIB
    assert first.records < len(read_.distinct)
    assert 0 < first.hit_ratio < 100
    assert play(read_, 8 * MIB, 450).hit_ratio > first.hit_ratio


def test_rewrites_are_three_of_ten_operations(trace):
    read_ = read(trace, 300)
    rewrites = play(read_, MIB, 450, rewrites=0.3).rewrites
    assert rewrites / (rewrites + len(read_.keys)) == pytest.approx(0.3, abs=0.02)


def row(records, ours, one_shard, rewritten, **peers):
    def played(hit_ratio, shards=1):
        return Played(MIB, shards, hit_ratio, records, 1.0, 0, 0)

    return Row(
        "t", 1, played(ours, 4), played(one_shard), played(rewritten), peers=peers
    )


def test_targets_bind_by_the_records_held():
    peers = {"LRU": 40.0, "S3-FIFO": 42.0, "Belady": 90.0}
    few = targets([row(499, 41, 42, 39, **peers)])
    some = targets([row(500, 41, 42, 39, **peers)])
    many = targets([row(2000, 41, 42, 39, **peers)])
    assert few == []
    assert {t.what: t.met for t in some} == {
        "t 1 %: ours - S3-FIFO": True,
        "t 1 %: ours - ours with 1 shard": False,
        "t 1 %: with rewrites - without": False,
    }
    found = {t.what: t.met for t in many}
    assert found["t 1 %: ours - LRU"] is True
    assert found["t 1 %: ours - S3-FIFO"] is False
    assert found["mean from 2,000 records on: ours - LRU"] is True
    assert found["mean from 2,000 records on: ours - ARC"] is None
    assert not any("Belady" in what for what in found)


def test_command_prints_ours_alone_without_libcachesim(trace, tmp_path):
    out = tmp_path / "found.json"
    code = (
        "import sys; sys.modules['libcachesim'] = None; "
        "from loadtest.eviction import main; sys.exit(main())"
    )
    args = (str(trace), "--shares", "0.01", "40", "--json", str(out))
    process = python("-c", code, *args, stdout=-1, stderr=-1, text=True)
    told, warned = process.communicate(timeout=30)
    assert process.returncode == 0, warned
    assert "eviction: ours alone" in warned
    small, large = json.loads(out.read_text())["rows"]
    assert small["ours"] is None and "tiny at 0.01 %: no segment" in told
    assert large["peers"] is None
    assert f"{large['ours']['hit_ratio']:.2f}" in told


@pytest.mark.parametrize("text", [b"key,size\na,1\n", lzma.compress(b"key,size\na\n")])
def test_command_refuses_what_is_no_trace(tmp_path, capsys, text):
    path = tmp_path / "bad.csv.xz"
    path.write_bytes(text)
    assert eviction.main([str(path)]) == 2
    assert f"eviction: {path}: " in capsys.readouterr().err


class Lru:
    """What stands in for libcachesim: its face, and the simplest of policies."""

    class Request:
        obj_id = obj_size = next_access_vtime = 0

    class Cache:
        def __init__(self, capacity, **settings):
            self.capacity, self.held = capacity, {}

        def get(self, request):
            hit = self.held.pop(request.obj_id, None) is not None
            self.held[request.obj_id] = request.obj_size
            while sum(self.held.values()) > self.capacity:
                del self.held[next(iter(self.held))]
            return hit

    def __getattr__(self, name):
        return self.Cache


def test_peers_are_asked_in_the_traces_order(tmp_path):
    path = tmp_path / "t.csv.xz"
    path.write_bytes(lzma.compress(b"key,size\na,5\nb,5\na,5\nc,5\nb,5\na,5\n"))
    found = policies.hit_ratios(Lru(), read(path, 300), capacity=10)
    assert set(found) == set(policies.NAMES)
    assert found["LRU"] == pytest.approx(100 / 6)


def test_missing_library_says_why(monkeypatch):
    monkeypatch.setitem(sys.modules, "libcachesim", None)
    assert str(policies.library()).startswith("libcachesim: ")
