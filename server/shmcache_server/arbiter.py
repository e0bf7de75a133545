"""The master: gunicorn's arbiter, told what to hold for its workers.

It makes the segment and holds it, starts the embedded Redis, and checks what would
otherwise fail in every worker: a wrong setting ends in one line and exit code 2 before
a worker is forked. It runs no thread and no loop of its own. `shmcache serve` and
`gunicorn -c gunicorn.conf.py` run the same hooks.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import re
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from hashlib import blake2b
from typing import Any, NoReturn

from gunicorn import systemd, util  # type: ignore[import-untyped]
from gunicorn.app.base import (  # type: ignore[import-untyped]
    BaseApplication,
)

from shmcache import (
    Cache,
    CacheConfig,
    CacheError,
    ConfigError,
    Prepared,
    SegmentError,
)

from . import hosted
from .addresses import parse_address, redacted
from .app import require_c_parser
from .config import Config, l2_url, load
from .embedded import EmbeddedRedis
from .worker import PlainWorker, Worker

log = logging.getLogger("shmcache")

WRONG_SETTING = 2
"""Exit code."""
_WORKER_TIMEOUT = 30
_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
Address = tuple[str, int] | str | int


class Holding:
    """What the master holds while its workers come and go."""

    def __init__(self, config: Config, addresses: list[Address]) -> None:
        """`ConfigError` if something cannot be had."""
        self.config = config
        self._pid = os.getpid()
        self._embedded: EmbeddedRedis | None = None
        require_c_parser()
        self.notes = _notes(config)
        said = config.server.admin
        admin = parse_address(said, "admin") if said else None
        for address in addresses:
            _check_free(address, "admin" if address == admin else "bind")
        url, why = l2_url(config)
        name = config.l1.name or segment_name(addresses[0])
        self._prepared = _prepare(config.cache(name, None))
        atexit.register(self.close)
        try:
            if url == "embedded":
                self._embedded = EmbeddedRedis()
                url = self._embedded.url
            self.cache = config.cache(name, None if url == "none" else url)
            self.l2_away = asyncio.run(_check_l2(self.cache))
        except BaseException:
            self.close()
            raise
        self.words = f"{_told(self._prepared)}; L2 {redacted(url)} ({why})"

    def reload(self, config: Config) -> None:
        """Take new settings for the workers to come; those of the segment and of L2
        stay until the next start."""
        if (config.l1, config.l2) != (self.config.l1, self.config.l2):
            log.warning("reload: changes of l1 and l2 take a restart")
        self.config = replace(config, l1=self.config.l1, l2=self.config.l2)

    def mend(self) -> None:
        """See that what the workers rely on runs."""
        if self._embedded is not None:
            self._embedded.mend()

    def let_go(self) -> None:
        """In a forked child: drop the descriptor it was born with. It shares the
        master's hold on the segment, which would outlive a killed master and keep
        the last worker from removing what nobody else has."""
        self._prepared.close(remove=False)

    def close(self) -> None:
        """Let go of all of it. A forked child holds nothing: here it does nothing."""
        if os.getpid() != self._pid:
            return
        self._pid = -1
        atexit.unregister(self.close)
        if self._embedded is not None:
            self._embedded.close()
        self._prepared.close(remove=not self.config.l1.keep)


def settings(
    config: Config,
    holding: Holding | None = None,
    read: Callable[[], Config] = load,
) -> dict[str, Any]:
    """gunicorn's settings for ours, hooks included; `read` gets them anew at a HUP."""

    def on_starting(server: Any) -> None:
        server.shmcache = holding or or_exit(
            lambda: Holding(config, _addresses(server))
        )
        _share_log(server)
        _let_workers_hear_stops()
        _mend_each_turn(server)
        _reload_what_is_right(server, read)

    def on_reload(server: Any) -> None:
        server.shmcache.reload(config)

    return {
        "bind": [a for a in (config.server.bind, config.server.admin) if a],
        "workers": config.server.workers,
        "worker_class": Worker if config.server.loop == "uvloop" else PlainWorker,
        "wsgi_app": "shmcache_server.app:CacheRunner",  # gunicorn asks for a name
        "timeout": max(_WORKER_TIMEOUT, int(config.server.graceful_timeout) + 5),
        "graceful_timeout": int(config.server.graceful_timeout),
        "keepalive": int(config.server.keepalive),
        "control_socket_disable": True,  # its thread and fork do not go together
        "proc_name": "shmcache",
        "on_starting": on_starting,
        "on_reload": on_reload,
        "when_ready": _when_ready,
        "post_fork": _post_fork,
        "on_exit": _on_exit,
    }


def _when_ready(server: Any) -> None:
    where = ", ".join(str(listener) for listener in server.LISTENERS)
    holding = server.shmcache
    log.info("shmcache at %s before %s", where, ", ".join(holding.config.origin.bases))
    log.info("%s", holding.words)
    for note in holding.notes:
        log.warning("%s", note)
    if holding.l2_away:
        log.warning("%s; going on without, and trying again", holding.l2_away)


