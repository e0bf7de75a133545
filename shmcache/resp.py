"""Redis' protocol (RESP2): commands to bytes, and bytes to replies. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import hiredis

__all__ = [
    "Command",
    "NoScriptError",
    "ProtocolError",
    "Replies",
    "ReplyError",
    "ReplyTooLong",
    "pack",
]

Command = Sequence[bytes | str | int]
REPLY_MAX = 128 << 20
"""Bytes of a reply that are gathered: a batch of large values, and no more."""


class ReplyError(Exception):
    """An error that Redis replied."""

    @property
    def code(self) -> str:
        """Its first word: ERR, READONLY, MOVED..."""
        return str(self).partition(" ")[0]


class NoScriptError(ReplyError):
    """Redis does not know the script, which so did not run."""


class ProtocolError(Exception):
    """Not what Redis would send."""


class ReplyTooLong(ProtocolError):
    """One of more bytes than are gathered: `REPLY_MAX`."""


def pack(commands: Iterable[Command]) -> bytes:
    """One write for all the commands."""
    # its own types say a tuple of one
    return b"".join([hiredis.pack_command(tuple(one)) for one in commands])  # type: ignore[arg-type]


class Replies:
    """Makes replies of bytes as they come, wherever they were cut.

    Replies are bytes, int, None, lists of replies, and `ReplyError`.
    """

    def __init__(self) -> None:
        self._reader = hiredis.Reader(protocolError=ProtocolError, replyError=_error)
        self._begun = False
        self._gathered = 0

    @property
    def partial(self) -> bool:
        """Whether a reply has begun and not ended."""
        return self._begun or self._reader.has_data()

    def feed(self, data: bytes) -> list[Any]:
        """The replies that `data` completes. `ProtocolError` ends the connection."""
        self._reader.feed(data)
        replies: list[Any] = []
        # False: no whole reply; it is none of the protocol's own values
        while (reply := self._reader.gets()) is not False:
            replies.append(reply)
        self._begun = not replies  # what came was taken in, and is not a whole one
        self._gathered = 0 if replies else self._gathered + len(data)
        if self._gathered > REPLY_MAX:
            raise ReplyTooLong("l2: a reply that has no end")
        return replies


def _error(words: str) -> ReplyError:
    kind = NoScriptError if words.startswith("NOSCRIPT") else ReplyError
    return kind(words)
