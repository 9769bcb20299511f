"""A dictionary, SQLite and PostgreSQL in lockstep: whatever is done to them in whatever order, they agree."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import hypothesis
import psycopg
import sqlalchemy as sa
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test

from dbqueue.errors import OperationalError
from dbqueue.jobs import FAILURE, PENDING, RETRY, SUCCESS, Failed, NewJob, Outcome, Released, Retried, Succeeded
from dbqueue.store.base import Store
from dbqueue.store.records import Claim, WorkerInfo
from dbqueue.store.revoking import revoke
from dbqueue.store.sessions import WorkSession
from dbqueue.store.tables import metadata
from tests.servers import libpq_url
from tests.stateful.model import MAX_LOSSES, Model, Seen, Token
from tests.stores import opened, run_sql

LEASE_SECONDS = 30.0
EXAMPLES = int(os.environ.get("DBQUEUE_TEST_EXAMPLES", "8"))
"""Sequences of steps; a long search is a developer's."""
QUEUES = ("celery",)
HOWS = st.sampled_from([SUCCESS, FAILURE, RETRY, PENDING, "lost"])


class Subject:
    """A real store, and a session for each worker."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._stack = ExitStack()
        self.store: Store = self._stack.enter_context(opened(url))
        self.sessions: dict[str, WorkSession] = {}

    def register(self, worker: str, now: datetime) -> None:
        self.sessions[worker] = self.store.work_session("test")
        info = WorkerInfo(worker, "worker@test", "test", 1, "solo", 1, QUEUES, "0", LEASE_SECONDS)
        self.sessions[worker].register(info)
        self.beat(worker, now)

    def beat(self, worker: str, now: datetime) -> None:
        """Date the heartbeat: the database's clock is not the test's."""
        at = now.strftime("%Y-%m-%d %H:%M:%S.000") if self.store.dialect == "sqlite" else now
        run_sql(self.store, "UPDATE dbqueue_workers SET heartbeat_at = :at WHERE id = :id", at=at, id=worker)

    def heartbeat(self, worker: str, now: datetime) -> bool:
        watch = self.store.watch_session("test")
        try:
            alive = watch.heartbeat(worker)
        finally:
            watch.close()
        if alive:
            self.beat(worker, now)
        return alive

    def break_connection(self, worker: str) -> None:
        """From outside, where there is an outside; the next use finds it, and a new one is opened."""
        session = self.sessions[worker]
        if self.store.dialect == "postgresql":
            pid = session._driver.info.backend_pid  # type: ignore[attr-defined]
            with psycopg.connect(libpq_url(self.url), autocommit=True) as admin:
                admin.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
            try:
                session.eldest_worker()
            except OperationalError:
                pass
            else:
                raise AssertionError("the connection was not broken")
        session.close()
        self.sessions[worker] = self.store.work_session("test")

    def reopen(self) -> None:
        for session in self.sessions.values():
            session.close()
        self._stack.close()
        self.store = self._stack.enter_context(opened(self.url))
        self.sessions = {worker: self.store.work_session("test") for worker in self.sessions}

    def seen(self) -> dict[str, Seen]:
        query = "SELECT id, status, lease, worker, retries, losses, revoked_at IS NOT NULL FROM dbqueue_jobs"
        with self.store.connect() as connection:
            rows = connection.execute(sa.text(query)).all()
        return {row[0]: Seen(row[1], row[2] and str(row[2]), row[3], row[4], row[5], bool(row[6])) for row in rows}

    def close(self) -> None:
        for session in self.sessions.values():
            session.close()
        with self.store.connect() as connection:
            for table in metadata.tables:
                connection.execute(sa.text(f"DELETE FROM {table}"))
        self._stack.close()


def outcome(token: Token, how: str, delay: float) -> Outcome:
    match how:
        case "SUCCESS":
            return Succeeded(token.job_id, token.lease, "1", 0.0)
        case "FAILURE":
            return Failed(token.job_id, token.lease, "{}", None, 0.0)
        case "RETRY":
            return Retried(token.job_id, token.lease, "{}", None, 0.0, delay)
        case _:
            return Released(token.job_id, token.lease, token.ready_at.isoformat(), lost=how == "lost")


class Lockstep(RuleBasedStateMachine):
    """Each rule does the same to all, and compares what they say; the invariant compares what they hold."""

    def __init__(self, urls: list[str]) -> None:
        super().__init__()
        real = datetime.now(UTC).replace(microsecond=0)
        # An hour ahead: what is due never depends on how long the test takes.
        self.model = Model(real + timedelta(hours=1), real, LEASE_SECONDS)
        self.subjects = [Subject(url) for url in urls]

    tokens = Bundle("tokens")
    workers = Bundle("workers")
    jobs = Bundle("jobs")

    def all(self, ask: Callable[[Subject], Any], expected: Any) -> None:
        for subject in self.subjects:
            found = ask(subject)
            assert found == expected, f"{subject.store.dialect} says {found!r}, and the model {expected!r}"

    @rule(target=workers)
    def register(self) -> str:
        worker = f"worker@test#{len(self.model.workers)}"
        self.model.workers[worker] = self.model.now
        for subject in self.subjects:
            subject.register(worker, self.model.now)
        return worker

    @rule(target=jobs, priority=st.integers(-1, 1), delay=st.integers(0, 40))
    def enqueue(self, priority: int, delay: int) -> str:
        eta = self.model.now + timedelta(seconds=delay)
        job = NewJob(f"job-{uuid4()}", "shop.pack", "celery", priority=priority, eta=eta)
        self.model.enqueue(job, eta)
        self.all(lambda subject: dict(subject.store.enqueue([job])), {})
        return job.id

    @rule(job=jobs)
    def enqueue_again(self, job: str) -> None:
        """A caller who did not hear the answer repeats it."""
        if job in self.model.rows:
            again = self.model.rows[job].job
            self.all(lambda subject: dict(subject.store.enqueue([again])), {})

    @rule(target=tokens, worker=workers, limit=st.integers(1, 4))
    def claim(self, worker: str, limit: int) -> Any:
        lease = str(uuid4())
        given = self.model.claim(worker, lease, limit)
        self.all(lambda subject: self._claimed(subject, worker, lease, limit), [token.job_id for token in given])
        return multiple(*given)

    @rule(target=tokens, worker=workers, token=tokens, how=HOWS, delay=st.integers(0, 40))
    def settle_and_claim(self, worker: str, token: Token, how: str, delay: int) -> Any:
        lease = str(uuid4())
        taken = {token.job_id} if self.model.settle(token, how, delay) else set()
        given = self.model.claim(worker, lease, 2)
        claim = Claim(worker, lease, QUEUES, 2)

        def ask(subject: Subject) -> Any:
            result = subject.sessions[worker].round([outcome(token, how, delay)], claim, now=self.model.now)
            return set(result.settled), sorted(job.id for job in result.claimed)

        # A retry that is due at once may be claimed in the round that wrote it, or by the next.
        if how not in (SUCCESS, FAILURE) and taken and any(each.job_id == token.job_id for each in given):
            given = self._in_turns(worker, token, how, delay, taken, given, lease)
        else:
            self.all(ask, (taken, sorted(each.job_id for each in given)))
        return multiple(*given)

    def _in_turns(
        self, worker: str, token: Token, how: str, delay: float, taken: set[str], given: list[Token], lease: str
    ) -> list[Token]:
        """In two rounds, where what one of both may do is left open."""

        def settled(subject: Subject) -> set[str]:
            session = subject.sessions[worker]
            return set(session.round([outcome(token, how, delay)], None, now=self.model.now).settled)

        self.all(settled, taken)
        self.all(lambda subject: self._claimed(subject, worker, lease, 2), [each.job_id for each in given])
        return given

    @rule(worker=workers, token=tokens, how=HOWS, delay=st.integers(0, 40))
    def settle(self, worker: str, token: Token, how: str, delay: int) -> None:
        """By any worker's connection: the lease alone decides."""
        taken = {token.job_id} if self.model.settle(token, how, delay) else set()
        self.all(lambda subject: self._settled(subject, worker, [outcome(token, how, delay)]), taken)

    @rule(worker=workers, token=tokens, how=st.sampled_from([SUCCESS, FAILURE]))
    def settle_unheard(self, worker: str, token: Token, how: str) -> None:
        """It was committed, its caller was told of an error, and tries again: the row says whose it is."""
        written = outcome(token, how, 0.0)
        taken = self.model.settle(token, how, 0.0)
        for subject in self.subjects:
            self._settled(subject, worker, [written])
        self.all(lambda subject: self._settled(subject, worker, [written]), set())
        if taken:
            expected = {token.job_id: (how, token.lease)}
            self.all(lambda subject: subject.sessions[worker].recorded([token.job_id]), expected)

    @rule(worker=workers)
    def heartbeat(self, worker: str) -> None:
        alive = self.model.heartbeat(worker)
        self.all(lambda subject: subject.heartbeat(worker, self.model.now), alive)

    @rule(worker=workers)
    def rescue(self, worker: str) -> None:
        dead = self.model.rescue()

        def ask(subject: Subject) -> set[str]:
            found = subject.sessions[worker].rescue(max_losses=MAX_LOSSES, now=self.model.now)
            return {each.worker_id for each in found}

        self.all(ask, dead)

    @rule(seconds=st.sampled_from([1, 10, 31, 100]))
    def advance(self, seconds: int) -> None:
        self.model.now += timedelta(seconds=seconds)

    @rule(job=jobs)
    def revoke(self, job: str) -> None:
        if job in self.model.rows:
            self.model.revoke(job)
            for subject in self.subjects:
                revoke(subject.store, [job])

    @rule(worker=workers, seconds=st.sampled_from([0, 20, 600]))
    def prune(self, worker: str, seconds: int) -> None:
        count = self.model.prune(seconds)

        def ask(subject: Subject) -> int:
            return subject.sessions[worker].prune(older_than_seconds=seconds, limit=1000, now=self.model.now)

        self.all(ask, count)

    @rule(worker=workers)
    def drop_the_connection(self, worker: str) -> None:
        for subject in self.subjects:
            subject.break_connection(worker)

    @rule()
    def reopen(self) -> None:
        for subject in self.subjects:
            subject.reopen()

    @invariant()
    def agree(self) -> None:
        expected = self.model.seen()
        for subject in self.subjects:
            found = subject.seen()
            assert found == expected, f"{subject.store.dialect} holds {found!r}, and the model {expected!r}"

    def _claimed(self, subject: Subject, worker: str, lease: str, limit: int) -> list[str]:
        claim = Claim(worker, lease, QUEUES, limit)
        found = subject.sessions[worker].round([], claim, now=self.model.now).claimed
        assert {job.lease for job in found} <= {lease}
        assert all(job.revoked == self.model.rows[job.id].revoked for job in found)
        return [job.id for job in found]

    def _settled(self, subject: Subject, worker: str, outcomes: list[Outcome]) -> set[str]:
        return set(subject.sessions[worker].round(outcomes, None, now=self.model.now).settled)

    def teardown(self) -> None:
        for subject in self.subjects:
            subject.close()


def test_the_stores_and_the_model_agree(sqlite_url: str, postgres_url: str) -> None:
    class Machine(Lockstep):
        def __init__(self) -> None:
            super().__init__([sqlite_url, postgres_url])

    run_state_machine_as_test(Machine, settings=hypothesis.settings(max_examples=EXAMPLES, stateful_step_count=30))
