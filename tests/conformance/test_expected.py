"""expected.json against results: every change is told, in either direction."""

from __future__ import annotations

from pathlib import Path

import pytest

from .expected import NotPassed, changes, read, updated, write
from .suite import Result

FAILED = Result("vary", "vary-match", "optimal", "fail", "Assertion: not from cache")
PASSED = Result("vary", "vary-match", "optimal", "pass", "")
KNOWN = NotPassed("vary-match", "optimal", "No variants.")


@pytest.mark.parametrize(
    ("expected", "results", "told"),
    [
        pytest.param([], [PASSED], [], id="passing"),
        pytest.param([KNOWN], [FAILED], [], id="failing as known"),
        pytest.param([], [FAILED], [f"newly failing: {FAILED}"], id="newly failing"),
        pytest.param(
            [KNOWN], [PASSED], ["newly passing: vary-match (optimal)"], id="passing now"
        ),
        pytest.param([KNOWN], [], ["no such test: vary-match"], id="gone"),
        pytest.param(
            [NotPassed("vary-match", "check", "No variants.")],
            [FAILED],
            [f"of another kind: {FAILED}"],
            id="another kind",
        ),
        pytest.param(
            [NotPassed("vary-match", "optimal", "")],
            [FAILED],
            [f"without a reason: {FAILED}"],
            id="no reason",
        ),
    ],
)
def test_changes_are_told_in_either_direction(expected, results, told) -> None:
    assert list(changes(expected, results)) == told


def test_update_keeps_reasons_and_leaves_new_ones_open() -> None:
    new = Result("auth", "other-authorization", "required", "fail", "Assertion: stored")
    assert updated([KNOWN], [FAILED, new]) == [
        KNOWN,
        NotPassed("other-authorization", "required", ""),
    ]
    assert updated([KNOWN], [PASSED]) == []


def test_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "expected.json"
    for known in ([], [KNOWN, NotPassed("other", "check", "A “quoted” reason.")]):
        write(known, file)
        assert read(file) == known


def test_file_of_the_project_is_written_as_the_command_writes_it(tmp_path) -> None:
    write(read(), tmp_path / "again")
    assert read(tmp_path / "again") == read()
    assert len({one.id for one in read()}) == len(read())
