"""The rounds' pause: it ends for each thing that it must end for, and for nothing it is too long.

The times after which it would end by itself are ten minutes: what comes sooner was woken.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from dbqueue.jobs import ClaimedJob, Succeeded
from dbqueue.store.base import Store
from dbqueue.worker.claiming.rates import TaskRates
from dbqueue.worker.claiming.rounds import Rounds
from dbqueue.worker.config import WorkerConfig
from dbqueue.workflows import Edge, Workflow
from tests.servers import libpq_url
from tests.stores import TestWorker, enqueued, held, new_job, opened, row
from tests.waiting import wait_until
from tests.worker.rounds import NAME, RunningRounds, backend, is_asleep, running_rounds

Admin = psycopg.Connection[Any]


@pytest.fixture
def store(postgres_url: str) -> Iterator[Store]:
    with opened(postgres_url) as store:
        yield store


@pytest.fixture
def admin(postgres_url: str) -> Iterator[Admin]:
    with psycopg.connect(libpq_url(postgres_url), autocommit=True) as admin:
        yield admin


@pytest.fixture
def rounds(store: Store) -> Iterator[RunningRounds]:
    with running_rounds(store) as rounds:
        yield rounds


def asleep(rounds: RunningRounds, admin: Admin) -> None:
    rounds.rounds.want(1)
    wait_until(lambda: is_asleep(admin), what="the pause")


def test_a_notification_ends_it(store: Store, admin: Admin, rounds: RunningRounds) -> None:
    for _ in range(5):
        asleep(rounds, admin)
        job_id = enqueued(store)
        assert rounds.take().id == job_id


def test_an_outcome_ends_it(store: Store, admin: Admin, rounds: RunningRounds) -> None:
    for _ in range(5):
        enqueued(store)
        job = rounds.take()
        asleep(rounds, admin)
        rounds.rounds.complete(Succeeded(job.id, job.lease, "1", 0.0))
        wait_until(lambda job_id=job.id: row(store, job_id)["status"] == "SUCCESS", what="the outcome in the row")  # type: ignore[misc]


def test_the_end_of_the_connection_ends_it(store: Store, admin: Admin, rounds: RunningRounds) -> None:
    """A new connection listens, and looks for what was announced to nobody."""
    for _ in range(3):
        asleep(rounds, admin)
        before = backend(admin)
        assert before is not None
        admin.execute("SELECT pg_terminate_backend(%s)", [before[0]])
        wait_until(lambda before=before: backend(admin) not in (None, before), what="a new connection")  # type: ignore[misc]
        job_id = enqueued(store)
        assert rounds.take().id == job_id


def test_a_lease_that_is_lost_is_told_after_its_job(store: Store) -> None:
    """Else the supervisor would look for it in vain, and then be given the job, which is another's to run."""
    enqueued(store)
    worker = TestWorker(store)
    told: list[list[ClaimedJob]] = []

    def notify() -> None:
        if silent.lost_leases:
            told.append(silent.take_claimed())

    config = WorkerConfig(NAME, ("celery",), "solo", 1)
    silent = Rounds(store, config, rates=TaskRates({}), notify=notify, registered=lambda *_: None)
    job = worker.claim_one()
    silent.handover.add([job])
    silent._held.took([job._replace(permit="key")], limit=1)
    silent._restored([(job.id, job.lease)])
    assert told == [[job]]
    assert list(silent.lost_leases) == [(job.id, job.lease)]
    silent._held.ended([Succeeded(job.id, job.lease, "1", 0.0)])
    assert silent._held.freed == 0, "whoever runs it now has its permit"
    worker.close()


def test_stop_ends_it(store: Store, admin: Admin) -> None:
    with running_rounds(store) as rounds:
        asleep(rounds, admin)
    assert not rounds.rounds.thread.is_alive()
    with store.connect() as connection:
        closed = connection.exec_driver_sql("SELECT closed_at IS NOT NULL FROM dbqueue_workers").scalar_one()
    assert closed is True


def test_an_error_at_its_end_leaves_no_connection(store: Store, admin: Admin) -> None:
    """One that nobody expects: the thread tells of it, and closes what it has opened."""
    admin.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW.lease_seconds / 0; END $$"
    )
    admin.execute("CREATE TRIGGER refuse BEFORE UPDATE ON dbqueue_workers FOR EACH ROW EXECUTE FUNCTION refuse()")
    rounds = RunningRounds(store)
    asleep(rounds, admin)
    assert rounds.rounds.stop(60)
    wait_until(lambda: backend(admin) is None, what="the end of the connection")
    assert isinstance(rounds.rounds.failed, psycopg.errors.DivisionByZero)


def test_a_full_disk_is_told_once_and_so_is_its_end(
    store: Store, admin: Admin, rounds: RunningRounds, caplog: pytest.LogCaptureFixture
) -> None:
    """Each new connection stands, and the write on it fails again: that is no end of the trouble."""
    admin.execute("CREATE SEQUENCE tries")
    admin.execute(
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "PERFORM nextval('tries'); RAISE EXCEPTION 'no space left' USING ERRCODE = 'disk_full'; END $$"
    )
    admin.execute(
        "CREATE TRIGGER full_disk BEFORE UPDATE ON dbqueue_jobs FOR EACH ROW WHEN (NEW.status = 'SUCCESS') "
        "EXECUTE FUNCTION full_disk()"
    )
    job_id = enqueued(store)
    job = rounds.take()
    with caplog.at_level("WARNING", logger="dbqueue.worker"):
        rounds.rounds.complete(Succeeded(job.id, job.lease, "3", 0.1))
        wait_until(lambda: admin.execute("SELECT last_value > 3 FROM tries").fetchone() == (True,), what="four tries")
        said = list(caplog.messages)
        admin.execute("DROP TRIGGER full_disk ON dbqueue_jobs")
        wait_until(lambda: row(store, job_id)["status"] == "SUCCESS", what="the outcome")
        wait_until(lambda: len(caplog.messages) > len(said), what="the word of it")
    assert ["no space left" in each and "Trying again" in each for each in said] == [True]
    assert [each.partition(";")[0] for each in caplog.messages[len(said) :]] == ["The database works again"]


