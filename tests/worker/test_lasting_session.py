"""The session of the rounds over broken connections: how often it tries, and what it puts right."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from types import SimpleNamespace
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy as sa

from dbqueue.errors import AccessDenied, OperationalError, SchemaError
from dbqueue.jobs import Released, Succeeded
from dbqueue.store import open_store
from dbqueue.store.base import Store
from dbqueue.store.postgres.driver import translated
from dbqueue.store.postgres.work_session import PostgresWorkSession
from dbqueue.store.records import Claim
from dbqueue.store.sessions import WorkSession
from dbqueue.worker.claiming import lasting_session
from dbqueue.worker.claiming.holding import Holding
from dbqueue.worker.claiming.lasting_session import (
    FIRST_RETRY_SECONDS,
    LAST_RETRY_SECONDS,
    LATE_COMMIT_SECONDS,
    LastingSession,
)
from tests.servers import libpq_url
from tests.stores import TestWorker, enqueued, opened, row, run_sql
from tests.waiting import wait_until

LABEL = "w@test"


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    with opened(database_url) as store:
        yield store


def test_it_tries_again_ever_more_seldom_but_often_enough(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not all workers at the same moment: each pause is drawn from half of its longest to all of it."""
    pauses: list[float] = []
    monkeypatch.setattr(lasting_session, "time", SimpleNamespace(sleep=pauses.append, monotonic=time.monotonic))
    restored: list[bool] = []
    tries: list[WorkSession] = []
    session = LastingSession(store, LABEL, Holding(), restored=lambda lost: restored.append(not lost))

    def ask(session: WorkSession) -> str:
        tries.append(session)
        if len(tries) <= 12:
            raise OperationalError("the database is away")
        return "answer"

    assert session.surely(ask) == "answer"
    longest = [min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2**number) for number in range(12)]
    assert all(most / 2 <= pause <= most for pause, most in zip(pauses, longest, strict=True))
    assert any(earlier != later for earlier, later in pairwise(pauses[-5:]))
    assert len(restored) == 13, "each time over a new connection"
    session.close()


def test_one_that_may_leave_does_not_try_again(store: Store) -> None:
    """But for once: the connection alone may have broken."""
    tries: list[WorkSession] = []
    session = LastingSession(store, LABEL, Holding(), restored=lambda lost: None, may_leave=lambda: True)

    def ask(session: WorkSession) -> str:
        tries.append(session)
        if len(tries) != 2:
            raise OperationalError("the database is away")
        return "answer"

    assert session.surely(ask) == "answer"
    with pytest.raises(OperationalError, match="the database is away"):
        session.surely(ask)
    assert (len(tries), session.current) == (4, None)


def test_what_a_new_connection_puts_right(store: Store) -> None:
    worker, rival = TestWorker(store), TestWorker(store)
    ids = [enqueued(store) for _ in range(7)]
    by_id = {job.id: job for job in worker.claim(7)}
    runs, forgotten, taken, done, over, answered, unseen = (by_id[each] for each in ids)
    holding = Holding()
    holding.worker_id = worker.id
    holding.take([runs, forgotten, taken, done, over, answered])
    # What a crash of the server forgets looks like this, and others may run it, or have done so since; what a
    # transactional task has ended itself looks like that.
    worker.settle(*(Released(job.id, job.lease, job.ready_at) for job in (taken, done)))
    (ended,) = [job for job in rival.claim() if job.id == done.id]
    rival.settle(Succeeded(ended.id, ended.lease, "1", 0.0))
    worker.settle(*(Released(job.id, job.lease, job.ready_at) for job in (forgotten, answered)))
    worker.settle(Succeeded(over.id, over.lease, "1", 0.0))
    holding.outcomes.append(Succeeded(answered.id, answered.lease, "1", 0.0))
    lost: list[tuple[str, str]] = []
    session = LastingSession(store, LABEL, holding, restored=lost.extend)
    before = session.has_broken
    assert session.surely(lambda current: current.anything_held()) is False
    assert (before, session.has_broken) == (False, True)
    assert lost == [(job.id, job.lease) for job in (forgotten, taken, done)]
    assert holding.leases.keys() == {runs.id, over.id, answered.id}
    # The reply to its claim was lost: it is nobody's.
    assert [row(store, job.id)["status"] for job in (runs, unseen)] == ["STARTED", "PENDING"]
    assert row(store, taken.id)["worker"] == rival.id
    session.close()
    worker.close()
    rival.close()


