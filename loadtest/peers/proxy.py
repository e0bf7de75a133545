"""An aiohttp reverse proxy without a cache: `proxy PORT ORIGIN_PORT`.

What a miss costs where nothing is kept and nobody waits for another: the request's
end-to-end fields out, the answer's back, the body streamed.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop
from aiohttp import ClientSession, DummyCookieJar, TCPConnector, web
from multidict import CIMultiDict
from yarl import URL

HOP_BY_HOP = {
    *("connection", "host", "keep-alive", "proxy-connection", "te", "trailer"),
    *("transfer-encoding", "upgrade"),
}


def end_to_end(fields: CIMultiDict[str]) -> CIMultiDict[str]:
    return CIMultiDict(
        (name, value)
        for name, value in fields.items()
        if name.lower() not in HOP_BY_HOP
    )


def application(origin: str) -> web.Application:
    async def session(app: web.Application):  # type: ignore[no-untyped-def]
        async with ClientSession(
            connector=TCPConnector(limit=256),
            cookie_jar=DummyCookieJar(),
            auto_decompress=False,
        ) as opened:
            app[SESSION] = opened
            yield

    async def answer(request: web.Request) -> web.StreamResponse:
        async with request.app[SESSION].request(
            request.method,
            URL(origin + request.raw_path, encoded=True),
            headers=end_to_end(request.headers),
            data=request.content if request.body_exists else None,
            allow_redirects=False,
        ) as fetched:
            response = web.StreamResponse(
                status=fetched.status, headers=end_to_end(fetched.headers)
            )
            await response.prepare(request)
            async for chunk in fetched.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response

    app = web.Application()
    app.cleanup_ctx.append(session)
    app.router.add_route("*", "/{path:.*}", answer)
    return app


SESSION = web.AppKey("session", ClientSession)


async def main(port: int, origin: str) -> None:
    runner = web.AppRunner(application(origin), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), f"http://127.0.0.1:{sys.argv[2]}"))
