"""A connection between two uses: one answer is still to come, and whatever it is, the next use is right."""

from __future__ import annotations

import contextlib
import gc
import logging
import signal
import socket
import threading
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import psycopg
import pytest
import sqlalchemy as sa
from psycopg.pq import PipelineStatus

from dbqueue.errors import AccessDenied, DuplicateTaskId, OperationalError, SchemaError
from dbqueue.jobs import NewJob, new_job_id
from dbqueue.store import migrate
from dbqueue.store.engine import Access, make_engine
from dbqueue.store.postgres import sql
from dbqueue.store.postgres.driver import Untold
from dbqueue.store.postgres.pool_connection import PoolConnection
from dbqueue.store.postgres.quick_pool import QuickPool
from dbqueue.store.postgres.store import PostgresStore, _InTheWay
from dbqueue.store.records import WorkerInfo
from dbqueue.urls import normalise_url
from tests.servers import libpq_url
from tests.stores import count, enqueued, new_job, opened, row, run_sql
from tests.waiting import wait_until

_given_back: list[PoolConnection] = []


@pytest.fixture
def store(postgres_url: str) -> Iterator[PostgresStore]:
    _given_back.clear()
    with opened(postgres_url) as store:
        sa.event.listen(store.engine, "checkin", lambda connection, record: _given_back.append(connection))
        yield cast(PostgresStore, store)
        _given_back.clear()


def last(store: PostgresStore) -> PoolConnection:
    """The connection that was used last, as it was left."""
    kept = cast(QuickPool, store.engine.pool)._kept
    return cast(PoolConnection, kept[-1].driver_connection) if kept else _given_back[-1]


def prepared(driver: PoolConnection) -> dict[str, str]:
    """The statements of its own that the server keeps for it."""
    found = driver.execute("SELECT name, statement FROM pg_prepared_statements WHERE name LIKE 'dbqueue%'")
    return dict(found.fetchall())


def backends(store: PostgresStore) -> int:
    with psycopg.connect(libpq_url(store.access.url)) as connection:
        found = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND backend_type = 'client backend'"
        ).fetchone()
    assert found is not None
    return int(found[0])


def test_a_thread_that_enqueues_needs_one_connection(store: PostgresStore) -> None:
    for _ in range(3):
        enqueued(store)
        store.enqueue([new_job() for _ in range(60)])
        store.wake()
    assert store.fetch([enqueued(store)])
    wait_until(lambda: backends(store) == 1, what="the end of the connections of other tests")


def test_every_column_arrives_as_it_does_in_a_batch(store: PostgresStore) -> None:
    """The first goes past the driver's own conversions."""
    soon = datetime.now(UTC) + timedelta(seconds=90, microseconds=123456)
    fields: dict[str, Any] = {
        "args": '["\\\\ ä \\" \\n", 1.5]',
        "kwargs": '{"a": null}',
        "headers": '{"h": "é"}',
        "options": '{"shadow": "s"}',
        "priority": -7,
        "group_id": '{g},"\\',
        "parent_id": "p",
        "root_id": "",
        "content_type": "application/x",
        "content": b"\x00\xff'\\",
        "eta": soon,
        "expires_at": soon,
    }
    one, others = new_job(**fields), [new_job(**fields), new_job(**fields)]
    store.enqueue([one])
    store.enqueue(others)
    rows = [{**row(store, job.id), "id": "", "created_at": None} for job in (one, *others)]
    assert rows[0] == rows[1] == rows[2]
    assert bytes(rows[0]["content"]) == fields["content"]
    assert rows[0]["eta"] == soon


@pytest.mark.parametrize("field", ["delay_seconds", "expires_seconds"])
def test_seconds_run_on_the_databases_clock(store: PostgresStore, field: str) -> None:
    options: dict[str, Any] = {field: 1e-3 + 60}
    found = row(store, enqueued(store, **options))
    column = "eta" if field == "delay_seconds" else "expires_at"
    assert found[column] - found["created_at"] == timedelta(seconds=60, milliseconds=1)


