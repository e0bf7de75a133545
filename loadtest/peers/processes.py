"""What /proc tells of a server's processes: which they are, their CPU, their memory."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


def tree(root: int) -> list[int]:
    """A process and all that descend from it."""
    children = defaultdict(list)
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                children[int(_stat(int(folder.name))[1])].append(int(folder.name))
    found = [root]
    for pid in found:  # grows as we go
        found += children[pid]
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of the processes, their threads, and the children they
    waited for."""
    ticks = 0
    for pid in pids:
        with suppress(OSError):
            ticks += sum(map(int, _stat(pid)[11:15]))
    return ticks / TICK


def busy_seconds() -> float:
    """CPU time of everything on the machine, the kernel's included."""
    with open("/proc/stat") as file:
        user, nice, system, _, _, irq, softirq, steal = file.readline().split()[1:9]
    return sum(map(int, (user, nice, system, irq, softirq, steal))) / TICK


def pss_bytes(pids: Iterable[int]) -> int:
    """Their memory, what several map being shared out among them."""
    return 1024 * sum(_field(pid, "smaps_rollup", "Pss") for pid in pids)


def rss_bytes(pids: Iterable[int]) -> int:
    return 1024 * sum(_field(pid, "status", "VmRSS") for pid in pids)


def file_bytes(folder: Path) -> int:
    """What its files take, in whole blocks; some may go meanwhile."""
    blocks = 0
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):
            blocks += file.stat().st_blocks
    return 512 * blocks


def identity(pid: int) -> str | None:
    """When it was started, in ticks: no later process of the same id has that."""
    with suppress(OSError):
        return _stat(pid)[19]
    return None


def _stat(pid: int) -> list[str]:
    """The fields after the name, which may itself hold blanks: [0] is the state."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _field(pid: int, file: str, name: str) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
    return 0
