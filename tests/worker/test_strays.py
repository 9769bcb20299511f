"""Jobs whose leases somebody has changed while they ran, or hidden their rows: each ends, none runs that may not.

Other leases have their outcomes dropped, as they must be; and no other worker takes jobs back from one that lives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy as sa

from dbqueue.errors import OperationalError
from dbqueue.jobs import ClaimedJob, Outcome, Released, Succeeded
from dbqueue.store.base import Store
from dbqueue.store.records import Claim, Round, Stray
from dbqueue.store.sessions import WorkSession
from dbqueue.worker.claiming import settling, strays
from dbqueue.worker.claiming.holding import Holding
from dbqueue.worker.claiming.lasting_session import LastingSession
from dbqueue.worker.claiming.settling import settle, settle_free
from dbqueue.workflows import Edge, Workflow
from tests.servers import libpq_url
from tests.stores import TestWorker, enqueued, new_job, opened, row, run_sql
from tests.waiting import wait_until
from tests.worker.rounds import NAME, running_rounds

MAX_LOSSES = 2


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    with opened(database_url) as store:
        yield store


@pytest.fixture
def worker(store: Store) -> Iterator[TestWorker]:
    worker = TestWorker(store)
    yield worker
    worker.close()


@pytest.fixture
def holding(worker: TestWorker) -> Holding:
    holding = Holding()
    holding.worker_id = worker.id
    return holding


def change_lease(store: Store, job: ClaimedJob) -> None:
    run_sql(store, "UPDATE dbqueue_jobs SET lease = :lease WHERE id = :id", lease=str(uuid4()), id=job.id)


def succeeded(job: ClaimedJob) -> Outcome:
    return Succeeded(job.id, job.lease, "1", 0.0)


def gone_astray(store: Store, worker: TestWorker, holding: Holding, **fields: object) -> ClaimedJob:
    """A job of which the round that was to end it has found that its lease is another."""
    enqueued(store)
    job = worker.claim_one()
    for name, value in fields.items():
        run_sql(store, f"UPDATE dbqueue_jobs SET {name} = :value WHERE id = :id", value=value, id=job.id)
    change_lease(store, job)
    ended(worker, holding, job)
    return job


def ended(worker: TestWorker, holding: Holding, *jobs: ClaimedJob) -> None:
    outcomes = [succeeded(job) for job in jobs]
    holding.take(jobs)
    holding.outcomes.extend(outcomes)
    holding.written(outcomes, settle(worker.session, outcomes, None, ()))


def take_back(worker: TestWorker, holding: Holding) -> bool:
    return strays.take_back(worker.session, holding, max_losses=MAX_LOSSES)


@contextmanager
def then(monkeypatch: pytest.MonkeyPatch, worker: TestWorker, meddle: Callable[[], None]) -> Iterator[None]:
    """Somebody meddles just after the worker has looked."""
    look = worker.session.strays

    def looked(*arguments: Any) -> list[Stray]:
        found = look(*arguments)
        meddle()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(worker.session, "strays", looked)
        yield


def status(store: Store, job: ClaimedJob) -> str:
    return str(row(store, job.id)["status"])


@pytest.mark.parametrize(
    ("redeliver", "losses", "after"),
    [
        (True, 0, ("PENDING", 1)),
        (True, MAX_LOSSES - 1, ("PENDING", MAX_LOSSES)),
        (True, MAX_LOSSES, ("FAILURE", MAX_LOSSES)),
        (False, 0, ("FAILURE", 0)),
    ],
    ids=["it may run again", "once more", "no more", "it may not run again"],
)
def test_its_run_counts_as_lost(
    store: Store, worker: TestWorker, holding: Holding, redeliver: bool, losses: int, after: tuple[str, int]
) -> None:
    job = gone_astray(store, worker, holding, redeliver=redeliver, losses=losses)
    assert take_back(worker, holding)
    found = row(store, job.id)
    assert (found["status"], found["losses"]) == after
    assert not holding.astray
    assert not take_back(worker, holding)


def test_it_keeps_its_place_in_its_queue(store: Store, worker: TestWorker, holding: Holding) -> None:
    store.enqueue([new_job("first")])
    job = worker.claim_one()
    store.enqueue([new_job("second")])
    change_lease(store, job)
    ended(worker, holding, job)
    assert take_back(worker, holding)
    assert [each.id for each in worker.claim()] == ["first", "second"]


def test_what_is_anothers_or_held_is_left(store: Store, worker: TestWorker, holding: Holding) -> None:
    rival = TestWorker(store)
    for _ in range(3):
        enqueued(store)
    taken, held, fine = worker.claim(3)
    worker.settle(Released(taken.id, taken.lease, taken.ready_at))
    rival.claim()
    change_lease(store, held)
    ended(worker, holding, taken, held, fine)
    assert holding.astray == {taken.id, held.id}
    holding.take([held])  # it was claimed anew
    assert not take_back(worker, holding)
    assert [status(store, job) for job in (taken, held, fine)] == ["STARTED", "STARTED", "SUCCESS"]
    assert row(store, taken.id)["worker"] == rival.id
    assert not holding.astray
    rival.close()


def test_what_waits_for_it_moves_with_it(store: Store, worker: TestWorker, holding: Holding) -> None:
    store.enqueue_workflow(Workflow.of([new_job("first"), new_job("second")], [Edge("first", "second")]))
    job = worker.claim_one()
    run_sql(store, "UPDATE dbqueue_jobs SET redeliver = :no", no=False)
    change_lease(store, job)
    ended(worker, holding, job)
    take_back(worker, holding)
    assert [row(store, job_id)["status"] for job_id in ("first", "second")] == ["FAILURE", "FAILURE"]


@pytest.mark.parametrize("fails", [False, True], ids=["of one that works", "of one whose outcome is refused"])
@pytest.mark.parametrize("way", [settle, settle_free])
def test_each_way_to_write_an_outcome_finds_it(
    store: Store, worker: TestWorker, way: Callable[..., Round], fails: bool
) -> None:
    for _ in range(4):
        enqueued(store)
    jobs = worker.claim(4)
    change_lease(store, jobs[1])
    change_lease(store, jobs[2])
    outcomes = [succeeded(job) for job in jobs]
    if fails:  # the database has something against one of them: they are written in halves
        outcomes[3] = Succeeded(jobs[3].id, jobs[3].lease, '"\\u0000', 0.0)
    changed = {jobs[1].id, jobs[2].id}
    claim = Claim(worker.id, str(uuid4()), ["celery"], 1)
    for each in (None, claim):
        assert way(worker.session, outcomes, each, ()).astray == changed


def test_an_error_forgets_nothing(
    store: Store, worker: TestWorker, holding: Holding, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = gone_astray(store, worker, holding)

    def away(*_: object) -> None:
        raise OperationalError("the database is away")

    with monkeypatch.context() as patch:
        patch.setattr(strays, "settle_in_time", away)
        with pytest.raises(OperationalError):
            take_back(worker, holding)
    assert holding.astray == {job.id}
    assert take_back(worker, holding)


def test_an_error_that_nobody_expects_ends_no_worker(
    store: Store,
    worker: TestWorker,
    holding: Holding,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It would end each worker in turn; the job is tried again, and nothing says that others may run now."""
    job = gone_astray(store, worker, holding)

    def fail(*_: object) -> None:
        raise ValueError("something in a row")

    with monkeypatch.context() as patch:
        patch.setattr(strays, "settle_in_time", fail)
        assert not take_back(worker, holding)
    assert "cannot be ended, and is tried again: something in a row" in caplog.text
    assert holding.astray == {job.id}
    assert take_back(worker, holding)
    assert status(store, job) == "PENDING"


