"""The claim protocol, every interleaving of it: never two holders of one key.

The steps are those of `claim.c`, one shared access each. Two or three takers want the
key in one set whose first entry another key holds and may free at any moment, so that
rivals come to stand at different entries. Any taker may die at any step; whoever waits
on a dead one's word takes it over. Rules can be taken out, and the model must notice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

FREE, TENTATIVE, HELD = "free", "tentative", "held"
ROUNDS = 3  # the core stops later; what may happen in the third may in any


class Word(NamedTuple):
    state: str
    owner: int  # of the key; OTHER: a claim of another key
    sequence: int


OTHER = -1


class Taker(NamedTuple):
    """Where a process stands: the next access it makes, and what it remembers."""

    at: str = "standing"
    i: int = 0  # its own entry
    j: int = 0  # the entry it looks at
    mine: Word | None = None
    seen: Word | None = None  # what it read, or waits on
    seen_at: int = 0
    round: int = 0
    over: bool = False  # settling a claim it took over


class World(NamedTuple):
    entries: tuple[Word, ...]
    takers: tuple[Taker, ...]
    deaths: int = 1  # how many may still die


class Rules(NamedTuple):
    void_higher: bool = True
    withdraw_from_lower: bool = True
    over_is_settled: bool = True
    confirm_by_cas: bool = True


def taken(word: Word) -> bool:
    return word.state != FREE


def ours(word: Word) -> bool:
    return taken(word) and word.owner != OTHER


def put(entries: tuple[Word, ...], i: int, word: Word) -> tuple[Word, ...]:
    return (*entries[:i], word, *entries[i + 1 :])


def restart(taker: Taker) -> Taker:
    if taker.over or taker.round + 1 == ROUNDS:
        return Taker(at="done")
    return Taker(round=taker.round + 1)


Step = Iterator[tuple[tuple[Word, ...], Taker]]


class Protocol:
    """One shared access of one taker: (entries, taker) to each that may follow."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules

    def standing(self, e: tuple[Word, ...], me: int, t: Taker) -> Step:
        word, seen, seen_at = e[t.j], t.seen, t.seen_at
        if ours(word) and (seen is None or word.state == HELD):
            seen, seen_at = word, t.j
        if t.j + 1 < len(e) and not (seen and seen.state == HELD):
            yield e, t._replace(j=t.j + 1, seen=seen, seen_at=seen_at)
        elif seen:
            yield e, t._replace(at="waits", seen=seen, seen_at=seen_at)
        else:
            yield e, t._replace(at="vacant", j=0)

    def vacant(self, e: tuple[Word, ...], me: int, t: Taker) -> Step:
        if not taken(e[t.j]):
            yield e, t._replace(at="take", i=t.j, seen=e[t.j])
        elif t.j + 1 < len(e):
            yield e, t._replace(j=t.j + 1)
        else:
            yield e, Taker(at="done")

    def take(self, e: tuple[Word, ...], me: int, t: Taker) -> Step:
        assert t.seen
        if e[t.i] != t.seen:
            yield e, restart(t)
            return
        mine = Word(TENTATIVE, me, t.seen.sequence + 1)
        yield put(e, t.i, mine), t._replace(at="look", j=0, mine=mine, seen=None)

    def look(self, e: tuple[Word, ...], me: int, t: Taker) -> Step:
        if t.j == len(e):
            yield from self.confirm(e, me, t)
            return
        word = e[t.j]
        if t.j == t.i or not ours(word):
            yield e, t._replace(j=t.j + 1)
        elif word.state == TENTATIVE and t.j > t.i:
            if self.rules.void_higher:
                yield e, t._replace(at="void", seen=word)
            else:
                yield e, t._replace(j=t.j + 1)
        elif word.state == TENTATIVE and not self.rules.withdraw_from_lower:
            yield e, t._replace(j=t.j + 1)
        else:
            yield e, t._replace(at="withdraw", seen=word, seen_at=t.j)

    def void(self, e: tuple[Word, ...], me: int, t: Taker) -> Step:
        assert t.seen
        if e[t.j] == t.seen:
            yield (
                put(e, t.j, t.seen._replace(state=FREE)),
                t._replace(at="look", j=t.j + 1, seen=None),
            )
        else:
            yield e, t._replace(at="look", seen=None)

    def withdraw(self, e: tuple[Word, ...], me: int, t: Taker) -> Step:
        assert t.mine
        if e[t.i] == t.mine:
            e = put(e, t.i, t.mine._replace(state=FREE))
        yield e, Taker(at="done") if t.over else t._replace(at="waits", mine=None)

    def confirm(self, e: tuple[Word, ...], me: int, t: Taker) -> Step:
        assert t.mine
        if e[t.i] == t.mine or not self.rules.confirm_by_cas:
            mine = t.mine._replace(state=HELD)
            yield put(e, t.i, mine), t._replace(at="holds", mine=mine)
        else:
            yield e, restart(t)

    def holds(self, e: tuple[Word, ...], me: int, t: Taker) -> Step:
        """Free it, unless it was taken over."""
        assert t.mine
        if e[t.i] == t.mine:
            e = put(e, t.i, t.mine._replace(state=FREE))
        yield e, Taker(at="done")

    def waits(self, e: tuple[Word, ...], me: int, t: Taker) -> Step:
        """Woken, when the word it waits on has changed."""
        if e[t.seen_at] != t.seen:
            yield e, restart(t)

    def take_over(self, e: tuple[Word, ...], me: int, t: Taker) -> Step:
        """By one CAS, where the owner is dead; a held claim is ours at once."""
        assert t.seen
        if e[t.seen_at] != t.seen:
            return
        state = t.seen.state if self.rules.over_is_settled else HELD
        mine = Word(state, me, t.seen.sequence + 1)
        yield put(e, t.seen_at, mine), t._replace(
            at="look" if state == TENTATIVE else "holds", i=t.seen_at, j=0,
            mine=mine, seen=None, over=True,
        )  # fmt: skip

    def following(self, world: World) -> Iterator[World]:
        e, takers, deaths = world
        if e[0].owner == OTHER and taken(e[0]):  # the neighbour frees its claim
            yield world._replace(entries=put(e, 0, e[0]._replace(state=FREE)))
        for me, t in enumerate(takers):
            if t.at in ("done", "dead"):
                continue
            for entries, then in getattr(self, t.at)(e, me, t):
                yield World(entries, put_taker(takers, me, then), deaths)
            if t.at == "waits" and t.seen and takers[t.seen.owner].at == "dead":
                for entries, then in self.take_over(e, me, t):
                    yield World(entries, put_taker(takers, me, then), deaths)
            if deaths and t.at != "waits":
                dead = put_taker(takers, me, Taker(at="dead"))
                yield World(e, dead, deaths - 1)


