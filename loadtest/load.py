"""Load: scenarios of the market service under locust's clients, with what must hold.

    python -m loadtest.load [--scenario NAME ...] [--short] [--json FILE]
                            [--at-most FIGURE=NUMBER ...]
    python -m loadtest.load --scenario NAME --page 8089

Each scenario has servers, vendors and a Redis of its own. It prints what came of each
and whether its figures were met; the exit code is 1 if one was missed, 2 for what it
cannot be told. A run is kept in build/load, as JSON and as a page, unless it is short.
"""

from __future__ import annotations

import argparse
import math
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import monotonic

from tests.helpers import ROOT

from . import command, page, timed
from .death import Ask
from .fates import FAILED, FATES, REFUSED
from .generator import Counted, Generator, generating, quantile
from .report import Target, judged, shown, table
from .runs import Outcome, Run, Second, begun, read
from .scenarios import DEPLOYED, Bound, Scenario, scenarios
from .service import DASHBOARD, calls
from .shapes import steady
from .stage import Stage, staged

KEPT = ROOT / "build" / "load"
_BOUNDED = ("requests", "p50", "p95", "p99", "max", "calls")
_SINGLE = ("requests", "failures", "p50", "p99", "max")
_COLUMNS = ("requests", "requests_per_second", "p50", "p95", "p99", "max", *FATES)


class Watch:
    """What takes down each second of the load, on a thread of its own."""

    def __init__(self, stage: Stage, generator: Generator) -> None:
        self.seconds: list[Second] = []
        self.last = Counted()
        self.cpu = 0.0
        """The most, percent of a core."""
        self._stage, self._generator = stage, generator
        self._counted: Counter[str] = Counter()
        self._calls = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Until the load is over."""
        self._thread.join()

    def _run(self) -> None:
        try:
            for seen in self._generator.lines():
                self._stage.witness.first = seen.first
                if seen.requests and not self.seconds:
                    self._stage.load()
                if self.seconds or seen.requests:
                    self._take(seen)
        finally:
            self._stage.end()

    def _take(self, seen: Counted) -> None:
        last, counted = self.last, self._stage.counted()
        called = self._stage.called().total()
        self.seconds.append(
            Second(
                at=round(monotonic() - self._stage.began, 3),
                clients=seen.clients,
                requests=seen.requests - last.requests,
                failures=seen.failures - last.failures,
                **_quantiles(seen.times - last.times),
                **{fate: counted[fate] - self._counted[fate] for fate in FATES},
                calls=called - self._calls,
            )
        )
        self.last, self._counted, self._calls = seen, counted, called
        self.cpu = max(self.cpu, seen.cpu)


def play(name: str, short: bool, more: Sequence[Bound] = ()) -> Outcome:
    """One scenario, from nothing to nothing; `more` bounds are judged with its own."""
    scenario = scenarios(short)[name]
    with staged(scenario) as stage:
        stage.begin()
        bases = [f"http://127.0.0.1:{host.port}" for host in stage.hosts]
        with stage.witness, generating(name, bases, short=short) as generator:
            watch = Watch(stage, generator)
            trouble = _meanwhile(stage)
            watch.join()
        outcome = Outcome(name, scenario.title, watch.seconds)
        outcome.totals = _totals(stage, watch)
        outcome.calls = dict(stage.called())
        outcome.totals["calls"] = sum(outcome.calls.values())
        outcome.notes = [*trouble, *_notes(stage, watch)]
    bounds = [*scenario.common, *scenario.bounds, *more]
    outcome.targets = [_target(outcome, b) for b in bounds if not (short and b.timed)]
    return outcome


def open_loop(short: bool) -> Outcome:
    """The ramp at fixed times."""
    scenario = Scenario("", steady(1, 0.0), calls=DEPLOYED)
    with staged(scenario) as stage:
        stage.begin()
        url = f"http://127.0.0.1:{stage.hosts[0].port}{DASHBOARD}"
        how = {"rate": 300.0, "seconds": 2.0} if short else {}
        return timed.ramp(url, calls=partial(calls, stage.vendors), **how)


def single(short: bool) -> Outcome:
    """Single answers, and 500 cold connections."""
    scenario = Scenario("", steady(1, 0.0), hosts=2, still=True, calls=DEPLOYED)
    with staged(scenario) as stage:
        url = f"http://127.0.0.1:{stage.hosts[0].port}"
        return timed.answers(url, scenario.latency, count=50 if short else 1000)


TIMED = {"open-loop": open_loop, "single": single}
"""What is not locust's: their times are too short for its clients."""


