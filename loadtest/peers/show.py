"""The run as tables, as a plot and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from ..chart import chart, page
from ..report import NONE, Target, median, shown, table, targets_table
from .figures import BY_CPU, Rows, compared
from .scenes import CONNECTIONS, KB, SCENES, Row
from .servers import HERE, PEERS

HEAD = [
    "load", "server", "requests/s", "of nginx", "of floor", "p50 ms", "p99 ms",
    "p99.9 ms", "server CPU %", "us/request", "wrk CPU %", "MiB",
]  # fmt: skip
NOTE = """\
Medians of the rounds; ratios are medians of the rounds' own. `c`: wrk was busier than
90 %, so the ratio is of requests to a second of the server's CPU."""


def report(rows: Sequence[Row], aims: Sequence[Target], lacking: Iterable[str]) -> str:
    """All that the run says, as Markdown that reads as text too."""
    runs = [row for row in rows if row.scene.kind not in ("burst", "idle")]
    parts = []
    if runs:
        found = Rows(rows)
        parts += [NOTE + _others(runs)]
        parts += [table(HEAD, [_line(row, found) for row in runs], names=2)]
    crowds = [row for row in rows if row not in runs]
    if crowds:
        head = ["load", "server", "median", "worst", "unit"]
        parts.append(table(head, map(_crowd, crowds), names=2))
    failed = [f"- {name(row)}: {row.failed}" for row in rows if row.failed]
    failed += [f"- {reason}" for reason in lacking]
    if failed:
        parts.append("\n".join(["Not measured:", "", *failed]))
    parts += ["Targets:", targets_table(aims), _configurations(rows)]
    return "\n\n".join(parts) + "\n"


def _others(rows: Sequence[Row]) -> str:
    """How quiet the machine was."""
    hits = [row for row in rows if row.scene.kind == "hits"]
    share = median([each for row in hits for each in row.all("others_busy")])
    if share is None:
        return ""
    return f" All else took {max(0, share):.0%} of the\nmachine's cores meanwhile."


def name(row: Row) -> str:
    return f"{load(row)}, {row.ask.peer}"


def load(row: Row) -> str:
    parts = [row.scene.title]
    if row.scene.name == "keys":
        parts = ["1 KB", "one key" if row.ask.keys == 1 else f"{row.ask.keys:,} keys"]
    elif row.scene.name in ("connections", "two"):
        parts.append(f"{row.ask.connections:,}")
    return ", ".join(parts)


def _line(row: Row, rows: Rows) -> list[str]:
    def figure(of: str, form: str, scale: float = 1) -> str:
        each = median(row.all(of))
        return shown(None if each is None else each * scale, form)

    return [
        load(row),
        PEERS[row.ask.peer].title,
        figure("rate", ",.0f"),
        _of(row, rows, "nginx"),
        _of(row, rows, "floor"),
        *(figure(of, ".2f") for of in ("p50", "p99", "p999")),
        figure("server_busy", ".0f", 100),
        figure("server_cpu", ".1f", 1e6),
        figure("client_busy", ".0f", 100),
        figure("memory", ",.0f", 1 / KB**2),
    ]


def _of(row: Row, rows: Rows, peer: str) -> str:
    found = compared(row, rows.beside(row, peer))
    if found.ratio is None:
        return NONE
    return f"{found.ratio:.2f}{' c' if found.by == BY_CPU else '  '}"


def _crowd(row: Row) -> list[str]:
    burst = row.scene.kind == "burst"
    scale, unit = (1, "s") if burst else (1 / KB, "KB a connection")
    figures = [figure * scale for figure in row.figures]
    form = ".3f" if burst else ".1f"
    return [
        row.scene.title,
        PEERS[row.ask.peer].title,
        shown(median(figures), form),
        shown(max(figures, default=None), form),
        unit,
    ]


def _configurations(rows: Sequence[Row]) -> str:
    used = dict.fromkeys(row.ask.peer for row in rows)
    files = (HERE / file for peer in used for file in PEERS[peer].files)
    return "Configurations: " + ", ".join(map(str, files))


# --- the plot -----------------------------------------------------------------------


def plot(rows: Sequence[Row]) -> str:
    """SVG: speed and CPU by size, speed and p99 by connections."""
    size = {scene.name: scene.size for scene in SCENES}
    sizes = [
        [row for row in rows if row.scene.name == scene and not row.failed]
        for scene in ("100B", "1KB", "64KB")
    ]
    crowds = [
        [
            row
            for row in rows
            if row.scene.name == "connections" and row.ask.connections == count
        ]
        for count in (CONNECTIONS, 500, 2000)
    ]
    by_size = [size[group[0].scene.name] for group in sizes if group]
    by_count = [group[0].ask.connections for group in crowds if group]
    charts = [
        *_chart("Thousand requests a second", by_size, sizes, "rate", 1e-3, "bytes"),
        *_chart("Server CPU, us a request", by_size, sizes, "server_cpu", 1e6, "bytes"),
        *_chart(
            "Thousand requests a second", by_count, crowds, "rate", 1e-3, "connections"
        ),
        *_chart("p99, ms", by_count, crowds, "p99", 1, "connections"),
    ]
    return page(charts) if charts else ""


def _chart(
    title: str,
    across: Sequence[int],
    groups: Sequence[Sequence[Row]],
    figure: str,
    scale: float,
    x: str,
) -> Iterator[str]:
    """A line for each server that has all the points."""
    lines: dict[str, list[float]] = {}
    for group in groups:
        for row in group:
            found = median(row.all(figure))
            if found is not None:
                lines.setdefault(row.ask.peer, []).append(found * scale)
    whole = {name: line for name, line in lines.items() if len(line) == len(across)}
    if whole and len(across) > 1:
        yield chart(title, across, whole, x)


def as_json(
    rows: Sequence[Row], aims: Sequence[Target], lacking: Sequence[str]
) -> dict[str, Any]:
    return {
        "rows": [
            {
                "scene": row.scene.name,
                "ask": asdict(row.ask),
                "failed": row.failed,
                "runs": [asdict(run) for run in row.runs],
                "figures": row.figures,
            }
            for row in rows
        ],
        "lacking": list(lacking),
        "targets": [target.as_json() for target in aims],
    }
