"""What PostgreSQL may say at any time: a caller's operation is tried again, or ends with one clear error in time."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from dbqueue import urls
from dbqueue.errors import OperationalError
from dbqueue.jobs import new_job_id
from dbqueue.store import engine, open_store, queues, revoking, schedules, trouble
from dbqueue.store.postgres.store import PostgresStore
from dbqueue.store.schedules import ScheduleRow, Step
from tests.contract.schedules import add
from tests.servers import libpq_url
from tests.stores import TestWorker, count, enqueued, new_job, row
from tests.waiting import wait_until


@pytest.fixture
def store(postgres_url: str) -> Iterator[PostgresStore]:
    store = open_store(postgres_url, shown_url="", pool_size=2)
    assert isinstance(store, PostgresStore)
    yield store
    store.close()


@pytest.fixture
def other(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(libpq_url(postgres_url)) as connection:
        yield connection


def waits_for_a_lock(connection: psycopg.Connection[Any]) -> bool:
    query = (
        "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database WHERE NOT granted AND datname = %s"
    )
    row = connection.execute(query, [connection.info.dbname]).fetchone()
    return row is not None and row[0] > 0


def waits_for(connection: psycopg.Connection[Any]) -> bool:
    """Whether somebody waits for the end of its transaction."""
    query = "SELECT count(*) FROM pg_locks WHERE NOT granted AND transactionid::text = pg_current_xact_id()::text"
    row = connection.execute(query).fetchone()
    return row is not None and row[0] > 0


def test_an_enqueue_waits_for_an_applications_lock(store: PostgresStore, other: psycopg.Connection[Any]) -> None:
    other.execute("LOCK TABLE dbqueue_jobs")
    job_id = new_job_id()
    thread = threading.Thread(target=store.enqueue, args=([new_job(job_id)],))
    thread.start()
    wait_until(lambda: waits_for_a_lock(other))
    other.commit()
    thread.join(60)
    assert count(store, f"id = '{job_id}'") == 1


def test_a_lock_that_is_held_on_ends_the_enqueue_in_time(
    postgres_url: str, other: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dbqueue.store.engine.LOCK_SECONDS", 0.05)
    store = open_store(postgres_url, shown_url="")
    other.execute("SET LOCAL idle_in_transaction_session_timeout = '60s'")  # an enqueue that waits on fails then
    other.execute("LOCK TABLE dbqueue_jobs")
    with pytest.raises(OperationalError, match="lock timeout"):
        store.enqueue([new_job()])
    other.rollback()
    enqueued(store)
    assert count(store) == 1
    store.close()


@pytest.mark.parametrize(("setting", "own"), [("lock_timeout", "10s"), ("idle_in_transaction_session_timeout", "1min")])
def test_the_roles_own_bounds_are_kept(postgres_url: str, setting: str, own: str) -> None:
    for options, seconds in ((f"?options=-c%20{setting}%3D7s", "7s"), ("", own)):
        store = open_store(f"{postgres_url}{options}", shown_url="")
        with store.connect() as connection:
            assert connection.scalar(sa.text(f"SHOW {setting}")) == seconds
        store.close()


def test_what_a_process_has_locked_that_stands_still_is_free_again(
    postgres_url: str, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A beat that was stopped, or cut off, while it fired an entry: each other would pass that entry by for ever."""
    add(store)
    # Time enough for a busy machine to come as far as the standstill.
    soon = engine.OWN_SETTINGS.replace(f"{trouble.IDLE_SECONDS}s", "2s")
    standing, resumed = threading.Event(), threading.Event()
    raised: list[BaseException] = []

    def stand_still(row: ScheduleRow, now: datetime) -> Step:
        standing.set()
        resumed.wait(60)
        return Step(None, "a beat that comes too late")

    def fire() -> None:
        try:
            schedules.advance(stopped, "tick", stand_still)
        except OperationalError as error:
            raised.append(error)

    with monkeypatch.context() as patched:
        patched.setattr(engine, "OWN_SETTINGS", soon)
        stopped = open_store(postgres_url, shown_url="", pool_size=1)
        with stopped.connect():
            pass
    thread = threading.Thread(target=fire)
    thread.start()
    assert standing.wait(60)
    step = Step(None, "another beat")
    wait_until(lambda: schedules.advance(store, "tick", lambda row, now: step), what="the lock's end")
    resumed.set()
    thread.join(60)
    found = schedules.find(store, "tick")
    assert found is not None
    assert (found.planned_from, len(raised)) == ("another beat", 1)
    stopped.close()


