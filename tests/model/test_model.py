"""The fleet's protocol, every interleaving of small programs.

With all rules no scenario comes to a violation. Each rule that looks odd is taken out
once, and a scenario must notice. `full.py` takes minutes.
"""

from __future__ import annotations

import pytest

from .explorer import explore
from .rules import PAIRS, UNNOTICED, Rule
from .scenarios import NOTICED, SCENARIOS

SECONDED = {
    Rule.RAISED_BEFORE: "purge",
    Rule.RAISED_AFTER: "delete",
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario_with_all_rules_has_no_violation(name: str) -> None:
    found = explore(SCENARIOS[name])
    assert not found.violation, f"\n{found}"
    assert found.states > 30  # it is no scenario in which nothing can happen


@pytest.mark.parametrize("rule", NOTICED, ids=lambda rule: rule.name.lower())
def test_rule_taken_out_is_noticed(rule: Rule) -> None:
    found = explore(SCENARIOS[NOTICED[rule]], rule)
    assert found.violation, f"{NOTICED[rule]}: nobody misses: {rule.value}"
    assert found.trace, f"{found}"


@pytest.mark.parametrize("rule", SECONDED, ids=lambda rule: rule.name.lower())
def test_rule_taken_out_with_its_second_is_noticed(rule: Rule) -> None:
    found = explore(SCENARIOS[SECONDED[rule]], rule, PAIRS[rule])
    assert found.violation, (
        f"{SECONDED[rule]}: nobody misses {rule.name} and its second"
    )


def test_every_rule_is_noticed_or_said_why_not() -> None:
    assert set(NOTICED) | set(UNNOTICED) == set(Rule)
    assert not set(NOTICED) & set(UNNOTICED)
    assert set(PAIRS) == set(SECONDED) <= set(UNNOTICED)


def test_trace_reads_as_steps_in_order() -> None:
    found = explore(SCENARIOS["refresh"], Rule.NEWER_ONLY)
    assert found.violation == "L1 went back from v2 to v1"
    assert found.trace[-1] == "a2 has the value; promotes it"
    assert "Redis runs put_fenced of a1" in found.trace
