"""Resolver: the addresses of a host's name, looked up on a thread of its own.

The loop's own look-ups run on a few threads that the whole process shares: with name
servers that hang, each try to connect would keep one of them, and the application's
look-ups would wait behind ours. So there is one look-up under way for each name in the
process, whoever asks, and its answer is everybody's for a few seconds.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from time import monotonic

__all__ = ["addresses"]

_FOUND_SECONDS, _FAILED_SECONDS = 5.0, 1.0
"""How long an answer is taken for the next one's."""


async def addresses(host: str) -> list[str]:
    """The host's addresses in the order to try them; `OSError` where there are none.

    Who stops waiting leaves the look-up to the others.
    """
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return await asyncio.wrap_future(_asked(host).answer)
    return [host]


class _LookUp:
    """Of one name: under way, or its answer for a while."""

    def __init__(self, host: str) -> None:
        self._host = host
        self.answer: Future[list[str]] = Future()
        self.answer.set_running_or_notify_cancel()  # no one who waits can cancel it
        self.until = float("inf")

    def run(self) -> None:
        """On its thread."""
        try:
            found = socket.getaddrinfo(self._host, None, type=socket.SOCK_STREAM)
            known = list(dict.fromkeys(_numeric(place) for *_, place in found))
        except Exception as error:
            if not isinstance(error, OSError):
                error = OSError(f"l2: {self._host!r} is no name of a host")
            self.until = monotonic() + _FAILED_SECONDS
            self.answer.set_exception(error)
        else:
            self.until = monotonic() + _FOUND_SECONDS
            self.answer.set_result(known)


_known: dict[str, _LookUp] = {}
_lock = threading.Lock()


def _asked(host: str) -> _LookUp:
    """The look-up that is under way, or has been of late; else a new one."""
    with _lock:
        now = monotonic()
        for name in [name for name, known in _known.items() if known.until <= now]:
            del _known[name]
        if host not in _known:
            asked = _LookUp(host)
            thread = threading.Thread(
                target=asked.run, name="shmcache-resolver", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as error:  # no more threads to be had
                raise OSError(f"l2: {error}") from None
            _known[host] = asked
        return _known[host]


def _numeric(place: Sequence[object]) -> str:
    """Of a socket's address; a link-local one is nothing without its interface."""
    scope = place[3] if len(place) > 3 else 0
    return f"{place[0]}%{scope}" if scope else str(place[0])


def _born() -> None:
    """In a forked child: its parent's threads are not there."""
    global _lock
    _lock = threading.Lock()
    _known.clear()


os.register_at_fork(after_in_child=_born)