def test_a_text_that_the_database_cannot_hold_is_refused(store: PostgresStore) -> None:
    with pytest.raises(psycopg.DataError, match="NUL"):
        enqueued(store, group_id="a\0b")
    assert count(store) == 0
    enqueued(store)
    assert count(store) == 1


def test_a_large_job_goes_out_in_parts(store: PostgresStore) -> None:
    text = "x" * 8_000_000
    job_id = enqueued(store, args=f'["{text}"]')
    assert row(store, job_id)["args"] == [text]


def test_another_encoding_of_the_client(postgres_url: str) -> None:
    with opened(f"{postgres_url}?client_encoding=latin1") as store:
        job_id = enqueued(store, args='["é"]')
        assert store.fetch([job_id])[job_id].args == '["é"]'


def test_an_id_in_use_is_refused_or_the_same_call(store: PostgresStore) -> None:
    enqueued(store, "one", args="[1]")
    enqueued(store, "one", args="[1]")
    with pytest.raises(DuplicateTaskId):
        enqueued(store, "one", args="[2]")
    assert count(store) == 1


def test_each_way_to_enqueue_wakes_and_leaves_one_answer(store: PostgresStore) -> None:
    with psycopg.connect(libpq_url(store.access.url), autocommit=True) as listener:
        listener.execute(sql.LISTEN)
        batch = [new_job(), new_job()]
        for use in (
            lambda: store.enqueue([new_job()]),
            lambda: store.enqueue(batch),
            lambda: store.enqueue([new_job() for _ in range(60)]),
            lambda: store.enqueue([new_job(unique_key="key")]),
            store.wake,
        ):
            use()
            assert last(store).pgconn.pipeline_status == PipelineStatus.ON
            assert len(list(listener.notifies(timeout=5, stop_after=1))) == 1
            with store.connect() as connection:
                assert connection.scalar(sa.text("SELECT 1")) == 1


def test_a_connection_that_breaks_before_its_last_answer_is_read(store: PostgresStore) -> None:
    enqueued(store)
    same = socket.socket(fileno=socket.dup(last(store).fileno()))
    same.shutdown(socket.SHUT_RDWR)
    same.close()
    enqueued(store)
    assert count(store) == 2


