"""A benchmark as a command: what it is told, and how it ends when it is stopped."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

INTERRUPTED = 130
"""Exit code, as a shell has it."""


def run(name: str, main: Callable[[], int]) -> int:
    """`main`; Ctrl-C and SIGTERM unwind it, so that what it made is removed."""
    signal.signal(signal.SIGTERM, _unwind)
    try:
        return main()
    except KeyboardInterrupt:
        print(f"{name}: stopped", file=sys.stderr)
        return INTERRUPTED


def _unwind(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def writable(text: str) -> Path:
    """A file to be written at the end, refused before minutes are spent."""
    path = Path(text)
    at = path if path.exists() else path.absolute().parent
    if path.is_dir() or not os.access(at, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written")
    return path


def positive(text: str) -> int:
    """A number of at least 1."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return int(text)
