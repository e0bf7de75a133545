"""Herds: many clients of a whole fleet at one key, with nothing wrong and with much.

Each trial has a key of its own. A wave's fetches are counted where computes run, not
by what the clients were given.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from time import monotonic, monotonic_ns, sleep

from shmcache import CacheConfig

from .fleet import Fleet, Worker, WorkerError, shuffled
from .stores import SHM
from .watched import CONNECTING, Monitor
from .worker import Answered

CLIENTS = 4
"""Of each worker."""
HOLD = 0.01
"""Seconds of a compute whose waiters are timed: all wait when it returns."""
FOREVER = 60.0
"""Seconds of a compute that will be killed."""
LEASE_LIFE = CacheConfig("any").lease_life
SAME_FLIGHT, SAME_HOST, OTHER_HOST = "holder's process", "holder's host", "other host"
PLACES = (SAME_FLIGHT, SAME_HOST, OTHER_HOST)
_MS = 1e6

_keys = (f"key-{n}" for n in count())


def fresh_key() -> str:
    """One that nobody ever asked for."""
    return next(_keys)


@dataclass
class Herd:
    """What the trials of a series came to."""

    fetches: Counter[int] = field(default_factory=Counter)
    """How many trials had so many."""
    mixed: int = 0
    """Trials whose clients were not all given the same answer."""
    failed: list[str] = field(default_factory=list)
    """Trials in which a client was given an error."""
    clients: int = 0
    woken_ms: dict[str, list[float]] = field(
        default_factory=lambda: {place: [] for place in PLACES}
    )
    """From the compute's return to the answer, of those who waited then."""
    spread_ms: list[float] = field(default_factory=list)
    """From the first client's call to the last one's, of a trial."""

    @property
    def trials(self) -> int:
        return sum(self.fetches.values())

    @property
    def wrong(self) -> int:
        """Trials with more or less than one fetch, mixed answers or an error."""
        others = self.trials - self.fetches[1]
        return others + self.mixed + len(self.failed)


@dataclass(frozen=True)
class Shape:
    """How a trial's clients come, and how long its compute takes."""

    hold: float = HOLD
    delay: float = 0.0
    """Seconds over which the clients are scattered."""
    timed: bool = True


SHAPES = (
    Shape(),
    Shape(),
    Shape(hold=0.0, timed=False),
    Shape(hold=0.002, delay=0.006, timed=False),
)
"""In turn: all wait; the fill meets those who come; they come before and after it."""


def trials(
    fleet: Fleet,
    number: int,
    shapes: Sequence[Shape] = SHAPES,
    *,
    clients: int = CLIENTS,
    meanwhile: Callable[[], None] = lambda: None,
    told: Callable[[Herd], None] = lambda herd: None,
) -> Herd:
    """So many waves, one after another. `meanwhile` is done while one waits."""
    herd = Herd()
    for n in range(number):
        shape = shapes[n % len(shapes)]
        before = sum(one.computes for one in fleet.workers)
        try:
            came = _wave(fleet, fresh_key(), shape, clients, meanwhile)
        except WorkerError as error:
            herd.failed.append(str(error))
            came = []
        herd.fetches[sum(one.computes for one in fleet.workers) - before] += 1
        if came:
            _note(herd, fleet, came, shape)
        told(herd)
    return herd


def _wave(
    fleet: Fleet,
    key: str,
    shape: Shape,
    clients: int,
    meanwhile: Callable[[], None],
) -> list[tuple[Worker, Answered]]:
    workers = shuffled(fleet.workers)
    order = ("wave", [key], clients, shape.hold, shape.delay)
    numbers = [(one, one.tell(*order)) for one in workers]
    meanwhile()
    came, wrong = [], None
    for one, number in numbers:
        try:
            came += [(one, Answered(*told)) for told in one.answer(number)]
        except WorkerError as error:
            wrong = error
    if wrong:
        raise wrong
    return came


def _note(
    herd: Herd, fleet: Fleet, came: list[tuple[Worker, Answered]], shape: Shape
) -> None:
    answers = [told for _, told in came]
    herd.clients += len(came)
    herd.mixed += len({told[:3] for told in answers}) > 1
    asked = [told.asked for told in answers]
    herd.spread_ms.append((max(asked) - min(asked)) / _MS)
    if not shape.timed:
        return
    host = {one.index: h.number for h in fleet.hosts for one in h.workers}
    for one, told in came:
        if told.asked < told.filled:
            place = SAME_FLIGHT
            if one.index != told.by:
                same = host[one.index] == host.get(told.by)
                place = SAME_HOST if same else OTHER_HOST
            herd.woken_ms[place].append((told.answered - told.filled) / _MS)


