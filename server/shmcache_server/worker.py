"""The gunicorn worker: aiohttp's, with our runner, attached to the segment after fork.

A worker that cannot start says why in one line and exits with a code of its own:
aiohttp's would be taken by gunicorn as a reason to stop all the others. It lingers
for a second first, so that its replacements do not come in a hot loop.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
import time
from typing import Any

from aiohttp.worker import GunicornUVLoopWebWorker, GunicornWebWorker

from shmcache import CacheConfig

from .addresses import parse_address
from .app import CacheRunner
from .config import Config

BOOT_FAILED = 1
"""Exit code; gunicorn's 3 and 4 end the whole server."""
_LINGER = 1.0
_NOT_SENT = 128 * 1024
"""Bytes that the kernel holds for a client beyond what is on its way: else megabytes,
of which a third must be gone before it tells that the client takes anything at all."""
_COLLECTED = (20_000, 20, 20)
"""Objects made and not freed before a collection of the young; then of them, before
one of the older."""


class _Attached(GunicornWebWorker):
    """What both loops' workers share. The master's post_fork hook hands in settings."""

    settings: tuple[Config, CacheConfig]
    sockets: list[Any]
    accepts = 1
    """Connections that the loop takes from a listener in a turn; 1: as many as wait."""
    _listening = False

    def load_wsgi(self) -> None:
        """There is no WSGI application: `wsgi` is what makes the runner."""
        self.wsgi = self._runner
        # uvloop closes a socket by its descriptor and lets go of a real socket object;
        # gunicorn's wrapper would close the descriptor again, whosever it is by then.
        self.sockets = [listener.sock for listener in self.sockets]
        for listener in self.sockets:
            if listener.family != socket.AF_UNIX:
                listener.setsockopt(
                    socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _NOT_SENT
                )

    async def _runner(self) -> CacheRunner:
        config, cache = self.settings
        admin = [s for s in self.sockets if _is_admin(s, config)]
        listeners = [s for s in self.sockets if s not in admin]
        self.sockets = [s for one in listeners for s in often(one, self.accepts)]
        return CacheRunner(config, cache, admin)

    def init_process(self) -> None:
        """The worker's whole life."""
        try:
            super().init_process()
        except Exception as e:
            if self.booted:
                raise
            self.log.error(
                "worker %s failed to start: %s: %s", os.getpid(), type(e).__name__, e
            )
            logging.getLogger("shmcache").debug("why", exc_info=True)
            _linger()
            sys.exit(BOOT_FAILED)

    def notify(self) -> None:
        """A sign of life, the first when all sites have started: aiohttp has made each
        listener's queue shorter than a burst of connections, whose rest would be
        dropped and come again a second later."""
        super().notify()
        if not self._listening:
            self._listening = True
            _collect_seldom()
            for listener in self.sockets:
                listener.listen(self.cfg.backlog)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stop now: aiohttp's would notice at its next turn, up to a second later."""
        super().handle_exit(sig, frame)
        self._notify_waiter_done()


class Worker(_Attached, GunicornUVLoopWebWorker):
    """A worker on uvloop, which takes one connection of a descriptor in a turn. Beside
    a few hundred that are busy a turn lasts milliseconds, and a crowd that comes then
    waited for seconds."""

    accepts = 8


class PlainWorker(_Attached):
    """A worker on asyncio's own loop."""


def often(listener: socket.socket, times: int) -> list[socket.socket]:
    """The listener under so many descriptors: each is looked at once in a turn."""
    return [listener, *(listener.dup() for _ in range(times - 1))]


def _is_admin(listener: socket.socket, config: Config) -> bool:
    if not config.server.admin or listener.family == socket.AF_UNIX:
        return False
    port: int = listener.getsockname()[1]
    return port == parse_address(config.server.admin, "admin")[1]


def _collect_seldom() -> None:
    """Leave what a start made out of every collection, and collect for more than a
    few requests at a time: with dozens under way each miss paid a sixth for it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTED)


def _linger() -> None:
    for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGABRT):
        signal.signal(sig, signal.SIG_DFL)  # the loop that heard them is closed
    time.sleep(_LINGER)
