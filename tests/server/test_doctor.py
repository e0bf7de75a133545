"""`shmcache doctor` and `shmcache hot` as processes: what they print, how they end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from shmcache.inspect import Hot
from shmcache.l1 import L1
from shmcache.record import Record
from shmcache_server import doctor
from shmcache_server.cli import commands
from tests.helpers import SHM, python, segment_name, shm_names

SIZE = 2 << 20
LIVE = """
import sys
from shmcache.l1 import L1
from shmcache.record import Record
l1 = L1.open(sys.argv[1], int(sys.argv[2]))
l1.join()
now = l1.clock.now()
for i in range(500):
    record = Record(b"v" * 100, 0, 0, now, now + 10**13, now + 10**13, 0, 1, 900, ())
    assert l1.put(b"key-%d" % i, record) == 0
for _ in range(6400):
    l1.peek(b"key-7")
print(l1.segment.path.name, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def name() -> Iterator[str]:
    chosen = segment_name()
    yield chosen
    for file in shm_names(chosen):
        (SHM / file).unlink()


@pytest.fixture
def holder(name: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", LIVE, name, str(SIZE)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def live(holder: subprocess.Popen[str]) -> str:
    """The file of a segment that a process holds."""
    assert holder.stdout is not None
    file = holder.stdout.readline().strip()
    assert file, "the holder did not start"  # else tests would change /dev/shm itself
    return file


@pytest.fixture
def left(live: str, holder: subprocess.Popen[str]) -> str:
    """The file of a segment whose holder was killed."""
    holder.kill()
    holder.communicate()
    return live


def shmcache(*words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    process = python(
        *("-m", "shmcache_server", *words),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out, errors = process.communicate(timeout=30)
    assert "Traceback" not in errors
    return process.returncode, out, errors


def damage(file: str) -> None:
    out = shmcache("doctor", file, "--json")[1]
    (told,) = json.loads(out)["segments"]
    index = next(r["offset"] for r in told["regions"] if r["name"] == "index")
    with (SHM / file).open("r+b") as segment:
        segment.seek(index)
        segment.write(b"\xff" * 8)


# ---- doctor


def test_live_segment_is_well(live, holder, name) -> None:
    code, out, _ = shmcache("doctor", name)
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == f"{live}: well; held by {holder.pid}"
    assert "2.0 MiB, 1 shards (0 disabled), 500 records" in lines[1]
    assert "1 processes alive" in lines[2]
    assert any(line.startswith("clock: ") for line in lines)
    assert any(line.startswith("/dev/shm: ") for line in lines)
    assert any(line.startswith("huge pages of shared memory: ") for line in lines)


def test_left_segment_is_told_and_cleaned(left, name) -> None:
    code, out, _ = shmcache("doctor", name)
    assert code == 0
    assert out.startswith(f"{left}: well; left over, nobody holds it\n")
    assert shmcache("doctor", "--clean", name) == (0, f"{left}: removed\n", "")
    assert not shm_names(name)


def test_held_segment_is_left(live, name) -> None:
    code, out, _ = shmcache("doctor", "--clean", name)
    assert (code, out) == (1, f"{live}: left, it is held\n")
    assert (SHM / live).exists()


def test_damaged_segment_is_exit_code_1(left, name) -> None:
    damage(left)
    code, out, _ = shmcache("doctor", name)
    assert code == 1
    assert out.startswith(f"{left}: 1 fault; left over")
    assert "  fault: shard 0: slot 0 is of a past generation" in out


def test_foreign_segment_is_told_with_its_reason(left, name) -> None:
    with (SHM / left).open("r+b") as segment:
        segment.seek(12)
        segment.write(b"\0\1\2\3")
    code, out, _ = shmcache("doctor", name)
    assert code == 0
    assert "cannot be attached, its layout (" in out and "another build's" in out
    assert shmcache("doctor", "--clean", name)[:2] == (0, f"{left}: removed\n")


def test_file_that_others_may_read_is_a_fault(left, name) -> None:
    (SHM / left).chmod(0o644)
    code, out, _ = shmcache("doctor", name)
    assert code == 1 and "mode 0600" in out
    assert shmcache("doctor", "--clean", name)[0] == 1
    assert shmcache("hot", name)[0] == 2


def test_segment_that_cannot_be_read_hides_no_other(live, name) -> None:
    other = SHM / f"shmcache.00000001.{name}"
    other.touch(0o600)
    code, out, _ = shmcache("hot", name)
    assert code == 0 and "key-7" in out
    assert out.splitlines()[-1] == f"segment {other}: it was never finished"
    assert name in shmcache("hot", other.name)[2]
    assert shmcache("hot", other.name)[0] == 2


@pytest.mark.parametrize("words", [("doctor",), ("doctor", "--clean"), ("hot",)])
def test_unknown_name_is_one_line_and_exit_code_2(words, name) -> None:
    code, out, errors = shmcache(*words, name)
    assert (code, out) == (2, "")
    assert errors.startswith(f"shmcache: no segment {name!r} of this user in /dev/shm")
    assert errors.count("\n") == 1


@pytest.mark.parametrize("words", [("doctor",), ("doctor", "--clean"), ("hot",)])
def test_beginning_of_names_lists_them_and_touches_none(words, live, name) -> None:
    other = SHM / f"shmcache.00000001.{name}-2"  # as of another build
    other.touch(0o600)
    again = SHM / f"shmcache.00000001.{name}"
    again.touch(0o600)
    code, out, errors = shmcache(*words, name[:-1])
    assert (code, out) == (2, "")
    assert errors.startswith(f"shmcache: no segment {name[:-1]!r} of this user")
    assert errors.endswith(f"; these begin so: {name}, {name}-2\n")
    assert other.exists() and again.exists()
    assert shmcache("doctor", name)[1].count(f"{name}: ") == 2  # every layout


def test_names_that_are_near_are_told_first(monkeypatch) -> None:
    def told(name: str, *there: str) -> str:
        files = [f"shmcache.00000001.{other}" for other in there]
        monkeypatch.setattr(doctor, "names", lambda name=None: [] if name else files)
        with pytest.raises(LookupError) as error:
            doctor.segments(name)
        return str(error.value).partition("/dev/shm; ")[2]

    assert told("ma", "market", "a.ma", "shop") == "these begin so: market"
    assert told("op", "market", "shop") == "these hold it: shop"
    assert told("x", "market", "shop") == "there are: market, shop"
    assert told("x") == "there is none at all"
    many = told("n", *(f"n{i:02}" for i in range(12)))
    assert many.endswith("n08, n09 and 2 more")


def test_all_segments_are_told_without_a_name(live) -> None:
    code, out, _ = shmcache("doctor")
    assert code in (0, 1)  # of other tests that run beside
    assert f"{live}: well; held by " in out


def test_json_tells_the_same(live, holder, name) -> None:
    code, out, _ = shmcache("doctor", "--json", name)
    said = json.loads(out)
    assert code == 0
    assert {"clock_ns", "shm_free_bytes", "huge_pages"} <= set(said["environment"])
    (told,) = said["segments"]
    assert (told["file"], told["faults"], told["records"]) == (live, [], 500)
    assert told["held_by"] == [holder.pid]
    assert told["slots"][0]["pid"] == holder.pid and told["slots"][0]["alive"]
    assert told["shards"][0]["live_bytes"] == told["live_bytes"] > 50_000
    assert {"file": live, "why": None} == {k: told[k] for k in ("file", "why")}


def test_clean_as_json_lists_removed_and_left(left, name) -> None:
    (SHM / f"shmcache.00000001.{name}").touch(0o644)
    said = json.loads(shmcache("doctor", "--clean", "--json", name)[1])
    assert said["removed"] == [left]
    assert list(said["left"]) == [f"shmcache.00000001.{name}"]


def test_segment_removed_meanwhile_is_passed_over(name) -> None:
    said, code = doctor.examine([f"shmcache.00000001.{name}"], as_json=False)
    assert code == 0 and said.startswith("no segment of this user")


@pytest.mark.parametrize("command", ["doctor", "hot"])
def test_help_tells_the_commands_and_exit_codes(command) -> None:
    assert command in CliRunner().invoke(commands, ["--help"]).output
    said = CliRunner().invoke(commands, [command, "--help"]).output
    assert "[NAME]" in said and "--json" in said
    assert ("Exit codes: 0 all well" in said) == (command == "doctor")


# ---- environment


@pytest.fixture
def host() -> doctor.Environment:
    return doctor.Environment(20.0, "tsc", 2**30, 2**29, "advise")


def test_environment_is_measured() -> None:
    found = doctor.environment()
    assert 0 < found.clock_ns < 100_000
    assert 0 <= found.shm_free_bytes <= found.shm_bytes


def test_good_host_gets_no_advice(host) -> None:
    assert "note" not in "".join(doctor._environment_lines(host))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"clock_ns": 250.0, "clock_source": "hpet"}, "clocksource=tsc"),
        ({"huge_pages": "never"}, "echo advise"),
    ],
)
def test_poor_host_is_told_what_to_do(host, changed: dict[str, Any], words) -> None:
    poor = doctor.Environment(**{**doctor.asdict(host), **changed})
    (note,) = [line for line in doctor._environment_lines(poor) if "note" in line]
    assert words in note