def refuse_changes(admin: Admin, when: str) -> None:
    """Let the database have something against changes of rows, as if it were in their data."""
    admin.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE EXCEPTION 'not this row' USING ERRCODE = 'data_exception'; END $$"
    )
    rows = f"BEFORE UPDATE ON dbqueue_jobs FOR EACH ROW WHEN ({when})"
    admin.execute(f"CREATE TRIGGER refuse {rows} EXECUTE FUNCTION refuse()".encode())


def test_a_trigger_that_refuses_all_changes_for_a_while_ends_no_worker(
    store: Store, admin: Admin, rounds: RunningRounds, caplog: pytest.LogCaptureFixture
) -> None:
    job_id, other = enqueued(store), enqueued(store)
    job = rounds.take()
    refuse_changes(admin, "true")
    rounds.rounds.complete(Succeeded(job.id, job.lease, "1", 0.1))
    wait_until(lambda: "refuses to end 1 finished jobs" in caplog.text, what="the word of the outcome")
    rounds.rounds.want(1)
    wait_until(lambda: "Claiming jobs failed" in caplog.text, what="the word of the claim")
    admin.execute("DROP TRIGGER refuse ON dbqueue_jobs")
    wait_until(lambda: row(store, job_id)["status"] == "SUCCESS", what="the outcome")
    assert rounds.take().id == other
    assert [caplog.text.count(text) for text in ("refuses to end", "Claiming jobs failed")] == [1, 1]


def test_held_jobs_that_cannot_be_started_keep_no_others_waiting(
    store: Store, admin: Admin, rounds: RunningRounds, caplog: pytest.LogCaptureFixture
) -> None:
    refuse_changes(admin, "NEW.status = 'STARTED' AND OLD.held_at IS NOT NULL")
    job_id = held(store, "k")
    rounds.rounds.want(1)
    wait_until(lambda: "Claiming jobs with limits failed" in caplog.text, what="the word of it")
    other = enqueued(store)
    assert rounds.take().id == other
    admin.execute("DROP TRIGGER refuse ON dbqueue_jobs")
    assert rounds.take().id == job_id


def test_an_end_that_those_behind_it_refuse_is_written_without_them(
    store: Store, admin: Admin, rounds: RunningRounds
) -> None:
    store.enqueue_workflow(Workflow.of([new_job("first"), new_job("second")], [Edge("first", "second")]))
    refuse_changes(admin, "NEW.id = 'second'")
    job = rounds.take()
    rounds.rounds.complete(Succeeded(job.id, job.lease, "1", 0.1))
    wait_until(lambda: row(store, "first")["status"] == "FAILURE", what="the outcome")
    assert row(store, "second")["status"] == "PENDING"
    other = enqueued(store)
    assert rounds.take().id == other


def is_open(store: Store, worker_id: str) -> bool:
    """Whether a rescue looks at the worker's row."""
    with store.connect() as connection:
        query = sa.text("SELECT closed_at IS NULL FROM dbqueue_workers WHERE id = :id")
        return bool(connection.execute(query, {"id": worker_id}).scalar_one())


def test_what_was_claimed_and_never_taken_is_given_back_at_the_end(store: Store) -> None:
    """The worker's row is closed with it, and nobody would look for its jobs."""
    with running_rounds(store) as rounds:
        job_id = enqueued(store)
        rounds.rounds.want(1)
        wait_until(lambda: rounds.rounds.handover._claimed, what="a claimed job")
    stored = row(store, job_id)
    assert (stored["status"], stored["lease"], stored["losses"]) == ("PENDING", None, 0)
    assert not is_open(store, rounds.worker_id)


def test_while_an_outcome_is_missing_the_workers_row_is_open_at_the_end(store: Store) -> None:
    with running_rounds(store) as rounds:
        enqueued(store)
        job = rounds.take()
    assert row(store, job.id)["status"] == "STARTED"
    assert is_open(store, rounds.worker_id)


def test_after_an_error_that_nobody_expects_the_workers_row_is_open(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its last claim took is held by nobody, and is to be rescued."""

    def fails(*_: object) -> None:
        raise ZeroDivisionError

    rounds = RunningRounds(store)
    monkeypatch.setattr(rounds.rounds._holding, "written", fails)
    job_id = enqueued(store)
    rounds.rounds.want(1)
    wait_until(lambda: not rounds.rounds.thread.is_alive(), what="its end")
    assert isinstance(rounds.rounds.failed, ZeroDivisionError)
    assert row(store, job_id)["status"] == "STARTED"
    assert is_open(store, rounds.worker_id)


def test_a_stop_that_waits_for_a_locked_row_sleeps_meanwhile(store: Store) -> None:
    """Its upkeep is over, and would be due for ever."""
    config = WorkerConfig(NAME, ("celery",), "solo", 1)
    rounds = Rounds(store, config, rates=TaskRates({}), notify=lambda: None, registered=lambda *_: None)
    rounds._upkeeper.rescue_at = 0.0
    rounds._holding.aside.put([Succeeded("a", "lease", "1", 0.0)])
    assert rounds._pause() == 0.0
    rounds._stopping = True
    assert rounds._pause() > 0.0
