"""The five scripts that run inside Redis, and the names of the keys they touch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, NamedTuple

from .link import Command, Link, NoScriptError


class Names:
    """The keys of an app in Redis. `{app:0}` keeps all of a partition in one slot."""

    def __init__(self, app: str) -> None:
        self.channels = f"shmcache:{{{app}}}:c:".encode()
        self._prefix = f"shmcache:{{{app}:0}}:".encode()
        self.generations = self._prefix + b"g"
        self.stream = self._prefix + b"s"

    def value(self, key: bytes) -> bytes:
        return self._prefix + b"v:" + key

    def lease(self, key: bytes) -> bytes:
        return self._prefix + b"l:" + key

    def waiters(self, key: bytes) -> bytes:
        return self._prefix + b"w:" + key

    def error(self, key: bytes) -> bytes:
        return self._prefix + b"e:" + key

    def key(self, lease: bytes) -> bytes:
        """The key whose lease it is: what a wake-up carries."""
        return lease[len(self._prefix) + 2 :]


class Script(NamedTuple):
    """A script's text and the digest by which Redis knows it."""

    text: bytes
    digest: bytes

    @classmethod
    def read(cls, name: str) -> Script:
        text = files("shmcache.lua").joinpath(f"{name}.lua").read_bytes()
        digest = hashlib.sha1(text, usedforsecurity=False).hexdigest()
        return cls(text, digest.encode())


class Scripts:
    """The scripts, each called by its digest, and in full where Redis forgot it."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.acquire = Script.read("acquire")
        self.renew = Script.read("renew")
        self.put_fenced = Script.read("put_fenced")
        self.abandon = Script.read("abandon")
        self.invalidate = Script.read("invalidate")

    async def run(
        self,
        script: Script,
        keys: Sequence[bytes],
        args: Sequence[bytes | str | int],
        *also: Command,
    ) -> list[Any]:
        """The script's reply, and the replies of the commands sent behind it.

        An error of the script is raised.
        """
        tail = (len(keys), *keys, *args)
        replies = await self._link.exchange(("EVALSHA", script.digest, *tail), *also)
        if isinstance(replies[0], NoScriptError):
            # it did not run, so running it now is no repetition
            replies = await self._link.exchange(("EVAL", script.text, *tail), *also)
        if isinstance(replies[0], Exception):
            raise replies[0]
        return replies