# --- round trips -------------------------------------------------------------------


@dataclass
class Trips:
    """Round trips of the hosts' waves, by what they were."""

    clients: int
    """Of each worker."""
    waves: list[Counter[str]] = field(default_factory=list)
    """One for each host and wave."""
    connecting: int = 0
    """Commands by which connections were made; a pool does it once."""

    @property
    def totals(self) -> list[int]:
        return [sum(wave.values()) for wave in self.waves]


def round_trips(fleet: Fleet, monitor: Monitor, number: int, clients: int) -> Trips:
    """Of so many waves, counted by Redis itself."""
    trips = Trips(clients)
    for _ in range(number):
        monitor.round_trips()
        _wave(fleet, fresh_key(), Shape(), clients, lambda: None)
        sleep(0.01)  # what a host sends behind its answer counts too
        found = monitor.round_trips()
        for host in fleet.hosts:
            wave = found.get(host.user, Counter())
            trips.connecting += wave.pop(CONNECTING, 0)
            trips.waves.append(wave)
    return trips


# --- lost wake-ups -----------------------------------------------------------------


def unlink_wake_sockets(fleet: Fleet) -> None:
    """From here on no worker can wake another: they look by themselves."""
    for host in fleet.hosts:
        for path in SHM.glob(f"*{host.name}*~*"):
            path.unlink(missing_ok=True)


# --- killed holders ----------------------------------------------------------------


@dataclass
class Killed:
    """Computes killed, and how the others went on."""

    goes_on_ms: list[float] = field(default_factory=list)
    """From the kill to the next compute's begin."""
    answered_ms: list[float] = field(default_factory=list)
    """To the last client's answer."""
    wrong: list[str] = field(default_factory=list)


def kill_on_its_host(fleet: Fleet, number: int) -> Killed:
    """Kill a computing worker, while its host and the others wait for it."""
    found = Killed()
    for n in range(number):
        host = fleet.hosts[n % len(fleet.hosts)]
        victim = random.choice(host.workers)
        key = fresh_key()
        _computing(victim, key)
        others = [one for one in fleet.workers if one is not victim]
        before = sum(one.computes for one in others)
        order = ("wave", [key], CLIENTS, HOLD, 0.0)
        numbers = [(one, one.tell(*order)) for one in others]
        sleep(random.uniform(0.05, 0.1))  # until they wait, anywhere in their polls
        killed = monotonic_ns()
        victim.kill()
        came = [Answered(*told) for one, n in numbers for told in one.answer(n)]
        fetches = sum(one.computes for one in others) - before
        at_home = {one.index for one in host.workers}
        if fetches != 1 or not {told.by for told in came} <= at_home:
            found.wrong.append(f"{fetches} fetches by { ({t.by for t in came}) }")
        found.goes_on_ms.append((min(t.began for t in came) - killed) / _MS)
        found.answered_ms.append((max(t.answered for t in came) - killed) / _MS)
        host.replace(victim)
    return found


def kill_whole_hosts(fleet: Fleet, number: int) -> Killed:
    """Kill hosts of one worker each, at any time in their leases, while the fleet's
    first host waits for all of them."""
    found = Killed()
    holders = fleet.grow(number, 1)
    keys = [fresh_key() for _ in holders]
    for host, key in zip(holders, keys, strict=True):
        _computing(host.workers[0], key)
    waiting = fleet.hosts[0].workers
    before = sum(one.computes for one in waiting)
    order = ("wave", keys, 1, HOLD, 0.0)
    numbers = [(one, one.tell(*order)) for one in waiting]
    killed = {}
    for host, key in zip(holders, keys, strict=True):
        sleep(random.uniform(0, 2 * LEASE_LIFE / 3 / number))
        killed[key] = monotonic_ns()
        host.workers[0].kill()
    came = [one.answer(number) for one, number in numbers]
    fetches = sum(one.computes for one in waiting) - before
    if fetches != number:
        found.wrong.append(f"{fetches} fetches of {number} keys")
    for key, *answers in zip(keys, *came, strict=True):
        told = [Answered(*answer) for answer in answers]
        found.goes_on_ms.append((min(t.began for t in told) - killed[key]) / _MS)
        found.answered_ms.append((max(t.answered for t in told) - killed[key]) / _MS)
    fleet.bury(holders)
    return found


def _computing(victim: Worker, key: str) -> None:
    """Until it computes the key."""
    before = victim.computes
    victim.tell("wave", [key], CLIENTS, FOREVER, 0.0)
    deadline = monotonic() + 10
    while victim.computes == before:
        if monotonic() > deadline:
            raise WorkerError(f"worker {victim.index} does not compute")
        sleep(0.001)
