"""What `make serve` runs: a slow origin, unless one is named, and the server.

Both are children: Ctrl-C ends them, and so does the end of this process, however it
comes.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from shmcache_server.embedded import die_with_parent

HERE = Path(__file__).resolve().parent
BIND = "127.0.0.1:8080"
ORIGIN = "127.0.0.1:8081"
TRY = """
  Cached before {origin}: try

    curl -i http://{bind}{path}     # once: fetched from the origin
    curl -i http://{bind}{path}     # again: a hit{if_fresh}
    for i in 1 2 3 4 5 6 7 8; do curl -s http://{bind}{path}?cold=$$ & done; wait
{count}
  Ctrl-C stops it.
"""
COUNT = """    curl http://{origin}/__count     # what it was asked for: one each
"""


def child(*command: str) -> subprocess.Popen[bytes]:
    """A Python process that ends with this one, deaf to the terminal's Ctrl-C."""
    parent = os.getpid()
    return subprocess.Popen(
        [sys.executable, *command],
        preexec_fn=lambda: die_with_parent(parent),
        start_new_session=True,
    )


def until_up(url: str, process: subprocess.Popen[bytes], within: float = 20) -> bool:
    """Whether the process answers before it ends."""
    deadline = time.monotonic() + within
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return True
        except OSError:  # also a worker that has not begun to answer
            time.sleep(0.05)
    return False


def run(origin: str, bind: str) -> int:
    """Start, tell what to try, wait for Ctrl-C or the server's end, stop."""
    started: list[subprocess.Popen[bytes]] = []
    path, count = "/", ""
    if_fresh = ", if the origin's Cache-Control says so"
    try:
        if not origin:
            started.append(child(str(HERE / "origin.py"), "--bind", ORIGIN))
            if not until_up(f"http://{ORIGIN}/__count", started[0]):
                print(f"shmcache: no origin at {ORIGIN}", file=sys.stderr)
                return 2
            origin, path = f"http://{ORIGIN}", "/prices.json"
            if_fresh = ", whichever worker answers"
            count = COUNT.format(origin=ORIGIN)
        server = child(
            *("-m", "shmcache_server", "serve", "--origin", origin, "--bind", bind),
            *("--workers", "2", "--l2", "embedded"),
        )
        started.append(server)
        if until_up(f"http://{bind}/readyz", server):
            told = TRY.format(
                origin=origin, bind=bind, path=path, count=count, if_fresh=if_fresh
            )
            print(told, flush=True)
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for process in reversed(started):
            process.terminate()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--origin", default="", metavar="URL")
    parser.add_argument("--bind", default=BIND, metavar="HOST:PORT")
    args = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):  # also where it was ignored
        signal.signal(number, signal.default_int_handler)
    sys.exit(run(args.origin, args.bind))


if __name__ == "__main__":
    main()
