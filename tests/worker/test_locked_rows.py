"""Rows that somebody's transaction has locked: their jobs' outcomes wait for it, and nothing else does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import psycopg
import pytest

from dbqueue import chord
from dbqueue.errors import LockTimeout, OperationalError
from dbqueue.jobs import ClaimedJob, Failed, Outcome, Released, Replaced, Retried, Succeeded
from dbqueue.store.base import Store
from dbqueue.store.postgres import free_rows, sql
from dbqueue.store.postgres.work_session import PostgresWorkSession
from dbqueue.store.records import Claim, Round
from dbqueue.worker.claiming import aside, settling, upkeep
from dbqueue.worker.claiming.settling import settle_in_time
from dbqueue.workflows import ERRBACK, Edge, Workflow
from tests.servers import libpq_url
from tests.stores import TestWorker, enqueued, held, new_job, opened, row, run_sql
from tests.waiting import wait_until
from tests.worker.canvas_tasks import make_app
from tests.worker.rounds import RunningRounds, backend, running_rounds
from tests.workers import WorkerProcess

Admin = psycopg.Connection[Any]
LOCK = "SELECT FROM dbqueue_jobs WHERE id = %s FOR UPDATE"


@pytest.fixture
def store(postgres_url: str) -> Iterator[Store]:
    with opened(postgres_url) as store:
        yield store


@pytest.fixture
def somebody(postgres_url: str) -> Iterator[Admin]:
    with psycopg.connect(libpq_url(postgres_url)) as somebody:
        yield somebody


@pytest.fixture
def rounds(store: Store) -> Iterator[RunningRounds]:
    with running_rounds(store) as rounds:
        yield rounds


def done(job: ClaimedJob) -> Outcome:
    return Succeeded(job.id, job.lease, "1", 0.0)


def failed(job: ClaimedJob) -> Outcome:
    return Failed(job.id, job.lease, '{"exc_type": "E", "exc_message": []}', None, 0.0)


def retried(job: ClaimedJob) -> Outcome:
    return Retried(job.id, job.lease, "{}", None, 60.0)


def released(job: ClaimedJob) -> Outcome:
    return Released(job.id, job.lease, job.ready_at, delay_seconds=60.0)


def replaced(job: ClaimedJob) -> Outcome:
    return Replaced(job.id, job.lease, Workflow.of([new_job(job.id, eta="2099-01-01T00:00:00Z")], []), 0.0)


def line(*names: str) -> Workflow:
    """Jobs that follow each other."""
    return Workflow.of([new_job(name) for name in names], [Edge(*pair) for pair in pairwise(names)])


def chord_of(*headers: str) -> Workflow:
    return Workflow.of([new_job(name) for name in (*headers, "body")], [Edge(name, "body") for name in headers])


def complete(rounds: RunningRounds, outcome: Outcome) -> None:
    rounds.rounds.complete(outcome)


def status(store: Store, job_id: str) -> object:
    return row(store, job_id)["status"]


def goes_on(store: Store, rounds: RunningRounds) -> None:
    """A job that has nothing to do with the locked rows is claimed and ends."""
    job_id = enqueued(store)
    job = rounds.take()
    assert job.id == job_id
    complete(rounds, done(job))
    wait_until(lambda: status(store, job_id) == "SUCCESS", what="the end of another job")


@pytest.mark.parametrize(
    ("outcome", "locked", "after"),
    [
        (done, "first", "SUCCESS"),
        (done, "second", "SUCCESS"),
        (failed, "first", "FAILURE"),
        (failed, "third", "FAILURE"),
        (retried, "first", "RETRY"),
        (released, "first", "PENDING"),
        (replaced, "first", "PENDING"),
    ],
    ids=lambda each: each if isinstance(each, str) else each.__name__,
)
def test_all_else_goes_on(
    store: Store,
    somebody: Admin,
    rounds: RunningRounds,
    outcome: Callable[[ClaimedJob], Outcome],
    locked: str,
    after: str,
) -> None:
    store.enqueue_workflow(line("first", "second", "third"))
    first = rounds.take()
    somebody.execute(LOCK, [locked])
    complete(rounds, outcome(first))
    for _ in range(3):
        goes_on(store, rounds)
    assert status(store, "first") == "STARTED"
    somebody.rollback()
    wait_until(lambda: status(store, "first") == after, what="the outcome")
    assert not rounds.reconnected
    if after == "SUCCESS":
        assert rounds.take().id == "second"
    if after == "FAILURE":
        assert [status(store, name) for name in ("second", "third")] == ["FAILURE", "FAILURE"]


def test_what_is_locked_far_below_keeps_no_success_from_being_written(
    store: Store, somebody: Admin, rounds: RunningRounds
) -> None:
    store.enqueue_workflow(line("first", "second", "third"))
    somebody.execute(LOCK, ["third"])
    complete(rounds, done(rounds.take()))
    assert rounds.take().id == "second"


def test_each_end_is_written_once_its_own_rows_are_free(store: Store, somebody: Admin, rounds: RunningRounds) -> None:
    jobs, edges = [], []
    for name in ("a", "b"):
        jobs += [new_job(f"{name}{number}") for number in range(3)]
        edges += [Edge(job.id, name) for job in jobs[-3:]]
        jobs.append(new_job(name))
    store.enqueue_workflow(Workflow.of(jobs, edges))
    headers = sorted((rounds.take() for _ in range(6)), key=lambda job: job.id)
    somebody.execute(LOCK, ["a"])
    for job in headers:
        complete(rounds, done(job))
    assert rounds.take().id == "b"
    assert {status(store, f"a{number}") for number in range(3)} == {"STARTED"}
    somebody.rollback()
    assert rounds.take().id == "a"
    assert row(store, "a")["waits_for"] == 0


def test_a_stop_waits_for_what_is_locked(store: Store, somebody: Admin, rounds: RunningRounds) -> None:
    store.enqueue_workflow(line("first", "second"))
    first = rounds.take()
    somebody.execute(LOCK, ["second"])
    complete(rounds, done(first))
    wait_until(lambda: len(rounds.rounds._holding.aside) > 0, what="the wait of its end")
    assert not rounds.rounds.stop(0.5)
    somebody.rollback()
    assert rounds.rounds.stop(60)
    assert status(store, "first") == "SUCCESS"
    assert run_sql(store, "SELECT 1 FROM dbqueue_workers WHERE closed_at IS NOT NULL") == 1


def test_a_connection_that_breaks_meanwhile(
    store: Store, postgres_url: str, somebody: Admin, rounds: RunningRounds
) -> None:
    """The job's lease is kept: it is neither handed back nor taken for one that was lost."""
    store.enqueue_workflow(line("first", "second"))
    first = rounds.take()
    somebody.execute(LOCK, ["second"])
    complete(rounds, done(first))
    wait_until(lambda: len(rounds.rounds._holding.aside) > 0, what="the wait of its end")
    with psycopg.connect(libpq_url(postgres_url), autocommit=True) as admin:
        admin.execute("SELECT pg_terminate_backend(%s)", backend(admin))
    wait_until(lambda: rounds.reconnected, what="another connection")
    goes_on(store, rounds)
    assert (row(store, "first")["status"], str(row(store, "first")["lease"])) == ("STARTED", first.lease)
    somebody.rollback()
    wait_until(lambda: status(store, "first") == "SUCCESS", what="the outcome")
    assert not rounds.rounds.lost_leases


