"""Rights: whether a Redis lets us do all that L2 does, tried on keys of no use."""

from __future__ import annotations

import os

from .ask import Invalidation
from .errors import ConfigError
from .resp import Command, ReplyError
from .scripts import Names, Scripts
from .wire import Wire

_LIFE_MS = 1000
"""Of what could not be deleted again."""
_DENIED = "NOPERM", "user executing the script", "ACL failure"
"""By these words Redis 6, its scripts, and those of Redis 7 refuse."""


async def check_rights(wire: Wire, names: Names, scripts: Scripts) -> None:
    """`ConfigError` names a right that is missing; another error reply is raised.

    It takes one round trip and leaves nothing. The connection is subscribed then.
    """
    channel = names.channels + b"check"
    commands = [
        # alone first: some versions do not tell which command of a script was refused
        *_commands(names, channel),
        *_calls(names, scripts, channel),
        *_deletions(names),
        ("SUBSCRIBE", channel),
    ]
    errors = [
        (str(command[0]), reply)
        for command, reply in zip(commands, await wire.ask(*commands), strict=True)
        if isinstance(reply, ReplyError)
    ]
    for command, error in errors:
        if any(words in str(error) for words in _DENIED):
            raise ConfigError(f"l2: Redis refused {command!s}, needed by L2: {error}")
    for _, error in errors:
        raise error


def _commands(names: Names, channel: bytes) -> list[Command]:
    """What processes and scripts send, one by one."""
    text, members, fields, stream = map(names.scratch, (b"t", b"m", b"f", b"a"))
    return [
        ("DEL", text),
        ("TIME",),
        ("PERSIST", text),
        ("SET", text, "x", "PX", _LIFE_MS),
        ("SETRANGE", text, 0, "x"),
        ("GET", text),
        ("GETRANGE", text, 0, 1),
        ("MGET", text),
        ("PTTL", text),
        ("SADD", members, "x"),
        ("PEXPIRE", members, _LIFE_MS),
        ("SMEMBERS", members),
        ("HSET", fields, "x", 1),
        ("PEXPIRE", fields, _LIFE_MS),
        ("HSETNX", fields, "x", 1),
        ("HINCRBY", fields, "x", 1),
        ("HGET", fields, "x"),
        ("HMGET", fields, "x"),
        ("XADD", stream, "MAXLEN", "~", 1, "*", "x", "x"),
        ("PEXPIRE", stream, _LIFE_MS),
        ("XREAD", "COUNT", 1, "STREAMS", stream, 0),
        ("PUBLISH", channel, names.scratch(b"l")),
    ]


def _calls(names: Names, scripts: Scripts, channel: bytes) -> list[Command]:
    """The five scripts, as if a key was computed, stored and set."""
    g, s, v, l_, w, e = map(names.scratch, (b"g", b"s", b"v", b"l", b"w", b"e"))
    incarnation, mine, set_by = os.urandom(8), os.urandom(16), os.urandom(16)
    ask = b"0" + mine + bytes(32) + channel
    item = Invalidation(b"d", b"x", 0, set_by)
    renewal = (l_, w), (mine, _LIFE_MS)
    return [
        scripts.acquire.whole((g, s, v, l_, w, e), (incarnation, b"", _LIFE_MS, ask)),
        scripts.renew.whole(*renewal),
        scripts.renew.command(*renewal),
        scripts.put_fenced.whole(
            (g, v, l_, w), (mine, b"x", _LIFE_MS, 2**53, incarnation, 0)
        ),
        scripts.invalidate.whole(
            (g, s, v, l_, w),
            (incarnation, b"", b"-", b"", 1, _LIFE_MS, item.packed()),
        ),
        scripts.abandon.whole((l_, w, e), (set_by, b"error", _LIFE_MS)),
    ]


def _deletions(names: Names) -> list[Command]:
    lasting = [names.scratch(b"g"), names.scratch(b"s")]
    every = [names.scratch(b"%c" % name) for name in b"tmfagsvlwe"]
    return [*(("PEXPIRE", key, _LIFE_MS) for key in lasting), ("DEL", *every)]
