"""The library's public surface: a sorted list that can be read, and nothing else."""

from __future__ import annotations

import subprocess
import sys

import shmcache
from shmcache import errors


def test_public_names_are_sorted_and_there() -> None:
    """Constants, classes, functions; as the linter sorts them."""

    def place(name: str) -> tuple[bool, bool, str]:
        return not name.isupper(), name[0].islower(), name

    assert shmcache.__all__ == sorted(set(shmcache.__all__), key=place)
    assert all(hasattr(shmcache, name) for name in shmcache.__all__)


def test_public_names_hold_every_error() -> None:
    assert set(errors.__all__) <= set(shmcache.__all__)
    tree = {n for n, v in vars(errors).items() if isinstance(v, type)}
    assert tree == set(errors.__all__)


def test_import_starts_nothing() -> None:
    """No thread, no descriptor, no child: `Cache` is the only root."""
    look = (
        "import os, threading; before = set(os.listdir('/proc/self/fd')); "
        "import shmcache; after = set(os.listdir('/proc/self/fd')); "
        "print(after <= before, threading.active_count())"
    )
    out = subprocess.run(
        [sys.executable, "-c", look], capture_output=True, text=True, check=True
    )
    assert out.stdout.split() == ["True", "1"]
