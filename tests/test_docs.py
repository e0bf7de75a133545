"""Every block of Python in the README and in the library's pages runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import ROOT, SHM

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "library").glob("*.md"))]
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?:)([^)#]*)(#[^)]*)?\)")


def blocks() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for number, found in enumerate(_BLOCK.finditer(page.read_text()), 1):
            yield f"{page.name}-{number}", found[1]


BLOCKS = dict(blocks())


@pytest.mark.parametrize("name", BLOCKS)
def test_block_runs(name: str, tmp_path: Path) -> None:
    script = tmp_path / "block.py"
    # a name that nobody else on this host has
    own = f'"docs-{tmp_path.name}'[:40] + '"'
    code = BLOCKS[name].replace('"shop"', own).replace('"market"', own)
    script.write_text(code)
    ran = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    left = [path for path in SHM.iterdir() if own.strip('"') in path.name]
    for path in left:
        path.unlink()
    assert not left


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_to_pages_and_headings(page: Path) -> None:
    for target, heading in _LINK.findall(page.read_text()):
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), target
        if heading and path.suffix == ".md":
            heads = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            marks = {
                re.sub(r"[^\w -]", "", head.lower()).strip().replace(" ", "-")
                for head in heads
            }
            assert heading[1:] in marks, f"{target}{heading}"
