"""Tables, plot and JSON."""

from __future__ import annotations

import json

from loadtest.peers import figures, show
from tests.loadtest.peers.rows import SCENE, Ask, Row, row, run

ROWS = [
    row("100B", "ours", run(300)),
    row("1KB", "ours", run(200)),
    row("1KB", "nginx", run(100)),
    Row(SCENE["1KB"], Ask("varnish"), failed="it does not answer"),
    row("64KB", "ours", run(50)),
    Row(SCENE["idle"], Ask("ours", 2000), figures=[8192.0]),
]


def test_report_has_rows_ratios_and_reasons() -> None:
    aims = list(figures.targets(figures.Rows(ROWS)))
    text = show.report(ROWS, aims, ["nginx: not there"])
    (line,) = (at for at in text.splitlines() if at.startswith("| 1 KB  | shmcache"))
    assert "200" in line and "2.00" in line
    assert "- 1 KB, varnish: it does not answer" in text
    assert "- nginx: not there" in text
    assert "8.0 | KB a connection" in text
    assert "nginx.conf" in text


def test_plot_has_a_line_for_servers_with_all_sizes() -> None:
    drawn = show.plot(ROWS)
    assert drawn.startswith("<svg") and "ours" in drawn and "nginx" not in drawn
    assert show.plot([]) == ""


def test_json_has_every_run() -> None:
    told = json.loads(json.dumps(show.as_json(ROWS, [], [])))
    assert [len(row["runs"]) for row in told["rows"]] == [1, 1, 1, 0, 1, 0]
