"""The public suite of HTTP caches through a real server, as expected.json has it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from . import expected, suite


def test_suite_passes_what_is_expected(
    tmp_path: Path, measured: Callable[[str], None]
) -> None:
    try:
        suite.install()
    except suite.Unavailable as missing:
        measured(f"conformance: NOT RUN, {missing}")
        pytest.skip(str(missing))
    began = time.monotonic()
    known = expected.read()
    results = suite.judged(tmp_path, {one.id for one in known})
    took = time.monotonic() - began
    measured(f"conformance: {suite.counts(results)} passed in {took:.0f} s")
    assert list(expected.changes(known, results)) == []
    for log in tmp_path.rglob("server.log"):
        assert "Traceback" not in log.read_text()