def _mend_each_turn(server: Any) -> None:
    """gunicorn has no hook in its loop. Once a turn, each second and when a child
    ends, it looks for workers that hang."""
    look = server.murder_workers

    def look_and_mend() -> None:
        look()
        server.shmcache.mend()

    server.murder_workers = look_and_mend


def _reload_what_is_right(server: Any, read: Callable[[], Config]) -> None:
    """Judged before gunicorn begins, which takes no way back: it ends where its
    configuration cannot be had, and its old workers where new ones fail."""
    reload = server.reload

    def judge_and_reload() -> None:
        try:
            notes = _notes(read())
        except (CacheError, OSError) as e:
            said = " ".join(str(e).split())
            log.error("reload: %s; the workers stay as they are", said)
            return
        for note in notes:
            log.warning("%s", note)
        reload()

    server.reload = judge_and_reload


def _notes(config: Config) -> list[str]:
    """What the application says of its settings; `ConfigError`."""
    return hosted.check(config.app) if config.app.factory else []


def _let_workers_hear_stops() -> None:
    """A worker inherits the master's handlers, which only note a signal for the
    master's loop, until it has set its own: told to stop in between, it would never
    hear. So stops wait while we fork, and meet the default action in the child."""

    def born() -> None:
        for number in _STOPS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)

    os.register_at_fork(
        before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS),
        after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS),
        after_in_child=born,
    )


def _post_fork(server: Any, worker: Any) -> None:
    server.shmcache.let_go()
    worker.settings = server.shmcache.config, server.shmcache.cache


def _on_exit(server: Any) -> None:
    server.shmcache.close()


class Application(BaseApplication):  # type: ignore[misc]
    """gunicorn without its command line: what `shmcache serve` runs."""

    def __init__(self, read: Callable[[], Config]) -> None:
        self._read = read
        self._config: Config = or_exit(read)
        bound = settings(self._config)["bind"]
        addresses = [util.parse_address(address) for address in bound]
        self._holding = or_exit(lambda: Holding(self._config, addresses))
        super().__init__()

    def load_config(self) -> None:
        """At the start, and again at each HUP."""
        made = settings(self._config, self._holding, self._again)
        for name, value in made.items():
            self.cfg.set(name, value)

    def _again(self) -> Config:
        self._config = self._read()
        return self._config

    def load(self) -> NoReturn:
        """The workers make their own."""
        raise NotImplementedError


def or_exit(work: Callable[[], Any]) -> Any:
    """What `work` returns; a wrong setting ends the process with one line."""
    try:
        return work()
    except (CacheError, OSError) as e:
        print(f"shmcache: {' '.join(str(e).split())}", file=sys.stderr, flush=True)
        sys.exit(WRONG_SETTING)


def segment_name(address: Address) -> str:
    """A name made from the user and the bind address: two servers are two hosts."""
    if isinstance(address, tuple):
        host, port = address[0], address[1]
        where = f"{host}-{port}" if port else f"{host}-{os.getpid()}"
        where = re.sub(r"[^A-Za-z0-9.]+", "-", where).strip("-")[:40] or "any"
    else:
        where = blake2b(str(address).encode(), digest_size=6).hexdigest()
    return f"u{os.geteuid()}-{where}"


def _prepare(config: CacheConfig) -> Prepared:
    try:
        return Cache.prepare(config)
    except SegmentError as e:
        said = str(e)
        if said.startswith("segment "):  # what stands under the name
            raise ConfigError(f"l1_name={config.name}: {said}") from None
        said = said.removeprefix("size: ")
        raise ConfigError(f"l1_size={config.size_bytes}: {said}") from None


def _told(prepared: Prepared) -> str:
    """The segment in words for the log: where it came from, and how it is cut."""
    g = prepared.geometry
    return (
        f"segment {prepared.name} ({prepared.note}), {g['size']} bytes in "
        f"{g['shards']} shards, extents of {g['extent_bytes']} bytes, "
        f"{g['index_slots']} index slots for records of {g['record_bytes']} bytes"
    )


async def _check_l2(config: CacheConfig) -> str | None:
    """Why Redis does not answer, None if it does, or is not used."""
    if config.l2 is None:
        return None
    cache = Cache(config)
    try:
        return await cache.check_l2()
    finally:
        await cache.close()


def _addresses(server: Any) -> list[Address]:
    return list(server.cfg.address)


def _check_free(address: Address, setting: str) -> None:
    """`ConfigError` if nobody could listen there; gunicorn would try for 5 s."""
    if not isinstance(address, tuple) or systemd.listen_fds(unset_environment=False):
        return
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with closing(socket.socket(family)) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(address[:2])
        except OSError as e:
            said = f"{setting}={address[0]}:{address[1]}"
            raise ConfigError(f"{said}: {e.strerror}") from None


def _share_log(server: Any) -> None:
    """Our lines go where gunicorn's go; the access log goes to stdout."""
    theirs = server.log.error_log
    log.handlers, log.propagate = theirs.handlers, False
    log.setLevel(theirs.level)
    access = logging.getLogger("shmcache.access")
    access.handlers, access.propagate = [logging.StreamHandler(sys.stdout)], False
    access.setLevel(logging.INFO)
