"""Hits and misses over HTTP, ours beside its peers on the same core.

    python -m loadtest.peers.bench [--quick] [--only NAME,...] [--json FILE]

Every server has the first core, wrk the second. NAME is a scene, a server, or some of
both. README.md beside this file says what the rows are.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time

from .. import command
from . import figures, show
from .install import install
from .rounds import play, stage
from .scenes import SCENES, Row, Scene, chosen
from .servers import PEERS, ROOT, which

ROUNDS, SECONDS = (3, 7), (1, 2)
"""Of a look, and else."""
REPORT = ROOT / "loadtest" / "report"
FILES = 16_384


def names(text: str) -> list[str]:
    """Scenes and servers."""
    given = text.split(",")
    known = [*(scene.name for scene in SCENES), *PEERS]
    for name in given:
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
    return given


def options(args: list[str] | None) -> argparse.Namespace:
    summary = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser("loadtest.peers.bench", description=summary)
    parser.add_argument("--quick", action="store_true", help="a look, in two minutes")
    parser.add_argument(
        "--only", type=names, default=[], metavar="NAME,...",
        help="scenes or servers: " + ", ".join(s.name for s in SCENES) + "; "
        + ", ".join(PEERS),
    )  # fmt: skip
    parser.add_argument(
        "--rounds", type=command.positive, default=0, metavar="N",
        help=f"of each scene ({ROUNDS[1]}; with --quick {ROUNDS[0]})",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=command.positive, default=0, metavar="N",
        help=f"of each measurement ({SECONDS[1]}; with --quick {SECONDS[0]})",
    )  # fmt: skip
    parser.add_argument(
        "--json", metavar="FILE", type=command.writable, help="write all there too"
    )
    return parser.parse_args(args)


def main(args: list[str] | None = None) -> int:
    asked = options(args)
    scenes = chosen(asked.only, asked.quick)
    install({peer for scene in scenes for peer in scene.peers})
    if len(os.sched_getaffinity(0)) < 2 or not which("wrk"):
        print("bench: skipped, it needs two cores and wrk (Debian: apt install wrk)")
        return 0
    may_open(FILES)
    lacks = {peer: PEERS[peer].lacks() for scene in scenes for peer in scene.peers}
    lacking = [f"{PEERS[peer].title}: {why}" for peer, why in lacks.items() if why]
    scenes = [present for scene in scenes if (present := without(scene, lacks)).asks]
    rounds = asked.rounds or ROUNDS[not asked.quick]
    with stage(rounds, asked.seconds or SECONDS[not asked.quick]) as at:
        rows = [row for scene in scenes for row in play(scene, at, Clock())]
    tell(rows, lacking, asked)
    return 0


def without(scene: Scene, lacks: dict[str, str]) -> Scene:
    """The scene, less the rows of servers that are not there."""
    return scene.having(lambda ask: not lacks[ask.peer])


def may_open(files: int) -> None:
    """Sockets enough for 2,000 connections, and for the servers that have them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        files = min(files, hard)
    if soft != resource.RLIM_INFINITY and soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))


class Clock:
    """Says on stderr what is done, and since when we run."""

    began = time.monotonic()

    def __call__(self, done: str) -> None:
        since = time.monotonic() - self.began
        print(f"bench: {since:4.0f} s: {done}", file=sys.stderr, flush=True)


def tell(rows: list[Row], lacking: list[str], asked: argparse.Namespace) -> None:
    aims = list(figures.targets(figures.Rows(rows)))
    text = show.report(rows, aims, lacking)
    print(text)
    REPORT.mkdir(exist_ok=True)
    (REPORT / "peers.md").write_text(text)
    drawn, picture = show.plot(rows), REPORT / "peers.svg"
    picture.unlink(missing_ok=True)
    if drawn:
        picture.write_text(drawn)
    print(f"In {REPORT}: peers.md" + (", peers.svg" if drawn else ""))
    if asked.json:
        told = show.as_json(rows, aims, lacking)
        asked.json.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(command.run("bench", main))
