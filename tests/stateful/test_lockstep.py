"""A dictionary, SQLite and PostgreSQL in lockstep: whatever is done to them in whatever order, they agree."""

from __future__ import annotations

import hypothesis
from hypothesis.stateful import run_state_machine_as_test

from tests.stateful.limit_rules import LimitRules
from tests.stateful.operator_rules import OperatorRules
from tests.stateful.workflow_rules import WorkflowRules

STEPS = 30


class Lockstep(OperatorRules, LimitRules, WorkflowRules):
    pass


def test_the_stores_and_the_model_agree(sqlite_url: str, postgres_url: str) -> None:
    class Machine(Lockstep):
        def __init__(self) -> None:
            super().__init__([sqlite_url, postgres_url])

    # A sequence of steps takes as long as a dozen of other tests' examples.
    examples = max(1, hypothesis.settings().max_examples // 12)
    run_state_machine_as_test(Machine, settings=hypothesis.settings(max_examples=examples, stateful_step_count=STEPS))
