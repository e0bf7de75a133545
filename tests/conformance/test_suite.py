"""What the driver says of results, and where the suite cannot be had."""

from __future__ import annotations

import pytest

from . import suite
from .suite import Result, Unavailable, counts


def test_counts_are_by_kind() -> None:
    results = [
        Result("vary", "vary-match", "optimal", "pass", ""),
        Result("vary", "vary-2-match", "optimal", "dependency failed", ""),
        Result("auth", "other-authorization", "required", "setup failed", "Setup: 502"),
    ]
    assert counts(results) == "required 0 of 1, optimal 1 of 2, check 0 of 0"


def test_install_without_node_names_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="no node on PATH"):
        suite.install()


def test_install_that_npm_refuses_says_why(tmp_path, monkeypatch) -> None:
    for program in ("node", "npm"):
        (tmp_path / program).write_text("#!/bin/sh\necho no such host >&2\nexit 1\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(suite, "INSTALLED", tmp_path / "installed")
    with pytest.raises(Unavailable, match="no such host"):
        suite.install()
    assert not (tmp_path / "installed" / ".stamp-installed").exists()