def play_timed(name: str, short: bool, more: Sequence[Bound] = ()) -> Outcome:
    outcome = TIMED[name](short)
    outcome.name = name
    if short:  # the last is the count of those without a right answer
        del outcome.targets[:-1]
    outcome.targets += [_target(outcome, bound) for bound in more]
    return outcome


def _target(outcome: Outcome, b: Bound) -> Target:
    return Target(b.what, outcome.totals.get(b.figure), b.bound, b.least, b.form)


def _meanwhile(stage: Stage) -> list[str]:
    """Let happen what does; what did not come about, and is a missing figure."""
    try:
        if stage.scenario.happens:
            stage.scenario.happens(stage)
    except AssertionError as e:
        return [str(e)]
    return []


def _totals(stage: Stage, watch: Watch) -> dict[str, float]:
    seen, server = watch.last, stage.counted()
    clients = stage.witness.fates + seen.fates
    requests, counted = clients.total(), server.total()
    took = max((second.at for second in watch.seconds if second.requests), default=0.0)
    failed = seen.failures + stage.witness.fates[FAILED]
    lost = _lost(stage, watch)

    def unlike(one: int, other: int) -> int:
        """What is not explained by requests that were lost."""
        return max(0, abs(one - other) - len(lost))

    totals: dict[str, float] = {
        "requests": requests,
        "asked": seen.requests,
        "failures": failed,
        "failed": failed - sum(ask.failed for ask in lost),
        "requests_per_second": seen.requests / took if took else 0.0,
        **{k: v for k, v in _quantiles(seen.times).items() if v is not None},
        **server,
        REFUSED: clients[REFUSED],
        "wrong": len(stage.witness.wrong),
        "read": len(stage.witness.seen),
        "warm": 100 * (server["hits"] + server["stale"]) / max(1, counted),
        "within_budget": clients[REFUSED] + clients["stale"],
        "unlike_requests": unlike(requests, counted),
        "unlike_fetches": unlike(clients["misses"], server["misses"]),
        "under_way": len(lost),
        "busiest": max(stage.busiest()),
        "generator_cpu": watch.cpu,
        **stage.figures,
    }
    if stage.scenario.budget:
        called = stage.called().total()
        return totals | {"unlike_calls": abs(called - clients["misses"])}
    return totals | _of_vendors(stage)


def _lost(stage: Stage, watch: Watch) -> list[Ask]:
    """Requests that a dead worker can have had."""
    if stage.death is None:
        return []
    return stage.death.under_way([*watch.last.asks, *stage.witness.asks])


def _of_vendors(stage: Stage) -> dict[str, float]:
    spent, used, parts = stage.spent(), stage.used(), stage.parts()
    unlike = sum(abs(spent[vendor] - used[vendor]) for vendor in {*spent, *used})
    return {
        # what is killed may have been granted a call of each that it never made
        "unlike_calls": max(0, unlike - (len(parts) if stage.death else 0)),
        "over_budget": sum(max(0, spent[v] - stage.budget(v)) for v in spent),
        "most_calls": max(parts),
        "least_calls": min(parts),
    }


def _quantiles(times: Counter[float]) -> dict[str, float | None]:
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {name: quantile(times, share) for name, share in shares.items()}


def _notes(stage: Stage, watch: Watch) -> list[str]:
    notes = [
        f"{len(stage.witness.seen):,} answers were read and compared with the truth",
        f"the generator's busiest process took {watch.cpu:.0f} % of a core",
    ]
    if stage.scenario.budget:
        seen = stage.witness.fates + watch.last.fates
        notes.append(f"{seen[REFUSED]:,} were refused, {seen['stale']:,} stale")
    if stage.death:
        lost = _lost(stage, watch)
        notes.append(f"requests under way while the worker died: {len(lost)}")
    notes += [f"failed: {error} ({n})" for error, n in watch.last.errors.items()]
    return notes + [f"wrong: {wrong}" for wrong in stage.witness.wrong]


