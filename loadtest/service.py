"""The market service as hosts with workers, before the simulator of its vendors."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shmcache_server.market.settings import Settings
from tests.helpers import Server, free_port, get

from .vendors import Vendors

DASHBOARD = "/api/dashboard"


def config(
    vendors: Vendors,
    ttl: float | None = None,
    grace: float | None = None,
    **changes: Mapping[str, Any],
) -> str:
    """A TOML file's text: all vendors in the simulator, with room for many calls;
    `changes` are of single ones."""
    lines = ["[app]", 'factory = "shmcache_server.market:application"']
    for name in Settings().vendors:
        url = vendors.url(name.removesuffix("_global"))
        told = {"url": url, "calls": 1000, "failures": 1000, **changes.get(name, {})}
        lines += [f"[app.settings.vendors.{name}]"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in told.items()]
    lives = {"ttl": ttl, "grace": grace, "jitter": None if ttl is None else 0.0}
    told = {key: value for key, value in lives.items() if value is not None}
    for name in Settings().classes if told else ():
        lines += [f"[app.settings.classes.{name}]"]
        lines += [f"{key} = {value}" for key, value in told.items()]
    return "\n".join(lines)


@dataclass
class Host(Server):
    """One with an admin listener."""

    admin: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        self.flags = (*self.flags, "--admin", f"127.0.0.1:{self.admin}")

    def counters(self) -> dict[str, int]:
        """Of the server's cache, all workers together."""
        counters: dict[str, int] = json.loads(get(self.admin, "/stats").body)[
            "counters"
        ]
        return counters


@contextmanager
def serving(
    folder: Path, text: str, hosts: int = 1, origin: str = "", **how: Any
) -> Iterator[list[Host]]:
    """Hosts of that configuration; `how` is a `Server`'s."""
    path = folder / "server.toml"
    path.write_text(text)
    flags = ("--config", str(path))
    with ExitStack() as stack:
        made = [Host(origin, flags=flags, **how) for _ in range(hosts)]
        for number, host in enumerate(made):
            host.start(folder / f"{number}.log")
            stack.callback(host.stop)
        yield made


def calls(
    vendors: Vendors, what: str = "calls", window: float = 60.0
) -> dict[str, int]:
    """By path, whatever its query: all so far, or each query's `busiest` window."""
    found: Counter[str] = Counter()
    for told in vendors.calls(window).values():
        for key, row in told["keys"].items():
            found[key.partition("?")[0]] += row[what]
    return dict(found)
