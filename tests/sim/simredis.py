"""An in-memory Redis: the commands that the library uses, and its Lua scripts.

It has no I/O and no clock of its own. What it answers is what redis-server 6.2 answers,
to the byte; `test_simredis.py` holds it to that. The project's own `.lua` files run
here unchanged, in the same Lua (5.1), each as one step.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

from shmcache.envelope import MAGIC

Reply = Any
Hash = dict[bytes, bytes]
WRONG_TYPE: Final = b"WRONGTYPE Operation against a key holding the wrong kind of value"
READ_ONLY: Final = b"READONLY You can't write against a read only replica."
NO_MEMORY: Final = b"OOM command not allowed when used memory > 'maxmemory'."
NOKEPT: Final = 3
_INTEGER: Final = b"ERR value is not an integer or out of range"
KEPT: Final = 3
_INTEGER: Final = re.compile(rb"0|-?[1-9][0-9]*")
NO_INTEGER: Final = b"ERR value is not an integer or out of range"
SYNTAX: Final = b"ERR syntax error"
SMALL_ID: Final = (
    b"ERR The ID specified in XADD is equal or smaller than the target stream top item"
)


class Status(bytes):
    """A status reply, such as OK."""


OK: Final = Status(b"OK")


class Refused:
    """An error reply."""

    def __init__(self, text: bytes) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"({self.text.decode()})"


class Refusal(Exception):
    """An error reply, before it is one."""

    def __init__(self, text: bytes, engine: bool = False) -> None:
        super().__init__(text)
        self.text = text
        self.engine = engine
        """It was not the command that refused, but what runs scripts."""


class Stream:
    """A stream: its entries in order, and the last id that it ever had."""

    def __init__(self) -> None:
        self.entries: list[tuple[tuple[int, int], list[bytes]]] = []
        self.last = (0, 0)


class SimRedis:
    """One server's state. `clock` gives its time in seconds."""

    def __init__(
        self,
        clock: Callable[[], float],
        run_id: str = "0" * 40,
        replication_id: str = "0" * 40,
    ) -> None:
        self.clock = clock
        self.run_id = run_id
        self.replication_id = replication_id
        self.role = "master"
        self.full = False
        """Out of memory: what would need more is refused."""
        self.trim_exactly = False
        """`MAXLEN ~` keeps a few entries, where a real one keeps up to a node more."""
        self.data: dict[bytes, Any] = {}
        self.ends: dict[bytes, float] = {}
        self.scripts: dict[bytes, Callable[..., Any]] = {}
        self.published: list[tuple[bytes, bytes]] = []
        """Messages since somebody took them."""
        self.appended: set[bytes] = set()
        """Streams that grew since somebody looked."""
        self.executed: dict[bytes, int] = {}
        self.stored: list[tuple[bytes, bytes]] = []
        """Keys and envelopes, as they were stored."""
        self._script: _Step | None = None

    def clone(self, run_id: str, replication_id: str) -> SimRedis:
        """A copy as it stands, under another identity; scripts are not replicated."""
        other = SimRedis(self.clock, run_id, replication_id)
        other.data = copy.deepcopy(self.data)
        other.ends = dict(self.ends)
        other.full, other.trim_exactly = self.full, self.trim_exactly
        other.stored = self.stored
        return other

    @property
    def identity(self) -> int:
        """By which the library knows this very server, with this very data."""
        whose = (self.run_id + self.replication_id).encode()
        digest = hashlib.blake2b(whose, digest_size=8).digest()
        return int.from_bytes(digest, "little") >> 1 or 1

    # -- execution

    def execute(self, words: Sequence[bytes]) -> Reply:
        """The reply of one command; an error is a `Refused`."""
        try:
            return self.run(words[0].upper(), words[1:])
        except Refusal as refusal:
            return Refused(refusal.text)

    def run(self, name: bytes, args: Sequence[bytes]) -> Reply:
        found = _COMMANDS.get(name)
        if found is None:
            raise Refusal(b"ERR unknown command")
        work, flags = found
        if flags & _WRITES:
            self._may_write(flags)
        try:
            return work(self, *args)
        except TypeError as error:
            if "argument" not in str(error):
                raise
            raise Refusal(
                b"ERR wrong number of arguments for '%s' command" % name.lower()
            ) from None

    def _may_write(self, flags: int) -> None:
        step = self._script
        if self.role != "master":
            raise Refusal(READ_ONLY, step is not None)
        if flags & _GROWS and (
            self.full if step is None else step.full and not step.wrote
        ):
            raise Refusal(NO_MEMORY, step is not None)
        if step is not None:
            step.wrote = True

    # -- keys

    def now_ms(self) -> int:
        return int(self.clock() * 1000)

    def look(self, key: bytes, kind: type | None = None) -> Any:
        end = self.ends.get(key)
        if end is not None and self._moment() > end:
            self.drop(key)
            return None
        value = self.data.get(key)
        if kind is not None and value is not None and type(value) is not kind:
            raise Refusal(WRONG_TYPE)
        return value

    def drop(self, key: bytes) -> int:
        self.ends.pop(key, None)
        return int(self.data.pop(key, None) is not None)

    def _moment(self) -> int:
        """A script sees one time all through."""
        return self.now_ms() if self._script is None else self._script.began

    # -- strings and lives

    def get(self, key: bytes) -> Reply:
        return self.look(key, bytes)

    def mget(self, *keys: bytes) -> Reply:
        values = (self.look(key) for key in keys)
        return [v if type(v) is bytes else None for v in values]

    def getrange(self, key: bytes, first: bytes, last: bytes) -> Reply:
        value = self.look(key, bytes) or b""
        start, end, size = _int(first), _int(last), len(value)
        if start < 0 and end < 0 and start > end:
            return b""
        start = max(0, start + size) if start < 0 else start
        end = max(0, end + size) if end < 0 else end
        return value[start : end + 1]

    def setrange(self, key: bytes, at: bytes, value: bytes) -> Reply:
        old = self.look(key, bytes)
        if not value:
            return len(old or b"")
        start = _int(at)
        new = (old or b"").ljust(start, b"\0")
        self.data[key] = new = new[:start] + value + new[start + len(value) :]
        return len(new)

    def strlen(self, key: bytes) -> Reply:
        return len(self.look(key, bytes) or b"")

    def set(self, key: bytes, value: bytes, *options: bytes) -> Reply:
        words = [o.upper() for o in options]
        end: float | None = None
        only, i = b"", 0
        while i < len(words):
            word = words[i]
            if word in (b"NX", b"XX"):
                only = word
            elif word in (b"EX", b"PX", b"EXAT", b"PXAT") and i + 1 < len(words):
                i += 1
                number = _int(words[i])
                if number <= 0:
                    raise Refusal(b"ERR invalid expire time in set")
                number *= 1000 if word in (b"EX", b"EXAT") else 1
                end = number + (0 if word.endswith(b"AT") else self._moment())
            else:
                raise Refusal(SYNTAX)
            i += 1
        if only and (self.look(key) is None) is not (only == b"NX"):
            return None
        self.data[key] = value
        if value[:4] == MAGIC:
            self.stored.append((key, value))
        self.ends.pop(key, None)
        if end is not None:
            self.ends[key] = end
        return OK

    def delete(self, *keys: bytes) -> Reply:
        return sum(self.look(key) is not None and self.drop(key) for key in keys)

    def exists(self, *keys: bytes) -> Reply:
        return sum(self.look(key) is not None for key in keys)

    def pttl(self, key: bytes) -> Reply:
        if self.look(key) is None:
            return -2
        end = self.ends.get(key)
        return -1 if end is None else max(0, int(end - self._moment()))

    def pexpire(self, key: bytes, life: bytes) -> Reply:
        return self._expire_at(key, self._moment() + _int(life))

    def pexpireat(self, key: bytes, end: bytes) -> Reply:
        return self._expire_at(key, _int(end))

    def expire(self, key: bytes, life: bytes) -> Reply:
        return self._expire_at(key, self._moment() + _int(life) * 1000)

    def _expire_at(self, key: bytes, end: int) -> int:
        if self.look(key) is None:
            return 0
        if end <= self._moment():
            self.drop(key)
        else:
            self.ends[key] = end
        return 1

    def persist(self, key: bytes) -> Reply:
        return int(self.look(key) is not None and self.ends.pop(key, None) is not None)

    def kind(self, key: bytes) -> Reply:
        names = {bytes: b"string", dict: b"hash", set: b"set", Stream: b"stream"}
        value = self.look(key)
        return Status(b"none" if value is None else names[type(value)])

    # -- hashes and sets

    def _hash(self, key: bytes) -> Hash:
        found: Hash | None = self.look(key, dict)
        return {} if found is None else found

    def hget(self, key: bytes, field: bytes) -> Reply:
        return self._hash(key).get(field)

    def hmget(self, key: bytes, *fields: bytes) -> Reply:
        found = self._hash(key)
        return [found.get(field) for field in fields]

    def hgetall(self, key: bytes) -> Reply:
        return [word for pair in self._hash(key).items() for word in pair]

    def hset(self, key: bytes, *pairs: bytes) -> Reply:
        if not pairs or len(pairs) % 2:
            raise Refusal(b"ERR wrong number of arguments for 'hset' command")
        found = self._made(key, dict)
        before = len(found)
        found.update(zip(pairs[::2], pairs[1::2], strict=True))
        return len(found) - before

    def hsetnx(self, key: bytes, field: bytes, value: bytes) -> Reply:
        found = self._made(key, dict)
        return 0 if field in found else int(found.setdefault(field, value) is value)

    def hdel(self, key: bytes, *fields: bytes) -> Reply:
        found = self._hash(key)
        gone = sum(found.pop(field, None) is not None for field in fields)
        if gone and not found:
            self.drop(key)
        return gone

    def hlen(self, key: bytes) -> Reply:
        return len(self._hash(key))

    def hincrby(self, key: bytes, field: bytes, by: bytes) -> Reply:
        more, old = _int(by), self._hash(key).get(field, b"0")
        if not _INTEGER.fullmatch(old):
            raise Refusal(b"ERR hash value is not an integer")
        number = int(old) + more
        self._made(key, dict)[field] = b"%d" % number
        return number

    def sadd(self, key: bytes, *members: bytes) -> Reply:
        found = self._made(key, set)
        before = len(found)
        found.update(members)
        return len(found) - before

    def smembers(self, key: bytes) -> Reply:
        return sorted(self.look(key, set) or ())

    def scard(self, key: bytes) -> Reply:
        return len(self.look(key, set) or ())

    def _made(self, key: bytes, kind: type) -> Any:
        found = self.look(key, kind)
        if found is None:
            found = self.data[key] = kind()
        return found

    # -- streams

    def xadd(self, key: bytes, *words: bytes) -> Reply:
        args, most = list(words), -1
        if args and args[0].upper() == b"MAXLEN":
            exactly = args[1] not in (b"~", b"=") or args[1] == b"="
            most = _int(args[1 if args[1] not in (b"~", b"=") else 2])
            del args[: 2 if args[1] not in (b"~", b"=") else 3]
            if not exactly:
                most = KEPT if self.trim_exactly else -1
        if len(args) < 3 or not len(args) % 2:
            raise Refusal(b"ERR wrong number of arguments for 'xadd' command")
        ident = _stream_id(args[0], 0)
        if ident == (0, 0):
            raise Refusal(b"ERR The ID specified in XADD must be greater than 0-0")
        stream = self.look(key, Stream)
        last = (0, 0) if stream is None else stream.last
        if ident <= last:
            raise Refusal(SMALL_ID)
        stream = self._made(key, Stream)
        stream.entries.append((ident, args[1:]))
        stream.last = ident
        if most >= 0 and len(stream.entries) > most:
            del stream.entries[: len(stream.entries) - most]
        self.appended.add(key)
        return b"%d-%d" % ident

    def xlen(self, key: bytes) -> Reply:
        stream = self.look(key, Stream)
        return 0 if stream is None else len(stream.entries)

    def xrange(self, key: bytes, first: bytes, last: bytes, *count: bytes) -> Reply:
        if count and (len(count) != 2 or count[0].upper() != b"COUNT"):
            raise Refusal(SYNTAX)
        low = (0, 0) if first == b"-" else _stream_id(first, 0)
        top = (2**64, 0) if last == b"+" else _stream_id(last, 2**64 - 1)
        stream = self.look(key, Stream)
        entries = [] if stream is None else stream.entries
        found = [_entry(e) for e in entries if low <= e[0] <= top]
        return found[: _int(count[1])] if count else found

    def xrevrange(self, key: bytes, last: bytes, first: bytes, *count: bytes) -> Reply:
        found = self.xrange(key, first, last)[::-1]
        return found[: _int(count[1])] if count else found

    def xread(self, *words: bytes) -> Reply:
        """Without waiting: BLOCK is the network's affair."""
        count, _, streams = split_xread(words)
        found = []
        for key, after in streams:
            stream = self.look(key, Stream)
            if stream is None:
                continue
            low = stream.last if after == b"$" else _stream_id(after, 0)
            entries = [_entry(e) for e in stream.entries if e[0] > low]
            if entries:
                found.append([key, entries[:count] if count else entries])
        return found or None

    # -- the server

    def publish(self, channel: bytes, message: bytes) -> Reply:
        self.published.append((channel, message))
        return 0

    def time(self) -> Reply:
        micros = round(self.clock() * 1e6)
        return [b"%d" % (micros // 1_000_000), b"%d" % (micros % 1_000_000)]

    def ping(self) -> Reply:
        return Status(b"PONG")

    def info(self, *sections: bytes) -> Reply:
        return (
            "# Server\r\nredis_version:6.2.14\r\nredis_mode:standalone\r\n"
            f"run_id:{self.run_id}\r\n\r\n"
            f"# Replication\r\nrole:{self.role}\r\n"
            f"master_replid:{self.replication_id}\r\n"
        ).encode()

    def flushall(self, *_: bytes) -> Reply:
        self.data.clear()
        self.ends.clear()
        return OK

    def script(self, verb: bytes, *rest: bytes) -> Reply:
        if verb.upper() == b"FLUSH":
            self.scripts.clear()
            return OK
        if verb.upper() == b"LOAD":
            return self._known(rest[0])
        raise Refusal(b"ERR unknown subcommand")

    # -- scripts

    def eval(self, text: bytes, *rest: bytes) -> Reply:
        return self._call(self.scripts[self._known(text)], rest)

    def evalsha(self, digest: bytes, *rest: bytes) -> Reply:
        known = self.scripts.get(digest.lower())
        if known is None:
            raise Refusal(b"NOSCRIPT No matching script. Please use EVAL.")
        return self._call(known, rest)

    def _known(self, text: bytes) -> bytes:
        digest, script = _compiled(text)
        self.scripts[digest] = script
        return digest

    def _call(self, script: Callable[..., Any], rest: tuple[bytes, ...]) -> Reply:
        count = _int(rest[0])
        if not 0 <= count < len(rest):
            raise Refusal(b"ERR Number of keys can't be greater than number of args")
        self._script = _Step(self.now_ms(), self.full)
        try:
            return _lua().call(self, script, count, rest[1:])
        finally:
            self._script = None


class _Step:
    """A script that runs."""

    __slots__ = ("began", "full", "wrote")

    def __init__(self, began: int, full: bool) -> None:
        self.began = began
        self.full = full
        self.wrote = False


_WRITES, _GROWS = 1, 2
_COMMANDS: Final[dict[bytes, tuple[Callable[..., Reply], int]]] = {
    b"GET": (SimRedis.get, 0),
    b"MGET": (SimRedis.mget, 0),
    b"GETRANGE": (SimRedis.getrange, 0),
    b"STRLEN": (SimRedis.strlen, 0),
    b"SET": (SimRedis.set, _WRITES | _GROWS),
    b"SETRANGE": (SimRedis.setrange, _WRITES | _GROWS),
    b"DEL": (SimRedis.delete, _WRITES),
    b"UNLINK": (SimRedis.delete, _WRITES),
    b"EXISTS": (SimRedis.exists, 0),
    b"PTTL": (SimRedis.pttl, 0),
    b"PEXPIRE": (SimRedis.pexpire, _WRITES),
    b"PEXPIREAT": (SimRedis.pexpireat, _WRITES),
    b"EXPIRE": (SimRedis.expire, _WRITES),
    b"PERSIST": (SimRedis.persist, _WRITES),
    b"TYPE": (SimRedis.kind, 0),
    b"HGET": (SimRedis.hget, 0),
    b"HMGET": (SimRedis.hmget, 0),
    b"HGETALL": (SimRedis.hgetall, 0),
    b"HSET": (SimRedis.hset, _WRITES | _GROWS),
    b"HSETNX": (SimRedis.hsetnx, _WRITES | _GROWS),
    b"HDEL": (SimRedis.hdel, _WRITES),
    b"HLEN": (SimRedis.hlen, 0),
    b"HINCRBY": (SimRedis.hincrby, _WRITES | _GROWS),
    b"SADD": (SimRedis.sadd, _WRITES | _GROWS),
    b"SMEMBERS": (SimRedis.smembers, 0),
    b"SCARD": (SimRedis.scard, 0),
    b"XADD": (SimRedis.xadd, _WRITES | _GROWS),
    b"XLEN": (SimRedis.xlen, 0),
    b"XRANGE": (SimRedis.xrange, 0),
    b"XREVRANGE": (SimRedis.xrevrange, 0),
    b"XREAD": (SimRedis.xread, 0),
    b"PUBLISH": (SimRedis.publish, 0),
    b"TIME": (SimRedis.time, 0),
    b"PING": (SimRedis.ping, 0),
    b"INFO": (SimRedis.info, 0),
    b"FLUSHALL": (SimRedis.flushall, _WRITES),
    b"SCRIPT": (SimRedis.script, 0),
    b"EVAL": (SimRedis.eval, 0),
    b"EVALSHA": (SimRedis.evalsha, 0),
}

_FORMATS: dict[bytes, struct.Struct] = {}
_LETTERS: Final = {
    (b"i", 8): "q", (b"I", 8): "Q", (b"i", 4): "i", (b"I", 4): "I",
    (b"i", 2): "h", (b"I", 2): "H", (b"i", 1): "b", (b"I", 1): "B",
}  # fmt: skip

_GLUE: Final = b"""
local call, unpack_struct = ...
local done = {ok = 'OK'}
local function line()
    local level = 2
    while true do
        local at = debug.getinfo(level, 'Sl')
        if not at then return 0 end
        if at.source == '@user_script' then return at.currentline end
        level = level + 1
    end
end
local function asked(kind, ...)
    if kind == 1 then return (...) end
    if kind == 3 then return {...} end
    if kind == 2 then
        local text = ...
        return text == 'OK' and done or {ok = text}
    end
    if kind == 4 then return {err = (...)} end
    return {err = '@user_script: ' .. line() .. ': -' .. (...) .. '\\r\\n'}
end
local function failing(kind, ...)
    if kind < 4 then return asked(kind, ...) end
    error('@user_script:' .. line() .. ': ' .. asked(kind, ...).err, 0)
end
local function words(...)
    for i = 1, select('#', ...) do
        if type((select(i, ...))) ~= 'string' then
            local all = {...}
            for k, word in ipairs(all) do
                if type(word) == 'number' then all[k] = string.format('%.17g', word) end
            end
            return unpack(all)
        end
    end
    return ...
end
redis = {
    call = function(...) return failing(call(words(...))) end,
    pcall = function(...) return asked(call(words(...))) end,
    error_reply = function(text) return {err = text} end,
    status_reply = function(text) return {ok = text} end,
}
struct = {unpack = unpack_struct}
local function answer(fine, r)
    if not fine then return 5, tostring(r) end
    if type(r) ~= 'table' then return 1, r end
    if r.err then return 4, r.err end
    if r.ok then return 2, r.ok end
    return 3, unpack(r)
end
local function compile(text)
    return assert(loadstring(text, '@user_script'))
end
local function run(script, count, ...)
    local keys, args = {}, {select(count + 1, ...)}
    for i = 1, count do keys[i] = (select(i, ...)) end
    KEYS, ARGV = keys, args
    return answer(pcall(script))
end
return compile, run
"""


class _Lua:
    """One Lua for all servers of the process; `server` is whose script runs."""

    def __init__(self) -> None:
        try:  # it speaks the same Lua, faster
            from lupa import luajit21 as lua
        except ImportError:
            from lupa import lua51 as lua

        self._runtime = lua.LuaRuntime(encoding=None, unpack_returned_tuples=True)
        self.compile, self._run = self._runtime.execute(
            _GLUE, self._asked, _unpack_struct
        )
        self._server: SimRedis | None = None

    def call(
        self, server: SimRedis, script: Any, count: int, words: tuple[bytes, ...]
    ) -> Reply:
        self._server = server
        kind, *values = self._run(script, count, *words)
        if kind == 5:
            if not values[0].startswith(b"@user_script:"):
                raise AssertionError(values[0].decode())  # a fault of our own
            raise Refusal(b"ERR Error running script: " + _line(values[0]))
        if kind == 4:
            raise Refusal(_line(values[0]))
        if kind == 2:
            return Status(values[0])
        if kind == 3:
            return [_reply(v) for v in values]
        return _reply(values[0] if values else None)

    def _asked(self, name: bytes, *args: bytes) -> tuple[Any, ...]:
        server = self._server
        assert server is not None
        try:
            reply = server.run(name.upper(), args)
        except Refusal as refusal:
            return 5 if refusal.engine else 4, refusal.text
        kind = type(reply)
        if kind is bytes or kind is int:
            return 1, reply
        if reply is None:
            return 1, False
        if kind is Status:
            return 2, bytes(reply)
        return 3, *(False if r is None else r for r in reply)


_the_lua: list[_Lua] = []


def _lua() -> _Lua:
    if not _the_lua:
        _the_lua.append(_Lua())
    return _the_lua[0]


@functools.cache
def _compiled(text: bytes) -> tuple[bytes, Callable[..., Any]]:
    """Digest and function of a script."""
    digest = hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()
    _names[digest] = _names[text] = text.split(b":", 1)[0][3:]
    return digest, _lua().compile(text)


_names: dict[bytes, bytes] = {}


def script_name(text: bytes) -> bytes:
    """What a script of the library, or its digest, is called by its first line."""
    return _names.get(text, text[:8])


def _line(text: bytes) -> bytes:
    """An error reply is one line."""
    return text.replace(b"\r", b" ").replace(b"\n", b" ")


def _reply(value: Any) -> Reply:
    if value is None or value is False:
        return None
    if value is True:
        return 1
    if isinstance(value, bytes):
        return value
    if isinstance(value, (int, float)):
        return int(value)
    raise AssertionError(f"no reply of a script: {value!r}")


def _unpack_struct(form: bytes, data: bytes, at: float = 1) -> tuple[Any, ...]:
    known = _FORMATS.get(form)
    if known is None:
        known = _FORMATS[form] = _struct(form)
    start = int(at) - 1
    if len(data) - start < known.size:
        raise Refusal(b"data string too short")
    return *known.unpack_from(data, start), start + known.size + 1


def _struct(form: bytes) -> struct.Struct:
    """`struct` of Lua's library as Python's."""
    out, i = "<", 1
    while i < len(form):
        letter, i = form[i : i + 1], i + 1
        digits = i
        while digits < len(form) and form[digits : digits + 1].isdigit():
            digits += 1
        size, i = int(form[i:digits] or b"0"), digits
        if letter == b"c":
            out += f"{size}s"
        else:
            out += "B" if letter == b"B" else _LETTERS[letter, size or 4]
    return struct.Struct(out)


def _int(word: bytes) -> int:
    if not _INTEGER.fullmatch(word):
        raise Refusal(NO_INTEGER)
    return int(word)


def _stream_id(word: bytes, sequence: int) -> tuple[int, int]:
    first, dash, second = word.partition(b"-")
    try:
        return int(first), int(second) if dash else sequence
    except ValueError:
        raise Refusal(
            b"ERR Invalid stream ID specified as stream command argument"
        ) from None


def _entry(entry: tuple[tuple[int, int], list[bytes]]) -> list[Any]:
    return [b"%d-%d" % entry[0], list(entry[1])]


def split_xread(
    words: Sequence[bytes],
) -> tuple[int, int | None, list[tuple[bytes, bytes]]]:
    """COUNT (0: all), BLOCK (None: does not wait), and each stream with its id."""
    count, block, i = 0, None, 0
    while i < len(words):
        word = words[i].upper()
        if word == b"STREAMS":
            rest = words[i + 1 :]
            half = len(rest) // 2
            return count, block, list(zip(rest[:half], rest[half:], strict=True))
        if word == b"COUNT":
            count = _int(words[i + 1])
        elif word == b"BLOCK":
            block = _int(words[i + 1])
        i += 2
    raise Refusal(SYNTAX)