# --- what is said


def said(outcome: Outcome) -> None:
    """What came of a scenario, as text."""
    print(f"\n{outcome.name}: {outcome.title}\n")
    if rows := outcome.rows:
        lines = [[name, *_single(row)] for name, row in rows.items()]
        print(table(("", *_SINGLE), lines))
    else:
        print(_table(outcome))
    for note in outcome.notes:
        print(f"  {note}")
    judged(outcome.targets)
    sys.stdout.flush()


def _single(row: Mapping[str, float]) -> Iterator[str]:
    return (shown(row.get(figure), ",.2f") for figure in _SINGLE)


def _table(outcome: Outcome) -> str:
    head = ("requests", "a second", "p50 ms", "p95", "p99", "max", *FATES, "calls")
    figures = [outcome.totals.get(name) for name in (*_COLUMNS, "calls")]
    forms = [",.0f"] * 2 + [",.1f"] * 4 + [",.0f"] * 5
    row = [shown(f, form) for f, form in zip(figures, forms, strict=True)]
    return table(head, [row], names=0)


def kept(run: Run, path: Path | None, short: bool) -> None:
    """The run as JSON; a long one among the others, and as a page beside the last."""
    if path is not None:
        run.write(path)
    if short:
        return
    latest = KEPT / "latest.json"
    before = None
    with suppress(FileNotFoundError, ValueError):  # another version's, or cut short
        before = read(latest)
    for kept_at in (KEPT / f"{run.began.translate({ord(':'): None})}.json", latest):
        run.write(kept_at)
    page.write(run, latest.with_suffix(".html"), before)


def shown_by_locust(name: str, port: int) -> int:
    """The scenario's servers, and locust's own page before them, until Ctrl-C."""
    with staged(scenarios(False)[name]) as stage:
        bases = [f"http://127.0.0.1:{host.port}" for host in stage.hosts]
        with generating(name, bases, short=False, page=port) as generator:
            print(f"\n  {name}: open http://127.0.0.1:{port}/\n", flush=True)
            return generator.process.wait()


def _at_most(text: str) -> Bound:
    figure, _, number = text.partition("=")
    try:
        bound = float(number)
    except ValueError:
        bound = math.nan
    if figure not in _BOUNDED or math.isnan(bound):
        said = f"expected one of {', '.join(_BOUNDED)}, = and a number, got {text!r}"
        raise argparse.ArgumentTypeError(said)
    return Bound(f"{figure}, as told", figure, bound, form=",.1f")


def main() -> int:
    parser = command.options("load", __doc__)
    known = [*scenarios(True), *TIMED]
    parser.add_argument("--scenario", action="append", metavar="NAME", default=[])
    parser.add_argument("--short", action="store_true", help="seconds each; no times")
    parser.add_argument(
        "--at-most",
        action="append",
        metavar="FIGURE=NUMBER",
        type=_at_most,
        default=[],
        help=f"another bound, of {', '.join(_BOUNDED)}",
    )
    parser.add_argument("--page", type=command.positive, metavar="PORT")
    args = parser.parse_args()
    if args.page:
        known = [*scenarios(True)]
    unknown = [name for name in args.scenario if name not in known]
    if unknown:
        print(f"load: no scenario {unknown[0]!r}: {', '.join(known)}", file=sys.stderr)
        return 2
    if args.page:
        return shown_by_locust((args.scenario or ["sustained"])[0], args.page)
    run = begun()
    for name in args.scenario or known:
        command.note(f"load: {name} ...")
        played = play_timed if name in TIMED else play
        outcome = played(name, args.short, args.at_most)
        said(outcome)
        run.outcomes.append(outcome)
    kept(run, args.json, args.short)
    return int(not all(outcome.met for outcome in run.outcomes))


if __name__ == "__main__":
    sys.exit(command.run("load", main))
