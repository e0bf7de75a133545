"""What `make market` runs: the simulated vendors, and the market service before them.

The service is that of deploy/market.toml, with two workers and a Redis of its own; only
the addresses of the vendors are the simulator's. All are children: Ctrl-C ends them.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import tempfile
from pathlib import Path

from loadtest.serve import BIND, child, until_up
from loadtest.vendors import Vendors, running

DEPLOYED = Path(__file__).resolve().parent.parent / "deploy" / "market.toml"
KEYS = {
    "TAAPI_KEY": "simulated",
    "CMC_API_KEY": "simulated",
    "FINNHUB_KEY": "simulated",
}
SAID = """
  The market: open

    http://{bind}/

  and let vendors fail, one at a time:

    curl -d '{{"mode": "hang", "seconds": 60}}' {vendors}/control/fault/coingecko
    curl {vendors}/control/calls     # what each vendor was asked

  Ctrl-C stops it.
"""


def simulated(text: str, vendors: Vendors) -> str:
    """A configuration with the vendors' addresses of a simulator, and none else."""

    def address(match: re.Match[str]) -> str:
        url = vendors.url(match[2].removesuffix("_global"))
        return f'{match[1]}url = "{url}"'

    text = re.sub(r'\belsewhere = "[^"]*"', 'elsewhere = ""', text)
    row = r'(\[app\.settings\.vendors\.(\w+)\][^\[]*?\n)url = "[^"]*"'
    return re.sub(row, address, text)


def run(bind: str) -> int:
    """Start, say where the page is, wait for Ctrl-C or the server's end, stop."""
    os.environ.update(KEYS)
    try:
        with running() as vendors, tempfile.TemporaryDirectory() as folder:
            config = Path(folder) / "market.toml"
            config.write_text(simulated(DEPLOYED.read_text(), vendors))
            server = child(
                *("-m", "shmcache_server", "serve", "--config", str(config)),
                *("--bind", bind, "--l2", "embedded"),
            )
            try:
                if until_up(f"http://{bind}/readyz", server):
                    print(SAID.format(bind=bind, vendors=vendors.base), flush=True)
                return server.wait()
            finally:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                server.terminate()
                server.wait()
    except KeyboardInterrupt:
        return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bind", default=BIND, metavar="HOST:PORT")
    args = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):  # also where it was ignored
        signal.signal(number, signal.default_int_handler)
    sys.exit(run(args.bind))


if __name__ == "__main__":
    main()
