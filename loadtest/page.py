"""A run as one page of HTML, by itself or beside the run before.

    python -m loadtest.page RUN.json [BEFORE.json] [-o FILE]

The page needs nothing else: no script, no other file. Names of totals that a scenario
makes up are shown as they are; those of the form `row: figure` are a table of rows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from . import command, plot
from .plot import Line
from .report import NONE, Target
from .runs import Outcome, Run, Second, read

NAMES = {
    "requests": "requests",
    "failures": "failures",
    "requests_per_second": "requests/s",
    "mean": "mean, ms",
    "p50": "p50, ms",
    "p95": "p95, ms",
    "p99": "p99, ms",
    "max": "slowest, ms",
    "hits": "hits",
    "stale": "stale hits",
    "misses": "misses",
    "coalesced": "coalesced",
    "calls": "vendor calls",
}
MORE_IS_BETTER = {"requests_per_second": True}
MORE_IS_BETTER |= dict.fromkeys(
    ("failures", "mean", "p50", "p95", "p99", "max", "calls"), False
)
SMALL = 0.05
"""Share by which two runs of one tree differ; it is neither better nor worse."""
OVERVIEW = ("requests_per_second", "p50", "p99", "max", "failures", "calls")
PLOTS: Sequence[tuple[str, str, str, Mapping[str, str]]] = (
    ("Requests", "a second", "linear", {"requests": "asked", "failures": "failed"}),
    (
        *("Latency", "ms", "log"),
        {"p50": "p50", "p95": "p95", "p99": "p99", "max": "slowest"},
    ),
    (
        *("What the cache did", "a second", "counts"),
        {
            "hits": "hits",
            "stale": "stale hits",
            "misses": "misses",
            "coalesced": "coalesced",
        },
    ),
    ("Vendor calls", "a second", "linear", {"calls": "calls"}),
    ("Clients", "connected", "linear", {"clients": "clients"}),
)
"""Title, unit, scale, and fields of a `Second` by their names."""

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2126; --soft: #5b6570;
  --rule: #dfe3e8; --shade: #b6bfc9; --link: #0b5cad; --good: #13683a; --bad: #b3261e;
  --line-0: #1769c2; --line-1: #b35900; --line-2: #0b7a5c; --line-3: #8d3fa8;
  --line-4: #6b7078; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181d; --ink: #e4e8ec;
  --soft: #9aa5b1; --rule: #333b45; --shade: #4b5663; --link: #79b8ff;
  --good: #6fd39a; --bad: #ff9086; --line-0: #6cb0ff; --line-1: #f0a04b;
  --line-2: #4fd1a8; --line-3: #d59bec; --line-4: #aab2bc; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.25rem 1rem 4rem; max-width: 70rem; color: var(--ink);
  background: var(--paper); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .75rem; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 0 0 .75rem; }
h2::first-letter { text-transform: uppercase; }
h3 { font-size: 1rem; margin: 1.5rem 0 .4rem; }
a { color: var(--link); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem;
  margin: 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
section { border-top: 1px solid var(--rule); margin-top: 2.25rem; padding-top: 1.5rem; }
/* a shadow where a table goes on; the first two lie over it where it ends */
.wide { overflow-x: auto; background: no-repeat; background-image:
    linear-gradient(90deg, var(--paper) 40%, transparent),
    linear-gradient(270deg, var(--paper) 40%, transparent),
    linear-gradient(90deg, var(--shade), transparent),
    linear-gradient(270deg, var(--shade), transparent);
  background-position: left, right, left, right;
  background-size: 3rem 100%, 3rem 100%, .8rem 100%, .8rem 100%;
  background-attachment: local, local, scroll, scroll; }
.tables, .plots { display: grid; gap: 0 2.5rem; align-items: start; }
.plots { gap: 1.75rem 2.5rem; margin-top: 1.5rem; }
@media (min-width: 52rem) { .tables, .plots { grid-template-columns: 1fr 1fr; } }
.tables > div { min-width: 0; }
table { border-collapse: collapse; width: 100%; font-size: .9375rem;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .9rem 0 .3rem; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--rule); text-align: right;
  vertical-align: top; white-space: nowrap; }
th { font-weight: 600; } tbody th { font-weight: 400; }
th:first-child { text-align: left; padding-left: 0; white-space: normal;
  min-width: 6.5rem; }
thead th { color: var(--soft); font-size: .8125rem; vertical-align: bottom; }
.good { color: var(--good); } .bad { color: var(--bad); }
.soft { color: var(--soft); }
@media (max-width: 40rem) { table { font-size: .8125rem; } th, td { padding: .3rem; }
  td .good, td .bad { white-space: normal; } }
details { margin-top: 1.25rem; } summary { cursor: pointer; }
ul.notes { padding-left: 1.2rem; } ul.notes li { overflow-wrap: anywhere; }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
"""