def test_one_that_the_database_refuses_keeps_nothing_else_from_being_done(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A trigger of the user's does. Dead workers are looked for all the same, and the rounds go on."""
    with opened(postgres_url) as store, running_rounds(store, heartbeat_seconds=0.2) as running:
        enqueued(store)
        job = running.take()
        change_lease(store, job)
        run_sql(store, REFUSES)
        run_sql(store, TRIGGER)
        running.rounds.complete(succeeded(job))
        wait_until(lambda: caplog.text.count("cannot be ended, and is tried again") > 1, what="the next try")
        dead = TestWorker(store, lease_seconds=0.1)
        enqueued(store, "another")
        assert dead.claim_one().id == "another"
        running.rounds.want(1)
        wait_until(lambda: running.has_claimed, what="what the dead worker held")
        (again,) = running.rounds.take_claimed()
        assert again.id == "another"
        run_sql(store, "DROP TRIGGER refuses ON dbqueue_jobs")
        run_sql(store, "DROP FUNCTION refuses")
        running.rounds.complete(succeeded(again))
        wait_until(lambda: status(store, job) == "PENDING", what="its end")
        dead.close()


REFUSES = """
CREATE FUNCTION refuses() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'no'; END $$"""
TRIGGER = """
CREATE TRIGGER refuses BEFORE UPDATE ON dbqueue_jobs FOR EACH ROW
WHEN (old.id <> 'another' AND new.status <> 'STARTED') EXECUTE FUNCTION refuses()"""


def test_one_whose_outcome_no_row_could_take_is_found_as_well(postgres_url: str) -> None:
    """The failure in its place has the lease of the run, too."""
    with opened(postgres_url) as store:
        worker = TestWorker(store)
        enqueued(store)
        job = worker.claim_one()
        change_lease(store, job)
        outcomes: list[Outcome] = [Succeeded(job.id, job.lease, '"no\0text"', 0.0)]
        assert settle(worker.session, outcomes, None, ()).astray == {job.id}
        worker.close()


def test_a_new_connection_hands_none_back_that_has_run(
    store: Store, worker: TestWorker, holding: Holding, caplog: pytest.LogCaptureFixture
) -> None:
    """What a lost claim has taken never ran, and may run, whatever its task says; this one has."""
    job = gone_astray(store, worker, holding, redeliver=False)
    enqueued(store)
    running = worker.claim_one()
    holding.take([running])
    change_lease(store, running)  # it has no outcome yet
    run_sql(store, "UPDATE dbqueue_jobs SET redeliver = :no", no=False)
    session = LastingSession(store, NAME, holding, restored=lambda lost: None)
    with caplog.at_level("WARNING"):
        session.surely(lambda current: current.anything_held())
        session._look_again_at = 0.0
        session.surely(session.hand_back_late_claims)
    assert holding.astray == {job.id, running.id}
    assert [status(store, each) for each in (job, running)] == ["STARTED", "STARTED"]
    assert take_back(worker, holding)
    assert [status(store, each) for each in (job, running)] == ["FAILURE", "FAILURE"]
    session.close()


def test_a_locked_one_is_left_for_the_next_time(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """(On SQLite a lock is the whole file's, and no call goes on beside it.)"""
    monkeypatch.setattr(settling, "MAX_WAITS", 1)
    with opened(postgres_url) as store, psycopg.connect(libpq_url(postgres_url)) as somebody:
        worker, holding = TestWorker(store), Holding()
        holding.worker_id = worker.id
        jobs = [gone_astray(store, worker, holding) for _ in range(2)]
        somebody.execute("SELECT FROM dbqueue_jobs WHERE id = %s FOR UPDATE", [jobs[0].id])
        assert take_back(worker, holding)
        assert [status(store, job) for job in jobs] == ["STARTED", "PENDING"]
        assert holding.astray == {jobs[0].id}
        assert not take_back(worker, holding)
        somebody.rollback()
        assert take_back(worker, holding)
        assert status(store, jobs[0]) == "PENDING"
        worker.close()


def test_one_whose_lease_is_changed_again_is_left_for_the_next_time(
    store: Store, worker: TestWorker, holding: Holding, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = gone_astray(store, worker, holding)
    with then(monkeypatch, worker, lambda: change_lease(store, job)):
        assert not take_back(worker, holding)
    assert holding.astray == {job.id}
    assert take_back(worker, holding)
    assert status(store, job) == "PENDING"


def test_its_worker_takes_it_back_and_runs_it(store: Store) -> None:
    with running_rounds(store, heartbeat_seconds=0.2) as running:
        enqueued(store)
        job = running.take()
        change_lease(store, job)
        running.rounds.complete(succeeded(job))
        running.rounds.want(1)
        wait_until(lambda: running.has_claimed, what="the job's next run")
        (again,) = running.rounds.take_claimed()
        assert (again.id, again.losses) == (job.id, 1)
        running.rounds.complete(succeeded(again))


@pytest.mark.parametrize("locked", [False, True], ids=["free", "locked"])
def test_a_worker_that_stops_leaves_none(postgres_url: str, locked: bool) -> None:
    """Where it cannot, its row stays open: whoever finds it dead takes its jobs back."""
    with opened(postgres_url) as store, psycopg.connect(libpq_url(postgres_url)) as somebody:
        with running_rounds(store) as running:  # which looks for nothing again in the next ten minutes
            enqueued(store)
            job = running.take()
            change_lease(store, job)
            running.rounds.complete(succeeded(job))
            wait_until(lambda: running.rounds._holding.astray == {job.id}, what="what its outcome has found")
            if locked:
                somebody.execute("SELECT FROM dbqueue_jobs WHERE id = %s FOR UPDATE", [job.id])
        closed = f"SELECT closed_at IS NOT NULL FROM dbqueue_workers WHERE id = '{running.worker_id}'"
        assert somebody.execute(closed).fetchone() == (not locked,)
        assert status(store, job) == ("STARTED" if locked else "PENDING")


def test_the_sessions_of_both_databases_tell_the_same(store: Store, worker: TestWorker) -> None:
    enqueued(store)
    job = worker.claim_one()
    run_sql(store, "UPDATE dbqueue_jobs SET losses = 2, redeliver = :no", no=False)
    session: WorkSession = worker.session
    (stray,) = session.strays(worker.id, [job.id])
    assert stray[:2] == (job.id, job.lease)
    assert (stray.redeliver, stray.losses, stray.successors) == (False, 2, False)
    assert session.strays("another", [job.id]) == session.strays(worker.id, ["another"]) == []


def hide(store: Store, job: ClaimedJob) -> None:
    """As row-level security does, or a restore that has not come to this row."""
    run_sql(store, "UPDATE dbqueue_jobs SET id = 'hidden', worker = 'nobody' WHERE id = :id", id=job.id)


def show(store: Store, worker: TestWorker, job: ClaimedJob) -> None:
    run_sql(
        store, "UPDATE dbqueue_jobs SET id = :id, worker = :worker WHERE id = 'hidden'", id=job.id, worker=worker.id
    )


def absent(store: Store, worker: TestWorker, holding: Holding) -> ClaimedJob:
    """A job whose row was hidden when its outcome came."""
    enqueued(store)
    job = worker.claim_one()
    hide(store, job)
    ended(worker, holding, job)
    return job


def test_the_outcome_is_kept_for_a_row_that_was_only_hidden(
    store: Store, worker: TestWorker, holding: Holding, caplog: pytest.LogCaptureFixture
) -> None:
    job = absent(store, worker, holding)
    assert "its outcome (Succeeded) is dropped, unless its row is there again" in caplog.text
    assert not take_back(worker, holding)
    show(store, worker, job)
    assert take_back(worker, holding)
    assert (row(store, job.id)["status"], str(row(store, job.id)["result"])) == ("SUCCESS", "1")
    assert not holding.absent.ids
    assert f"The row of job {job.id} is there again" in caplog.text


def test_the_outcome_is_kept_while_somebody_has_the_row_locked_that_was_hidden(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "MAX_WAITS", 1)
    with opened(postgres_url) as store, psycopg.connect(libpq_url(postgres_url)) as somebody:
        worker, holding = TestWorker(store), Holding()
        holding.worker_id = worker.id
        job = absent(store, worker, holding)
        show(store, worker, job)
        somebody.execute("SELECT FROM dbqueue_jobs WHERE id = %s FOR UPDATE", [job.id])
        assert not take_back(worker, holding)
        somebody.rollback()
        assert take_back(worker, holding)
        assert (row(store, job.id)["status"], row(store, job.id)["losses"]) == ("SUCCESS", 0)
        assert not holding.absent.ids
        worker.close()


def test_the_outcome_is_kept_for_a_row_that_is_hidden_again(
    store: Store, worker: TestWorker, holding: Holding, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = absent(store, worker, holding)
    show(store, worker, job)
    with then(monkeypatch, worker, lambda: hide(store, job)):
        take_back(worker, holding)
    show(store, worker, job)
    assert take_back(worker, holding)
    assert (row(store, job.id)["status"], row(store, job.id)["losses"]) == ("SUCCESS", 0)


def test_a_hidden_row_under_another_lease_is_a_lost_run(store: Store, worker: TestWorker, holding: Holding) -> None:
    job = absent(store, worker, holding)
    show(store, worker, job)
    change_lease(store, job)
    assert take_back(worker, holding)
    assert (row(store, job.id)["status"], row(store, job.id)["losses"]) == ("PENDING", 1)


def test_a_hidden_row_is_not_handed_back_as_one_that_never_ran(
    store: Store, worker: TestWorker, holding: Holding
) -> None:
    job = absent(store, worker, holding)
    show(store, worker, job)
    worker.session.hand_back(worker.id, holding.known)
    assert status(store, job) == "STARTED"


def test_a_row_is_looked_for_as_long_as_a_restore_may_take(
    store: Store, worker: TestWorker, holding: Holding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dbqueue.worker.claiming.absent.LOOK_SECONDS", 0.0)
    absent(store, worker, holding)
    assert not take_back(worker, holding)
    assert not holding.absent.ids


def test_no_more_rows_are_looked_for_than_so_many(
    store: Store, worker: TestWorker, holding: Holding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dbqueue.worker.claiming.absent.MOST", 1)
    first = absent(store, worker, holding)
    show(store, worker, first)
    second = absent(store, worker, holding)
    assert list(holding.absent.ids) == [second.id]


def test_a_run_whose_row_is_hidden_when_its_worker_reconnects_is_lost(
    store: Store, worker: TestWorker, holding: Holding
) -> None:
    enqueued(store)
    job = worker.claim_one()
    holding.take([job])
    hide(store, job)
    session = LastingSession(store, NAME, holding, restored=lambda lost: None)
    session.surely(lambda current: current.anything_held())
    show(store, worker, job)
    assert take_back(worker, holding)
    assert (row(store, job.id)["status"], row(store, job.id)["losses"]) == ("PENDING", 1)
    session.close()


def test_a_worker_that_stops_leaves_no_row_of_its_own_for_a_deleted_job(store: Store) -> None:
    with running_rounds(store) as running:
        enqueued(store)
        job = running.take()
        run_sql(store, "DELETE FROM dbqueue_jobs WHERE id = :id", id=job.id)
        running.rounds.complete(succeeded(job))
        wait_until(lambda: running.rounds._holding.absent.ids, what="what its outcome has not found")
    with store.connect() as connection:
        closed = connection.execute(sa.text("SELECT closed_at IS NOT NULL FROM dbqueue_workers")).scalars().all()
    assert closed == [True]


def test_a_worker_that_stops_leaves_none_that_it_has_claimed_at_the_end(store: Store) -> None:
    """Too late for its supervisor, so that it goes back; but its lease is another."""
    with running_rounds(store) as running:
        job_id = enqueued(store)
        running.rounds.want(1)
        wait_until(lambda: running.has_claimed, what="the claim")
        run_sql(store, "UPDATE dbqueue_jobs SET lease = :lease", lease=str(uuid4()))
    found = row(store, job_id)
    assert (found["status"], found["losses"]) == ("PENDING", 1)


def test_a_worker_that_stops_after_a_break_hands_back_what_a_lost_claim_took(store: Store, worker: TestWorker) -> None:
    """It may have come late: after the looks that follow a new connection. Nobody rescues jobs of a closed row."""
    with running_rounds(store) as running:
        running.rounds._session._reconnected_at = 0.0
        job_id = enqueued(store)
        worker.claim_one()
        run_sql(store, "UPDATE dbqueue_jobs SET worker = :worker", worker=running.worker_id)
    found = row(store, job_id)
    assert (found["status"], found["losses"]) == ("PENDING", 0)