def put_taker(takers: tuple[Taker, ...], i: int, taker: Taker) -> tuple[Taker, ...]:
    return (*takers[:i], taker, *takers[i + 1 :])


def explore(entries: int, takers: int, rules: Rules, deaths: int) -> tuple[int, int]:
    """(worlds reached, the most claims of the key held at once)."""
    first = (Word(HELD, OTHER, 0), *[Word(FREE, OTHER, 0)] * (entries - 1))
    start = World(first, (Taker(),) * takers, deaths)
    protocol = Protocol(rules)
    reached, todo, most = {start}, [start], 0
    while todo:
        world = todo.pop()
        most = max(most, sum(ours(w) and w.state == HELD for w in world.entries))
        if most > 1:
            break
        for then in protocol.following(world):
            if then not in reached:
                reached.add(then)
                todo.append(then)
    return len(reached), most


@pytest.mark.parametrize(
    ("entries", "takers", "deaths"),
    [(3, 2, 2), (2, 3, 1)],
    ids=["two takers, both may die", "three takers, one may die"],
)
def test_no_interleaving_has_two_holders(
    entries: int, takers: int, deaths: int
) -> None:
    worlds, most = explore(entries, takers, Rules(), deaths)
    assert most == 1
    assert worlds > 1000


@pytest.mark.parametrize(
    ("without", "deaths"),
    [
        ("void_higher", 0),
        ("withdraw_from_lower", 0),
        ("confirm_by_cas", 0),
        ("over_is_settled", 1),
    ],
)
def test_model_notices_a_rule_taken_out(without: str, deaths: int) -> None:
    rules = Rules()._replace(**{without: False})
    assert explore(2, 3, rules, deaths)[1] == 2