def write(run: Run, path: Path, before: Run | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(run, before))


def page(run: Run, before: Run | None = None) -> str:
    """All of it; scenarios of the two runs belong together by their names."""
    earlier = {outcome.name: outcome for outcome in before.outcomes} if before else {}
    told = [section(one, earlier.get(one.name)) for one in run.outcomes]
    gone = [escape(name) for name in earlier if name not in _names(run)]
    if gone:
        told.append(f"<p>Only in the run before: {', '.join(gone)}.</p>")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Load of {escape(run.began)}</title>\n"
        f"<style>{STYLE}{plot.STYLE}</style>\n</head>\n<body>\n"
        f"<header>\n<h1>Load</h1>\n{_about(run, before)}\n</header>\n<main>\n"
        f"{_overview(run, earlier)}\n" + "\n".join(told) + "\n</main>\n</body>\n"
        "</html>\n"
    )


def _names(run: Run) -> set[str]:
    return {outcome.name for outcome in run.outcomes}


def _about(run: Run, before: Run | None) -> str:
    rows = [("Began", run.began), ("Tree", run.tree), ("Machine", run.machine)]
    if before:
        rows.append(("Before", f"{before.began}, {before.tree}, {before.machine}"))
    told = (f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in rows)
    return f"<dl>{''.join(told)}</dl>"


# --- tables


