"""The simulated Redis answers what redis-server answers, to random programs."""

from __future__ import annotations

import random
import re
import socket
import struct
from collections.abc import Iterator
from typing import Any

import hiredis
import pytest

from shmcache.ask import Invalidation
from shmcache.envelope import Envelope, pack_envelope
from shmcache.scripts import Names, Script
from tests.redis_server import RedisServer, redis_server
from tests.sim.net import encoded
from tests.sim.simredis import SimRedis

NAMES = Names("app")
KEYS = [b"a", b"b", b"c"]
PLACES = [b"k1", b"k2", b"k3"]
LIFE = 1_000_000
"""Milliseconds: none ends while a test runs."""


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


class Both:
    """A real server and a simulated one, asked the same."""

    def __init__(self, real: RedisServer) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(5)
        self._socket.connect(str(real.socket))
        self._reader = hiredis.Reader(replyError=str)
        self._ask_real(b"FLUSHALL")
        self._ask_real(b"SCRIPT", b"FLUSH")
        seconds, micros = self._ask_real(b"TIME")
        start = int(seconds) + int(micros) / 1e6
        self.sim = SimRedis(lambda: start)

    def close(self) -> None:
        self._socket.close()

    def _ask_real(self, *words: bytes) -> Any:
        self._socket.sendall(hiredis.pack_command(words))
        while (reply := self._reader.gets()) is False:
            self._reader.feed(self._socket.recv(65536))
        return reply

    def ask(self, *words: bytes) -> Any:
        """The reply of both, which must be one."""
        real = self._ask_real(*words)
        reader = hiredis.Reader(replyError=str)
        reader.feed(encoded(self.sim.execute(words)))
        simulated = reader.gets()
        assert _same(real, simulated), (words, real, simulated)
        return real


@pytest.fixture
def both(server: RedisServer) -> Iterator[Both]:
    pair = Both(server)
    yield pair
    pair.close()


def _same(real: Any, simulated: Any) -> bool:
    """Equal, but for what time does: lives and times are as good as equal."""
    if isinstance(real, list) and isinstance(simulated, list):
        pairs = zip(real, simulated, strict=False)
        return len(real) == len(simulated) and all(_same(r, s) for r, s in pairs)
    if isinstance(real, int) and isinstance(simulated, int):
        return real == simulated or (
            abs(real - simulated) < 20_000 and min(real, simulated) > 900
        )
    (real, times), (simulated, others) = _parted(real), _parted(simulated)
    return bool(real == simulated) and all(map(_same, times, others))


_ENGINE = re.compile(rb" \(call to f_\w+\)|(?<=@user_script:) ?[0-9]+|\s+$")
_TIME = re.compile(rb" *(?<= )([1-9][0-9]{5,12})(?=[^0-9]|[012] |$)")
"""What is left of a life, or Redis' time with the first key's state behind it."""


def _parted(reply: Any) -> tuple[Any, list[int]]:
    """A text without the times in it, and without the script's digest and line; the
    times."""
    if isinstance(reply, str):
        reply = reply.encode()
    if not isinstance(reply, bytes):
        return reply, []
    if b"wrong number of arguments" in reply:
        return b"wrong number of arguments", []
    if b"@user_script" in reply:
        reply = _ENGINE.sub(b"", reply)
    times = [int(t) for t in _TIME.findall(reply)]
    return _TIME.sub(b"#", reply), times


def _place(draw: random.Random) -> bytes:
    return b"%d" % draw.randrange(-9, 9)


def _number(draw: random.Random) -> bytes:
    return draw.choice((b"1", b"-1", b"7", b"x", b"0"))


