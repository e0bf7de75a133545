"""A browser without a window, driven by the DevTools protocol over two pipes.

Debian's chromium, installed by apt-get where that is ours to do.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from fcntl import F_DUPFD, fcntl
from pathlib import Path
from typing import Any

from loadtest.peers import install

PROGRAMS = ("chromium-headless-shell", "chromium")
PACKAGES = ("chromium-headless-shell", "fonts-dejavu-core")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-background-networking", "--hide-scrollbars"),
    *("--disable-component-update", "--remote-debugging-pipe", "about:blank"),
)
SECONDS = 30.0
"""After which the browser, or what is waited for in it, is given up."""


class Unavailable(Exception):
    """No browser can be had on this machine; says what is missing."""


def program() -> str:
    """The browser's path, after an attempt to install it; raises `Unavailable`."""
    if not any(map(shutil.which, PROGRAMS)):
        install.debian(PACKAGES)
    found = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if not found:
        raise Unavailable(f"no browser (Debian: {PROGRAMS[0]})")
    return found


class Page:
    """One tab, and what it complained about."""

    def __init__(self, browser: Browser, session: str, context: str) -> None:
        self._browser = browser
        self._session = session
        self._context = context
        self.complaints: list[str] = []
        """Errors and warnings of the console, exceptions, requests that failed."""
        self.pushed: asyncio.Queue[str] = asyncio.Queue()
        """What came by WebSocket."""
        self.held: asyncio.Queue[str] = asyncio.Queue()
        """Answers that wait to be let go."""
        self._loaded = asyncio.Event()

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        return await self._browser.send(method, params, self._session)

    async def start(self) -> None:
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            await self.send(f"{domain}.enable")

    async def close(self) -> None:
        context = {"browserContextId": self._context}
        await self._browser.send("Target.disposeBrowserContext", context)

    def heard(self, method: str, params: dict[str, Any]) -> None:
        """An event of the protocol."""
        if method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] != "log":
            self.complaints.append(f"console: {params['args']}")
        elif method == "Log.entryAdded":
            entry = params["entry"]
            self.complaints.append(f"{entry['text']} {entry.get('url', '')}")
        elif method == "Page.loadEventFired":
            self._loaded.set()
        elif method == "Network.webSocketFrameReceived":
            self.pushed.put_nowait(params["response"]["payloadData"])
        elif method == "Fetch.requestPaused":
            self.held.put_nowait(params["requestId"])
        elif method == "Network.loadingFailed":
            self.complaints.append(f"request: {params['errorText']}")
        elif method == "Network.responseReceived":
            response = params["response"]
            if response["status"] >= 400:
                self.complaints.append(f"{response['status']} of {response['url']}")

    async def look(self, expression: str) -> Any:
        """The value of JavaScript, once it has one."""
        asked = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        got = await self.send("Runtime.evaluate", **asked)
        if "exceptionDetails" in got:
            raise AssertionError(json.dumps(got["exceptionDetails"]))
        return got["result"].get("value")

    async def until(self, expression: str, within: float = SECONDS) -> Any:
        """The first truthy value of JavaScript in the page."""
        try:
            async with asyncio.timeout(within):
                return await self.look(
                    "new Promise(done => { const look = () => { const value ="
                    f" ({expression}); value ? done(value) : setTimeout(look, 20) }};"
                    " look() })"
                )
        except TimeoutError:
            text = await self.look("document.body.innerText")
            raise AssertionError(f"not so: {expression}\n{text}") from None

    async def open(self, url: str) -> None:
        """Returns when it has loaded."""
        self._loaded.clear()
        async with asyncio.timeout(SECONDS):
            await self.send("Page.navigate", url=url)
            await self._loaded.wait()

    async def emulate(self, **features: str) -> None:
        """Media features: `prefers_color_scheme="dark"`."""
        told = [{"name": k.replace("_", "-"), "value": v} for k, v in features.items()]
        await self.send("Emulation.setEmulatedMedia", features=told)

    async def resize(self, width: int, height: int, scale: int = 1) -> None:
        """In CSS pixels, each of `scale` times `scale` of a picture's."""
        size = {"width": width, "height": height, "deviceScaleFactor": scale}
        mobile = width < 600
        await self.send("Emulation.setDeviceMetricsOverride", **size, mobile=mobile)

    async def cut(self, off: bool) -> None:
        """Whether requests fail; a WebSocket that is open stays so, in silence."""
        free = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        await self.send("Network.emulateNetworkConditions", offline=off, **free)

    async def hold(self, pattern: str) -> None:
        """Keep back the answers to requests for such URLs."""
        patterns = [{"urlPattern": pattern, "requestStage": "Response"}]
        await self.send("Fetch.enable", patterns=patterns)

    async def release(self, held: str) -> None:
        await self.send("Fetch.continueRequest", requestId=held)

    async def press(self, key: str) -> None:
        """Tab or Enter."""
        number, text = {"Tab": (9, ""), "Enter": (13, "\r")}[key]
        named = {"key": key, "code": key, "windowsVirtualKeyCode": number, "text": text}
        for kind in ("keyDown", "keyUp"):
            await self.send("Input.dispatchKeyEvent", type=kind, **named)

    async def shoot(self, path: Path) -> None:
        """The whole page as PNG."""
        path.parent.mkdir(parents=True, exist_ok=True)
        got = await self.send("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(got["data"]))

    async def names(self) -> list[tuple[str, str]]:
        """(role, accessible name) of all that assistive programs are shown."""
        got = await self.send("Accessibility.getFullAXTree")
        return [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in got["nodes"]
            if not node["ignored"]
        ]


class Browser:
    """A running browser: commands go down one pipe, answers and events come up another,
    each ended by a zero byte."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.WriteTransport
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._pages: dict[str, Page] = {}

    async def send(
        self, method: str, params: dict[str, Any], session: str | None = None
    ) -> dict[str, Any]:
        number = len(self._answers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        to = {"sessionId": session} if session else {}
        told = {"id": number, "method": method, "params": params, **to}
        self._writer.write(json.dumps(told).encode() + b"\0")
        return await answer

    async def listen(self) -> None:
        """Until the browser ends; who still waits for it fails."""
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                self._heard(json.loads((await self._reader.readuntil(b"\0"))[:-1]))
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(AssertionError("the browser has ended"))

    def _heard(self, told: dict[str, Any]) -> None:
        if "id" not in told:
            if page := self._pages.get(told.get("sessionId", "")):
                page.heard(told["method"], told["params"])
        elif (answer := self._answers[told["id"]]).done():
            return
        elif "error" in told:
            answer.set_exception(AssertionError(told["error"]["message"]))
        else:
            answer.set_result(told["result"])

    async def page(self) -> Page:
        """A new tab, with storage of its own."""
        context = await self.send("Target.createBrowserContext", {})
        target = await self.send(
            "Target.createTarget", {"url": "about:blank"} | context
        )
        attached = await self.send("Target.attachToTarget", target | {"flatten": True})
        session = attached["sessionId"]
        page = self._pages[session] = Page(self, session, context["browserContextId"])
        await page.start()
        return page


@asynccontextmanager
async def browsing(folder: Path) -> AsyncIterator[Browser]:
    """A browser whose files are in the folder. It ends with us, however we do: it has
    the far ends of our pipes."""
    down, up = os.pipe(), os.pipe()

    def far_ends() -> None:
        commands, answers = (fcntl(fd, F_DUPFD, 10) for fd in (down[0], up[1]))
        os.dup2(commands, 3)
        os.dup2(answers, 4)

    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(program(), f"--user-data-dir={folder}", *FLAGS),
            stderr=log,
            start_new_session=True,
            close_fds=False,
            preexec_fn=far_ends,
        )
    os.close(down[0])
    os.close(up[1])
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(2**26)
    protocol = asyncio.StreamReaderProtocol(reader)
    above, _ = await loop.connect_read_pipe(lambda: protocol, os.fdopen(up[0], "rb", 0))
    below, _ = await loop.connect_write_pipe(
        asyncio.Protocol, os.fdopen(down[1], "wb", 0)
    )
    browser = Browser(reader, below)
    listening = asyncio.create_task(browser.listen())
    try:
        yield browser
        async with asyncio.timeout(SECONDS):
            await browser.send("Browser.close", {})
            await listening
            await process.wait()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        await listening
        above.close()
        below.close()