def test_it_says_once_what_is_wrong_and_how_many_jobs_were_handed_back(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each error once, however often it is met; and of all its connections what they have handed back."""
    monkeypatch.setattr(lasting_session, "time", SimpleNamespace(sleep=lambda _: None, monotonic=time.monotonic))
    worker, holding = TestWorker(store), Holding()
    ids = [enqueued(store) for _ in range(2)]
    worker.claim(2)  # of which no answer came
    holding.worker_id = worker.id
    session = LastingSession(store, LABEL, holding, restored=lambda lost: None)
    errors = iter(["the database is away", "the database is away", "its disk is full", None])

    def ask(session: WorkSession) -> None:
        if (error := next(errors)) is not None:
            raise OperationalError(error)

    with caplog.at_level("WARNING"):
        session.surely(ask)
    told = [message.partition(".")[0] for message in caplog.messages]
    assert told == [
        "the database is away",
        "its disk is full",
        "The database works again; 2 jobs of a lost claim were handed back",
    ]
    assert [row(store, each)["status"] for each in ids] == ["PENDING", "PENDING"]
    session.close()
    worker.close()


def test_late_claims_are_looked_for_more_and_more_rarely(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look reads the whole table. The last one is when no claim can be under way any more."""
    now = 1000.0
    monkeypatch.setattr(lasting_session, "time", SimpleNamespace(sleep=time.sleep, monotonic=lambda: now))
    worker, looks = TestWorker(store), list[float]()
    holding = Holding()
    holding.worker_id = worker.id
    session = LastingSession(store, LABEL, holding, restored=lambda lost: None)
    session.surely(lambda current: current.anything_held())
    for _ in range(60):  # each ten seconds, as dead workers are looked for
        now += 10.0
        late = enqueued(store)
        worker.claim_one()
        session.hand_back_late_claims(worker.session)
        if row(store, late)["status"] == "PENDING":
            looks.append(now - 1000.0)
        run_sql(store, "DELETE FROM dbqueue_jobs")
    assert looks == [10, 20, 40, 80, 160]
    assert looks[-1] > LATE_COMMIT_SECONDS > looks[-2]
    session.close()
    worker.close()


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Nothing in a cycle is closed by the collector: a worker's comes seldom."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def admin(postgres_url: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with psycopg.connect(libpq_url(postgres_url), autocommit=True) as admin:
        yield admin


def has_no_session(admin: psycopg.Connection[tuple[object, ...]]) -> bool:
    query = "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE %s AND datname = current_database()"
    return admin.execute(query, [f"dbqueue {LABEL}%"]).fetchone() is None


def pausing(monkeypatch: pytest.MonkeyPatch, pause: Callable[[float], None]) -> None:
    """Call this between two tries, instead of waiting."""
    monkeypatch.setattr(lasting_session, "time", SimpleNamespace(sleep=pause, monotonic=time.monotonic))


@pytest.mark.usefixtures("uncollected")
def test_a_new_connection_is_closed_where_nothing_can_be_put_right(
    postgres_url: str, admin: psycopg.Connection[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that may only be read takes each connection, and hands nothing back."""
    read_only = f"ALTER DATABASE {sa.make_url(postgres_url).database} SET default_transaction_read_only ="
    tries: list[float] = []

    def look(seconds: float) -> None:
        tries.append(seconds)
        wait_until(lambda: has_no_session(admin), what="the end of the session")
        if len(tries) == 3:
            admin.execute(f"{read_only} off".encode())

    pausing(monkeypatch, look)
    with opened(postgres_url) as store:
        admin.execute(f"{read_only} on".encode())
        session = LastingSession(store, LABEL, Holding(), restored=lambda lost: None)
        assert session.surely(lambda current: current.anything_held()) is False
        assert len(tries) == 3
        session.close()


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("kind", ["work_session", "watch_session"])
@pytest.mark.parametrize("statement", ["LISTEN", "relkind"])
def test_a_session_that_cannot_be_made_ready_is_closed(
    postgres_url: str,
    admin: psycopg.Connection[tuple[object, ...]],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    statement: str,
) -> None:
    """Whichever of its first statements fails."""
    execute, asked = psycopg.Connection.execute, []

    def refused(
        driver: psycopg.Connection[tuple[object, ...]], query: str, *arguments: object, **options: object
    ) -> object:
        if str(query).lstrip().startswith(("LISTEN", "SELECT relkind")):
            asked.append(query)
        return execute(driver, "SELECT 1 / 0" if statement in str(query) else query, *arguments, **options)  # type: ignore[call-overload]

    with opened(postgres_url) as store:
        monkeypatch.setattr(psycopg.Connection, "execute", refused)
        if kind == "watch_session" and statement == "relkind":
            store.watch_session(LABEL).close()
        else:
            with pytest.raises(psycopg.errors.DivisionByZero):
                getattr(store, kind)(LABEL)
        monkeypatch.undo()
        wait_until(lambda: has_no_session(admin), what="the end of the session")


@pytest.mark.parametrize("pooler", [False, True])
def test_a_conflict_is_tried_again_on_the_same_connection(
    postgres_url: str, admin: psycopg.Connection[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch, pooler: bool
) -> None:
    """A round that waited too long for somebody's lock. What it may have claimed before that is handed back."""
    store = open_store(postgres_url, shown_url=postgres_url, pooler=pooler)
    worker = TestWorker(store)
    done, claimed_unheard = enqueued(store), enqueued(store)
    first, _ = worker.claim(2)
    holding = Holding()
    holding.worker_id = worker.id
    holding.take([first])
    outcomes, used = [Succeeded(first.id, first.lease, "1", 0.0)], list[WorkSession]()

    def write(session: WorkSession) -> None:
        assert isinstance(session, PostgresWorkSession)
        used.append(session)
        session._driver.execute("SET lock_timeout = '100ms'")
        session.round(outcomes, Claim(worker.id, str(uuid4()), ["nothing here"], 1))

    with store.connect() as other:
        other.execute(sa.text("SELECT FROM dbqueue_jobs WHERE id = :id FOR UPDATE"), {"id": done})
        pausing(monkeypatch, lambda seconds: other.rollback() if len(used) == 2 else None)
        session = LastingSession(store, LABEL, holding, restored=lambda lost: None)
        session.current = store.work_session(LABEL)
        session.surely(write)
    assert len(used) == 3
    assert len(set(map(id, used))) == 1
    assert not session.has_broken
    assert (row(store, done)["status"], row(store, claimed_unheard)["status"]) == ("SUCCESS", "PENDING")
    session.close()
    worker.close()
    store.close()


def test_a_conflict_inside_of_a_transaction_needs_another_connection(postgres_url: str) -> None:
    """On this one every statement would be refused, or would belong to what was given up."""
    with opened(postgres_url) as store:
        job_id, session = enqueued(store), store.work_session(LABEL)
        assert isinstance(session, PostgresWorkSession)
        with store.connect() as other:
            other.execute(sa.text("SELECT FROM dbqueue_jobs FOR UPDATE"))
            session._driver.execute("BEGIN")
            session._driver.execute("SET LOCAL lock_timeout = '50ms'")
            with pytest.raises(OperationalError) as conflict, translated():
                session._driver.execute("SELECT FROM dbqueue_jobs WHERE id = %s FOR UPDATE", [job_id])
        assert not session.survives(conflict.value)
        session._driver.execute("ROLLBACK")
        assert session.survives(conflict.value)
        assert not session.survives(OperationalError("no conflict"))
        session._driver.execute("BEGIN")
        assert not session.survives(conflict.value)
        session.close()


def test_what_is_tried_again_and_again_may_fail(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """For something in a row, that is; where the database itself says no, that is another matter."""
    session = LastingSession(store, LABEL, Holding(), restored=lambda lost: None)

    def fail(error: Exception) -> Callable[[WorkSession], int]:
        def operation(_: WorkSession) -> int:
            raise error

        return operation

    for text in ("one", "one", "another", "another"):
        assert session.tried("Asking", fail(ValueError(text))) is None
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert [str(record.exc_info[1]) for record in errors if record.exc_info] == ["one", "another"]
    with pytest.raises(SchemaError):
        session.tried("Asking", fail(SchemaError("no tables")))
    assert session.tried("Asking", lambda _: 5) == 5
    session.close()


@pytest.mark.parametrize("error", [SchemaError("no tables"), AccessDenied("no right")])
def test_what_has_worked_is_tried_again_until_it_does(store: Store, error: Exception) -> None:
    """Somebody is at work on the tables: over new connections, for a new one may have another setting."""
    session = LastingSession(store, LABEL, Holding(), restored=lambda lost: None)
    used: list[WorkSession] = []

    def ask(current: WorkSession) -> int:
        used.append(current)
        if len(used) < 3:
            raise error
        return 5

    with pytest.raises(type(error)):
        session.surely(ask)
    assert session.surely(lambda current: current.anything_held()) is False
    used.clear()
    assert session.surely(ask) == 5
    assert len(set(map(id, used))) == 3
    session.close()


@pytest.mark.parametrize("error", [SchemaError("no tables"), AccessDenied("no right")])
def test_what_is_away_for_long_is_no_passing_trouble(
    store: Store, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """A worker that waited for ever would beat, and nobody would rescue its jobs."""
    monkeypatch.setattr("dbqueue.worker.claiming.lasting_session.AWAY_SECONDS", 0.3)
    session = LastingSession(store, LABEL, Holding(), restored=lambda lost: None)
    session.surely(lambda current: current.anything_held())
    tries = []

    def ask(current: WorkSession) -> None:
        tries.append(current)
        raise error

    with pytest.raises(type(error)):
        session.surely(ask)
    assert len(tries) > 1
    session.close()
