"""Fixtures and options that every test may use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from tests.helpers import SHM

MEASURED = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[MEASURED] = []


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """What the acceptance tests measured, whether or not a bound was asserted."""
    lines = config.stash[MEASURED]
    if lines:
        terminalreporter.section("measured")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def measured(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Add a line to the report at the end of the run."""
    return request.config.stash[MEASURED].append


@pytest.fixture(autouse=True)
def nothing_left_in_shm() -> Iterator[None]:
    """A test that leaves a segment or a socket of its own fails, and it is removed."""
    yield
    left = sorted(SHM.glob(f"*test-{os.getpid()}-*"))
    for path in left:
        path.unlink()
    assert not left
