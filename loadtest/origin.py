"""The bundled origin: the files of a directory, answered slowly, every request counted.

    python loadtest/origin.py --bind 127.0.0.1:8081 --directory docs --delay 1

A request may ask for other than the defaults in its query: `?delay=0.2` seconds
before the answer, `?max_age=60` and `?grace=30` for its Cache-Control (max_age=0:
nothing is stored). Whatever else stands in the query makes another URL of the same
file. `/__count` tells the requests so far, as JSON:
{"total": 3, "paths": {"/a.html?delay=1": 3}}.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import Counter
from pathlib import Path

from aiohttp import web

HERE = Path(__file__).resolve().parent


class Origin:
    """What it serves, how slowly, and what it was asked for."""

    def __init__(
        self, directory: Path, delay: float = 1.0, max_age: int = 30, grace: int = 30
    ) -> None:
        self.directory = directory.resolve()
        self.delay = delay
        self.max_age = max_age
        self.grace = grace
        self.counts: Counter[str] = Counter()

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/__count", self.count, allow_head=False)
        app.router.add_route("*", "/{path:.*}", self.answer)
        return app

    async def count(self, request: web.Request) -> web.Response:
        return web.json_response({"total": self.counts.total(), "paths": self.counts})

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.counts[request.raw_path] += 1
        try:
            delay = float(request.query.get("delay", self.delay))
            max_age = int(request.query.get("max_age", self.max_age))
            grace = int(request.query.get("grace", self.grace))
        except ValueError as e:
            raise web.HTTPBadRequest(text=f"{e}\n") from e
        await asyncio.sleep(delay)
        if request.method not in ("GET", "HEAD"):
            return web.Response(text=f"{request.method} {await request.text()}\n")
        path = self._file(request.match_info["path"])
        freshness = f"max-age={max_age}, stale-while-revalidate={grace}"
        # The file's own ETag and Last-Modified, conditions and ranges come with it.
        return web.FileResponse(path, headers={"Cache-Control": freshness})

    def _file(self, name: str) -> Path:
        path = (self.directory / name).resolve()
        if path.is_dir():
            path /= "index.html"
        if not path.is_relative_to(self.directory) or not path.is_file():
            raise web.HTTPNotFound(
                text="no such file\n",
                headers={"Cache-Control": f"max-age={min(5, self.max_age)}"},
            )
        return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bind", default="127.0.0.1:8081", metavar="HOST:PORT")
    parser.add_argument("--directory", type=Path, default=HERE / "site")
    parser.add_argument("--delay", type=float, default=1.0, help="seconds")
    parser.add_argument("--max-age", type=int, default=30, help="seconds")
    parser.add_argument("--grace", type=int, default=30, help="seconds")
    args = parser.parse_args()
    host, _, port = args.bind.rpartition(":")
    origin = Origin(args.directory, args.delay, args.max_age, args.grace)
    web.run_app(
        origin.application(), host=host, port=int(port), print=None, access_log=None
    )


if __name__ == "__main__":
    main()
