"""Try a wheel as a new user does: `python -m tests.wheel FOLDER`.

A clean environment, a PATH without a compiler, the wheel and what it needs, then
`wheel_smoke.py`. What it took is told, for a user waits for it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

SMOKE = Path(__file__).with_name("wheel_smoke.py")


def main(folder: Path) -> int:
    (wheel,) = folder.glob("*.whl")
    with tempfile.TemporaryDirectory(prefix="wheel-") as where:
        began = time.monotonic()
        venv.create(where, with_pip=True)
        python = Path(where, "bin", "python")
        bare = {
            **{k: v for k, v in os.environ.items() if not k.startswith("PYTHON")},
            "PATH": str(python.parent),
            "CC": "/nonexistent",
        }
        run([python, "-m", "pip", "install", "--quiet", wheel.resolve()], where, bare)
        installed = time.monotonic()
        run([python, SMOKE], where, bare)
        ended = time.monotonic()
    print(
        f"{wheel.name}: installed in {installed - began:.1f} s, "
        f"a shared hit {ended - installed:.1f} s later"
    )
    return 0


def run(command: list[object], where: str, environment: dict[str, str]) -> None:
    subprocess.run(list(map(str, command)), cwd=where, env=environment, check=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
