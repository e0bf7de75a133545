"""python -m tests.conformance runs the suite; with an ID one test, messages shown."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from itertools import groupby
from pathlib import Path

from . import expected, suite


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance")
    parser.add_argument("id", nargs="?", default="", help="run this test alone")
    parser.add_argument(
        "--write", action="store_true", help="rewrite expected.json, keeping reasons"
    )
    wanted = parser.parse_args()
    try:
        suite.install()
    except suite.Unavailable as missing:
        print(f"conformance: {missing}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        if wanted.id:
            return _one(Path(folder), wanted.id)
        return _all(Path(folder), wanted.write)


def _one(folder: Path, name: str) -> int:
    results = suite.run(folder, name, loud=True)
    print((folder / "server.log").read_text(), end="")
    if not results:
        print(f"conformance: no test has the id {name}", file=sys.stderr)
        return 2
    print(results[0])
    return not results[0].passed


def _all(folder: Path, write: bool) -> int:
    began = time.monotonic()
    known = expected.read()
    results = suite.judged(folder, {one.id for one in known})
    for name, group in groupby(results, lambda result: result.suite):
        if failing := [result for result in group if not result.passed]:
            print(name, *failing, sep="\n    ")
    print(f"{suite.counts(results)} passed in {time.monotonic() - began:.0f} s")
    if write:
        known = expected.updated(known, results)
        expected.write(known)
    changes = list(expected.changes(known, results))
    if changes:
        print("conformance: not as expected.json says:", *changes, sep="\n    ")
    return bool(changes)


if __name__ == "__main__":
    sys.exit(main())
