"""Judges a run by its history: what the promises forbid, wherever it shows.

It reads what processes wrote down (`history`), what the trigger saw (`transitions`) and how the rows
ended, and knows nothing of how the engine works. A run in which no fault met a job that ran proves
nothing: it is invalid, not passed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.chaos.history import Event
from tests.chaos.transitions import FinalRow, Transition, WorkerRow

OVERTAKEN = "still ran, which had lost its lease"
"""How the violation ends that a machine may bring about which does not let a worker run when its lease is over."""
TERMINAL = frozenset({"SUCCESS", "FAILURE", "REVOKED"})
WAITING = frozenset({"PENDING", "RETRY"})
ALLOWED = frozenset(
    [(None, status) for status in WAITING]
    + [(old, new) for old in WAITING for new in (*WAITING, "STARTED", "REVOKED", "FAILURE")]
    + [("STARTED", new) for new in (*WAITING, *TERMINAL)]
)
"""The graph of docs/architecture.md. A job that can never run ends from waiting: revoked, or its predecessor failed."""


@dataclass(frozen=True, slots=True)
class Run:
    """One execution: from its first event to its last, finished or not."""

    job: str
    lease: str
    began_at: float
    seen_at: float
    finished: bool
    value: object = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known of a run of the suite."""

    events: Sequence[Event]
    transitions: Sequence[Transition]
    rows: Mapping[str, FinalRow]
    workers: Mapping[str, WorkerRow] = field(default_factory=dict)
    clock_offset: float = 0.0
    """What to add to the database's clock to read the boot clock."""
    crashed: bool = False
    """Whether a database server was killed: it may forget claims, which are not durable on purpose."""
    zombies: bool = False
    """Whether processes were stopped: runs may overlap then, where the first has lost its lease."""
    healing_since: float | None = None
    """When the faults had ended, on the boot clock; None: that is not known."""
    patience_seconds: float = float("inf")
    """How long from then on a job may stay STARTED beside its run, or be due while nothing begins."""
    may_fail: Collection[str] = ()
    """Jobs that may end without success: those whose task says so, or that may not run again."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found; a run with nothing in `violations` counts only if `valid`."""

    violations: list[str]
    valid: bool
    faults: int
    jobs: int
    runs: int


def check(evidence: Evidence) -> Verdict:
    runs = _runs(evidence.events)
    faults = [event for event in evidence.events if event.kind == "fault"]
    violations = [
        *_enqueues(evidence),
        *_graph(evidence),
        *_leases(evidence, runs),
        *_overlaps(evidence, runs),
        *_losses(evidence, faults),
        *_results(evidence, runs),
        *_answers(evidence),
        *_delays(evidence, runs),
    ]
    return Verdict(violations, _met(evidence, runs, faults), len(faults), len(evidence.rows), len(runs))


def _runs(events: Sequence[Event]) -> list[Run]:
    """Each start is a run of its own: two with one lease are two, and a violation."""
    found: list[Run] = []
    latest: dict[tuple[str, str], int] = {}
    for event in events:
        key = event.job, event.lease
        if event.kind == "start":
            latest[key] = len(found)
            found.append(Run(*key, event.at, event.at, False))
        elif event.kind in ("tick", "finish") and key in latest:
            run = found[latest[key]]
            done = event.kind == "finish"
            found[latest[key]] = Run(*key, run.began_at, event.at, done, event.data.get("value"))
    return found


def _enqueues(evidence: Evidence) -> Iterator[str]:
    """Nothing lost, nothing invented."""
    invoked = {event.job for event in evidence.events if event.kind == "invoke"}
    acknowledged = {event.job for event in evidence.events if event.kind == "ok"}
    refused = {event.job for event in evidence.events if event.kind == "refused"} - acknowledged
    started = {event.job for event in evidence.events if event.kind == "start"}
    for job in sorted(acknowledged - evidence.rows.keys()):
        yield f"{job}: lost: its enqueue was acknowledged, and there is no row"
    for job in sorted(acknowledged & evidence.rows.keys()):
        row = evidence.rows[job]
        if row.status not in TERMINAL:
            yield f"{job}: never ended: it is {row.status}"
        elif row.status != "SUCCESS" and job not in evidence.may_fail:
            yield f"{job}: ended as {row.status}, {row.value!r}"
        elif row.status == "SUCCESS" and job not in started:
            yield f"{job}: SUCCESS, and it never ran"
    for job in sorted((evidence.rows.keys() | started) - invoked):
        yield f"{job}: invented: nobody has enqueued it"
    for job in sorted(evidence.rows.keys() & refused):
        yield f"{job}: its enqueue was refused, and there is a row"


def _graph(evidence: Evidence) -> Iterator[str]:
    """Every transition is one of the state machine's; a terminal state is written once."""
    ends: Counter[str] = Counter()
    for step in evidence.transitions:
        if step.old_status in TERMINAL:
            yield f"{step.job}: {step.old_status} became {step.new_status}: a terminal state has changed"
        elif step.old_status == step.new_status == "STARTED":
            yield f"{step.job}: STARTED under {step.old_lease}, and then under {step.new_lease} without waiting between"
        elif step.old_status != step.new_status and (step.old_status, step.new_status) not in ALLOWED:
            yield f"{step.job}: {step.old_status} became {step.new_status}, which is not in the graph"
        if step.new_status in TERMINAL and step.old_status not in TERMINAL:
            ends[step.job] += 1
            if step.old_status == "STARTED" and step.new_lease != step.old_lease:
                yield f"{step.job}: ended by lease {step.new_lease}, while {step.old_lease} was recorded"
    for job, count in ends.items():
        if count > 1:
            yield f"{job}: {count} completions were accepted"


