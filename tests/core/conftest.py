"""Segments for the core's tests: a mapped file, tables upon it, explicit times."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shmcache._core import binding
from shmcache._core.binding import Table

MIB = 1 << 20


def map_segment(fd: int) -> mmap.mmap:
    return mmap.mmap(fd, os.fstat(fd).st_size)


def init(buffer: mmap.mmap, record_bytes: int = 0) -> None:
    binding.init(
        buffer,
        size=len(buffer),
        record_bytes=record_bytes,
        seed=bytes(range(16)),
        boot_id=b"boot" * 4,
        clock_ns=5,
        config=6,
        uid=7,
    )


@pytest.fixture
def segment_file() -> Iterator[Path]:
    """A file of 1 MiB, zeroed, where the system keeps shared memory if it has any."""
    shm = Path("/dev/shm")
    with tempfile.NamedTemporaryFile(
        prefix="shmcache-test-", dir=shm if shm.is_dir() else None
    ) as file:
        os.posix_fallocate(file.fileno(), 0, MIB)
        yield Path(file.name)


@pytest.fixture
def segment(segment_file: Path) -> mmap.mmap:
    """A ready segment of 1 MiB."""
    with segment_file.open("r+b") as file:
        mapped = map_segment(file.fileno())
    init(mapped)
    return mapped


@pytest.fixture
def attach(segment: mmap.mmap) -> Callable[[int], Table]:
    """Attach as the process of a slot."""

    def attach(slot: int) -> Table:
        table = Table(segment)
        table.take_slot(slot, 1000 + slot, now=0)
        return table

    return attach


@pytest.fixture
def table(attach: Callable[[int], Table]) -> Table:
    return attach(0)
