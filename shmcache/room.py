"""Room: what /dev/shm, the memory limit and the file size limit leave for a segment.

A segment that does not fit is refused before its first page is reserved: a tmpfs that
fills up fails late, and a memory limit that is passed ends in a kill. What the control
group uses and could not give back counts against its limit: the anonymous and the
shared memory of its processes, not the file cache.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")
_NO_LIMIT = 2**60
"""Version 1 says the largest multiple of a page where there is no limit."""


class Limit(NamedTuple):
    """A memory limit that holds for this process."""

    path: Path
    """The file that says it."""
    limit_bytes: int
    used_bytes: int


def refusal(folder: Path, size: int) -> str | None:
    """Why a file of `size` bytes does not fit `folder`, a tmpfs; None if it does."""
    room = os.statvfs(folder)
    free = room.f_bavail * room.f_frsize
    if room.f_blocks and size > free:  # no blocks: a tmpfs without a limit
        return (
            f"does not fit {folder}, which has {free} bytes free; choose a smaller "
            f"size or enlarge {folder} (in a container: --shm-size)"
        )
    for limit in memory_limits():
        if size > limit.limit_bytes - limit.used_bytes:
            return (
                f"does not fit the memory limit of {limit.limit_bytes} bytes "
                f"({limit.path}), of which {limit.used_bytes} are in use; choose a "
                "smaller size or raise the limit"
            )
    largest = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if largest != resource.RLIM_INFINITY and size > largest:
        return (
            f"is larger than a file may be: RLIMIT_FSIZE is {largest} bytes; choose a "
            "smaller size or raise it (ulimit -f)"
        )
    return None


def memory_limits() -> Iterator[Limit]:
    """Those of the process' control group and of the groups above it, of cgroup
    version 1 and 2. What cannot be read is no limit."""
    try:
        lines = OWN_CGROUP.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, inside = line.split(":", 2)
        if not controllers:
            yield from _limits(CGROUPS, inside, "memory.max", ("anon", "shmem"))
        elif "memory" in controllers.split(","):
            names = ("total_rss", "total_shmem")
            yield from _limits(
                CGROUPS / "memory", inside, "memory.limit_in_bytes", names
            )


def _limits(
    top: Path, inside: str, name: str, counted: tuple[str, ...]
) -> Iterator[Limit]:
    """From the group up to the top, which is all that a container may see."""
    group = Path(inside.lstrip("/"))
    groups = [] if ".." in group.parts else [group, *group.parents]
    for folder in dict.fromkeys([top.joinpath(g) for g in groups] + [top]):
        try:
            limit = int((folder / name).read_text())
            stat = (folder / "memory.stat").read_text()
            said = dict(line.split() for line in stat.splitlines())
            used = sum(int(said.get(n, 0)) for n in counted)
        except (OSError, ValueError):  # no such group here, or "max"
            continue
        if limit < _NO_LIMIT:
            yield Limit(folder / name, limit, used)
