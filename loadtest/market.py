"""The market's server: each vendor below a prefix of its own, and `/control`."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
from aiohttp import web

from .calls import Calls, Key, PerMinute
from .faults import Active, Budget, Fault, Faults, Spent
from .payloads import STREAM, VENDORS, Moment, Refused, frame, payload, symbols
from .refusals import JSON, NONE, Reply, admit, banned, limited
from .truth import SEED

MEDIANS = {
    "coingecko": 0.25,
    "alternative": 0.4,
    "taapi": 0.6,
    "binance": 0.12,
    "cmc": 0.45,
    "finnhub": 0.15,
}
"""Seconds that half of a vendor's answers take."""
FASTEST, SLOWEST = 0.08, 1.2
_SIGMA = 0.4
"""Of the latency's logarithm."""
_WEIGHT = 2
"""Of a call of Binance for up to 20 symbols."""
_TELLS_WHEN = {"binance", "coingecko"}
"""Who says when to come back."""
_RESET = struct.pack("ii", 1, 0)
"""Linger: what is left is dropped, and the peer told so."""
T = TypeVar("T")


@dataclass
class Market:
    """The vendors: what they were told, what they were asked."""

    latency: Mapping[str, float] = field(default_factory=dict)
    """Seconds, of the vendors that take always the same."""
    still: bool = False
    seed: int = SEED
    began: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self._draws = {
            vendor: random.Random(f"{self.seed}/{vendor}") for vendor in VENDORS
        }
        self._weight = PerMinute()
        self._forget()

    def _forget(self) -> None:
        self._calls = Calls(VENDORS)
        self._faults = Faults()
        self._budgets: dict[str, Spent] = {}

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/control", self.state)
        app.router.add_get("/control/calls", self.calls)
        app.router.add_post("/control/fault/{vendor}", self.set_fault)
        app.router.add_post("/control/budget/{vendor}", self.set_budget)
        app.router.add_post("/control/reset", self.reset)
        app.router.add_get("/binance/stream", self.stream)
        app.router.add_get("/{vendor}/{path:.*}", self.answer, allow_head=False)
        return app

    def _moment(self, fault: Active | None = None) -> Moment:
        """Now; what a stale vendor takes for it."""
        now = int(time.time() if fault is None else fault.now(time.time()))
        return Moment(self.began, now - self.began, self.still, self.seed)

    # --- control

    async def state(self, request: web.Request) -> web.Response:
        now = time.time()
        vendors = {
            vendor: {
                "faults": self._faults.shown(vendor, now),
                "budget": spent.budget if spent else None,
            }
            for vendor in VENDORS
            for spent in [self._budgets.get(vendor)]
        }
        at = self._moment()
        about = {"began": at.began, "second": at.second}
        return _json({**about, "seed": at.seed, "still": at.still, "vendors": vendors})

    async def calls(self, request: web.Request) -> web.Response:
        try:
            window = float(request.query.get("window", "60"))
        except ValueError:
            window = 0.0
        if not window > 0:
            raise _wrong("`window` is not a number of seconds above 0")
        return _json({"window": window, "vendors": self._calls.counts(window)})

    async def set_fault(self, request: web.Request) -> web.Response:
        vendor, fault = await _told(request, Fault)
        paths = {*VENDORS[vendor], *([STREAM] if vendor == "binance" else [])}
        if fault.path and fault.path not in paths:
            raise _wrong(f"{vendor} has no path {fault.path!r}")
        self._faults.set(vendor, fault, time.time())
        return web.Response(status=204)

    async def set_budget(self, request: web.Request) -> web.Response:
        vendor, budget = await _told(request, Budget)
        self._budgets[vendor] = Spent(budget, bans=vendor == "binance")
        return web.Response(status=204)

    async def reset(self, request: web.Request) -> web.Response:
        self._forget()
        return web.Response(status=204)

    # --- the vendors

    async def answer(self, request: web.Request) -> web.Response:
        vendor, path = request.match_info["vendor"], "/" + request.match_info["path"]
        if vendor not in VENDORS:
            raise web.HTTPNotFound(text=f"no vendor {vendor!r}\n")
        call, now = self._arrived(vendor, request), time.time()
        fault = self._faults.take(vendor, path, now)
        over = self._over_budget(vendor, now)
        headers = {}
        if vendor == "binance":
            headers["X-MBX-USED-WEIGHT-1M"] = str(self._weight.spend(_WEIGHT, now))
        end = "left"
        try:
            await asyncio.sleep(self._latency(vendor, fault))
            if fault and fault.mode in ("hang", "reset"):
                if fault.mode == "reset":
                    end = "reset"
                    _reset(request)
                await asyncio.Event().wait()  # cancelled when the connection ends
            reply = over or self._reply(vendor, path, request, fault)
            end = str(reply.status)
        finally:
            call.statuses[end] += 1
        return _response(reply, headers)

    def _arrived(self, vendor: str, request: web.Request) -> Key:
        name = request.raw_path.removeprefix(f"/{vendor}")
        second = self._moment().second
        return self._calls.arrived(vendor, name, time.monotonic(), second)

    def _over_budget(self, vendor: str, now: float) -> Reply | None:
        """The refusal of a call for which there is no room."""
        if (spent := self._budgets.get(vendor)) is None:
            return None
        wait = spent.take(_WEIGHT if vendor == "binance" else 1, now)
        if not wait:
            return None
        if now < spent.banned_until:
            return banned(spent.banned_until, wait)
        return limited(vendor, self._moment(), wait if vendor in _TELLS_WHEN else None)

    def _latency(self, vendor: str, fault: Active | None) -> float:
        if fault and fault.told.latency is not None:
            return fault.told.latency
        if (always := self.latency.get(vendor)) is not None:
            return always
        drawn = self._draws[vendor].lognormvariate(0, _SIGMA)
        return min(SLOWEST, max(FASTEST, MEDIANS[vendor] * drawn))

    def _reply(
        self, vendor: str, path: str, request: web.Request, fault: Active | None
    ) -> Reply:
        now = self._moment(fault)
        if fault and (reply := fault.reply(vendor, now, time.time())):
            return reply
        try:
            admit(vendor, request.headers, request.query, now)
            body = payload(vendor, path, request.query_string, now)
        except Refused as e:
            return Reply(e.status, e.body)
        if fault:
            body = fault.spoilt(body)
        return Reply(200, body, {"X-Second": str(now.second)})

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Binance's websocket: a frame for each symbol and second. Of the faults it
        knows hang, reset, stale and those that spoil a payload."""
        call = self._arrived("binance", request)
        try:
            wanted = symbols(request.query)
        except Refused as e:
            call.statuses[str(e.status)] += 1
            return _response(Reply(e.status, e.body))
        call.statuses["101"] += 1
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        while not ws.closed:
            try:
                await ws.receive(timeout=1 - time.time() % 1)
            except TimeoutError:
                fault = self._faults.take("binance", STREAM, time.time())
                if fault and fault.mode == "reset":
                    _reset(request)
                elif not (fault and fault.mode == "hang"):
                    with suppress(ConnectionResetError):  # the client has left
                        await self._send(ws, wanted, fault)
        return ws

    async def _send(
        self, ws: web.WebSocketResponse, wanted: list[str], fault: Active | None
    ) -> None:
        for symbol in wanted:
            body = frame(symbol, self._moment(fault))
            await ws.send_str((fault.spoilt(body) if fault else body).decode())


def _reset(request: web.Request) -> None:
    assert request.transport is not None
    sock = request.transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    request.transport.abort()


def _response(reply: Reply, headers: Mapping[str, str] = NONE) -> web.Response:
    return web.Response(
        status=reply.status,
        body=reply.body,
        content_type=reply.kind,
        headers={**headers, **reply.headers},
    )


async def _told(request: web.Request, kind: type[T]) -> tuple[str, T]:
    """What a control request says, and of which vendor."""
    vendor = request.match_info["vendor"]
    if vendor not in VENDORS:
        raise _wrong(f"no vendor {vendor!r}")
    try:
        return vendor, msgspec.json.decode(await request.read(), type=kind)
    except msgspec.MsgspecError as e:
        raise _wrong(f"{vendor}: {e}") from None


def _wrong(said: str) -> web.HTTPBadRequest:
    return web.HTTPBadRequest(text=f"{said}\n")


def _json(what: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(what), content_type=JSON)
