"""Rules of the library that look odd, each taken out once.

A mutation replaces one piece of text of a script or of a function, at run time, for as
long as its context lasts. The text must be there: a rule that was written anew needs
its mutation written anew.
"""

from __future__ import annotations
import __future__

import contextlib
import importlib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Any, NamedTuple
from unittest import mock

from .fleet import SCRIPTS


class Mutation(NamedTuple):
    """One rule, and the code without it."""

    rule: str
    where: str
    """`name.lua`, or `module:Class.function`."""
    old: str
    new: str
    tries: int = 0
    """Histories within which it is noticed, wherever they begin; 0: it was not."""
    tried: int = 0
    """Histories in which it was not noticed."""

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The library without the rule."""
        if self.where.endswith(".lua"):
            with self._script():
                yield
        else:
            function = self._function()
            code = function.__code__
            function.__code__ = self._code(function)
            try:
                yield
            finally:
                function.__code__ = code

    def _function(self) -> Any:
        module, _, path = self.where.partition(":")
        found: Any = importlib.import_module(f"shmcache.{module}")
        for name in path.split("."):
            found = inspect.getattr_static(found, name)
        return found.fget if isinstance(found, property) else found

    def _code(self, function: Callable[..., Any]) -> Any:
        source = textwrap.dedent(inspect.getsource(function))
        mutated = self._replaced(source)
        flags = __future__.annotations.compiler_flag
        names: dict[str, Any] = {}
        code = compile(mutated, self.rule, "exec", flags, dont_inherit=True)
        exec(code, function.__globals__, names)
        (made,) = names.values()
        return made.__code__

    def _replaced(self, text: str) -> str:
        if text.count(self.old) != 1:
            raise AssertionError(
                f"{self.where}: expected once, found {text.count(self.old)} times: "
                f"{self.old!r}"
            )
        return text.replace(self.old, self.new)

    @contextlib.contextmanager
    def _script(self) -> Iterator[None]:
        text = files("shmcache.lua").joinpath(self.where).read_text()
        mutated = {self.where: self._replaced(text).encode()}
        with mock.patch.dict(SCRIPTS.instead, mutated):
            yield


_OWN = (
    "if any(p.cache._invalidations.outbox._origin == entry[b'o'] for p in "
    "self._l1.table.process.world.processes if p.host is self._l1.table.process.host):"
    "\n        return\n    "
)
"""A follower that skips what its own host sent."""
_SEND, _SETS = "invalidation:Invalidations.send", "invalidation:Invalidations.finish"
_REPLACE = "conditional:Conditional.replaced"
_LAST = "    now, clock = await self._generations()\n"
_LEADS = (
    "    if not self._leads():\n"
    '        raise ConnectionError("the role is another\'s by now")\n'
)
_RENEW = (
    "    if place.renew(mark, now, clock):\n"
    "        place.note((incarnation, now), (identity, self._wire.identity))\n"
)

MUTATIONS = [
    # -- the sender
    Mutation(
        "the sender raises again after the script",
        _SEND,
        "    finally:\n        self._apply(items, floor=True)\n",
        "    finally:\n",
        tried=700,
    ),
    Mutation(
        "... however the script ended",
        _SEND,
        "        self._apply(items, floor=True)\n        if told is not None:\n",
        "        if told is not None:\n            self._apply(items, floor=True)\n",
        tried=700,
    ),
    Mutation(
        "the sender raises before the script",
        _SEND,
        "    numbers = self.outbox.add(items)\n    self._apply(items, floor=False)\n",
        "    numbers = self.outbox.add(items)\n",
        tried=700,
    ),
    Mutation(
        "an invalidation stands in the outbox",
        _SEND,
        "    numbers = self.outbox.add(items)\n",
        "    numbers = []\n",
        tries=400,
    ),
    Mutation(
        "it stands there before it is raised",
        _SEND,
        "    numbers = self.outbox.add(items)\n    self._apply(items, floor=False)\n",
        "    self._apply(items, floor=False)\n    numbers = self.outbox.add(items)\n",
        tried=700,
    ),
    Mutation(
        "it is sent only once Redis said so",
        _SEND,
        "        if told is not None:\n            self.outbox.sent(numbers)",
        "        self.outbox.sent(numbers)",
        tries=450,
    ),
    Mutation(
        "the follower sends what was left unsent",
        "follower:Follower._chores_forever",
        "if self._outbox is not None and self._outbox.left():",
        "if False:",
        tries=200,
    ),
    # -- reading from L2
    Mutation(
        "a plain get believes nothing that Redis may not know is void",
        "lookup:Lookup._promote",
        "if not l1.usable(key, record.tags, lowest):",
        "if False:",
        tries=3000,
    ),
    Mutation(
        "a holder believes nothing that Redis may not know is void",
        "holder:Holder._judge",
        "if not self.home.l1.usable(self.job.key, record.tags, lowest):",
        "if False:",
        tries=3000,
    ),
    Mutation(
        "a plain get reads the lowest unsent clock before it asks",
        "lookup:Lookup.surely",
        "return self._promote(key, record, stamp, lowest)",
        "return self._promote(key, record, stamp, self._l1.lowest())",
        tried=700,
    ),
    Mutation(
        "a holder reads the lowest unsent clock before it asks",
        "holder:Holder._ask",
        "self._judge(answer.record, answer.lease, lowest)",
        "self._judge(answer.record, answer.lease, self.home.l1.lowest())",
        tried=700,
    ),
    Mutation(
        "a plain get looks at the raises after its answer",
        "lookup:Lookup._overtaken",
        "(self._l1.table.highest(key, record.tags) > stamp)",
        "False",
        tried=700,
    ),
    Mutation(
        "a plain get notes the clock before it asks",
        "lookup:Lookup.surely",
        "return self._promote(key, record, stamp, lowest)",
        "return self._promote(key, record, self._l1.table.clock(), lowest)",
        tried=700,
    ),
    Mutation(
        "a plain get replaces older records only",
        "lookup:Lookup._promote",
        "newer_only=True",
        "newer_only=False",
        tried=700,
    ),
    Mutation(
        "a holder notes the clock before it asks",
        "holder:Holder._promote",
        "record = found._replace(stamp=self.job.stamp)",
        "record = found._replace(stamp=self.home.l1.table.clock())",
        tries=3000,
    ),
    # -- fills
    Mutation(
        "a compute's stamp is from before it began",
        "holder:Holder._compute_and_fill",
        "    now = l1.clock.now()\n    lives",
        "    now = l1.clock.now()\n    self.job.stamp = l1.table.clock()\n    lives",
        tries=400,
    ),
    Mutation(
        "a store in L1 is checked against the raises",
        "l1:L1.put",
        "stamp=record.stamp,",
        "stamp=self.table.clock(),",
        tries=200,
    ),
    Mutation(
        "a store in L1 is checked against the claim",
        "holder:Holder._store",
        "claim, l1 = self.claim.ref, self.home.l1",
        "claim, l1 = None, self.home.l1",
        tried=700,
    ),
    Mutation(
        "what L2 refused is not stored in L1",
        "holder:Holder._fill",
        "elif answer != STORED:",
        "elif False:",
        tried=700,
    ),
    Mutation(
        "who takes a claim over offers a new token",
        "holder:Holder._ask",
        "offer = os.urandom(16)",
        "offer = instead_of or os.urandom(16)",
        tried=700,
    ),
    Mutation(
        "callers are answered by the rule of notes",
        "flight:Flights._answers",
        "if note <= outcome.stamp:",
        "if True:",
        tries=3000,
    ),
    Mutation(
        "who joins an overtaken flight starts another",
        "flight:Flights._resolved",
        "own = flight is None or flight.overtaken",
        "own = flight is None",
        tried=700,
    ),
    # -- sets
    Mutation(
        "a set's stamp is from before its second half",
        _SETS,
        "key, record, absent_only=not there, if_nonce=there",
        "key, record._replace(stamp=l1.table.clock()), absent_only=not there,\n"
        "                    if_nonce=there",
        tried=700,
    ),
    Mutation(
        "a set that lost its lease stores nothing",
        _SETS,
        "if answer in (STORED, FULL):",
        "if True:",
        tries=200,
    ),
    Mutation(
        "compare and set compares",
        "conditional:Conditional._ours",
        "found.nonce == nonce and ",
        "",
        tries=3000,
    ),
    Mutation(
        "... also for its host alone",
        _REPLACE,
        "record, if_nonce=nonce)",
        "record)",
        tries=3000,
    ),
    Mutation(
        "compare and set asks for the lease that it has",
        _REPLACE,
        'Invalidation(b"d", key, record.nonce, token, asked.token)',
        'Invalidation(b"d", key, record.nonce, token)',
        tried=700,
    ),
    Mutation(
        "what compare and set stores is as old as what it read",
        _REPLACE,
        "token, asked.answer)",
        "token, asked.answer._replace(clock=begun[l2.partition(key)]))",
        tried=700,
    ),
    Mutation(
        "compare and set looks at the raises since it read",
        _REPLACE,
        "self._raised(_NO_KEY, found, record, asked.note) or ",
        "",
        tried=700,
    ),
    Mutation(
        "compare and set looks at what Redis is still to be told",
        _REPLACE,
        " or self._pending(\n        key, found\n    )",
        "",
        tried=700,
    ),
    Mutation(
        "add takes no value for void that Redis believes",
        "conditional:Conditional.add",
        "    if self._doubtful(key, asked):\n"
        "        self._invalidations.give_back(key, token)\n"
        "        raise",
        "    if False:\n        raise",
        tried=700,
    ),
    # -- the stream
    Mutation(
        "a host applies its own entries too",
        "stream:Stream._apply",
        'self._l1.count("entries_applied")',
        _OWN + 'self._l1.count("entries_applied")',
        tried=700,
    ),
    Mutation(
        "an entry of a set raises, though its record stays",
        "stream:raise_and_drop",
        '        table.raise_key(name, number, kind == b"x")',
        '        if not nonce: table.raise_key(name, number, kind == b"x")',
        tries=3000,
    ),
    Mutation(
        "a gap is raised",
        "stream:Stream._gap",
        "    self._raise_gap()\n",
        "",
        tries=3000,
    ),
    Mutation(
        "the last clock is read before a gap is raised",
        "stream:Stream._gap",
        _LAST + _LEADS + "    self._raise_gap()\n",
        "    self._raise_gap()\n" + _LAST + _LEADS,
        tried=700,
    ),
    Mutation(
        "a gap is raised before the position moves",
        "stream:Stream._gap",
        "    self._raise_gap()\n" + _RENEW,
        _RENEW + "        self._raise_gap()\n",
        tried=700,
    ),
    Mutation(
        "who lost the role takes no position",
        "stream:Stream._gap",
        "if not self._leads():",
        "if False:",
        tried=700,
    ),
    Mutation(
        "a position bears a piece of its incarnation",
        "stream:Stream.read",
        "if piece_of(mark) != self._piece:",
        "if False:",
        tried=700,
    ),
    Mutation(
        "another incarnation or identity is a gap",
        "stream:Stream.heartbeat",
        "if noted != (incarnation, self._wire.identity):",
        "if not noted[1]:",
        tries=200,
    ),
    Mutation(
        "the position moves after its entries are applied",
        "stream:Stream.read",
        "    at = position\n",
        "    at = position\n    self._place.move(mark, int(found[0][1][-1][0][:-2]))\n",
        tried=700,
    ),
    Mutation(
        "ids must follow one on the other",
        "stream:Stream.read",
        "if clock != at + 1:",
        "if False:",
        tried=700,
    ),
    Mutation(
        "a clock beyond the position is a gap",
        "stream:Stream.heartbeat",
        'await self._gap(f"{behind} entries are gone")\n            return False',
        "break",
        tries=400,
    ),
    # -- failover
    Mutation(
        "strangers are not read from",
        "link:Link._stranger",
        "if expected is None or wire.identity == expected:",
        "if True:",
        tried=700,
    ),
    Mutation(
        "another identity makes another incarnation",
        "stream:Stream._generations",
        'if meta[0] and meta[2] == identity.to_bytes(8, "little"):',
        "if meta[0]:",
        tried=700,
    ),
    Mutation(
        "... under which every value is dead",
        "invalidate.lua",
        "if not incarnation or moved then",
        "if moved then redis.call('HSET', g, 'r', identity) end\n"
        "if not incarnation then",
        tried=700,
    ),
    # -- scripts
    Mutation(
        "put_fenced looks at the token",
        "put_fenced.lua",
        "if redis.pcall('GET', l) ~= ARGV[1] then return {'lost', 0} end",
        "",
        tries=200,
    ),
    Mutation(
        "put_fenced looks at the incarnation",
        "put_fenced.lua",
        "if raises[1] ~= ARGV[5] then return true end",
        "",
        tried=700,
    ),
    Mutation(
        "put_fenced looks at what its tags and all were raised to",
        "put_fenced.lua",
        "if raise and raise > tonumber(ARGV[6]) then return true end",
        "",
        tried=700,
    ),
    Mutation(
        "acquire looks at the incarnation",
        "acquire.lua",
        "    if incarnation ~= meta[1] then return 0, 0, nonce end\n",
        "",
        tried=700,
    ),
    Mutation(
        "acquire looks at what tags and all were raised to",
        "acquire.lua",
        "    if hard or (soft and",
        "    if (soft and",
        tries=200,
    ),
    Mutation(
        "a read looks at the incarnation",
        "reads:Reads._look",
        "if incarnation_of(value) != incarnation:",
        "if False:",
        tries=3000,
    ),
    Mutation(
        "... again with the tags",
        "reads:Reads._look_again",
        "if generations.incarnation == looked.clock.incarnation:",
        "if True:",
        tried=600,
    ),
    Mutation(
        "a read looks at what everything was raised to",
        "reads:Generations.raised",
        "hard, soft = self._everything",
        "hard, soft = _NONE, _NONE",
        tries=450,
    ),
    Mutation(
        "... and tags",
        "reads:Generations.raised",
        'hard = max(hard, _raise(self._told[f"t{tag}"]))',
        "",
        tries=200,
    ),
    Mutation(
        "what had no life had no value",
        "reads:Reads._look",
        " or left_ms == _GONE",
        "",
        tried=600,
    ),
    Mutation(
        "an invalidation ends the lease",
        "invalidate.lua",
        "    redis.call('DEL', l)        -- a fill",
        "    -- a fill",
        tries=400,
    ),
    Mutation(
        "a new :g has a new stream",
        "invalidate.lua",
        "    redis.call('DEL', s)        -- its",
        "    -- its",
        tried=700,
    ),
    Mutation(
        "renew makes no lease again",
        "renew.lua",
        "if redis.pcall('GET', KEYS[1]) ~= ARGV[1] then return 0 end",
        "redis.call('SET', KEYS[1], ARGV[1])",
        tries=3000,
    ),
    Mutation(
        "abandon looks at the token",
        "abandon.lua",
        "if redis.pcall('GET', l) ~= ARGV[1] then return 0 end",
        "",
        tried=700,
    ),
]