def _command(draw: random.Random) -> tuple[bytes, ...]:
    """Any command of those that the library uses, often on a key of another kind."""
    key, value = draw.choice(PLACES), draw.choice((b"v", b"12", b"", b"w" * 40))
    life = draw.choice((b"900000", b"1000000"))
    field = draw.choice((b"f", b"g"))
    ident = b"%d-%d" % (draw.randrange(9), draw.randrange(2))
    return draw.choice(
        (
            (b"GET", key),
            (b"SET", key, value),
            (b"SET", key, value, b"PX", life),
            (b"SET", key, value, b"NX", b"PX", life),
            (b"SET", key, value, b"XX"),
            (b"SET", key, value, b"PX", draw.choice((b"0", b"-5", b"x"))),
            (b"SETRANGE", key, draw.choice((b"0", b"3")), value),
            (b"GETRANGE", key, _place(draw), _place(draw)),
            (b"STRLEN", key),
            (b"MGET", key, b"k1"),
            (b"DEL", key, draw.choice(PLACES)),
            (b"EXISTS", key),
            (b"TYPE", key),
            (b"PTTL", key),
            (b"PEXPIRE", key, draw.choice((life, b"-1", b"0"))),
            (b"PERSIST", key),
            (b"HSET", key, field, value),
            (b"HSET", key, field, value, b"h", b"3"),
            (b"HSET", key, field),
            (b"HSETNX", key, field, value),
            (b"HGET", key, field),
            (b"HMGET", key, field, b"h"),
            (b"HDEL", key, field),
            (b"HLEN", key),
            (b"HINCRBY", key, field, _number(draw)),
            (b"SADD", key, b"m"),
            (b"SMEMBERS", key),
            (b"SCARD", key),
            (b"XADD", key, b"MAXLEN", b"~", b"1000", ident, b"k", value),
            (b"XADD", key, ident, b"k", value, b"n"),
            (b"XLEN", key),
            (b"XRANGE", key, b"-", b"+"),
            (b"XRANGE", key, b"2", b"5"),
            (b"XRANGE", key, b"-", b"+", b"COUNT", b"2"),
            (b"XREVRANGE", key, b"+", b"-", b"COUNT", b"1"),
            (b"XREAD", b"COUNT", b"2", b"STREAMS", key, ident),
            (b"PUBLISH", b"channel", value),
            (b"PING",),
        )
    )


