"""What is measured: scenes of servers that stand side by side, and their rows.

The servers of a scene run at once, idle but for the one that is asked; each round
measures every row once, so what the machine does to one it does to all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

CONNECTIONS = 64
KEYS = 100_000
KB = 1024

Kind = Literal["hits", "misses", "l2", "burst", "idle"]


@dataclass(frozen=True)
class Ask:
    """A row: who is asked, by how many connections, for how many keys."""

    peer: str
    connections: int = CONNECTIONS
    keys: int = 1
    look: bool = False
    """Whether a quick look has it too."""


@dataclass(frozen=True)
class Scene:
    """Rows of one size and one number of workers. `name` is for `--only`."""

    name: str
    title: str
    asks: tuple[Ask, ...]
    kind: Kind = "hits"
    size: int = KB
    workers: int = 1
    """One is pinned to the first core, wrk to the second; two share both with it."""
    times: int = 1
    """Of the usual seconds: to open many connections takes some of them, and what is
    measured is how they are served."""

    @property
    def peers(self) -> list[str]:
        return list(dict.fromkeys(ask.peer for ask in self.asks))

    def having(self, wanted: Callable[[Ask], bool]) -> Scene:
        """With only the rows that are wanted."""
        return replace(self, asks=tuple(filter(wanted, self.asks)))


@dataclass
class Run:
    """One measurement. Seconds of CPU for a request; busy is CPU over time."""

    rate: float
    p50: float
    p99: float
    p999: float
    server_cpu: float
    server_busy: float
    client_busy: float
    memory: int
    others_busy: float
    """What all else ran, of all cores: the origin on a miss, and who shares them."""


@dataclass
class Row:
    """A row's runs, one a round; or why there are none."""

    scene: Scene
    ask: Ask
    runs: list[Run] = field(default_factory=list)
    figures: list[float] = field(default_factory=list)
    """Of a scene without wrk: seconds of a burst, bytes of an idle connection."""
    failed: str = ""

    def all(self, figure: str) -> list[float]:
        return [getattr(run, figure) for run in self.runs]


def _each(peers: str, look: str = "", **more: int) -> tuple[Ask, ...]:
    return tuple(Ask(p, look=p in look.split(), **more) for p in peers.split())


ALL = "floor ours nginx varnish aiohttp fastapi"
TUNED = Ask("nginx-tuned")
SCENES: tuple[Scene, ...] = (
    Scene("1KB", "1 KB", (*_each(ALL, look=ALL), TUNED)),
    Scene("100B", "100 B", _each(ALL), size=100),
    Scene("64KB", "64 KB", _each(ALL, look="ours nginx"), size=64 * KB),
    Scene(
        "keys",
        "1 KB, one key and many by Zipf",
        (
            *_each("ours nginx varnish"),
            *_each("ours nginx varnish", keys=KEYS),
        ),
    ),
    Scene(
        "connections",
        "1 KB, more connections",
        tuple(
            ask
            for count in (CONNECTIONS, 500, 2000)
            for ask in _each("floor ours nginx", look="floor ours", connections=count)
        ),
        times=3,
    ),
    Scene(
        "two",
        "1 KB, two workers beside wrk",
        _each("ours nginx", look="ours nginx", connections=200),
        workers=2,
    ),
    Scene(
        "misses",
        "1 KB, every request a miss",
        _each("ours proxy nginx varnish", look="ours proxy"),
        kind="misses",
    ),
    Scene("l2", "1 KB, every request a hit in L2", _each("ours"), kind="l2"),
    Scene(
        "burst",
        "1 KB, 500 new connections at once",
        _each("floor ours nginx aiohttp", look="ours nginx", connections=500),
        kind="burst",
    ),
    Scene(
        "idle",
        "2,000 idle connections",
        _each("floor ours nginx varnish aiohttp", look="ours nginx", connections=2000),
        kind="idle",
    ),
)


def chosen(only: Iterable[str], look: bool) -> list[Scene]:
    """The scenes named by their own names, by their servers', or by both; a look has
    fewer rows where none are named."""
    names = {scene.name for scene in SCENES} & set(only)
    peers = set(only) - names

    def wanted(ask: Ask) -> bool:
        return ask.peer in peers if peers else ask.look or not look or bool(names)

    found = [s.having(wanted) for s in SCENES if not names or s.name in names]
    return [scene for scene in found if scene.asks]