def test_many_of_them_stop_the_claims(
    store: Store, somebody: Admin, rounds: RunningRounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aside, "MAX_ASIDE", 1)
    store.enqueue_workflow(line("first", "second"))
    first = rounds.take()
    somebody.execute(LOCK, ["second"])
    complete(rounds, done(first))
    wait_until(lambda: len(rounds.rounds._holding.aside) > 0, what="the wait of its end")
    other = enqueued(store, priority=1)
    rounds.rounds.want(1)
    rounds.rounds.thread.join(0.5)
    assert status(store, other) == "PENDING"
    somebody.rollback()
    assert rounds.take().id == other


def test_what_nobody_looks_for(store: Store, somebody: Admin, rounds: RunningRounds) -> None:
    """Another has inserted a row of the same id as one that is to be, and may yet take it back."""
    store.enqueue([new_job(name) for name in "abc"])
    jobs = {job.id: job for job in (rounds.take() for _ in range(3))}
    somebody.execute("INSERT INTO dbqueue_jobs (id, task) VALUES ('new', 'shop.pack')")
    both = [new_job("new"), new_job("b")]
    complete(rounds, Replaced("b", jobs["b"].lease, Workflow.of(both, [Edge("new", "b")]), 0.0))
    complete(rounds, done(jobs["a"]))
    complete(rounds, done(jobs["c"]))
    wait_until(
        lambda: (status(store, "a"), status(store, "c")) == ("SUCCESS", "SUCCESS"), what="the ends of the others"
    )
    goes_on(store, rounds)
    assert status(store, "b") == "STARTED"
    somebody.rollback()
    assert rounds.take().id == "new"


