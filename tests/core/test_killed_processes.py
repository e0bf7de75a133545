"""Python processes killed at the core's steps, while others of the host go on."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmcache._core import binding
from shmcache.l1 import L1, segment_name
from tests.core.builds import HERE, ROOT, build_failpoints
from tests.core.doomed import SIZE, is_right, store
from tests.helpers import SHM, until

KILLED = -signal.SIGKILL
SERVICE_SECONDS = 1.0

INIT = re.findall(r'\{"([^"]+)", IN_INIT', (HERE / "failpoint.c").read_text())
STORE = (
    "put.locked:1", "store.head:2", "store.bytes:50", "store.fill:600",
    "publish.slot:700", "put.done:800", "chain.piece:3", "chain.id:2",
    "unlink.slot:2", "choose.open:3", "open.queue:70", "empty.cursor:30",
    "empty.ghost:40", "empty.slot:50", "empty.generation:2", "reset.queue:3",
    "drop.locked:1", "remove.slot:1", "look.head:500", "copy.value:9",
)  # fmt: skip


def python(*args: str, path: Path | None = None) -> subprocess.Popen[str]:
    """A Python process of this tree; of another's binding with `path`."""
    places = [*([str(path)] if path else []), str(ROOT), str(ROOT / "server")]
    return subprocess.Popen(
        [sys.executable, *args],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(places)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def say(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin
    process.stdin.write(line + "\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> int:
    process.kill()
    process.communicate()
    return process.returncode


class Doomed:
    """Processes that end where a failpoint says."""

    def __init__(self, path: Path) -> None:
        self.process = python(str(HERE / "doomed.py"), path=path)
        assert hear(self.process) == "ready"

    def start(self, name: str, failpoints: str) -> None:
        say(self.process, f"{name} {failpoints} doomed")

    def ended(self) -> int:
        return int(hear(self.process))

    def dies(self, name: str, failpoints: str) -> bool:
        self.start(name, failpoints)
        return self.ended() == KILLED


@pytest.fixture(scope="module")
def doomed() -> Iterator[Doomed]:
    doomed = Doomed(build_failpoints())
    yield doomed
    end(doomed.process)


@pytest.fixture
def name() -> Iterator[str]:
    """Of a segment that is gone afterwards."""
    name = f"killed-{secrets.token_hex(6)}"
    yield name
    (SHM / segment_name(name)).unlink(missing_ok=True)


def serve(name: str) -> L1:
    """Attach and store, within the time that the next opener may take."""
    start = time.monotonic()
    l1 = L1.open(name, SIZE)
    l1.join()
    assert store(l1, "here", 7) == binding.OK
    value = l1.peek("here")
    assert value is not None and is_right("here", value)
    assert time.monotonic() - start < SERVICE_SECONDS
    return l1


@pytest.mark.parametrize("point", INIT)
def test_next_opener_serves_after_a_creator_was_killed(
    doomed: Doomed, name: str, point: str
) -> None:
    assert doomed.dies(name, f"{point}:kill:1")
    l1 = serve(name)
    assert sum(l1.table.check(0)["found"].values()) == 0
    l1.close(keep=False)


OPENER = """
    import sys, time
    from tests.core.doomed import SIZE, store
    from shmcache.l1 import L1
    print("ready", flush=True)
    name = sys.stdin.readline().strip()
    start = time.monotonic()
    l1 = L1.open(name, SIZE)
    l1.join()
    stored = store(l1, "mine", 1)
    print(time.monotonic() - start, stored, l1.segment.note, flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("point", ["init.region", "init.shards"])
def test_openers_that_waited_for_a_killed_creator_share_one_segment(
    doomed: Doomed, name: str, point: str
) -> None:
    openers = [python("-c", textwrap.dedent(OPENER)) for _ in range(4)]
    try:
        assert [hear(opener) for opener in openers] == ["ready"] * 4
        doomed.start(name, f"{point}:sleep200:1,{point}:kill:1")
        until((SHM / segment_name(name)).exists, what="the creator's file")
        for opener in openers:
            say(opener, name)
        assert doomed.ended() == KILLED
        told = [hear(opener).split(maxsplit=2) for opener in openers]
        assert all(float(seconds) < SERVICE_SECONDS for seconds, _, _ in told)
        assert [stored for _, stored, _ in told] == [str(binding.OK)] * 4
        assert any("never finished" in note for _, _, note in told)
        l1 = serve(name)
        assert l1.processes() == 5
        l1.close()
    finally:
        for opener in openers:
            end(opener)


WORKER = """
    import sys
    from tests.core.doomed import KEYS, SIZE, is_right, store
    from shmcache.l1 import L1
    l1 = L1.open(sys.argv[1], SIZE)
    l1.join()
    print("ready", flush=True)
    i = 0
    while True:
        i += 1
        key = f"doomed-{i * 7 % KEYS}"
        value = l1.peek(key)
        assert value is None or is_right(key, value), (key, value)
        if i % 8 == 0:
            store(l1, key, i % 2000)
"""


def test_workers_go_on_while_others_are_killed_in_their_stores(
    doomed: Doomed, name: str
) -> None:
    l1 = serve(name)
    workers = [python("-c", textwrap.dedent(WORKER), name) for _ in range(2)]
    try:
        assert [hear(worker) for worker in workers] == ["ready"] * 2
        for point in STORE:
            at, nth = point.split(":")
            assert doomed.dies(name, f"{at}:kill:{nth}"), point
            until(lambda: store(l1, "here", 7) == binding.OK, SERVICE_SECONDS, point)
        assert sum(l1.table.check(0)["found"].values()) == 0
        for worker in workers:
            assert worker.poll() is None  # it found nothing wrong
            assert end(worker) == KILLED
    finally:
        for worker in workers:
            end(worker)
    names = dict(zip(binding.COUNTERS, l1.table.counters(), strict=False))
    assert names["locks_recovered"] > 10 and names["shards_wiped"] == 0
    assert names["hits"] > 0 and names["evicted"] > 100
    l1.close(keep=False)
