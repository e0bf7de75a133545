"""The L2 benchmark: every way gets the values, and every figure is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtest import l2
from loadtest.l2 import MANY, ONE, Load, measure, on_loop
from tests.helpers import free_port
from tests.redis_server import redis_server


@pytest.mark.parametrize("loop", l2.LOOPS)
@pytest.mark.parametrize(("many", "ways"), [(True, MANY), (False, ONE)])
def test_every_way_gets_the_values(loop: str, many: bool, ways: tuple[str]) -> None:
    load = Load(loop, 300, many)
    with redis_server(port=free_port()) as server:
        found = on_loop(loop, lambda: measure(server, load, 2, 0.02))
    for figures in (found.rounds, found.cpu, found.redis):
        assert {way: len(rounds) for way, rounds in figures.items()} == dict.fromkeys(
            ways, 2
        )
    assert all(each > 0 for rounds in found.rounds.values() for each in rounds)
    assert [len(line) for line in l2.lines(found)] == [len(l2.HEAD)] * len(ways)
    aims = list(l2.targets([found]))
    assert len(aims) == (2 if many else 4)
    assert all(aim.found is not None for aim in aims)


def test_report_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(l2, "LOADS", [Load("asyncio", 300, True)])
    monkeypatch.setattr(l2, "SECONDS", (0.02, 0.02))
    file = tmp_path / "l2.json"
    assert l2.main(["--quick", "--rounds", "1", "--json", str(file)]) == 0
    told = json.loads(file.read_text())
    assert len(told["targets"]) == 2 and len(told["loads"]) == 1
    out = capsys.readouterr().out
    assert "L2.get_many of 64" in out and "Targets:" in out