@pytest.mark.parametrize("seed", range(20))
def test_random_commands_answer_as_the_server(both: Both, seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(300):
        both.ask(*_command(draw))


SCRIPTS = {
    name: Script(name)
    for name in ("acquire", "renew", "put_fenced", "abandon", "invalidate")
}


def _eval(name: str, keys: list[bytes], args: list[Any]) -> tuple[bytes, ...]:
    words = [b"%d" % len(keys), *keys]
    words += [a if isinstance(a, bytes) else str(a).encode() for a in args]
    return b"EVAL", SCRIPTS[name].text, *words


def _ask_args(draw: random.Random, tokens: list[bytes]) -> bytes:
    early, channel = draw.choice((b"0", b"0", b"1")), draw.choice((b"", b"channel"))
    three = [draw.choice((bytes(16), *tokens)) for _ in range(3)]
    return b"".join((early, *three, channel))


def _envelope(draw: random.Random, key: bytes, incarnation: bytes) -> bytes:
    ttl = draw.choice((0, LIFE, LIFE // 2))
    ends = draw.choice((2**42, 10**12))
    return pack_envelope(
        NAMES.value(key),
        Envelope(
            b"value", 0, ttl, draw.choice((0, LIFE)), ends, incarnation,
            draw.randrange(6), draw.getrandbits(63), 5,
            draw.choice(((), (1025004,), (1025004, 7))),
        ),
        b"",
    )  # fmt: skip


_NAMES_OF_A_KEY = NAMES.value, NAMES.lease, NAMES.waiters, NAMES.error


def _call(draw: random.Random, tokens: list[bytes]) -> tuple[bytes, ...]:
    """Any call of a script, mostly with tokens and incarnations that were seen."""
    key = draw.choice(KEYS)
    g, s = NAMES.generations, NAMES.stream
    v, lease = NAMES.value(key), NAMES.lease(key)
    w, e = NAMES.waiters(key), NAMES.error(key)
    token, incarnation = draw.choice(tokens), draw.choice((b"i" * 8, b"j" * 8))
    which = draw.randrange(8)
    if which < 3:
        args = [incarnation, draw.choice((b"", b"r" * 8)), LIFE]
        keys, asks = [g, s, v, lease, w, e], [_ask_args(draw, tokens)]
        if draw.random() < 0.5:
            more = draw.choice(KEYS)
            keys += (name(more) for name in _NAMES_OF_A_KEY)
            asks += [_ask_args(draw, tokens)]
        return _eval("acquire", keys, args + asks)
    if which == 3:
        return _eval("renew", [lease, w], [token, LIFE])
    if which == 4:
        return _eval(
            "abandon", [lease, w, e], [token, draw.choice((b"", b"err")), LIFE]
        )
    if which == 5:
        life = draw.choice((b"", LIFE))
        ends = 10**13
        args = [token, _envelope(draw, key, incarnation), life, ends, incarnation]
        return _eval(
            "put_fenced", [g, v, lease, w], [*args, draw.randrange(6), 1025004]
        )
    if which == 6 and draw.random() < 0.3:
        return draw.choice(
            ((b"SET", v, b"foreign"), (b"HSET", v, b"a", b"b"), (b"DEL", g),
             (b"SET", v, _envelope(draw, key, b"i" * 8), b"PX", b"900000"))
        )  # fmt: skip
    kind = draw.choice((b"d", b"d", b"x", b"t", b"u", b"c", b"y", b"g"))
    name = {b"d": key, b"x": key, b"t": 1025004, b"u": 7}.get(kind, b"")
    item = Invalidation(
        kind, name, draw.getrandbits(60),
        *(draw.choice((b"", *tokens)) for _ in range(2)),
    )  # fmt: skip
    keys = [g, s, v, lease, w] if item.of_key else [g, s]
    was = draw.choice((b"-", b"-", b"", b"r" * 8))
    args = [incarnation, draw.choice((b"", b"r" * 8)), was, b"origin", 1000, LIFE]
    return _eval("invalidate", keys, [*args, item.packed()])


@pytest.mark.parametrize("seed", range(30))
def test_random_calls_of_scripts_answer_as_on_the_server(both: Both, seed: int) -> None:
    draw = random.Random(seed)
    tokens = [struct.pack("<QQ", 1, draw.getrandbits(60)) for _ in range(3)]
    for _ in range(60):
        both.ask(*_call(draw, tokens))
        _compare_states(both)


def _compare_states(both: Both) -> None:
    for key in KEYS:
        both.ask(b"GET", NAMES.lease(key))
        both.ask(b"PTTL", NAMES.lease(key))
        both.ask(b"PTTL", NAMES.value(key))
        both.ask(b"SMEMBERS", NAMES.waiters(key))
    both.ask(b"HMGET", NAMES.generations, b"i", b"c", b"C", b"S", b"r", b"t1025004")
    both.ask(b"XRANGE", NAMES.stream, b"-", b"+")


def test_time_passes_and_keys_end() -> None:
    now = [1000.0]
    redis = SimRedis(lambda: now[0])
    redis.execute((b"SET", b"k", b"v", b"PX", b"50"))
    now[0] += 0.05
    assert redis.execute((b"GET", b"k")) == b"v"
    now[0] += 0.002
    assert redis.execute((b"GET", b"k")) is None
    assert redis.execute((b"PTTL", b"k")) == -2


def test_full_memory_refuses_what_grows_but_not_after_a_first_write(
    both: Both,
) -> None:
    script = b"redis.call('PERSIST', KEYS[1]) return redis.call('SET', KEYS[1], 'v')"
    both._ask_real(b"CONFIG", b"SET", b"maxmemory", b"1")
    both.sim.full = True
    try:
        both.ask(b"SET", b"k", b"v")
        both.ask(b"DEL", b"k")
        both.ask(b"EVAL", script, b"1", b"k")
        both.ask(b"EVAL", b"return redis.pcall('SET', KEYS[1], 'v').err", b"1", b"k")
    finally:
        both._ask_real(b"CONFIG", b"SET", b"maxmemory", b"0")


def test_replica_refuses_writes(both: Both) -> None:
    both._ask_real(b"REPLICAOF", b"127.0.0.1", b"1")
    both.sim.role = "slave"
    try:
        both.ask(b"GET", b"k")
        both.ask(b"SET", b"k", b"v")
        both.ask(b"EVAL", b"return redis.pcall('PERSIST', 'k').err", b"0")
        both.ask(b"EVAL", b"return redis.call('GET', 'k')", b"0")
        both.ask(b"EVAL", b"return redis.call('DEL', 'k')", b"0")
        both.ask(b"EVAL", b"\nreturn redis.pcall('DEL', 'k')", b"0")
    finally:
        both._ask_real(b"REPLICAOF", b"NO", b"ONE")
