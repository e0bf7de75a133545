"""The market before a browser: the server, its hosted application, its vendors."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loadtest.vendors import Vendors
from tests.helpers import SHM, Server, answers, attached, shm_names

KEYS = {"TAAPI_KEY": "t", "CMC_API_KEY": "c", "FINNHUB_KEY": "f"}
CONFIG = """
[server]
graceful_timeout = 1.0

[origin]
tunnels = {tunnels}

[app]
factory = "shmcache_server.market:application"

[app.settings.classes]
real_time = {{ ttl = 1.0, jitter = 0.0 }}
"""
VENDOR = """
[app.settings.vendors.{name}]
url = "{url}"
calls = 10000
failures = 10000
"""
PREFIXES = {
    "coingecko": "coingecko",
    "coingecko_global": "coingecko",
    "alternative": "alternative",
    "taapi": "taapi",
    "binance": "binance",
    "cmc": "cmc",
}


@contextmanager
def serving(folder: Path, vendors: Vendors, tunnels: int = 256) -> Iterator[Site]:
    """A running site, stopped at the end."""
    site = Site(folder, vendors, tunnels)
    site.start(folder / "log")
    try:
        yield site
    finally:
        site.stop()


class Site(Server):
    """`shmcache serve` with the market in its workers."""

    def __init__(self, folder: Path, vendors: Vendors, tunnels: int) -> None:
        config = folder / "market.toml"
        rows = (VENDOR.format(name=n, url=vendors.url(p)) for n, p in PREFIXES.items())
        config.write_text(CONFIG.format(tunnels=tunnels) + "".join(rows))
        super().__init__("", flags=("--config", str(config)), name=_name())
        self.url = f"http://127.0.0.1:{self.port}/"
        os.environ.update(KEYS)

    def stop(self) -> None:
        """The ledger of the budgets would outlive it."""
        for name in shm_names(self.name):
            if name.endswith(".limits"):
                (SHM / name).unlink()
        super().stop()

    def _up(self) -> bool:
        """Each worker has a slot in its application's cache, too; others may follow."""
        if self.process.poll() is not None:
            raise AssertionError(f"exit code {self.process.returncode}")
        slots = attached(self.name)
        return answers(self.port, "/readyz") and slots >= 2 * self.workers


def _name() -> str:
    """Not as `segment_name`: it outlives a test."""
    return f"page-{os.getpid()}-{secrets.token_hex(4)}"
