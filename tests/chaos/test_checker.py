"""The checker on histories made by hand: it must let a good one pass, and refuse each that is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from tests.chaos.checker import Evidence, check
from tests.chaos.history import Event
from tests.chaos.transitions import FinalRow, Transition, WorkerRow


def event(at: float, kind: str, lease: str = "", job: str = "j", **data: Any) -> Event:
    return Event(at, kind, job, lease, data)


def step(
    at: float,
    old: str | None,
    new: str | None,
    leases: tuple[str | None, str | None] = (None, None),
    *,
    lost: bool = False,
    worker: str | None = None,
    job: str = "j",
) -> Transition:
    return Transition(job, old, new, *leases, worker, lost, at)


FAULT = Event(2.5, "fault", data={"what": "SIGKILL", "worker": 11})
SENT = [event(1.0, "invoke"), event(1.1, "ok")]
CREATED = step(1.05, None, "PENDING")
WORKERS = {"w1": WorkerRow(11, 5.0, 2.0, 9.0), "w2": WorkerRow(12, 5.0, 8.9, 9.0)}

GOOD = Evidence(
    # w1 is killed while it runs the job; w2 takes it, and ends it.
    [*SENT, event(2.1, "start", "a"), FAULT, event(4.0, "start", "b"), event(4.5, "finish", "b", value="x"),
     event(5.0, "answer", status="SUCCESS", value="x"), event(6.0, "answer", status="SUCCESS", value="x")],
    [
        CREATED,
        step(2.0, "PENDING", "STARTED", (None, "a"), worker="w1"),
        step(3.0, "STARTED", "PENDING", ("a", None), worker="w1", lost=True),
        step(3.9, "PENDING", "STARTED", (None, "b"), worker="w2"),
        step(4.6, "STARTED", "SUCCESS", ("b", "b"), worker="w2"),
    ],
    {"j": FinalRow("SUCCESS", "b", "x")},
    WORKERS,
    healing_since=2.6,
    patience_seconds=1.5,
)  # fmt: skip


def events(*more: Event, without: str = "") -> Sequence[Event]:
    return sorted([*(each for each in GOOD.events if each.kind != without), *more], key=lambda each: each.at)


def steps(*more: Transition) -> Sequence[Transition]:
    return [*GOOD.transitions, *more]


def test_a_good_history() -> None:
    verdict = check(GOOD)
    assert (verdict.violations, verdict.valid, verdict.faults, verdict.jobs, verdict.runs) == ([], True, 1, 1, 2)


BAD: dict[str, tuple[Evidence, str]] = {
    "an acknowledged job has no row": (
        replace(GOOD, rows={}, transitions=[], events=[*SENT, FAULT]),
        "lost: its enqueue was acknowledged",
    ),
    "an acknowledged job waits for ever": (replace(GOOD, rows={"j": FinalRow("PENDING", None, None)}), "never ended"),
    "a job is left STARTED": (replace(GOOD, rows={"j": FinalRow("STARTED", "b", None)}), "never ended"),
    "a job fails that should not": (replace(GOOD, rows={"j": FinalRow("FAILURE", "b", "why")}), "ended as FAILURE"),
    "a success without a run": (replace(GOOD, events=events(without="start")), "it never ran"),
    "a completion before the run's end": (replace(GOOD, events=events(without="finish")), "no run has finished"),
    "a row that nobody has enqueued": (
        replace(GOOD, rows={**GOOD.rows, "k": FinalRow("SUCCESS", "b", "x")}),
        "k: invented",
    ),
    "a run of what nobody has enqueued": (replace(GOOD, events=events(event(4, "start", "c", job="k"))), "k: invented"),
    "an enqueue that was refused and is there": (
        replace(GOOD, events=[*events(without="ok"), event(1.1, "refused")]),
        "was refused, and there is a row",
    ),
    "a terminal state that changes": (
        replace(GOOD, transitions=steps(step(7.0, "SUCCESS", "FAILURE", ("b", "b")))),
        "a terminal state has changed",
    ),
    "a terminal state that is written again": (
        replace(GOOD, transitions=steps(step(7.0, "SUCCESS", "SUCCESS", ("b", "a")))),
        "a terminal state has changed",
    ),
    "a finished job that is gone": (
        replace(GOOD, transitions=steps(step(7.0, "SUCCESS", None, ("b", None)))),
        "a terminal state has changed",
    ),
    "a success from nowhere": (
        replace(GOOD, transitions=[CREATED, step(2.0, "PENDING", "SUCCESS", (None, None))]),
        "not in the graph",
    ),
    "two completions": (
        replace(GOOD, transitions=steps(step(7.0, "STARTED", "SUCCESS", ("c", "c")))),
        "2 completions were accepted",
    ),
    "a completion by another's lease": (
        replace(GOOD, transitions=[*GOOD.transitions[:4], step(4.6, "STARTED", "SUCCESS", ("b", "a"))]),
        "ended by lease a, while b was recorded",
    ),
    "a lease that is granted twice": (
        replace(GOOD, transitions=steps(step(3.2, "PENDING", "STARTED", (None, "a"), worker="w2"))),
        "lease a was granted 2 times",
    ),
    "a lease taken from one that has it": (
        replace(GOOD, transitions=steps(step(3.2, "STARTED", "STARTED", ("a", "b"), worker="w2"))),
        "without waiting between",
    ),
    "two runs under one lease": (
        replace(GOOD, events=events(event(4.2, "start", "b"))),
        "ran 2 times under lease b",
    ),
    "a run without a lease": (
        replace(GOOD, events=events(event(3.5, "start", "c"))),
        "under lease c, which was never granted",
    ),
    "runs that overlap": (
        replace(GOOD, events=events(event(4.2, "tick", "a"))),
        "while a still ran, which had lost its lease",
    ),
    "runs that overlap though the first was given back": (
        replace(
            GOOD,
            events=events(event(4.2, "tick", "a")),
            transitions=[replace(each, lost=False) for each in GOOD.transitions],
            zombies=True,
        ),
        "while a still ran and had its lease",
    ),
    "a job taken from one that is well": (
        replace(GOOD, workers={**WORKERS, "w1": WorkerRow(13, 5.0, 2.9, 3.0)}),
        "which was alive and well",
    ),
    "a result of another run": (
        replace(GOOD, rows={"j": FinalRow("SUCCESS", "b", "y")}),
        "but its lease's run returned 'x'",
    ),
    "an answer that changes": (
        replace(GOOD, events=events(event(5.5, "answer", status="FAILURE", value=None))),
        "and then ('FAILURE', None)",
    ),
    "a job that is left STARTED for long": (replace(GOOD, patience_seconds=0.35), "j: stayed STARTED for 0.4 s"),
    "a job that is due for long": (replace(GOOD, patience_seconds=1.3), "j: was due, and nothing began for 1.4 s"),
    "an answer that was wrong": (
        replace(GOOD, events=[replace(each, data={"status": "SUCCESS", "value": "z"}) if each.kind == "answer" else each
                              for each in GOOD.events]),
        "a reader was told SUCCESS 'z'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_history(name: str) -> None:
    evidence, says = BAD[name]
    violations = check(evidence).violations
    assert any(says in violation for violation in violations), violations


def test_zombies_may_overlap() -> None:
    stopped = replace(GOOD, events=events(event(4.2, "tick", "a")), zombies=True)
    assert check(stopped).violations == []


def test_a_crash_may_forget_a_claim() -> None:
    """Its run is void, and the worker is told so; the run that counts is the next."""
    forgotten = replace(GOOD, transitions=[CREATED, *GOOD.transitions[3:]])
    assert any("never granted" in violation for violation in check(forgotten).violations)
    assert check(replace(forgotten, crashed=True)).violations == []


def test_an_enqueue_of_unknown_end_may_be_there_or_not() -> None:
    unknown = [event(1.0, "invoke", job="u"), event(1.1, "unknown", job="u")]
    without = replace(GOOD, events=events(*unknown))
    assert check(without).violations == []
    ran = [event(4.0, "start", "d", job="u"), event(4.1, "finish", "d", job="u", value="v")]
    created = [
        step(1.05, None, "PENDING", job="u"),
        step(3.9, "PENDING", "STARTED", (None, "d"), job="u"),
        step(4.2, "STARTED", "SUCCESS", ("d", "d"), job="u"),
    ]
    rows = {**GOOD.rows, "u": FinalRow("SUCCESS", "d", "v")}
    assert (
        check(replace(without, events=events(*unknown, *ran), transitions=steps(*created), rows=rows)).violations == []
    )


@pytest.mark.parametrize("faults", [[], [replace(FAULT, at=1.5)], [replace(FAULT, at=8.0)]])
def test_a_run_whose_faults_met_no_job_is_invalid(faults: list[Event]) -> None:
    assert not check(replace(GOOD, events=events(*faults, without="fault"), transitions=[
        each if each.worker != "w1" else replace(each, lost=False) for each in GOOD.transitions
    ])).valid  # fmt: skip
