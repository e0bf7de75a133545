"""The five scripts that run inside Redis, and the names of the keys they touch."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from .link import Command, NoScriptError

Exchange = Callable[..., Awaitable[list[Any]]]
"""Of a `Link`, or `ask` of a `Wire`: the reply to each command."""


class Names:
    """The keys of an app in Redis. `{app:0}` keeps all of a partition in one slot."""

    def __init__(self, app: str, partition: int = 0) -> None:
        self.channels = f"shmcache:{{{app}}}:c:".encode()
        prefix = f"shmcache:{{{app}:{partition}}}:".encode()
        self.generations = prefix + b"g"
        self.stream = prefix + b"s"
        self.hosts = prefix + b"h"
        self.values = prefix + b"v:"
        self._leases = prefix + b"l:"
        self._waiters = prefix + b"w:"
        self._errors = prefix + b"e:"
        self._scratch = prefix + b"x:"

    def scratch(self, name: bytes) -> bytes:
        """A key of no use, in the same slot."""
        return self._scratch + name

    def value(self, key: bytes) -> bytes:
        return self.values + key

    def lease(self, key: bytes) -> bytes:
        return self._leases + key

    def waiters(self, key: bytes) -> bytes:
        return self._waiters + key

    def error(self, key: bytes) -> bytes:
        return self._errors + key

    @staticmethod
    def key(lease: bytes) -> bytes:
        """The key whose lease it is, in any partition: what a wake-up carries."""
        return lease[lease.index(b"}:") + 4 :]


def files(package: str) -> Any:
    """As of `importlib.resources`, which costs a start without L2 nothing."""
    from importlib import resources

    return resources.files(package)


class Script:
    """A script's text, and the digest by which Redis knows it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = files("shmcache.lua").joinpath(f"{name}.lua").read_bytes()
        digest = hashlib.sha1(self.text, usedforsecurity=False).hexdigest()
        self._short = ("EVALSHA", digest.encode())
        self._whole = ("EVAL", self.text)

    async def run(
        self,
        exchange: Exchange,
        keys: Sequence[bytes],
        args: Sequence[bytes | str | int],
        *also: Command,
    ) -> list[Any]:
        """The script's reply, and the replies of the commands sent behind it.

        An error reply to any of them is raised.
        """
        tail = (len(keys), *keys, *args)
        replies = await exchange((*self._short, *tail), *also)
        if isinstance(replies[0], NoScriptError):
            # it did not run, so running it now is no repetition
            replies = await exchange((*self._whole, *tail), *also)
        return sound(replies)

    def command(
        self, keys: Sequence[bytes], args: Sequence[bytes | str | int]
    ) -> Command:
        """To run it, if Redis knows it."""
        return (*self._short, len(keys), *keys, *args)

    def whole(
        self, keys: Sequence[bytes], args: Sequence[bytes | str | int]
    ) -> Command:
        """To run it, whether Redis knows it or not; then it does."""
        return (*self._whole, len(keys), *keys, *args)

    async def run_each(
        self, exchange: Exchange, calls: Sequence[tuple[Sequence[Any], Sequence[Any]]]
    ) -> list[Any]:
        """The reply to each call of (keys, args), all in one exchange; an error reply
        stands in its place."""
        tails = [(len(keys), *keys, *args) for keys, args in calls]
        replies = await exchange(*((*self._short, *tail) for tail in tails))
        forgotten = [i for i, r in enumerate(replies) if isinstance(r, NoScriptError)]
        if forgotten:
            first, *others = forgotten
            again = await exchange(
                (*self._whole, *tails[first]),
                *((*self._short, *tails[i]) for i in others),
            )
            for i, reply in zip(forgotten, again, strict=True):
                replies[i] = reply
        return replies


def sound(replies: list[Any]) -> list[Any]:
    """The replies; an error among them is raised."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


class Scripts:
    """All five."""

    def __init__(self) -> None:
        self.acquire = Script("acquire")
        self.renew = Script("renew")
        self.put_fenced = Script("put_fenced")
        self.abandon = Script("abandon")
        self.invalidate = Script("invalidate")
