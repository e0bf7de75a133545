"""The larger scenarios, and rules that are said to go unnoticed: some minutes.

`pytest tests/model/full.py`, or `make stress`.
"""

from __future__ import annotations

import pytest

from .explorer import explore
from .rules import UNNOTICED, Rule
from .scenarios import LARGER, SCENARIOS


@pytest.mark.parametrize("name", LARGER)
def test_larger_scenario_with_all_rules_has_no_violation(name: str) -> None:
    found = explore(LARGER[name])
    assert not found.violation, f"\n{found}"


@pytest.mark.parametrize("rule", UNNOTICED, ids=lambda rule: rule.name.lower())
def test_rule_said_to_go_unnoticed_does(rule: Rule) -> None:
    for scenario in [*SCENARIOS.values(), LARGER["evicted :g, outbox"]]:
        if scenario.l2 is not None:
            found = explore(scenario, rule)
            assert not found.violation, f"{scenario.what}\n{found}"
