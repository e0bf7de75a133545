"""A hundredth of `make fuzz`'s random requests, and that the fuzz would tell."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.security import fuzz_headers
from tests.security.conftest import fronting
from tests.security.origin import said


def test_random_requests_are_answered_or_closed(tmp_path: Path) -> None:
    with fronting(tmp_path, fuzz_headers.SETTINGS) as front:
        found = fuzz_headers.run(front, seed=1, requests=1000)
    assert found.wrong == []
    assert found.answers[200] > 150 and found.closed > 100


def test_history_is_the_same_for_the_same_seed() -> None:
    one, other = (fuzz_headers.history(random.Random("7")) for _ in range(2))
    assert one == other


@pytest.mark.parametrize(
    ("status", "body"), [("500 Error", b"a"), ("200 OK\r\nContent-Length: 9", b"a")]
)
def test_what_is_wrong_is_found(front, monkeypatch, status, body) -> None:
    """An origin whose errors the server passes on, and one whose answers it refuses."""
    monkeypatch.setattr(
        fuzz_headers, "answer", lambda asked: said(body, status=status, age=0)
    )
    assert fuzz_headers.run(front, seed=2, requests=20).wrong
