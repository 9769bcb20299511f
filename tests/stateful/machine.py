"""The machine without rules: each does the same to the model and to all stores, and compares what they say."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant

from dbqueue.jobs import BLOCKED_BY_LIMIT, NewJob
from dbqueue.store.records import Claim, HeldClaim
from tests.stateful.history import History
from tests.stateful.model import ONCE, Model
from tests.stateful.rows import Seen, Token
from tests.stateful.subject import Given, Subject, Workflows, seen

LEASE_SECONDS = 600.0
"""Longer by far than an example takes: SQLite counts a heartbeat's age by a clock of its own."""


class Call(NamedTuple):
    """What a caller asks for; times in seconds from now."""

    task: str
    queue: str
    priority: int
    key: str | None
    delay: int | None
    expires: int | None


class Machine(RuleBasedStateMachine):
    def __init__(self, urls: list[str]) -> None:
        super().__init__()
        # An hour ahead: what is due never depends on how long the test takes.
        start = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
        self.model = Model(start, LEASE_SECONDS)
        self.subjects = [Subject(url, start, LEASE_SECONDS) for url in urls]
        self._workflow_names = Workflows()
        self.histories = [History() for _ in urls]
        self.repeated: Collection[str] = ()
        """Jobs that an operator let begin again in this step."""
        self._numbers = 0

    tokens = Bundle("tokens")
    workers = Bundle("workers")
    jobs = Bundle("jobs")

    def new_id(self, kind: str) -> str:
        """They rise, as those of a process do."""
        self._numbers += 1
        return f"{kind}-{self._numbers:04}"

    def new_lease(self) -> str:
        self._numbers += 1
        return str(UUID(int=self._numbers))

    def all(self, ask: Callable[[Subject], Any], expected: Any) -> None:
        for subject in self.subjects:
            found = ask(subject)
            assert found == expected, f"{subject.store.dialect} says {found!r}, and the model {expected!r}"

    def new_job(self, job_id: str, call: Call, *, waits: bool = False) -> NewJob:
        """`waits`: for others of its workflow, and its countdown begins after that."""
        job = NewJob(job_id, call.task, call.queue, priority=call.priority, limit_key=call.key)
        if waits:
            return job._replace(delay_seconds=call.delay)
        eta = None if call.delay is None else self.model.now + timedelta(seconds=call.delay)
        expires_at = None if call.expires is None else self.model.now + timedelta(seconds=call.expires)
        held = None if call.key is None else BLOCKED_BY_LIMIT
        return job._replace(eta=eta, expires_at=expires_at, blocked_reason=held)

    # claims

    def claimed(self, worker: str, queues: tuple[str, ...], limit: int) -> list[Token]:
        """Claim jobs that need no permit."""
        lease = self.new_lease()
        given = self.model.claim(worker, lease, queues, limit)
        self.all_claim_round(worker, lease, queues, limit, given)
        return given

    def all_claim_round(self, worker: str, lease: str, queues: tuple[str, ...], limit: int, given: list[Token]) -> None:
        claim = Claim(worker, lease, queues, limit, once=(ONCE,))
        self.all_claim(lambda subject: subject.round(worker, [], claim, self.model.now)[1], given)

    def claimed_held(self, worker: str, queues: tuple[str, ...], limit: int, *, yielding: bool = False) -> list[Token]:
        """Claim jobs that wait for a permit."""
        lease = self.new_lease()
        given = self.model.claim_held(worker, lease, queues, limit, yielding=yielding)
        claim = HeldClaim(worker, lease, queues, limit, once=(ONCE,), yielding=yielding)
        self.all_claim(lambda subject: subject.claim_held(worker, claim, self.model.now), given)
        return given

    def all_claim(self, ask: Callable[[Subject], list[Given]], given: list[Token]) -> None:
        """As `all`, of jobs that were claimed: in their order, and in each column the same."""
        first, *others = [ask(subject) for subject in self.subjects]
        model = self.model
        found = [
            Token(job["id"], job["lease"], job["ready_at"], job["permit"], job["expired"], job["revoked"])
            for job in first
        ]
        expected = [token._replace(due=max(token.due, model.start)) for token in given]
        assert found == expected, f"it gave {found}, and not {expected}"
        for other in others:
            assert other == first, f"one gave {other}, and the other {first}"
        for job in first:
            assert job["redeliver"] == model.rows[job["id"]].redeliver
            if job["inputs"] is not False:
                assert {each[0] for each in job["inputs"]} == model.inputs(job["id"])

    # outcomes

    def settled(
        self,
        worker: str,
        pairs: Sequence[tuple[Token, str]],
        delay: float = 0.0,
        queue: str | None = None,
        priority: int | None = None,
    ) -> set[str]:
        """Write these outcomes in one round; those that were taken."""
        taken = self.model.settle(pairs, delay, queue, priority)
        self.all_settle(worker, pairs, delay, taken, queue, priority)
        return taken

    def all_settle(
        self,
        worker: str,
        pairs: Sequence[tuple[Token, str]],
        delay: float,
        taken: set[str],
        queue: str | None = None,
        priority: int | None = None,
    ) -> None:
        def ask(subject: Subject) -> set[str]:
            outcomes = [subject.outcome(token, how, delay, queue=queue, priority=priority) for token, how in pairs]
            return subject.round(worker, outcomes, None, self.model.now)[0]

        self.all(ask, taken)

    @invariant()
    def agree(self) -> None:
        expected = self.model.seen()
        names = self._workflow_names.named({job_id: row.workflow for job_id, row in expected.items()})
        expected = {job_id: row._replace(workflow=names.get(row.workflow)) for job_id, row in expected.items()}
        first, *others = [subject.rows() for subject in self.subjects]
        _same(_dicts({job_id: seen(row) for job_id, row in first.items()}), _dicts(expected))
        for other in others:
            _same(other, first)
        edges = {tuple(edge) for edge in self.model.edges}
        self.all(lambda subject: subject.edges(), edges)
        for history, rows in zip(self.histories, [first, *others], strict=True):
            history.look(rows, self.repeated)
        self.repeated = ()
        next_millisecond()

    def teardown(self) -> None:
        for subject in self.subjects:
            subject.close()


def _dicts(rows: dict[str, Seen]) -> dict[str, dict[str, Any]]:
    return {job_id: row._asdict() for job_id, row in rows.items()}


def _same(found: dict[str, dict[str, Any]], expected: dict[str, dict[str, Any]]) -> None:
    """Raises AssertionError, which names what is not."""
    assert found.keys() == expected.keys(), f"there are {sorted(found)}, and not {sorted(expected)}"
    for job_id, row in found.items():
        apart = {
            name: (value, expected[job_id][name]) for name, value in row.items() if value != expected[job_id][name]
        }
        assert not apart, f"{job_id}: {apart}"


def next_millisecond() -> None:
    """What two steps date by the databases' own clocks has two times, also on SQLite."""
    until = time.time_ns() // 1_000_000
    while time.time_ns() // 1_000_000 == until:
        pass
