"""The page and its files, by their digests."""

from __future__ import annotations

import re

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from shmcache_server.market.files import Files


async def client_of(files: Files) -> TestClient:
    app = web.Application()
    app.add_routes([web.get("/", files.index), web.get("/static/{name}", files.static)])
    return TestClient(TestServer(app))


async def test_page_names_its_files_by_their_digests() -> None:
    async with await client_of(Files()) as client:
        page = await (await client.get("/")).text()
        links = re.findall(r'"(/static/[^"]+)"', page)
        assert len(links) == 3
        for link in links:
            answer = await client.get(link)
            assert answer.status == 200 and await answer.read()
            assert "max-age=31536000" in answer.headers["Cache-Control"]
            assert answer.headers["ETag"] == f'"{link.rpartition("?")[2]}"'


async def test_page_and_types_are_told(tmp_path) -> None:
    async with await client_of(Files()) as client:
        answer = await client.get("/")
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
        answer = await client.get("/static/market.js")
        assert answer.headers["Content-Type"] == "text/javascript; charset=utf-8"
        assert answer.headers["Cache-Control"] == "public, max-age=60"


async def test_changed_file_has_another_digest(tmp_path) -> None:
    (tmp_path / "index.html").write_text('<a href="/static/a.css">')
    tags = []
    for text in ("a", "b"):
        (tmp_path / "a.css").write_text(text)
        async with await client_of(Files(tmp_path)) as client:
            page = await client.get("/")
            tags.append((page.headers["ETag"], await page.text()))
            old = await client.get("/static/a.css?0000")
            assert "max-age=60" in old.headers["Cache-Control"]
    assert tags[0][0] != tags[1][0] and tags[0][1] != tags[1][1]


@pytest.mark.parametrize("name", ["nope", "..%2f__init__.py", "index.htm"])
async def test_other_names_are_not_found(name) -> None:
    async with await client_of(Files()) as client:
        assert (await client.get(f"/static/{name}")).status == 404


async def test_modules_name_each_other_by_their_digests(tmp_path) -> None:
    """Else a browser would go on with an old one, for good."""
    (tmp_path / "index.html").write_text('<script src="/static/a.js">')
    (tmp_path / "a.js").write_text('import "/static/b.js";')
    pages = []
    for text in ("1", "2"):
        (tmp_path / "b.js").write_text(text)
        async with await client_of(Files(tmp_path)) as client:
            pages.append(await (await client.get("/")).text())
            (link,) = re.findall(r'"(/static/a.js[^"]*)"', pages[-1])
            (link,) = re.findall(r'"([^"]+)"', await (await client.get(link)).text())
            answer = await client.get(link)
            assert await answer.text() == text
            assert "max-age=31536000" in answer.headers["Cache-Control"]
    assert pages[0] != pages[1]