def test_the_victim_of_a_deadlock_runs_again(store: PostgresStore, other: psycopg.Connection[Any]) -> None:
    first, second = enqueued(store), enqueued(store)
    other.execute("SET deadlock_timeout = '1min'")  # it is not to be the victim
    lock = "SELECT id FROM dbqueue_jobs WHERE id = %s FOR UPDATE"
    other.execute(lock, [first])
    rival = threading.Thread(target=other.execute, args=(lock, [second]))
    tries: list[str] = []

    def operation(driver: psycopg.Connection[Any]) -> str:
        if tries:
            rival.join(60)
            other.rollback()
        with driver.transaction():
            driver.execute(lock, [second])
            if not tries:
                rival.start()
            tries.append("try")
            driver.execute(lock, [first])
        return "done"

    assert store._run(operation) == "done"
    assert len(tries) == 2


def test_a_revoke_that_is_the_victim_of_a_deadlock_runs_again(
    store: PostgresStore, other: psycopg.Connection[Any]
) -> None:
    """As with a program that enqueues, in its own transaction, what is revoked in the same moment."""
    other.execute("SET deadlock_timeout = '1min'")
    enqueue = "INSERT INTO dbqueue_jobs (id, task) VALUES (%s, 'pack')"
    other.execute(enqueue, ["b"])
    found: list[revoking.Revoked] = []
    thread = threading.Thread(target=lambda: found.append(revoking.revoke(store, ["a", "b"])))
    thread.start()
    wait_until(lambda: waits_for(other))
    other.execute(enqueue, ["a"])  # waits for the revoke, which waits for it
    other.commit()
    thread.join(60)
    assert [each.ended for each in found] == [{"a": "pack", "b": "pack"}]


def test_a_revoke_sees_a_job_that_is_enqueued_meanwhile(store: PostgresStore, other: psycopg.Connection[Any]) -> None:
    """The row that would stand in its way came too late; and it tells of those too that it had ended before."""
    store.enqueue([new_job("waits")])
    other.execute("INSERT INTO dbqueue_jobs (id, task) VALUES ('a', 'pack')")
    found: list[revoking.Revoked] = []
    thread = threading.Thread(target=lambda: found.append(revoking.revoke(store, ["a", "waits"])))
    thread.start()
    wait_until(lambda: waits_for(other))
    other.commit()
    thread.join(60)
    assert [each.ended for each in found] == [{"a": "pack", "waits": "shop.pack"}]


