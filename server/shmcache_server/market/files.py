"""Files: the page and what it loads, read once and told apart by their digests.

The `/static/NAME` of the page and its modules become `/static/NAME?DIGEST`, so a
browser may keep them for good, and asks for another URL when one has changed.
"""

from __future__ import annotations

import hashlib
import mimetypes
import re
from pathlib import Path
from typing import NamedTuple

from aiohttp import web

FOLDER = Path(__file__).with_name("page")
INDEX = "index.html"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_LINKING = (".html", ".js")
_LINK = re.compile(rb"/static/([\w.-]+)")


class File(NamedTuple):
    body: bytes
    type: str
    digest: str


class Files:
    """Those of a folder."""

    def __init__(self, folder: Path = FOLDER) -> None:
        paths = sorted(folder.glob("*.*")) if folder.is_dir() else []
        self._bodies = {path.name: path.read_bytes() for path in paths}
        self._files: dict[str, File] = {}
        for name in self._bodies:
            self._file(name)

    def _file(self, name: str) -> File:
        """With its links to others, which must not come back to it: its digest, and so
        its URL, changes with theirs."""
        if (found := self._files.get(name)) is None:
            body = self._bodies[name]
            if name.endswith(_LINKING):
                body = _LINK.sub(self._linked, body)
            found = self._files[name] = _file(name, body)
        return found

    def _linked(self, link: re.Match[bytes]) -> bytes:
        if (name := link[1].decode()) not in self._bodies:
            return link[0]
        return b"%b?%b" % (link[0], self._file(name).digest.encode())

    async def index(self, request: web.Request) -> web.Response:
        """The page."""
        return self._answer(INDEX, 60)

    async def static(self, request: web.Request) -> web.Response:
        """One of its files; for good, if it is asked for by its digest."""
        name = request.match_info["name"]
        found = self._files.get(name)
        named = found is not None and request.query_string == found.digest
        return self._answer(name, 31_536_000 if named else 60)

    def _answer(self, name: str, seconds: int) -> web.Response:
        if (found := self._files.get(name)) is None:
            raise web.HTTPNotFound(headers={"Cache-Control": "max-age=1"})
        return web.Response(
            body=found.body,
            headers={
                "Content-Type": found.type,
                "Cache-Control": f"public, max-age={seconds}",
                "ETag": f'"{found.digest}"',
                "Content-Security-Policy": POLICY,
                "X-Content-Type-Options": "nosniff",
            },
        )


def _file(name: str, body: bytes) -> File:
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    if kind.startswith("text/") or kind.endswith("javascript"):
        kind += "; charset=utf-8"
    return File(body, kind, hashlib.blake2b(body, digest_size=8).hexdigest())
