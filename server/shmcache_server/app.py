"""The wiring of one worker: config to cache to origin to handler; start and stop order.

Start: the cache takes its process slot and L2's connections, then the pool to the
origin, then requests. Stop is the same backwards: no new connections, requests under
way within the graceful time, fetches, pool, cache.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from dataclasses import replace

from aiohttp import http_parser, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_server import Server

from shmcache import Cache, CacheConfig, ConfigError

from . import admin as admins
from .config import Config
from .fastlane import FastServer, Lane
from .handler import Handler
from .hosted import Hosted
from .key import Keys
from .limits import Budget, Limits
from .origins import Origin
from .purges import Purges


class CacheRunner(web.AppRunner):
    """An AppRunner whose server calls our handler for every request: there is nothing
    to route. The application it carries is empty; gunicorn's worker asks for one."""

    def __init__(
        self,
        config: Config,
        cache: CacheConfig,
        admin: Sequence[socket.socket] = (),
    ) -> None:
        """`admin`: the listening sockets of the admin listener, if there is one."""
        require_c_parser()
        log = logging.getLogger("shmcache.access") if config.server.access_log else None
        super().__init__(
            web.Application(),
            access_log=log,
            logger=_server_log(),
            keepalive_timeout=config.server.keepalive,
            # Below gunicorn's own patience, which ends in SIGKILL.
            shutdown_timeout=config.server.graceful_timeout * 0.9,
            auto_decompress=False,  # bodies are passed on as they are
            max_line_size=config.limits.line,
            max_field_size=config.limits.field,
            max_headers=config.limits.fields,
        )
        self._config = config
        self._cache_config = cache
        self.cache: Cache | None = None
        self.handler: Handler | None = None
        self._hosted: Hosted | None = None
        self._limits: Limits | None = None
        self._origin: Origin | None = None
        self._admin_sockets = admin
        self._admin: web.AppRunner | None = None
        self._admin_ending: asyncio.Task[None] | None = None

    async def _make_server(self) -> Server:
        try:
            self.cache = self._open_cache(self._cache_config)
            await self.cache.start()
            self._origin = Origin(await self._reached(), self._calls(self.cache))
            self.handler = Handler(self.cache, self._origin, self._config)
            await self.handler.start()
            await self._start_admin(self.cache, self._origin)
        except BaseException:
            await self._cleanup_server()
            raise
        self.handler.ready = True
        loop = asyncio.get_running_loop()
        lane = Lane(self.cache, self.handler, self._config)
        return FastServer(lane, self.handler, loop=loop, **self._kwargs)

    async def _reached(self) -> Config:
        """The settings with the origin where it is to be had: an application's name is
        that of all workers, and each asks its own."""
        config = self._config
        if not config.app.factory:
            return config
        self._hosted = Hosted(config, self._cache_config)
        await self._hosted.start()
        url = f"unix://@{self._hosted.name}"
        return replace(config, origin=replace(config.origin, url=url))

    def _calls(self, cache: Cache) -> Budget | None:
        """The budget of calls to the origin, if there is one."""
        origin = self._config.origin
        if not origin.budget:
            return None
        self._limits = Limits(cache)
        return self._limits.budget("origin", origin.budget, origin.budget_seconds)

    def _open_cache(self, config: CacheConfig) -> Cache:
        return Cache(config)

    async def shutdown(self) -> None:
        """Draining: the listeners are closed, requests under way go on."""
        if self.handler is not None:
            self.handler.ready = False
        if self._admin is not None:  # ends beside the requests, not behind them
            ending = asyncio.get_running_loop().create_task(self._admin.cleanup())
            self._admin, self._admin_ending = None, ending
        if self._hosted is not None:
            await self._hosted.shutdown()

    async def _start_admin(self, cache: Cache, origin: Origin) -> None:
        purges = Purges(cache, Keys(self._config), self._config)
        answers = admins.application(cache, origin, purges)
        # aiohttp waits twice as long: once to let it end, and once to have it cancelled
        patience = self._config.server.graceful_timeout * 0.45
        self._admin = web.AppRunner(answers, access_log=None, shutdown_timeout=patience)
        await self._admin.setup()
        for listener in self._admin_sockets:
            await web.SockSite(self._admin, listener).start()

    async def _cleanup_server(self) -> None:
        handler, origin, cache = self.handler, self._origin, self.cache
        hosted, limits = self._hosted, self._limits
        self.handler = self._origin = self.cache = self._hosted = self._limits = None
        if self._admin is not None:
            await self._admin.cleanup()
            self._admin = None
        if self._admin_ending is not None:
            await self._admin_ending
        if handler is not None:
            await handler.close()
        if origin is not None:
            await origin.close()
        if limits is not None:
            await limits.close()
        if hosted is not None:
            await hosted.close()
        if cache is not None:
            await cache.close()


def _server_log() -> logging.Logger:
    """What aiohttp's server says: a request that is none is not worth a traceback."""
    log = logging.getLogger("shmcache.server")
    log.addFilter(_heard)
    return log


def _heard(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if not isinstance(error, HttpProcessingError):
        return True
    logging.getLogger("shmcache").debug("bad request: %s", type(error).__name__)
    return False


def require_c_parser() -> None:
    """`ConfigError` where aiohttp fell back to its Python parser: the two differ in
    what they let through, and ours is the C one."""
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise ConfigError(
            "aiohttp: its C parser is missing; install a wheel of aiohttp that has it, "
            "and leave AIOHTTP_NO_EXTENSIONS unset"
        )
