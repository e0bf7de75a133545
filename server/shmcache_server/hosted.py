"""Hosted: an aiohttp application that answers, in each worker, what the cache has not.

It is an origin as any other, asked by HTTP: over a socket in the abstract namespace,
one for each worker, which answers to processes of the same user alone. So an
application needs to know nothing of the cache but the fields that it answers with, and
may be moved to a server of its own.

    def application(context: Context) -> web.Application

is named by the setting `app.factory` as module:function, and called once in each
worker, within its loop; `[app.settings]` is the application's own. Its module may have

    def check(settings: Mapping[str, Any]) -> Iterable[str]

which judges them before a worker is forked: `ConfigError` names the one that is wrong,
and what it returns is logged, a line each.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, NoReturn

from aiohttp import web

from shmcache import CacheConfig, ConfigError

from .config import Config
from .tables import AppConfig

CHECK_SECONDS = 30
"""At most, for an application's module to load and judge its settings."""
_PEER = struct.Struct("3i")
Next = Callable[[web.Request], Awaitable[web.StreamResponse]]
Judge = Callable[[Mapping[str, Any]], Iterable[str]]


class Context(NamedTuple):
    """What an application is given."""

    settings: Mapping[str, Any]
    """The table [app.settings]."""
    cache: CacheConfig
    """For a cache of its own beside the server's: all workers of the host share its
    segment, and where the server has L2, all hosts what stands there."""


class Hosted:
    """The application of one worker."""

    def __init__(self, config: Config, cache: CacheConfig) -> None:
        """`cache` is the server's."""
        self.name = f"{cache.name}/{os.geteuid()}/{os.getpid()}/app"
        """In the abstract namespace."""
        context = Context(config.app.settings, config.own_cache(cache))
        made = load(config.app.factory)(context)
        if not isinstance(made, web.Application):
            raise ConfigError(
                f"app.factory={config.app.factory!r}: expected it to make an aiohttp "
                f"web.Application, not {type(made).__name__}"
            )
        made.middlewares.insert(0, _same_user)  # before what may answer by itself
        self._runner = _Runner(made, access_log=None, handle_signals=False)

    async def start(self) -> None:
        """Listen."""
        await self._runner.setup()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(f"\0{self.name}")
            await web.SockSite(self._runner, listener, backlog=4096).start()
        except BaseException:
            listener.close()
            raise

    async def shutdown(self) -> None:
        """The worker drains: those who are connected may be told so now."""
        await self._runner.shutdown()

    async def close(self) -> None:
        """Requests under way go on for a while, then it is cleaned up."""
        await self._runner.cleanup()


class _Runner(web.AppRunner):
    """Runs the application's `on_shutdown` once, when it is first told."""

    _told = False

    async def shutdown(self) -> None:
        if not self._told:
            self._told = True
            await super().shutdown()


def load(factory: str) -> Callable[[Context], Any]:
    """The function that makes applications; `ConfigError` names the setting."""
    module, _, name = factory.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as e:
        words = f"{type(e).__name__}: {e}"
        if isinstance(e, ModuleNotFoundError):
            words += "; is it on PYTHONPATH?"
        raise ConfigError(f"app.factory={factory!r}: cannot be had: {words}") from e
    if not callable(found):
        raise ConfigError(f"app.factory={factory!r}: expected a function")
    return found  # type: ignore[no-any-return]


def check(app: AppConfig) -> list[str]:
    """What its module says of its settings; `ConfigError` for one that is wrong, or
    where its factory is not to be had.

    A child loads it: the workers of a later reload must find the module as it stands
    then, not as the master once had it."""
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        _tell(theirs, app)
    os.close(theirs)
    with open(ours, "rb") as pipe:
        told = pipe.readline()  # its end may be held by what the module forked
    with suppress(ChildProcessError):  # the master's own reaping was faster
        os.waitpid(child, 0)
    if not told:
        raise ConfigError(
            f"app.factory={app.factory!r}: its module ended the process that loaded "
            f"it, or took over {CHECK_SECONDS} s"
        )
    wrong, lines = json.loads(told)
    if wrong:
        raise ConfigError(wrong)
    return list(lines)


def _tell(pipe: int, app: AppConfig) -> NoReturn:
    """The child's whole life."""
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(CHECK_SECONDS)
        said = json.dumps(_judged(app)).encode() + b"\n"
        with open(pipe, "wb") as out:
            out.write(said)
    finally:
        os._exit(0)


def _judged(app: AppConfig) -> tuple[str, list[str]]:
    """What is wrong, and what else there is to say."""
    try:
        load(app.factory)
        module = importlib.import_module(app.factory.partition(":")[0])
        judge: Judge = getattr(module, "check", _nothing)
        return "", [str(line) for line in judge(app.settings)]
    except ConfigError as e:
        return str(e), []
    except Exception as e:
        return f"app.settings: {type(e).__name__}: {e}", []


def _nothing(settings: Mapping[str, Any]) -> Iterable[str]:
    return ()


@web.middleware
async def _same_user(request: web.Request, handler: Next) -> web.StreamResponse:
    """Only the server asks: what it has removed or judged is not told again."""
    assert request.transport is not None
    sock = request.transport.get_extra_info("socket")
    said = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    if _PEER.unpack(said)[1] != os.geteuid():
        raise web.HTTPForbidden(text="only the server's own user is answered\n")
    return await handler(request)