def _table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are HTML; the first of a row names it."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{c}</td>" for c in rest)}</tr>'
        for first, *rest in rows
    )
    return (
        '<div class="wide" role="group" tabindex="0"'
        f' aria-label="{caption}"><table><caption>{caption}</caption>'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _overview(run: Run, earlier: Mapping[str, Outcome]) -> str:
    names = [n for n in OVERVIEW if any(n in one.totals for one in run.outcomes)]
    rows = []
    for outcome in run.outcomes:
        link = f'<a href="#{_anchor(outcome)}">{escape(outcome.title)}</a>'
        before = earlier.get(outcome.name)
        cells = [
            shown(outcome.totals.get(name)) + _beside(name, outcome, before)
            for name in names
        ]
        rows.append([link, *cells, _met(outcome)])
    head = ["scenario", *(NAMES[name] for name in names), "targets met"]
    return _table("Scenarios", head, rows)


def _anchor(outcome: Outcome) -> str:
    return escape("scenario-" + "-".join(outcome.name.split()), quote=True)


def _beside(name: str, outcome: Outcome, before: Outcome | None) -> str:
    if not before or name not in outcome.totals or name not in before.totals:
        return ""
    return f"<br>{change(outcome.totals[name], before.totals[name], name)}"


def _met(outcome: Outcome) -> str:
    judged = [target.met for target in outcome.targets]
    if judged.count(None) == len(judged):
        return NONE
    kind = "bad" if False in judged else "soft" if None in judged else "good"
    return f'<span class="{kind}">{judged.count(True)} of {len(judged)}</span>'


def shown(figure: float | None) -> str:
    """Whole where it is large or whole, else three digits."""
    if figure is None:
        return NONE
    if abs(figure) >= 100 or figure == int(figure):
        return f"{figure:,.0f}"
    return f"{figure:.3g}"


def change(now: float | None, before: float | None, name: str = "") -> str:
    """Of the figure before, in percent; as HTML that says what is better."""
    if now is None or before is None:
        return NONE
    if now == before:
        return '<span class="soft">same</span>'
    text = f"{(now - before) / before:+.1%}" if before else f"+{shown(now)}"
    better = MORE_IS_BETTER.get(name)
    if better is None or (before and abs(now - before) < SMALL * before):
        return f'<span class="soft">{text}</span>'
    if (now > before) is better:
        return f'<span class="good">{text}, better</span>'
    return f'<span class="bad">{text}, worse</span>'


def section(outcome: Outcome, before: Outcome | None = None) -> str:
    """One scenario."""
    title = f"{_anchor(outcome)}-title"
    parts = [
        f'<h2 id="{title}">{escape(outcome.title)}</h2>',
        _targets(outcome, before),
        f'<div class="tables"><div>{_totals(outcome, before)}</div>'
        f"<div>{_calls(outcome, before)}{_others(outcome, before)}</div></div>",
        *_rows(outcome, before),
        _plots(outcome, before),
    ]
    if outcome.notes:
        notes = "".join(f"<li>{escape(note)}</li>" for note in outcome.notes)
        parts.append(f'<h3>Notes</h3><ul class="notes">{notes}</ul>')
    if outcome.seconds:
        parts.append(_seconds(outcome.seconds))
    told = "\n".join(part for part in parts if part)
    return (
        f'<section id="{_anchor(outcome)}" aria-labelledby="{title}">\n{told}\n'
        "</section>"
    )


def _targets(outcome: Outcome, before: Outcome | None) -> str:
    if not outcome.targets:
        return ""
    earlier = {target.what: target for target in before.targets} if before else {}

    def row(target: Target) -> list[str]:
        what, found, bound, verdict = map(escape, target.line())
        kind = {True: "good", False: "bad", None: "soft"}[target.met]
        cells = [what, found, bound, f'<span class="{kind}">{verdict}</span>']
        if before:
            then = earlier.get(target.what)
            cells.append(escape(then.line()[1]) if then else NONE)
        return cells

    head = ["target", "found", "bound", "", *(["before"] if before else [])]
    return _table("Targets", head, map(row, outcome.targets))


def _compared(
    caption: str,
    now: Mapping[str, float],
    before: Mapping[str, float] | None,
    named: Callable[[str], str],
) -> str:
    if not now:
        return ""
    rows = []
    for name, figure in now.items():
        then = before.get(name) if before is not None else None
        cells = [escape(named(name)), shown(figure)]
        if before is not None:
            cells += [shown(then), change(figure, then, name)]
        rows.append(cells)
    head = ["", "found", *(["before", "change"] if before is not None else [])]
    return _table(caption, head, rows)


def _totals(outcome: Outcome, before: Outcome | None) -> str:
    """Those that every scenario has, in their order."""
    known = {name: outcome.totals[name] for name in NAMES if name in outcome.totals}
    then = before.totals if before else None
    return _compared("Totals", known, then, NAMES.__getitem__)


def _others(outcome: Outcome, before: Outcome | None) -> str:
    """What a scenario counts beside."""
    counted = {
        name: figure
        for name, figure in outcome.totals.items()
        if name not in NAMES and ": " not in name
    }
    then = before.totals if before else None
    return _compared("Also counted", counted, then, lambda n: n.replace("_", " "))


def _calls(outcome: Outcome, before: Outcome | None) -> str:
    then: Mapping[str, float] | None = before.calls if before else None
    return _compared("Vendor calls", outcome.calls, then, str)


def _rows(outcome: Outcome, before: Outcome | None) -> list[str]:
    """Totals of the form `row: figure`."""
    rows = outcome.rows
    columns = list(dict.fromkeys(what for row in rows.values() for what in row))

    def cell(row: str, what: str) -> str:
        name, text = f"{row}: {what}", shown(rows[row].get(what))
        if before and name in before.totals and name in outcome.totals:
            text += f"<br>{change(outcome.totals[name], before.totals[name], what)}"
        return text

    if not rows:
        return []
    head = ["", *(escape(NAMES.get(what, what)) for what in columns)]
    body = [[escape(row), *(cell(row, what) for what in columns)] for row in rows]
    return [_table("Compared", head, body)]


def _seconds(seconds: Sequence[Second]) -> str:
    """For who would read the plots as figures."""
    fields = ("clients", "requests", "failures", "p50", "p95", "p99", "max", "hits",
              "stale", "misses", "coalesced", "calls")  # fmt: skip
    head = ["second", *(NAMES.get(name, name) for name in fields)]
    rows = [[shown(s.at), *(shown(getattr(s, f)) for f in fields)] for s in seconds]
    table = _table("By the second", head, rows)
    return f"<details><summary>Figures by the second</summary>{table}</details>"


# --- plots


def _plots(outcome: Outcome, before: Outcome | None) -> str:
    figures = []
    for title, unit, kind, fields in PLOTS:
        lines = [
            Line(name, _points(seconds, field), colour, before=not now)
            for now, seconds in (
                (False, before.seconds if before else []),
                (True, outcome.seconds),
            )
            for colour, (field, name) in enumerate(fields.items())
            if _moves(seconds, field)
        ]
        figures.append(plot.plot(title, unit, lines, kind))
    return f'<div class="plots">{"".join(figures)}</div>' if any(figures) else ""


def _points(seconds: Sequence[Second], field: str) -> list[tuple[float, float | None]]:
    return [(second.at, getattr(second, field)) for second in seconds]


def _moves(seconds: Sequence[Second], field: str) -> bool:
    """Whether there is anything but zeros."""
    return any(getattr(second, field) for second in seconds)


# --- the command


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "loadtest.page", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("run", type=Path, metavar="RUN.json")
    parser.add_argument("before", type=Path, nargs="?", metavar="BEFORE.json")
    parser.add_argument(
        "-o", type=command.writable, metavar="FILE", help="RUN.html beside it, else"
    )
    asked = parser.parse_args(args)
    try:
        run = read(asked.run)
        before = read(asked.before) if asked.before else None
    except (OSError, ValueError) as e:
        print(f"page: {e}", file=sys.stderr)
        return 2
    path = asked.o or asked.run.with_suffix(".html")
    write(run, path, before)
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(command.run("page", main))