def test_jobs_of_a_dead_worker_that_cannot_be_taken_back_yet(
    store: Store, somebody: Admin, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One that may not run again is to end what waits for it, and somebody has that; the others do not wait for it."""
    monkeypatch.setattr(upkeep, "PUT_OFF_SECONDS", 0.5)
    store.enqueue_workflow(line("first", "second"))
    store.enqueue_workflow(line("third", "fourth"))
    alone, again = enqueued(store), enqueued(store, task="shop.send")
    dead = TestWorker(store, lease_seconds=1.0)
    assert {job.id for job in dead.claim(once=["shop.pack"])} == {"first", "third", alone, again}
    dead.close()
    run_sql(store, "UPDATE dbqueue_workers SET heartbeat_at = now() - interval '1 day'")
    somebody.execute(LOCK, ["second"])
    with running_rounds(store, heartbeat_seconds=0.1) as rounds:
        wait_until(lambda: "wait for what somebody's transaction has locked" in caplog.text, what="the word of it")
        assert rounds.take().id == again
        assert [status(store, job_id) for job_id in ("first", alone, again)] == ["STARTED", "FAILURE", "STARTED"]
        assert [status(store, job_id) for job_id in ("third", "fourth")] == ["FAILURE", "FAILURE"]
        assert "1 of its jobs wait again, 2 may not run again" in caplog.text
        goes_on(store, rounds)
        somebody.rollback()
        wait_until(lambda: status(store, "second") == "FAILURE", what="the end of both")
        assert status(store, "first") == "FAILURE"
        closed = "SELECT 1 FROM dbqueue_workers WHERE closed_at IS NOT NULL AND id = :id"
        wait_until(lambda: run_sql(store, closed, id=dead.id) == 1, what="the end of the dead worker's row")


def test_a_locked_table_of_edges_keeps_only_those_back_that_others_wait_for(
    store: Store, somebody: Admin, rounds: RunningRounds
) -> None:
    store.enqueue([new_job("replaced", priority=1)])
    put_in_place = rounds.take()
    store.enqueue_workflow(chord_of(*(f"{number}" for number in range(5))))
    headers = [rounds.take() for _ in range(5)]
    somebody.execute("LOCK TABLE dbqueue_edges")
    for number, job in enumerate(headers):
        complete(rounds, done(job) if number else failed(job))
    new, same = new_job("new", eta="2099-01-01T00:00:00Z"), new_job("replaced")
    workflow = Workflow.of([new, same], [Edge("new", "replaced")])
    complete(rounds, Replaced(put_in_place.id, put_in_place.lease, workflow, 0.0))
    for _ in range(3):
        goes_on(store, rounds)
    assert {status(store, job.id) for job in (put_in_place, *headers)} == {"STARTED"}
    assert len(rounds.rounds._holding.aside) == 6
    somebody.rollback()
    wait_until(lambda: status(store, "body") == "FAILURE", what="the chord's end")
    wait_until(lambda: status(store, "replaced") == "PENDING", what="the replacement")


def test_a_call_does_not_wait_for_each_lock_that_nobody_has_looked_for(
    store: Store, somebody: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for some of them; the others are tried again, and in the end each is written."""
    monkeypatch.setattr(free_rows, "WAIT_BRIEFLY", "SELECT set_config('lock_timeout', '1ms', true)")
    worker = TestWorker(store)
    store.enqueue([new_job(f"{number}") for number in range(60)])
    jobs = worker.claim()
    tried: list[int] = []
    settle_free = worker.session.settle_free

    def counted(outcomes: Sequence[Outcome], **options: Any) -> Round:
        tried.append(len(outcomes))
        return settle_free(outcomes, **options)

    monkeypatch.setattr(worker.session, "settle_free", counted)
    somebody.execute(
        "INSERT INTO dbqueue_jobs (id, task) SELECT 'new' || n, 'shop.pack' FROM generate_series(0, 59) AS n"
    )
    left: list[Outcome] = []
    for job in jobs:
        new = new_job(f"new{job.id}")
        left.append(Replaced(job.id, job.lease, Workflow.of([new, new_job(job.id)], [Edge(new.id, job.id)]), 0.0))
    result = settling.settle_free(worker.session, left, None, ())
    assert result.locked == {job.id for job in jobs}
    assert len(tried) == settling.MAX_WAITS
    somebody.rollback()
    assert not settling.settle_free(worker.session, left, None, ()).locked
    assert {row(store, job.id)["blocked_reason"] for job in jobs} == {"predecessors"}
    worker.close()


def test_a_try_waits_briefly_for_what_nobody_has_looked_for(store: Store, somebody: Admin) -> None:
    enqueued(store, "a")
    worker = TestWorker(store)
    job = worker.claim_one()
    session = cast(PostgresWorkSession, worker.session)
    session._driver.execute("SET lock_timeout = 0")
    session._driver.execute("SET statement_timeout = '20s'")  # which is another error
    somebody.execute("INSERT INTO dbqueue_jobs (id, task) VALUES ('new', 'shop.pack')")
    workflow = Workflow.of([new_job("new"), new_job("a")], [Edge("new", "a")])
    with pytest.raises(LockTimeout):
        session.settle_free([Replaced("a", job.lease, workflow, 0.0)])
    worker.close()


def test_no_try_waits_for_what_is_locked(store: Store, somebody: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_rows, "WAIT_BRIEFLY", "SELECT set_config('lock_timeout', '0', true)")
    names = ["a", "b", "c"]
    store.enqueue_workflow(
        Workflow.of([new_job(name) for name in (*names, "body")], [Edge(name, "body") for name in names])
    )
    plain = [enqueued(store, f"{number}") for number in range(3)]
    worker = TestWorker(store)
    jobs = {job.id: job for job in worker.claim()}
    somebody.execute(LOCK, ["body"])
    somebody.execute(LOCK, [plain[0]])
    ends = [done(jobs["a"]), failed(jobs["b"]), retried(jobs["c"]), *(done(jobs[name]) for name in plain)]
    result = worker.session.settle_free(ends, linked=worker.linked)
    assert result.locked == {"a", "b", plain[0]}
    assert result.settled == {"c", *plain[1:]}
    somebody.rollback()
    result = worker.session.settle_free(ends, linked=worker.linked)
    assert not result.locked
    assert result.settled == {"a", "b", plain[0]}
    assert status(store, "body") == "FAILURE"
    worker.close()


def test_a_failure_does_not_wait_for_what_is_locked_far_below(store: Store, somebody: Admin) -> None:
    store.enqueue_workflow(line("first", "second", "third"))
    worker = TestWorker(store)
    outcome = failed(worker.claim_one())
    somebody.execute(LOCK, ["third"])
    assert worker.session.settle_free([outcome], linked=worker.linked).locked == {"first"}
    somebody.rollback()
    assert worker.session.settle_free([outcome], linked=worker.linked).settled == {"first"}
    worker.close()


@pytest.mark.parametrize("mode", ["ACCESS EXCLUSIVE", "SHARE"])
def test_a_replacement_does_not_wait_for_a_locked_table_of_edges(store: Store, somebody: Admin, mode: str) -> None:
    """Such as by who makes an index of it."""
    enqueued(store, "a")
    worker = TestWorker(store)
    job = worker.claim_one()
    new, same = new_job("new"), new_job("a")
    somebody.execute(f"LOCK TABLE dbqueue_edges IN {mode} MODE")
    outcome = Replaced(job.id, job.lease, Workflow.of([new, same], [Edge("new", "a")]), 0.0)
    assert worker.session.settle_free([outcome]).locked == {"a"}
    somebody.rollback()
    assert worker.session.settle_free([outcome]).settled == {"a"}
    worker.close()


def test_a_foreign_key_of_the_applications_keeps_no_job_from_ending(store: Store, somebody: Admin) -> None:
    worker = TestWorker(store)
    enqueued(store)
    job = worker.claim_one()
    somebody.execute("SELECT FROM dbqueue_jobs WHERE id = %s FOR KEY SHARE", [job.id])
    assert worker.session.settle_free([done(job)]).settled == {job.id}
    worker.close()


def test_headers_that_end_at_once_in_many_workers(store: Store) -> None:
    """None of them waits for the body, and each is counted once."""
    workers = [TestWorker(store) for _ in range(4)]
    names = [f"{number:02}" for number in range(40)]
    store.enqueue_workflow(
        Workflow.of([new_job(name) for name in (*names, "body")], [Edge(name, "body") for name in names])
    )
    freed: list[str] = []

    def write(worker: TestWorker, ends: list[Outcome]) -> None:
        while ends:
            result = worker.session.settle_free(ends[:3], linked=worker.linked)
            assert result.settled | result.locked == {end.job_id for end in ends[:3]}
            freed.extend(["body"] * result.released)
            ends = [end for end in ends[:3] if end.job_id in result.locked] + ends[3:]

    shares = [(worker, [done(job) for job in worker.claim(10)]) for worker in workers]
    threads = [threading.Thread(target=write, args=share) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert freed == ["body"]
    assert (row(store, "body")["waits_for"], row(store, "body")["blocked_reason"]) == (0, None)
    for worker in workers:
        worker.close()


@pytest.mark.parametrize("with_outcome", [True, False])
def test_a_limit_that_somebody_has_locked(store: Store, somebody: Admin, with_outcome: bool) -> None:
    """The claim of its permits is given up: the next comes soon."""
    worker = TestWorker(store)
    enqueued(store)
    job = worker.claim_one()
    run_sql(store, "INSERT INTO dbqueue_limits (key, max_running) VALUES ('k', 5)")
    held(store, "k")
    somebody.execute("SELECT FROM dbqueue_limits FOR UPDATE")
    outcomes = [done(job)] if with_outcome else []
    claim = Claim(worker.id, str(uuid4()), ["celery"], 1, keys=["k"])
    result = settle_in_time(worker.session, outcomes, claim, ())
    assert ([*result.settled], [*result.claimed]) == ([job.id] if with_outcome else [], [])
    somebody.rollback()
    assert len(settle_in_time(worker.session, [], claim, ()).claimed) == 1
    worker.close()


def test_a_locked_table_is_waited_for(store: Store, somebody: Admin) -> None:
    """There, no outcome is better off than another."""
    worker = TestWorker(store)
    enqueued(store)
    job = worker.claim_one()
    somebody.execute("LOCK TABLE dbqueue_jobs IN SHARE MODE")
    with pytest.raises(OperationalError, match="lock timeout") as waited:
        worker.session.settle_free([done(job)])
    assert type(waited.value) is OperationalError
    somebody.rollback()
    assert worker.session.settle_free([done(job)]).settled == {job.id}
    worker.close()


def test_a_real_worker(
    postgres_url: str, somebody: Admin, tmp_path: Path, start_worker: Callable[..., WorkerProcess]
) -> None:
    with make_app(postgres_url) as app:
        add, ident, tsum = (app.tasks[f"tasks.{name}"] for name in ("add", "ident", "tsum"))
        held = chord([ident.s(number) for number in range(20)], tsum.s()).delay()
        somebody.execute(LOCK, [held.id])
        worker = start_worker(postgres_url, module="tests.worker.canvas_tasks")
        for _ in range(3):
            assert [add.delay(number, 1).get(timeout=30) for number in range(10)] == list(range(1, 11))
            assert chord([ident.s(1), ident.s(2)], tsum.s()).delay().get(timeout=30) == 3
        assert held.state == "PENDING"
        somebody.rollback()
        assert held.get(timeout=30) == sum(range(20))
        assert worker.stop() == 0
        assert "Trying again" not in worker.log


def test_a_lock_that_comes_after_a_round_s_commit_does_not_say_that_nothing_was_done(
    store: Store, somebody: Admin
) -> None:
    """Else it would claim once more, and what it had claimed before would be nobody's to run."""
    enqueued(store)
    worker = TestWorker(store)
    job = worker.claim_one()
    somebody.execute("LOCK TABLE dbqueue_jobs")
    with pytest.raises(OperationalError) as raised:
        worker.session.recorded([job.id])
    assert not isinstance(raised.value, LockTimeout)
    somebody.rollback()
    assert worker.session.recorded([job.id]) == {job.id: ("STARTED", job.lease)}
    worker.close()


@pytest.mark.parametrize("way", ["round", "settle_free"])
@pytest.mark.parametrize("fails", ["the round", "the word"])
def test_who_may_run_since_a_round_that_was_given_up_is_told(
    store: Store, postgres_url: str, somebody: Admin, monkeypatch: pytest.MonkeyPatch, way: str, fails: str
) -> None:
    """What had a transaction of its own is done, and the next try finds nothing there to do."""
    store.enqueue_workflow(Workflow.of([new_job("first"), new_job("then")], [Edge("first", "then", "error", ERRBACK)]))
    enqueued(store, "other")
    worker = TestWorker(store)
    jobs = {job.id: job for job in worker.claim()}
    session = cast(PostgresWorkSession, worker.session)
    session._driver.execute("SET lock_timeout = '100ms'")
    outcomes = [failed(jobs["first"])]
    if fails == "the round":
        somebody.execute(LOCK, ["other"])
        outcomes.append(done(jobs["other"]))
    else:
        monkeypatch.setattr(sql, "NOTIFY", "SELECT 1 / 0")
    with pytest.raises(Exception, match="lock timeout" if fails == "the round" else "division by zero"):
        session.round(outcomes, None, linked=worker.linked)
    assert row(store, "then")["blocked_reason"] is None
    somebody.rollback()
    monkeypatch.undo()
    with psycopg.connect(libpq_url(postgres_url), autocommit=True) as sleeper:
        sleeper.execute("LISTEN dbqueue")
        getattr(session, way)(outcomes, **({"claim": None} if way == "round" else {}), linked=worker.linked)
        assert list(sleeper.notifies(timeout=60.0, stop_after=1)), "nobody was told"
    worker.close()
