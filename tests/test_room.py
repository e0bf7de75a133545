"""What a segment must fit: /dev/shm, memory limits of both cgroup versions, ulimit."""

import os
import resource
from pathlib import Path

import pytest

from shmcache import room
from shmcache.room import Limit, memory_limits, refusal

MIB = 1 << 20


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """A made-up tree of control groups, and which of them is ours."""
    monkeypatch.setattr(room, "CGROUPS", tmp_path)
    monkeypatch.setattr(room, "OWN_CGROUP", tmp_path / "own")

    def make(own, **files):
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("memory_", "memory.")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


def v2(limit, anon=0, shmem=0):
    stat = f"anon {anon}\nfile 999999999\nshmem {shmem}\n"
    return {"memory_max": f"{limit}\n", "memory_stat": stat}


def inside(folder, files):
    return {f"{folder}__{name}": text for name, text in files.items()}


def test_limit_of_version_2_counts_what_cannot_be_given_back(groups):
    top = groups("0::/app/web\n", **inside("app__web", v2(64 * MIB, 3 * MIB, 4 * MIB)))
    path = top / "app" / "web" / "memory.max"
    assert list(memory_limits()) == [Limit(path, 64 * MIB, 7 * MIB)]


def test_limits_of_the_groups_above_hold_too(groups):
    files = inside("app__web", v2("max")) | inside("app", v2(8 * MIB)) | v2(16 * MIB)
    groups("0::/app/web\n", **files)
    assert [found.limit_bytes for found in memory_limits()] == [8 * MIB, 16 * MIB]


@pytest.mark.parametrize("own", ["0::/\n", "0::/not/seen/here\n", "0::/../other\n"])
def test_container_sees_its_own_group_as_the_top(groups, own):
    top = groups(own, **v2(8 * MIB))
    assert [found.path for found in memory_limits()] == [top / "memory.max"]


def test_limit_of_version_1(groups):
    stat = "cache 5\nrss 7\ntotal_rss 2097152\ntotal_shmem 1048576\n"
    own = "9:name=systemd:/\n4:cpu,memory:/docker/1\n0::/\n"
    files = {"memory_limit_in_bytes": str(32 * MIB), "memory_stat": stat}
    top = groups(own, **inside("memory__docker__1", files))
    path = top / "memory" / "docker" / "1" / "memory.limit_in_bytes"
    assert list(memory_limits()) == [Limit(path, 32 * MIB, 3 * MIB)]


def test_no_limit_of_version_1_is_none(groups):
    files = {"memory_limit_in_bytes": "9223372036854771712", "memory_stat": ""}
    groups("4:memory:/\n", **inside("memory", files))
    assert list(memory_limits()) == []


@pytest.mark.parametrize("text", ["", "many", "max"])
def test_unreadable_limit_is_none(groups, text):
    groups("0::/\n", memory_max=text, memory_stat="anon 1\n")
    assert list(memory_limits()) == []


@pytest.mark.parametrize("stat", ["anon 1 2\n", "anon many\n", "\n"])
def test_unreadable_use_is_no_limit(groups, stat):
    groups("0::/\n", memory_max=str(MIB), memory_stat=stat)
    assert list(memory_limits()) == []


def test_without_control_groups_there_is_no_limit(monkeypatch):
    monkeypatch.setattr(room, "OWN_CGROUP", Path("/nowhere"))
    assert list(memory_limits()) == []


def test_own_control_group_can_be_read():
    """Whatever it says: its files are where we look, or there is no limit."""
    assert all(found.limit_bytes > found.used_bytes for found in memory_limits())


def test_segment_above_what_the_limit_leaves_is_refused_with_the_numbers(groups):
    groups("0::/\n", **v2(64 * MIB, anon=10 * MIB))
    assert refusal(Path("/dev/shm"), 54 * MIB) is None
    why = refusal(Path("/dev/shm"), 54 * MIB + 4096)
    assert f"memory limit of {64 * MIB} bytes" in why
    assert f"of which {10 * MIB} are in use" in why


def test_segment_above_the_free_space_is_refused_with_the_numbers():
    found = os.statvfs("/dev/shm")
    whole = found.f_blocks * found.f_frsize
    assert "/dev/shm, which has" in refusal(Path("/dev/shm"), whole + 4096)


def test_tmpfs_without_a_limit_has_room(monkeypatch):
    class Unlimited:
        f_bavail = f_blocks = 0
        f_frsize = 4096

    monkeypatch.setattr(os, "statvfs", lambda path: Unlimited)
    assert refusal(Path("/dev/shm"), MIB) is None


def test_segment_above_the_file_size_limit_is_refused(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (MIB, MIB))
    assert f"RLIMIT_FSIZE is {MIB} bytes" in refusal(Path("/dev/shm"), MIB + 4096)
    assert refusal(Path("/dev/shm"), MIB) is None
