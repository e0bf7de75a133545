"""Random histories of one table against a dict with the same clock.

The model says what may never be answered: a record that was replaced, dropped,
invalidated or outlived. The table may answer a miss only where the model has evicted
nothing: the histories stay far below the segment's size.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shmcache._core import binding
from shmcache._core.binding import FOREVER, Table

KEYS = st.sampled_from([f"key{i}" for i in range(6)])
VALUES = st.one_of(
    st.binary(max_size=60),
    # in one record that is nearly too long for it, and in pieces
    st.builds(lambda unit, n: unit * n, st.binary(min_size=1, max_size=3),
              st.integers(900, 3000)),
)  # fmt: skip
NONCES = st.integers(0, 2)
TAGS = st.lists(st.integers(0, 3), max_size=3, unique=True).map(tuple)
SECOND = 10**9


@dataclass
class Known:
    value: bytes
    birth: int
    fresh_until: int
    dead_at: int
    stamp: int
    tags: tuple[int, ...] = ()
    nonce: int = 0


class TableMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        buffer = mmap.mmap(-1, 1 << 20)
        binding.init(
            buffer, size=1 << 20, record_bytes=0, seed=bytes(16), boot_id=bytes(16),
            clock_ns=0, config=0, uid=0,
        )  # fmt: skip
        self.table = Table(buffer)
        self.known: dict[str, Known] = {}
        self.now = 1
        self.clock = 0
        self.raised: dict[str | int, tuple[int, int]] = {}  # (hard, soft)
        self.gap = (0, 0)  # (number, when)

    def stripe(self, what: str | int) -> tuple[int, int]:
        return self.raised.get(what, (0, 0))

    def top(self, key: str, tags: tuple[int, ...]) -> int:
        return max(self.stripe(w)[0] for w in (key, "", *tags))

    def state(self, key: str) -> int:
        """What is to be answered: FRESH, STALE, DEAD or MISS."""
        known = self.known.get(key)
        if known is None:
            return binding.MISS
        hard = max(self.stripe(w)[0] for w in ("", *known.tags))
        soft = max(self.stripe(w)[1] for w in (key, "", *known.tags))
        gap, at = self.gap
        if gap > known.stamp and self.now - at >= 4 * SECOND:
            return binding.MISS
        if hard > known.stamp:
            return binding.MISS
        if self.now >= known.dead_at:
            return binding.DEAD
        if soft > known.stamp and known.dead_at == known.fresh_until < FOREVER:
            return binding.DEAD  # expired, and no grace to be stale in
        if max(soft, gap) > known.stamp or self.now >= known.fresh_until:
            return binding.STALE
        return binding.FRESH

    @rule(
        key=KEYS,
        value=VALUES,
        nonce=NONCES,
        ttl=st.one_of(st.none(), st.integers(0, 3 * SECOND)),
        grace=st.integers(0, 3 * SECOND),
        late=st.integers(0, 2),
        tags=TAGS,
        newer_only=st.booleans(),
    )
    def put(
        self,
        key: str,
        value: bytes,
        nonce: int,
        ttl: int | None,
        grace: int,
        late: int,
        tags: tuple[int, ...],
        newer_only: bool,
    ) -> None:
        birth = max(0, self.now - late * SECOND)
        fresh = FOREVER if ttl is None else birth + ttl
        known = Known(
            value, birth, fresh, FOREVER if ttl is None else fresh + grace,
            max(0, self.clock - late), tags, nonce,
        )  # fmt: skip
        want = binding.OK
        if self.top(key, tags) > known.stamp:
            want = binding.RAISED
        elif (
            newer_only
            and self.state(key) != binding.MISS
            and self.known[key].birth > birth
        ):
            want = binding.OLDER
        rc = self.table.put(
            key, value, birth=birth, fresh_until=fresh, dead_at=known.dead_at,
            stamp=known.stamp, nonce=nonce, tags=tags, newer_only=newer_only,
            now=self.now,
        )  # fmt: skip
        assert rc == want
        if rc == binding.OK:
            self.known[key] = known

    @rule(key=KEYS, value=VALUES)
    def set(self, key: str, value: bytes) -> None:
        rc = self.table.put(
            key, value, birth=self.now, fresh_until=FOREVER, dead_at=FOREVER,
            stamp=0, raise_=True, now=self.now,
        )  # fmt: skip
        assert rc == binding.OK
        self.clock += 1
        self.raised[key] = (self.clock, self.stripe(key)[1])
        self.known[key] = Known(value, self.now, FOREVER, FOREVER, self.clock)

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        self.clock += 1
        assert self.table.number() == self.clock
        self.table.raise_key(key, self.clock)
        self.raised[key] = (self.clock, self.stripe(key)[1])
        rc = self.table.drop(key, floor=self.clock)
        assert rc == (binding.OK if self.known.pop(key, None) else binding.MISS)

    @rule(key=KEYS, keep=NONCES)
    def drop(self, key: str, keep: int) -> None:
        """The record alone, unless it bears that nonce: nothing is raised."""
        known = self.known.get(key)
        assert self.table.drop(key, keep_nonce=keep) == (
            binding.OK if known else binding.MISS
        )
        if known and not (keep and known.nonce == keep):
            del self.known[key]

    @rule(what=st.one_of(KEYS, st.integers(0, 3), st.just("")), soft=st.booleans())
    def invalidate(self, what: str | int, soft: bool) -> None:
        if isinstance(what, str) and what and not soft:
            return self.delete(what)
        self.clock += 1
        assert self.table.number() == self.clock
        if what == "":
            self.table.raise_all(self.clock, soft)
        elif isinstance(what, int):
            self.table.raise_tag(what, self.clock, soft)
        else:
            self.table.raise_key(what, self.clock, soft)
        hard, soft_one = self.stripe(what)
        self.raised[what] = (hard, self.clock) if soft else (self.clock, soft_one)
        return None

    @rule()
    def gap_(self) -> None:
        self.clock += 1
        self.table.number()
        self.table.raise_gap(self.clock, self.now)
        number, at = self.gap
        if not number or self.now - at >= 4 * SECOND:
            # what an earlier gap has hidden stays hidden
            self.raised[""] = (max(self.stripe("")[0], number), self.stripe("")[1])
            at = self.now
        self.gap = (self.clock, at)

    @rule(step=st.one_of(st.integers(0, 3), st.integers(0, 3 * SECOND)))
    def advance(self, step: int) -> None:
        self.now += step

    @invariant()
    def every_key_is_what_the_model_says(self) -> None:
        for i in range(6):
            key = f"key{i}"
            found, state = self.table.look(key, self.now), self.state(key)
            peeked = self.table.peek_at(key, self.now)
            if state == binding.MISS:
                assert found is None and peeked is None
                continue
            known = self.known[key]
            assert found is not None
            assert found[:2] == (known.value, state)
            assert found[3:7] == (
                known.birth, known.fresh_until, known.dead_at, known.stamp
            )  # fmt: skip
            assert (found[7], found[9]) == (known.nonce, known.tags)
            assert peeked == (known.value if state == binding.FRESH else None)

    @invariant()
    def clock_agrees(self) -> None:
        assert self.table.clock() == self.clock


TestTable = TableMachine.TestCase
TestTable.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, database=None
)
