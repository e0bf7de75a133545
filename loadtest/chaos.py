"""Chaos: workers of several hosts under a seeded schedule of faults, and the checker.

`python -m loadtest.chaos --seconds 300 --seed 1`. Real processes, a real redis-server
and its replica, a fault proxy for each host. It prints what was injected and what was
seen, ends by itself, and exits with 1 if anything was seen that must never be.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtest import command, report
from tests.chaos.bounds import Windows
from tests.chaos.history import injected
from tests.chaos.proxy import FAULTS
from tests.chaos.run import Run, run
from tests.chaos.schedule import REDIS, WORKERS, plan

SHOWN = 20
"""Violations that are printed; the JSON has all."""
LEAST = 5
"""Seconds; a run of less than a storm and a calm has faults of workers only."""
COUNTED = (
    *("hits", "stale_hits", "misses", "computes", "compute_errors", "coalesced"),
    *("refreshes", "promotions", "l2_hits", "l2_errors", "leases_won"),
    *("leases_waited", "fills_refused", "fills_full", "claims_taken_over"),
    *("invalidations", "locks_recovered", "shards_wiped"),
)
"""Of the library's counters, those that the report shows, summed over the hosts."""


def main() -> int:
    args = _arguments()
    seed = (
        args.seed if args.seed is not None else random.SystemRandom().randrange(10**6)
    )
    settings = {"hosts": args.hosts, "workers": args.workers}
    events = plan(seed, args.seconds, without=args.without, **settings)
    print(
        f"chaos: seed {seed}, {args.seconds} s, {args.hosts} hosts of {args.workers} "
        f"workers, {len(events)} faults to come",
        flush=True,
    )
    done = run(events, args.seconds, folder=args.keep, seed=seed, **settings)
    found = {"seed": seed, "seconds": args.seconds, **settings, **summary(done)}
    print(text(found))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")
    return 1 if found["violations"] else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="loadtest.chaos", description=__doc__)
    parser.add_argument("--seconds", type=_seconds, default=300)
    parser.add_argument("--seed", type=int, help="of load and faults; else by chance")
    parser.add_argument("--hosts", type=command.positive, default=2)
    parser.add_argument("--workers", type=command.positive, default=3, help="of a host")
    parser.add_argument("--without", nargs="*", default=(), metavar="KIND",
                        choices=(*FAULTS, *REDIS, *WORKERS))  # fmt: skip
    parser.add_argument("--json", type=command.writable, metavar="FILE")
    parser.add_argument("--keep", type=_folder, metavar="FOLDER",
                        help="leave journals and logs there")  # fmt: skip
    return parser.parse_args()


def _seconds(text: str) -> int:
    seconds = command.positive(text)
    if seconds < LEAST:
        raise argparse.ArgumentTypeError(f"expected at least {LEAST}, got {text!r}")
    return seconds


def _folder(text: str) -> Path:
    path = Path(text)
    path.mkdir(parents=True, exist_ok=True)
    if any(path.iterdir()):
        raise argparse.ArgumentTypeError(f"{text!r} is not empty")
    return path.absolute()


# --- what was seen ----------------------------------------------------------------


def summary(done: Run) -> dict[str, Any]:
    """The whole run as plain values."""
    history, verdict = done.history, done.verdict
    counters: Counter[str] = Counter()
    for counted in history.counters.values():
        counters.update(counted)
    return {
        "took": done.seconds,
        "injected": {
            kind: {"count": count, "seconds": seconds, "touched": touched}
            for kind, (count, seconds, touched) in injected(history.faults).items()
        },
        "operations": len(history.reads) + len(history.voids) + len(history.failures),
        "seen": dict(verdict.counts),
        "writes": Counter(v.verb for v in history.voids),
        "counters": {name: counters[name] for name in COUNTED},
        "waves": {str(n): verdict.waves[n] for n in sorted(verdict.waves)},
        "longest": verdict.longest,
        "behind": verdict.behind,
        "hits": hits(done),
        "killed workers": len(history.deaths),
        "violations": [v._asdict() for v in verdict.violations],
    }


def hits(done: Run) -> dict[str, dict[str, float]]:
    """Percentiles of `peek` hits in microseconds, with a fault under way and without;
    hits during which their own worker was stopped are left out."""
    faults = Windows((f.begin, f.end) for f in done.history.faults)
    stops: dict[str, list[tuple[int, int]]] = {}
    for fault in done.history.faults:
        if fault.kind == "stop":
            stops.setdefault(fault.target, []).append((fault.begin, fault.end))
    stopped = {worker: Windows(found) for worker, found in stops.items()}
    took: dict[str, list[float]] = {"quiet": [], "under faults": []}
    for read in done.history.reads:
        if read.verb != "peek" or read.value is None:
            continue
        own = stopped.get(read.worker)
        if own is not None and own.touch(read.begin, read.end):
            continue
        when = "under faults" if faults.touch(read.begin, read.end) else "quiet"
        took[when].append((read.end - read.begin) / 1000)
    return {when: _percentiles(sorted(found)) for when, found in took.items()}


def _percentiles(took: Sequence[float]) -> dict[str, float]:
    if not took:
        return {}
    shares = {"p50": 0.5, "p99": 0.99, "p999": 0.999}
    at = {name: took[int(len(took) * share)] for name, share in shares.items()}
    return {"count": float(len(took)), **at, "most": took[-1]}


# --- as text ----------------------------------------------------------------------


def text(found: dict[str, Any]) -> str:
    """The report."""
    return "\n\n".join([_injected(found), _seen(found), _calls(found), _end(found)])


def _injected(found: dict[str, Any]) -> str:
    rows = [
        [kind, str(f["count"]), f"{f['seconds']:.1f}", str(f["touched"] or report.NONE)]
        for kind, f in sorted(found["injected"].items())
    ]
    return report.table(["injected", "times", "seconds", "acted on"], rows)


def _seen(found: dict[str, Any]) -> str:
    waves = {int(n): count for n, count in found["waves"].items()}
    alone = waves.get(1, 0)
    figures = {
        "operations": found["operations"],
        **found["seen"],
        **found["counters"],
        "waves of one fetch": alone,
        "waves of more, all explained by a fault or a void": sum(waves.values())
        - alone,
        "workers killed": found["killed workers"],
    }
    return report.table(["seen", "count"], [[n, f"{v:,}"] for n, v in figures.items()])


def _calls(found: dict[str, Any]) -> str:
    longest = [
        [f"longest {v}", f"{s:.3f} s"] for v, s in sorted(found["longest"].items())
    ]
    for when, figures in found["hits"].items():
        if figures:
            words = ", ".join(
                f"{n} {v:.1f}" for n, v in figures.items() if n != "count"
            )
            longest.append([f"hits, {when}, us", words])
    behind = f"{found['behind']:.3f} s"
    longest.append(["older value of another host, link up, for at most", behind])
    return report.table(["calls", ""], longest)


def _end(found: dict[str, Any]) -> str:
    violations = found["violations"]
    if not violations:
        return f"no violation; {found['took']:.0f} s"
    kinds = Counter(v["kind"] for v in violations)
    sums = ", ".join(f"{kind} {count}" for kind, count in kinds.items())
    lines = [f"{len(violations)} VIOLATIONS: {sums}"]
    lines += [f"  {v['at']} {v['kind']}: {v['what']}" for v in violations[:SHOWN]]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(command.run("chaos", main))