def test_a_server_that_ended_the_connection(store: PostgresStore) -> None:
    enqueued(store)
    pid = last(store).info.backend_pid
    with psycopg.connect(libpq_url(store.access.url), autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
    enqueued(store)
    assert count(store) == 2


def test_an_operation_whose_connection_breaks_is_done_again_on_another(store: PostgresStore) -> None:
    used: list[PoolConnection] = []

    def operation(driver: PoolConnection) -> int:
        used.append(driver)
        if len(used) == 1:
            driver.close()
            raise psycopg.OperationalError("gone")
        return len(used)

    assert store._run(operation) == 2
    assert last(store) is used[1] is not used[0]


GONE = psycopg.OperationalError("the connection is gone")
STANDBY = psycopg.errors.ReadOnlySqlTransaction("this server takes no writes any more")
ENDING = psycopg.errors.AdminShutdown("this server is ending")


@pytest.mark.parametrize(
    ("before", "error"),
    [((GONE,), Untold), ((ENDING,), Untold), ((STANDBY,), AccessDenied), ((GONE, STANDBY), Untold)],
    ids=["broken", "ended", "a standby", "broken, then a standby"],
)
def test_a_try_that_may_have_been_done_is_not_denied_by_the_next(
    store: PostgresStore, before: tuple[psycopg.Error, ...], error: type[Exception]
) -> None:
    """The user may not read what would tell. A server that takes no writes has said that it has done nothing."""
    said = iter([*before, psycopg.errors.InsufficientPrivilege("permission denied")])

    def operation(driver: PoolConnection) -> None:
        answer = next(said)
        if answer is GONE:
            driver.close()
        raise answer

    with pytest.raises(error, match="permission denied") as raised:
        store._run(operation)
    assert type(raised.value) is error


@pytest.mark.parametrize(
    ("jobs", "are_there"),
    [
        ([new_job()], True),
        ([new_job(unique_key="k")], True),
        ([new_job(), new_job()], True),
        ([new_job(), new_job(unique_key="k")], False),
        ([new_job(), new_job("of the caller's own")], False),
    ],
    ids=["one", "a unique one", "two", "one may have been left out", "one may be another's"],
)
def test_who_may_not_read_is_told_that_jobs_are_there_if_they_can_be_no_others(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch, jobs: list[NewJob], are_there: bool
) -> None:
    """They are in the way of their second try. And workers are woken, for the first wake-up may be lost, too."""
    jobs = [job if job.id.startswith("of") else job._replace(id=new_job_id()) for job in jobs]
    tries, woken = [GONE, _InTheWay("permission denied")], []

    def lost_and_refused(driver: PoolConnection, *_: object) -> Any:
        error = tries.pop(0)
        if error is GONE:
            driver.close()
        raise error

    monkeypatch.setattr(store, "_enqueue_one", lost_and_refused)
    monkeypatch.setattr(store, "_reply", lambda driver: lambda statement: lost_and_refused(driver))
    monkeypatch.setattr(store, "wake", lambda: woken.append(True))
    with contextlib.nullcontext() if are_there else pytest.raises(Untold):
        store.enqueue(jobs)
    assert (tries, woken) == ([], [True] * are_there)


@pytest.mark.parametrize("answer", ["an answer is left", "no answer is left"])
def test_a_look_after_the_server_ended_the_connection(store: PostgresStore, answer: str) -> None:
    """Nothing is run again where several statements may follow: the connection itself must be a good one."""
    if answer == "an answer is left":
        enqueued(store)
        pid = last(store).info.backend_pid
    else:
        with store.connect() as connection:
            pid = connection.scalar(sa.text("SELECT pg_backend_pid()"))
    with psycopg.connect(libpq_url(store.access.url), autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
    assert count(store) == (answer == "an answer is left")


def test_an_insert_that_fails_leaves_the_connection_as_it_was(store: PostgresStore) -> None:
    enqueued(store)
    driver = last(store)
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        enqueued(store, args="no JSON")
    enqueued(store)
    assert last(store) is driver
    assert count(store) == 2


def test_tables_that_come_later(empty_postgres_url: str) -> None:
    with opened(empty_postgres_url) as store:
        for _ in range(2):
            with pytest.raises(SchemaError, match="dbqueue migrate"):
                enqueued(store)
        migrate.upgrade(store.engine)
        enqueued(store)
        assert count(store) == 1


def test_tables_without_their_keys(empty_postgres_url: str) -> None:
    """A restore of a backup makes the tables first, and workers and callers may come before it is through."""
    with opened(empty_postgres_url) as store:
        migrate.upgrade(store.engine)
        for table in ("dbqueue_unique_keys", "dbqueue_workers"):
            run_sql(store, f"ALTER TABLE {table} DROP CONSTRAINT {table}_pkey")
        with pytest.raises(SchemaError, match="dbqueue migrate"):
            store.enqueue([new_job(unique_key="the key")])
        worker = WorkerInfo("w#1", "w", "host", 1, "solo", 1, ("celery",), "0", 30.0)
        with (
            contextlib.closing(store.work_session("test")) as session,
            pytest.raises(SchemaError, match="dbqueue migrate"),
        ):
            session.register(worker)


def test_a_wake_up_that_the_server_refuses_is_no_error(store: PostgresStore) -> None:
    enqueued(store)
    driver = last(store)
    driver.settle()
    driver.notify("SELECT 1/0")
    enqueued(store)
    store.wake()
    assert last(store) is driver
    assert count(store) == 2


def test_an_interrupt_amid_the_answer_gives_the_connection_up(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueued(store)
    driver = last(store)

    def interrupted(*arguments: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    driver.settle()
    monkeypatch.setattr(driver, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        enqueued(store, "interrupted")
    assert driver.closed
    enqueued(store, "interrupted")
    enqueued(store)
    assert count(store) == 3


def test_many_threads_keep_their_answers_apart(store: PostgresStore) -> None:
    ids: list[str] = []

    def use() -> None:
        for number in range(40):
            job = new_job(args=f"[{number}]")
            store.enqueue([job])
            found = store.fetch([job.id])[job.id]
            assert found.args == job.args
            ids.append(job.id)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == count(store) == 320


def test_a_database_that_cannot_be_reached_wakes_nobody_and_raises_nothing() -> None:
    with opened("postgresql://nobody@127.0.0.1:1/none") as store:
        store.wake()
        with pytest.raises(OperationalError):
            store.enqueue([NewJob(id="a", task="t", queue="q")])


def test_statements_that_the_driver_has_dropped_are_prepared_again(store: PostgresStore) -> None:
    """psycopg sends DEALLOCATE ALL after a rollback."""
    enqueued(store)
    driver = last(store)
    driver.settle()
    driver.execute("DEALLOCATE ALL")
    with psycopg.connect(libpq_url(store.access.url), autocommit=True) as listener:
        listener.execute(sql.LISTEN)
        enqueued(store)
        assert len(list(listener.notifies(timeout=60, stop_after=1))) == 1
    assert last(store) is driver
    assert count(store) == 2


def test_a_wake_up_that_the_server_has_forgotten_is_prepared_again(store: PostgresStore) -> None:
    """Alone, which no driver does. Its answer is read with that of the next call: two wake-ups are lost."""
    enqueued(store)
    driver = last(store)
    driver.settle()
    [notify] = [name for name, statement in prepared(driver).items() if "pg_notify" in statement]
    driver.execute(f"DEALLOCATE {notify}")
    enqueued(store)
    enqueued(store)
    with psycopg.connect(libpq_url(store.access.url), autocommit=True) as listener:
        listener.execute(sql.LISTEN)
        enqueued(store)
        assert len(list(listener.notifies(timeout=60, stop_after=1))) == 1
    assert last(store) is driver
    assert count(store) == 4


def test_a_statement_that_is_unknown_once_more_is_an_error(store: PostgresStore) -> None:
    """What the server forgets each time, as behind a pooler that nobody has told of, would be prepared for ever."""
    with contextlib.closing(store.engine.raw_connection()) as pooled:
        driver = cast(PoolConnection, pooled.driver_connection)
        for _ in range(2):
            with pytest.raises(psycopg.errors.InvalidSqlStatementName):
                driver.insert_and_notify("EXECUTE forgotten", [], sql.NOTIFY)


@pytest.mark.parametrize("before", ["a success", "nothing"])
def test_failures_leave_no_statements_behind(store: PostgresStore, before: str) -> None:
    if before == "a success":
        enqueued(store)
    for _ in range(5):
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            enqueued(store, args="no JSON")
    driver = last(store)
    driver.settle()
    assert len(prepared(driver)) == 2, "the INSERT and the NOTIFY"


def test_a_transaction_that_was_left_open_is_rolled_back(store: PostgresStore) -> None:
    enqueued(store)
    pooled = store.engine.raw_connection()
    cast(PoolConnection, pooled.driver_connection).execute("BEGIN")
    pooled.close()
    enqueued(store)
    with psycopg.connect(libpq_url(store.access.url)) as other:
        assert other.execute("SELECT count(*) FROM dbqueue_jobs").fetchone() == (2,)


def test_a_statement_that_was_left_amid_ends_its_connection(store: PostgresStore) -> None:
    """A soft time limit that comes while the driver waits, for one."""
    enqueued(store)
    pooled = store.engine.raw_connection()
    driver = cast(PoolConnection, pooled.driver_connection)
    driver.pgconn.send_query(b"SELECT pg_sleep(0.2)")
    pooled.close()
    job_id = enqueued(store)
    assert store.fetch([job_id])
    assert driver.closed


def test_a_connection_that_broke_in_its_users_hands_goes_in_silence(
    store: PostgresStore, caplog: pytest.LogCaptureFixture
) -> None:
    """SQLAlchemy would log a traceback of the rollback that it cannot have."""
    pooled = store.engine.raw_connection()
    cast(PoolConnection, pooled.driver_connection).close()
    pooled.close()
    assert caplog.records == []
    enqueued(store)
    assert count(store) == 1


def test_a_wake_up_that_breaks_does_not_fail_what_is_committed(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: PoolConnection, statement: str) -> None:
        self.close()
        raise psycopg.OperationalError("gone")

    monkeypatch.setattr(PoolConnection, "notify", broken)
    store.enqueue([new_job(), new_job()])
    store.enqueue([new_job() for _ in range(60)])
    store.wake()
    assert count(store) == 62


def test_a_schemas_name_in_another_encoding(postgres_url: str) -> None:
    with opened(f"{postgres_url}?client_encoding=latin1") as store:
        driver = cast(PoolConnection, store.engine.raw_connection().driver_connection)
        assert driver.insert_and_notify('SELECT 1 AS "é"', [], sql.NOTIFY) == 1


def test_an_option_of_the_url_goes_before_dbqueues_own(postgres_url: str) -> None:
    given = {"connect_timeout": "7", "keepalives_idle": "71", "tcp_user_timeout": "7000"}
    query = "&".join(f"{name}={value}" for name, value in given.items())
    with opened(postgres_url) as store, opened(f"{postgres_url}?{query}") as other:
        for at, expected in (store, {"connect_timeout": "5", "keepalives_idle": "30"}), (other, given):
            for engine in at.engine, at.task_engines.plain():
                with contextlib.closing(engine.raw_connection()) as connection:
                    told = cast(PoolConnection, connection.driver_connection).info.get_parameters()
                assert {name: told.get(name) for name in expected} == expected
                assert told["keepalives_count"] == "3"


@pytest.mark.parametrize(("seconds", "told"), [(0.4, "2"), (1.0, "2"), (7.0, "7"), (1e6, "3600")])
def test_a_connection_is_waited_for_within_bounds(postgres_url: str, seconds: float, told: str) -> None:
    """libpq takes whole seconds, two at the least; and no longer than an hour is meant by anybody."""
    engine = make_engine(Access(normalise_url(postgres_url), pool_size=1, connect_timeout=seconds))
    with contextlib.closing(engine.raw_connection()) as connection:
        found = cast(PoolConnection, connection.driver_connection).info.get_parameters()
    engine.dispose()
    assert found["connect_timeout"] == told


@pytest.fixture
def narrow(postgres_url: str) -> Iterator[PostgresStore]:
    """With two connections at the most."""
    url = normalise_url(postgres_url)
    with contextlib.closing(
        PostgresStore(url, schema=None, pool_size=1, connect_timeout=10.0, shown_url=postgres_url)
    ) as store:
        yield store


def test_the_connection_that_is_kept_is_for_whoever_asks(narrow: PostgresStore) -> None:
    enqueued(narrow)
    kept = last(narrow)
    with contextlib.closing(narrow.engine.raw_connection()) as one:
        assert one.driver_connection is kept
        enqueued(narrow)
        with contextlib.closing(narrow.engine.raw_connection()) as other:
            assert other.driver_connection is not kept
    assert backends(narrow) <= 2


def test_a_connection_is_kept_again_once_nobody_asks(narrow: PostgresStore) -> None:
    with contextlib.closing(narrow.engine.raw_connection()):
        pass
    enqueued(narrow)
    assert len(cast(QuickPool, narrow.engine.pool)._kept) == 1


def test_the_connection_that_is_kept_is_closed_with_the_pool(store: PostgresStore) -> None:
    enqueued(store)
    kept = last(store)
    store.engine.dispose()
    assert kept.closed
    wait_until(lambda: backends(store) == 0, what="the server's hearing of it")
    enqueued(store)
    assert count(store) == 2


def test_a_worker_does_not_log_what_the_pool_does(store: PostgresStore, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "dbqueue"):
        enqueued(store)
        store.engine.dispose()
        enqueued(store)
    assert caplog.messages == []


def test_a_store_that_is_dropped_leaves_no_connection(postgres_url: str, store: PostgresStore) -> None:
    enqueued(store)
    other = PostgresStore(
        normalise_url(postgres_url), schema=None, pool_size=1, connect_timeout=10.0, shown_url=postgres_url
    )
    enqueued(other)
    del other
    gc.collect()
    wait_until(lambda: backends(store) == 1, what="the end of the connection")


def test_a_connection_that_is_in_use_when_the_pool_is_closed(narrow: PostgresStore) -> None:
    """The engine has another pool when it comes back."""
    narrow._run(lambda driver: narrow.engine.dispose())
    gc.collect()
    wait_until(lambda: backends(narrow) == 0, what="the end of the connection")


def test_no_more_connections_stay_open_than_the_pool_may_have(narrow: PostgresStore) -> None:
    enqueued(narrow)
    with contextlib.closing(narrow.engine.raw_connection()):
        enqueued(narrow)
    wait_until(lambda: backends(narrow) == 1, what="the end of one of the two")
    with contextlib.closing(narrow.engine.raw_connection()), contextlib.closing(narrow.engine.raw_connection()):
        pass
    enqueued(narrow)
    wait_until(lambda: backends(narrow) == 1, what="the end of one of the two")


def test_a_connection_is_not_kept_beside_one_that_came_back_meanwhile(narrow: PostgresStore) -> None:
    """To the pool, or as the one that is kept."""

    def ask_the_pool(driver: PoolConnection) -> None:
        narrow.engine.raw_connection().close()

    narrow._run(ask_the_pool)
    wait_until(lambda: backends(narrow) == 1, what="the end of one of the two")
    narrow._run(lambda driver: enqueued(narrow))
    wait_until(lambda: backends(narrow) == 1, what="the end of one of the two")


def test_a_connection_that_an_operation_leaves_in_a_transaction_is_not_kept(store: PostgresStore) -> None:
    enqueued(store)
    store._run(lambda driver: driver.execute("BEGIN"))
    enqueued(store)
    with psycopg.connect(libpq_url(store.access.url)) as other:
        assert other.execute("SELECT count(*) FROM dbqueue_jobs").fetchone() == (2,)


def test_a_kept_connection_that_broke_makes_room_for_the_next(narrow: PostgresStore) -> None:
    """At the pool's limit, where one that is still counted would be waited for in vain."""
    with contextlib.closing(narrow.engine.raw_connection()):
        enqueued(narrow)
        last(narrow).close()
        enqueued(narrow)
    assert count(narrow) == 2


@pytest.mark.parametrize("moment", ["just before the look", "while the other keeps it"])
def test_who_asks_while_another_gives_the_last_connection_back_gets_it(narrow: PostgresStore, moment: str) -> None:
    """It is nobody's who would use it again: who misses it waits until the pool's time is over."""
    pool = cast(QuickPool, narrow.engine.pool)
    got: list[Any] = []

    def ask() -> None:
        with contextlib.closing(pool.connect()) as connection:
            got.append(connection.driver_connection)

    asker = threading.Thread(target=ask)

    class Asking(set[int]):
        def add(self, thread: int) -> None:
            if thread == asker.ident and moment == "just before the look":
                pool.keep(given)
            super().add(thread)

    class Kept(deque[Any]):
        def append(self, connection: Any) -> None:
            if moment == "while the other keeps it":
                asker.start()
                wait_until(lambda: pool._asking, what="who asks")
            super().append(connection)

    with contextlib.closing(pool.connect()):
        given = pool.take(settled=True)
        driver = given.driver_connection
        pool._asking, pool._kept = Asking(), Kept()
        if moment == "just before the look":
            asker.start()
        else:
            pool.keep(given)
        asker.join()
    assert got == [driver]


def test_threads_that_are_more_than_connections_get_their_turns(narrow: PostgresStore) -> None:
    """Whichever way they ask for one: none waits for the connection that is kept while nobody uses it."""
    done = [0] * 6

    def use(number: int) -> None:
        for _ in range(30):
            if number % 2:
                narrow.enqueue([new_job()])
            else:
                with narrow.connect() as connection:
                    connection.scalar(sa.text("SELECT 1"))
            done[number] += 1

    threads = [threading.Thread(target=use, args=(number,)) for number in range(len(done))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [30] * 6
    assert backends(narrow) <= 2


class Interrupted(Exception):
    """What a signal's handler raises."""


@pytest.mark.parametrize("way", ["by SQLAlchemy", "by the driver"])
def test_an_exception_amid_a_statement_is_the_caller_s(
    store: PostgresStore, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    """As a soft time limit in a task that revokes, or enqueues: nothing else comes in its place, nor in the log."""

    def interrupt(*_: object) -> None:
        raise Interrupted

    def by_sqlalchemy() -> None:
        with store.connect() as connection:
            connection.exec_driver_sql("SELECT pg_sleep(60)")

    def by_driver() -> None:
        store._run(lambda driver: driver.execute("SELECT pg_sleep(60)"))

    job_id = enqueued(store)
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(Interrupted):
            (by_sqlalchemy if way == "by SQLAlchemy" else by_driver)()
    finally:
        signal.signal(signal.SIGALRM, before)
    with store.connect() as connection:  # the server goes on with it, and others here count its sessions
        sleeping = "FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND pid <> pg_backend_pid()"
        connection.exec_driver_sql(f"SELECT pg_terminate_backend(pid, 10000) {sleeping}")
    assert store.fetch([job_id]).keys() == {job_id}
    assert [record for record in caplog.records if record.name.startswith("sqlalchemy")] == []


@pytest.mark.parametrize(
    ("setting", "meanwhile", "error"),
    [
        ("search_path = elsewhere", "SELECT 1", (SchemaError, "no dbqueue tables")),
        ("role = pg_signal_backend", "SELECT 1", (AccessDenied, "no right")),
        (
            "statement_timeout = '50ms'",
            "LOCK TABLE dbqueue_jobs, dbqueue_workers",
            (OperationalError, "did not do it: canceling statement due to statement timeout"),
        ),
    ],
    ids=["search_path", "role", "statement_timeout"],
)
def test_a_setting_that_a_role_had_for_a_while(
    postgres_url: str, setting: str, meanwhile: str, error: tuple[type[Exception], str]
) -> None:
    """A connection keeps what its role had when it was made: the next call makes another."""
    name = sa.make_url(postgres_url).database
    admin_url, pooled = libpq_url(postgres_url), opened(postgres_url)
    with psycopg.connect(admin_url, autocommit=True) as admin, pooled as opened_store:
        store = cast(PostgresStore, opened_store)
        admin.execute(f"ALTER ROLE CURRENT_USER IN DATABASE {name} SET {setting}".encode())
        try:
            with admin.transaction():
                admin.execute(meanwhile.encode())
                with pytest.raises(error[0], match=error[1]):
                    enqueued(store)
                with pytest.raises(error[0], match=error[1]), store.connect() as connection:
                    connection.execute(sa.text("SELECT 1 FROM dbqueue_workers"))
        finally:
            admin.execute(f"ALTER ROLE CURRENT_USER IN DATABASE {name} RESET {setting.split(maxsplit=1)[0]}".encode())
        assert store.fetch([enqueued(store)])
        shown = f"SELECT current_setting('{setting.split(maxsplit=1)[0]}')"
        asked = store._run(lambda driver: driver.execute(shown).fetchone())
        with store.connect() as connection:
            assert [tuple(connection.exec_driver_sql(shown).one()), asked] == [
                admin.execute(shown.encode()).fetchone()
            ] * 2
