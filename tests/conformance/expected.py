"""The tests that are known not to pass, each with its reason: expected.json."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .suite import HERE, Result

FILE = HERE / "expected.json"


@dataclass(frozen=True)
class NotPassed:
    """One test, and in a sentence why it is not passed."""

    id: str
    kind: str
    reason: str


def read(file: Path = FILE) -> list[NotPassed]:
    return [NotPassed(**known) for known in json.loads(file.read_text())]


def write(expected: Iterable[NotPassed], file: Path = FILE) -> None:
    """One test a line, so that a change of one is a change of one line."""
    lines = [json.dumps(asdict(known), ensure_ascii=False) for known in expected]
    file.write_text("[\n" + ",\n".join(lines) + "\n]\n")


def changes(expected: Sequence[NotPassed], results: Sequence[Result]) -> Iterator[str]:
    """What of the results the file does not say, and what it says of no result."""
    known = {one.id: one for one in expected}
    for result in results:
        one = known.pop(result.id, None)
        if one is None:
            if not result.passed:
                yield f"newly failing: {result}"
        elif result.passed:
            yield f"newly passing: {result.id} ({result.kind})"
        elif result.kind != one.kind:
            yield f"of another kind: {result}"
        elif not one.reason:
            yield f"without a reason: {result}"
    yield from (f"no such test: {one.id}" for one in known.values())


def updated(
    expected: Iterable[NotPassed], results: Iterable[Result]
) -> list[NotPassed]:
    """What the file would have to say; a reason stays, a new one is to be written."""
    reasons = {one.id: one.reason for one in expected}
    return [
        NotPassed(result.id, result.kind, reasons.get(result.id, ""))
        for result in results
        if not result.passed
    ]