def test_a_revoke_sees_a_job_that_is_enqueued_between_two_of_its_statements(
    store: PostgresStore, other: psycopg.Connection[Any]
) -> None:
    """It ended all that waited before that, and the look at what is there finds one more."""

    looks: list[str] = []

    def enqueue(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if "is_left" in statement:
            looks.append(statement)
            if len(looks) == 1:
                other.execute("INSERT INTO dbqueue_jobs (id, task) VALUES ('a', 'pack')")
                other.commit()

    sa.event.listen(store.engine, "before_cursor_execute", enqueue)
    assert revoking.revoke(store, ["a"]).ended == {"a": "pack"}


def test_a_revoke_sees_a_job_that_begins_between_two_of_its_statements(
    store: PostgresStore, other: psycopg.Connection[Any]
) -> None:
    """It was not there when jobs that run were marked: it would be run again, and not be ended by its worker."""
    worker, claimed = TestWorker(store), list[str]()

    def meanwhile(connection: object, cursor: object, statement: str, *_: object) -> None:
        if "is_left" in statement and not claimed:
            other.execute("INSERT INTO dbqueue_jobs (id, task) VALUES ('a', 'pack')")
            other.commit()
            claimed.append(worker.claim_one().id)

    sa.event.listen(store.engine, "before_cursor_execute", meanwhile)
    found = revoking.revoke(store, ["a"])
    assert claimed == ["a"]
    assert not found.ended
    assert found.running == {"a"}
    assert row(store, "a")["revoked_at"] is not None
    worker.close()


def test_a_queue_that_two_pause_in_the_same_moment(store: PostgresStore, other: psycopg.Connection[Any]) -> None:
    other.execute("INSERT INTO dbqueue_paused_queues (queue) VALUES ('mail')")
    failed: list[BaseException] = []

    def pause() -> None:
        try:
            queues.pause(store, ["celery", "mail"])
        except BaseException as error:  # noqa: BLE001 - it is asked for
            failed.append(error)

    thread = threading.Thread(target=pause)
    thread.start()
    wait_until(lambda: waits_for(other))
    other.commit()
    thread.join(60)
    assert (failed, set(queues.paused(store))) == ([], {"celery", "mail"})


def test_a_primary_that_has_become_a_standby_is_left(store: PostgresStore) -> None:
    """Its pooled connections stand, and take no writes: they are closed, and the next goes to whoever does."""
    enqueued(store)
    pooled = store.engine.raw_connection()
    driver: Any = pooled.driver_connection
    driver.execute("SET default_transaction_read_only = on")
    pid = driver.info.backend_pid
    pooled.close()
    enqueued(store)
    assert count(store) == 2
    assert driver.closed
    with store.connect() as connection:
        assert connection.scalar(sa.text("SELECT pg_backend_pid()")) != pid


def test_a_database_that_takes_no_writes_says_so(store: PostgresStore, other: psycopg.Connection[Any]) -> None:
    other.execute(f"ALTER DATABASE {other.info.dbname} SET default_transaction_read_only = on")
    other.commit()
    with pytest.raises(OperationalError, match="read-only"):
        store.enqueue([new_job()])


def test_a_column_that_is_altered_meanwhile(store: PostgresStore, other: psycopg.Connection[Any]) -> None:
    """The plans that a connection has made until then fit it no more: another makes new ones."""
    worker = TestWorker(store)
    assert not worker.claim()
    job_id = enqueued(store)
    for _ in range(8):  # until the statement is one that the server has prepared
        assert store.fetch([job_id])[job_id].status == "PENDING"
    other.execute("ALTER TABLE dbqueue_jobs ALTER COLUMN task TYPE varchar(200)")
    other.commit()
    assert store.fetch([job_id])[job_id].status == "PENDING"
    with pytest.raises(OperationalError, match="cached plan") as failed:
        worker.claim()
    assert not worker.session.survives(failed.value)
    worker.close()
    worker = TestWorker(store)
    assert worker.claim_one().id == job_id
    worker.close()


def test_a_connection_that_is_not_free_is_waited_for(store: PostgresStore, other: psycopg.Connection[Any]) -> None:
    """Not for ever: the limit of connections is the operator's, and the error tells of it."""
    other.execute("DROP ROLE IF EXISTS dbqueue_crowded")
    other.execute("CREATE ROLE dbqueue_crowded LOGIN SUPERUSER")
    other.execute("ALTER ROLE dbqueue_crowded NOSUPERUSER CONNECTION LIMIT 1")
    other.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO dbqueue_crowded")
    other.commit()
    url = store.engine.url.set(username="dbqueue_crowded").render_as_string(hide_password=False)
    crowded = open_store(url, shown_url="")
    with psycopg.connect(libpq_url(url)) as only:
        with pytest.raises(OperationalError, match="too many connections for role"):
            crowded.enqueue([new_job()])
        failed = threading.Event()
        retried = trouble.Tries.again

        def again(self: trouble.Tries, what: trouble.Trouble | None) -> bool:
            if not failed.is_set():
                failed.set()
                only.close()
                wait_until(lambda: not others_of(other), what="a free connection")
            return retried(self, what)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trouble.Tries, "again", again)
            crowded.enqueue([new_job()])
        assert failed.is_set()
    assert count(store) == 1
    crowded.close()
    wait_until(lambda: not others_of(other), what="the end of its sessions")
    other.execute("DROP OWNED BY dbqueue_crowded")
    other.execute("DROP ROLE dbqueue_crowded")
    other.commit()


def others_of(connection: psycopg.Connection[Any]) -> bool:
    row = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE usename = 'dbqueue_crowded'").fetchone()
    connection.commit()  # a transaction would be told the same again and again
    return row is not None and row[0] > 0


def test_several_hosts_are_tried_in_turn(postgres_url: str) -> None:
    url = sa.make_url(postgres_url)
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        dead = nobody.getsockname()[1]
    several = f"postgresql://{url.username or ''}@127.0.0.1:{dead},{url.host}:{url.port}/{url.database}"
    store = open_store(urls.normalise_url(several), shown_url="")
    assert isinstance(store, PostgresStore)
    enqueued(store)
    assert count(store) == 1
    session = store.work_session("test")
    assert session.eldest_worker() is None
    session.close()
    store.close()


def test_unexpected_errors_are_not_tried_again() -> None:
    tries = trouble.Tries(3)
    assert not tries.again(trouble.trouble_of(psycopg.errors.UniqueViolation("")))
    assert not tries.again(trouble.trouble_of(ValueError()))
    assert [tries.again(trouble.Trouble.LOST) for _ in range(4)] == [True, True, True, False]
