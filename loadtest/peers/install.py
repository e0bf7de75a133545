"""What is not there yet: had from Debian where that is ours to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .servers import PEERS, which

POLICY = Path("/usr/sbin/policy-rc.d")


def install(peers: Iterable[str]) -> None:
    """wrk, and what the peers need; a package that cannot be had is left out."""
    wanted = {"wrk": "wrk"}
    wanted |= {PEERS[p].program: PEERS[p].package for p in peers if PEERS[p].program}
    debian([package for program, package in wanted.items() if not which(program)])


def debian(packages: Sequence[str]) -> None:
    """These packages; nothing is done where we are not root, or it is not Debian."""
    if not packages or os.geteuid() != 0 or not shutil.which("apt-get"):
        return
    print(f"installing {', '.join(packages)}", file=sys.stderr)
    with _nothing_started():
        if not all(map(_apt_get, packages)):
            subprocess.run(["apt-get", "--quiet", "update"], **_SILENT)
            for package in packages:
                _apt_get(package)


_SILENT = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": False}


def _apt_get(package: str) -> bool:
    done = subprocess.run(
        ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", package],
        env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
        **_SILENT,
    )
    return done.returncode == 0


@contextmanager
def _nothing_started() -> Iterator[None]:
    """Debian starts a server as it installs it, unless this file says no."""
    ours = not POLICY.exists()
    if ours:
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
    try:
        yield
    finally:
        if ours:
            POLICY.unlink()