def _leases(evidence: Evidence, runs: Sequence[Run]) -> Iterator[str]:
    """A lease is granted once, and opens one run."""
    granted: Counter[tuple[str, str | None]] = Counter(
        (step.job, step.new_lease) for step in evidence.transitions if step.new_status == "STARTED"
    )
    for (job, lease), count in granted.items():
        if count > 1:
            yield f"{job}: lease {lease} was granted {count} times"
    for (job, lease), count in Counter((run.job, run.lease) for run in runs).items():
        if count > 1:
            yield f"{job}: ran {count} times under lease {lease}"
        if (job, lease) not in granted and not evidence.crashed:
            yield f"{job}: ran under lease {lease}, which was never granted"


def _overlaps(evidence: Evidence, runs: Sequence[Run]) -> Iterator[str]:
    """Two runs of a job do not overlap: a worker whose lease ends has ended its runs.

    One that is stopped cannot; then the first must have lost its lease by another's hand before.
    """
    taken = {(step.job, step.old_lease) for step in evidence.transitions if step.old_status == "STARTED" and step.lost}
    known = {(step.job, step.new_lease) for step in evidence.transitions if step.new_status == "STARTED"}
    by_job: defaultdict[str, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.began_at):
        by_job[run.job].append(run)
    for job, each in by_job.items():
        for index, first in enumerate(each):
            for second in each[index + 1 :]:
                forgotten = evidence.crashed and (job, first.lease) not in known
                if second.began_at >= first.seen_at or forgotten:
                    continue
                if (job, first.lease) not in taken:
                    yield f"{job}: ran under {second.lease} while {first.lease} still ran and had its lease"
                elif not evidence.zombies:
                    yield f"{job}: ran under {second.lease} while {first.lease} {OVERTAKEN}"


def _losses(evidence: Evidence, faults: Sequence[Event]) -> Iterator[str]:
    """A run is taken from a worker only where something was done to it, or its heartbeat had grown old."""
    struck = {event.data.get("worker"): event.at for event in reversed(faults)}
    for step in evidence.transitions:
        worker = evidence.workers.get(step.worker or "")
        if not step.lost or worker is None:
            continue
        began = min((struck[who] for who in (worker.pid, None) if who in struck), default=None)
        explained = began is not None and (step.at + evidence.clock_offset) > began - 1.0
        if not explained and not worker.stale_when_closed:
            yield f"{step.job}: was taken from {step.worker}, which was alive and well"


def _results(evidence: Evidence, runs: Sequence[Run]) -> Iterator[str]:
    """What is stored is what the run of the recorded lease returned."""
    returned = {(run.job, run.lease): run.value for run in runs if run.finished}
    for job, row in evidence.rows.items():
        if row.status == "SUCCESS" and row.lease is not None:
            if (job, row.lease) not in returned:
                yield f"{job}: SUCCESS under lease {row.lease}, under which no run has finished"
            elif returned[job, row.lease] != row.value:
                yield f"{job}: holds {row.value!r}, but its lease's run returned {returned[job, row.lease]!r}"


def _answers(evidence: Evidence) -> Iterator[str]:
    """A terminal answer never changes."""
    seen: dict[str, tuple[object, object]] = {}
    for event in evidence.events:
        if event.kind == "answer":
            answer = event.data["status"], event.data.get("value")
            if seen.setdefault(event.job, answer) != answer:
                yield f"{event.job}: a reader was told {seen[event.job]}, and then {answer}"
    for job, (status, value) in seen.items():
        row = evidence.rows.get(job)
        if row is None or (row.status, row.value if status == "SUCCESS" else None) != (status, value):
            yield f"{job}: a reader was told {status} {value!r}, and in the end it is {row}"


def _delays(evidence: Evidence, runs: Sequence[Run]) -> Iterator[str]:
    """Once the faults have ended nothing stays STARTED, or is due, for longer than is promised."""
    since, patience = evidence.healing_since, evidence.patience_seconds
    if since is None:
        return
    seen = {(run.job, run.lease): run.seen_at for run in runs}
    began: dict[str, tuple[float, str | None]] = {}
    for step in evidence.transitions:
        at = step.at + evidence.clock_offset
        if step.new_status == "STARTED":
            began[step.job] = at, step.new_lease
        elif step.job in began:
            started, lease = began.pop(step.job)
            stayed = at - max(since, started, seen.get((step.job, lease or ""), 0.0))
            if stayed > patience:
                yield f"{step.job}: stayed STARTED for {stayed:.1f} s, when its run and the faults had ended"
    before = since
    for run in sorted(runs, key=lambda run: run.began_at):
        if run.began_at - before > patience:
            yield f"{run.job}: was due, and nothing began for {run.began_at - before:.1f} s after the faults"
        before = max(before, run.began_at)


def _met(evidence: Evidence, runs: Sequence[Run], faults: Sequence[Event]) -> bool:
    """Whether any fault fell into a time in which a job was STARTED, or ran."""
    spans = [(run.began_at, run.seen_at) for run in runs]
    began: dict[str, float] = {}
    for step in evidence.transitions:
        at = step.at + evidence.clock_offset
        if step.new_status == "STARTED":
            began[step.job] = at
        elif step.job in began:
            spans.append((began.pop(step.job), at))
    spans += [(at, float("inf")) for at in began.values()]
    return any(start <= fault.at <= end for fault in faults for start, end in spans)