def test_host_that_tells_nothing_is_no_error(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "_HUGE_PAGES", tmp_path / "none")
    monkeypatch.setattr(doctor, "_CLOCK_SOURCE", tmp_path / "none")
    lines = "\n".join(doctor._environment_lines(doctor.environment()))
    assert "huge pages of shared memory: unknown" in lines and "source ?" in lines


# ---- hot


def test_hot_keys_are_printed_by_weight(live, name) -> None:
    code, out, _ = shmcache("hot", name)
    lines = out.splitlines()
    assert code == 0 and lines[0] == live
    assert lines[2].split() == ["6400", "key-7"]
    assert lines[3] == "  seconds of computes"
    said = json.loads(shmcache("hot", "--json", name)[1])[live]
    assert said["hits"] == [{"key": "key-7", "weight": 6400}]
    assert len(said["compute_seconds"]) == 64


def test_key_that_the_output_cannot_show_is_escaped(name, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    l1 = L1.open(name, SIZE)
    now = l1.clock.now()
    record = Record(b"v", 0, 0, now, now + 10**13, now + 10**13, 0, 1, 10**6, ())
    assert l1.put("日".encode(), record) == 0
    code, out, _ = shmcache("hot", name)
    assert code == 0 and "\\u65e5" in out
    l1.close(keep=False)


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        (b"plain key", "plain key"),
        ("schlüssel".encode(), "schlüssel"),
        (b"\x1b[31mred\n", "\\x1b[31mred\\n"),
        (b"\xff\x00", "\\xff\\x00"),
        (None, "(gone, hash 0000beef...)"),
    ],
)
def test_key_cannot_command_the_terminal(key, shown) -> None:
    assert doctor._key(Hot(1, 0xBEEF, key)) == shown
