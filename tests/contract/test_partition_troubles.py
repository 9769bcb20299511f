"""What is in the way of making and dropping partitions: other sessions, what hangs on them, what was left half done."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import errors

from dbqueue.errors import OperationalError
from dbqueue.store.base import Store
from dbqueue.store.postgres.partitions import catalog, retiring, upkeep
from dbqueue.store.postgres.partitions.periods import Period, first_id
from dbqueue.store.postgres.partitions.retiring import Retiring
from dbqueue.store.postgres.work_session import PostgresWorkSession
from dbqueue.store.trouble import LOCK_SECONDS
from dbqueue.worker.claiming.upkeep import PRUNE_EVERY_SECONDS, Upkeep
from dbqueue.worker.config import WorkerConfig
from tests.contract import test_partition_upkeep as undisturbed
from tests.contract.test_partition_upkeep import (
    DAY,
    day,
    end,
    in_days,
    made_and_dropped,
    partitions,
    prune,
    steps,
    tend,
)
from tests.servers import libpq_url
from tests.stores import TestWorker, count, enqueued, new_job, run_sql, take_out

database_url = undisturbed.database_url


def test_what_a_killed_worker_has_taken_out_is_finished_by_the_next(store: Store, worker: TestWorker) -> None:
    store.enqueue([new_job() for _ in range(5)])
    end(worker, 3)
    take_out(store, f"dbqueue_jobs_{day(0)}")
    assert count(store) == 0
    assert tend(worker, 0.5)[1] == [day(0)]
    assert count(store, "status = 'SUCCESS'") == 3  # not expired
    assert len(worker.claim()) == 2


def test_jobs_of_before_the_partitions_are_put_back_too(store: Store, worker: TestWorker) -> None:
    """Their partition is named after no time."""
    enqueued(store, "0")
    take_out(store, "dbqueue_jobs_before")
    assert tend(worker, 0.5)[1] == ["before"]
    assert [job.id for job in worker.claim()] == ["0"]


def test_a_worker_that_has_just_taken_one_out_may_be_killed(
    store: Store, worker: TestWorker, new_worker: Callable[..., TestWorker]
) -> None:
    """What it was about to look through and to drop is found by the next one."""
    enqueued(store)
    end(worker)
    while day(0) in partitions(store):
        worker.session.tend_partitions(older_than_seconds=DAY, now=in_days(4))
    assert day(0) in tend(new_worker(), 4)[1]


def take_out_half_ended(store: Store, worker: TestWorker) -> None:
    """A partition of several pages, of whose 60 jobs 30 have ended."""
    store.enqueue([new_job(args=f'["{"x" * 400}"]') for _ in range(60)])
    end(worker, 30)
    take_out(store, f"dbqueue_jobs_{day(0)}")


def test_nothing_expires_of_what_was_taken_out(
    store: Store, worker: TestWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker was killed, and result_expires is None from then on."""
    monkeypatch.setattr(retiring, "PAGES_AT_ONCE", 1)
    take_out_half_ended(store, worker)
    assert tend(worker, 30, None)[1] == [day(0)]
    assert count(store, "status = 'SUCCESS'") == 30
    assert len(worker.claim()) == 30


def test_what_was_taken_out_before_a_migration(store: Store, worker: TestWorker) -> None:
    store.enqueue([new_job() for _ in range(2)])
    end(worker, 1)
    name = take_out(store, f"dbqueue_jobs_{day(0)}")
    run_sql(store, f"ALTER TABLE {name} DROP COLUMN meta")
    run_sql(store, "ALTER TABLE dbqueue_jobs ADD COLUMN more text NOT NULL DEFAULT 'more'")
    run_sql(store, f'ALTER TABLE {name} ADD COLUMN "Less" text')
    assert tend(worker, 0.5)[1] == [day(0)]
    assert count(store, "more = 'more'") == 2
    assert len(worker.claim()) == 1


def test_a_generated_column_of_the_application_s_is_generated_anew(store: Store, worker: TestWorker) -> None:
    run_sql(store, "ALTER TABLE dbqueue_jobs ADD COLUMN size int GENERATED ALWAYS AS (length(task)) STORED")
    enqueued(store)
    take_out(store, f"dbqueue_jobs_{day(0)}")
    assert tend(worker, 0.5)[1] == [day(0)]
    assert count(store, "size = length(task)") == 1


def test_what_was_taken_out_of_the_table_in_another_schema_is_not_ours(store: Store, worker: TestWorker) -> None:
    """Its workers see to it: put back here its jobs would be another application's."""
    enqueued(store)
    name = f"other.dbqueue_jobs_{day(0)}{catalog.TAKEN_OUT}"
    run_sql(store, "CREATE SCHEMA other")
    run_sql(store, f"CREATE TABLE {name} AS SELECT * FROM dbqueue_jobs")
    run_sql(store, f"COMMENT ON TABLE {name} IS '{catalog.TAKEN_OUT_MARK}'")
    run_sql(store, "DELETE FROM dbqueue_jobs")
    tend(worker, 0.5)
    assert count(store) == 0
    with store.connect() as connection:
        assert connection.scalar(sa.text(f"SELECT count(*) FROM {name}")) == 1


def test_a_job_of_what_was_taken_out_that_was_enqueued_again(store: Store, worker: TestWorker) -> None:
    """By a caller who has had no answer. It is one job, and keeps nobody from the rest."""
    job_id, other = enqueued(store), enqueued(store)
    take_out(store, f"dbqueue_jobs_{day(0)}")
    enqueued(store, job_id)
    assert tend(worker, 0.5)[1] == [day(0)]
    assert sorted(job.id for job in worker.claim()) == sorted([job_id, other])


def test_a_name_like_that_of_one_that_was_taken_out(store: Store, worker: TestWorker) -> None:
    """The application's own tables are dropped by nobody, and are in nobody's way."""
    enqueued(store)
    end(worker)
    theirs = ["archive_expired", "old_expired", "day_20200101_expired", f"{day(0)}_expired"]
    run_sql(store, f"CREATE TABLE dbqueue_jobs_{theirs[0]} AS SELECT * FROM dbqueue_jobs")
    for name in theirs[1:]:
        run_sql(store, f"CREATE TABLE dbqueue_jobs_{name} (x int)")
    done = steps(worker, 4)
    assert made_and_dropped(done)[1] == ["before", day(1), day(2)]
    assert [each.problem for each in done if each.problem] == [
        f'relation "dbqueue_jobs_{day(0)}_expired" already exists'
    ]
    assert prune(worker, 4) == 1  # by rows then
    with store.connect() as connection:
        for name in theirs:
            assert connection.scalar(sa.text("SELECT to_regclass(:name)"), {"name": f"dbqueue_jobs_{name}"}) is not None


@pytest.mark.parametrize("use", ["SELECT FROM {table}", "SELECT FROM {table} FOR UPDATE"])
def test_one_that_somebody_uses_is_dropped_later(store: Store, worker: TestWorker, database_url: str, use: str) -> None:
    """And what waits in it is put back, first or then."""
    enqueued(store)
    end(worker)
    waiting = enqueued(store)
    name = take_out(store, f"dbqueue_jobs_{day(0)}")
    with psycopg.connect(libpq_url(database_url)) as other:
        other.execute(use.format(table=name).encode())
        for _ in range(2):
            assert day(0) not in tend(worker, 4)[1]
        claimed = worker.claim()
    assert day(0) in tend(worker, 4)[1]
    assert [job.id for job in [*claimed, *worker.claim()]] == [waiting]
    assert count(store) == 1


@pytest.mark.parametrize(
    "make",
    [
        "CREATE VIEW mine AS SELECT id FROM {table}",
        "CREATE FUNCTION mine() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM {table}; END",
    ],
    ids=["view", "function"],
)
def test_one_that_something_hangs_on_keeps_nobody_from_the_others(store: Store, worker: TestWorker, make: str) -> None:
    store.enqueue([new_job(), new_job("order-17")])
    end(worker)
    waiting = enqueued(store)
    run_sql(store, make.format(table=take_out(store, f"dbqueue_jobs_{day(0)}")))
    for _ in range(2):
        done = steps(worker, 4)
        (problem,) = [each.problem for each in done if each.problem]
        assert problem == f"cannot drop table dbqueue_jobs_{day(0)}_expired because other objects depend on it"
    assert partitions(store) == [*map(day, range(4, 7)), "default"]
    assert [job.id for job in worker.claim()] == [waiting]
    assert prune(worker, 4) == 1
    run_sql(store, f"DROP {make.split()[1]} mine")
    assert tend(worker, 4)[1] == [day(0)]


def test_a_default_partition_that_takes_long_to_read(
    store: Store, worker: TestWorker, new_worker: Callable[..., TestWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else can do anything meanwhile: so it is given up, and not tried again in a minute. Dropping goes on."""
    monkeypatch.setattr(upkeep, "MAKING_MILLISECONDS", 200)
    run_sql(
        store,
        "CREATE FUNCTION slow() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); END'",
    )
    run_sql(
        store, "CREATE EVENT TRIGGER slow ON ddl_command_start WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION slow()"
    )
    done = steps(worker, 1)
    (problem,) = [each.problem for each in done if each.problem]
    assert problem.endswith("the DEFAULT partition is too large to be read under a lock by a worker")
    assert made_and_dropped(done) == ([], ["before"])
    run_sql(store, "DROP EVENT TRIGGER slow")
    assert tend(worker, 1) == ([], [])
    assert tend(new_worker(), 1) == ([day(3)], [])


def test_a_lost_connection_is_no_trouble_with_partitions(
    store: Store, worker: TestWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session ends by it, as by any other statement's."""
    pid, look = worker.session._driver.info.backend_pid, Retiring._look  # type: ignore[attr-defined]

    def late(self: Any, leaf: Any) -> None:
        run_sql(store, "SELECT pg_terminate_backend(:pid, 60000)", pid=pid)
        look(self, leaf)

    monkeypatch.setattr(Retiring, "_look", late)
    with pytest.raises(OperationalError, match="terminating connection"):
        worker.session.tend_partitions(older_than_seconds=DAY, now=in_days(4))


def test_a_partition_that_somebody_has_taken_out_is_theirs(store: Store, worker: TestWorker) -> None:
    enqueued(store)
    end(worker)
    run_sql(store, f"ALTER TABLE dbqueue_jobs DETACH PARTITION dbqueue_jobs_{day(0)}")
    _, dropped = tend(worker, 4)
    assert dropped == ["before", day(1), day(2)]
    with store.connect() as connection:
        assert connection.scalar(sa.text(f"SELECT count(*) FROM dbqueue_jobs_{day(0)}")) == 1


def test_one_that_somebody_has_put_back_by_hand_is_a_partition(store: Store, worker: TestWorker) -> None:
    """Whatever its name and its comment say: what it has is not put back once more, and it is not dropped."""
    job_id = enqueued(store)
    name = take_out(store, f"dbqueue_jobs_{day(0)}")
    bounds = f"FROM ('{first_id(in_days(0))}') TO ('{first_id(Period.of('day', in_days(0)).end)}')"
    run_sql(store, f"ALTER TABLE dbqueue_jobs ATTACH PARTITION {name} FOR VALUES {bounds}")
    assert tend(worker, 0.5)[1] == []
    assert f"{day(0)}{catalog.TAKEN_OUT}" in partitions(store)
    assert [job.id for job in worker.claim()] == [job_id]


def test_one_that_somebody_has_taken_out_keeps_no_other_from_being_made(store: Store, worker: TestWorker) -> None:
    """Its name is taken: jobs of its time go to the DEFAULT partition."""
    run_sql(store, f"ALTER TABLE dbqueue_jobs DETACH PARTITION dbqueue_jobs_{day(2)}")
    assert tend(worker, 1) == ([day(3)], ["before"])
    late = enqueued(store, f"{first_id(in_days(2))}-late")
    assert [job.id for job in worker.claim()] == [late]


def test_a_partition_of_the_application_s_is_pruned_by_rows(store: Store, worker: TestWorker) -> None:
    bounds = "FROM ('a') TO ('b')"
    run_sql(store, f'CREATE TABLE "Of A" PARTITION OF dbqueue_jobs FOR VALUES {bounds}')
    enqueued(store, "a-1")
    end(worker)
    tend(worker, 4)
    assert prune(worker, 4) == 1
    assert "Of A" in partitions(store)


@pytest.mark.parametrize("creates", [True, False], ids=["creates", "creates nothing"])
@pytest.mark.parametrize("owns", [True, False], ids=["owner", "another"])
def test_who_may_make_partitions_and_drop_them(database_url: str, owns: bool, creates: bool) -> None:
    """Any other does without, and is not told of an error with each look."""
    with psycopg.connect(libpq_url(database_url)) as connection:
        connection.execute("CREATE ROLE somebody")
        connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        if owns:
            connection.execute("ALTER TABLE dbqueue_jobs OWNER TO somebody")
        if creates:
            connection.execute("GRANT CREATE ON SCHEMA public TO somebody")
        connection.execute("SET LOCAL ROLE somebody")
        assert catalog.may_change(catalog.on_driver(connection), catalog.JOBS) is (owns and creates)
        connection.rollback()


def test_two_workers_tend_at_once(store: Store, worker: TestWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The eldest has changed meanwhile: what one takes out or drops, the other does without."""
    monkeypatch.setattr(retiring, "PAGES_AT_ONCE", 1)
    store.enqueue([new_job(args=f'["{"x" * 400}"]') for _ in range(60)])
    end(worker)
    dropped = tend_alternately(store, worker)
    assert len(dropped) == len(set(dropped)) == 4
    assert count(store) == 0


def test_two_workers_look_through_what_was_taken_out(
    store: Store, worker: TestWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retiring, "PAGES_AT_ONCE", 1)
    take_out_half_ended(store, worker)
    dropped = tend_alternately(store, worker)
    assert len(dropped) == len(set(dropped)) == 4
    assert count(store) == len(worker.claim(100)) == 30


def tend_alternately(store: Store, worker: TestWorker) -> list[str]:
    """Two workers, step by step; what they have dropped."""
    other = TestWorker(store)
    sessions, under_way, dropped = [worker.session, other.session], {0, 1}, []
    while under_way:
        for number in sorted(under_way):
            tended = sessions[number].tend_partitions(older_than_seconds=DAY, now=in_days(4))
            assert tended.problem == ""
            dropped += tended.dropped
            if not tended.under_way:
                under_way.discard(number)
    other.close()
    return dropped


def test_where_it_may_not_look_all_that_has_expired_is_deleted_by_rows(
    store: Store, worker: TestWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would stay for ever: no partition is dropped, and its rows were to go with it."""
    enqueued(store)
    end(worker)

    def refuse(*_: object) -> None:
        raise errors.InsufficientPrivilege("permission denied")

    monkeypatch.setattr(Retiring, "begin", refuse)
    assert [each.problem for each in steps(worker, 4)] == ["permission denied"]
    assert prune(worker, 4) == 1


def test_none_of_its_statements_waits_for_long(
    store: Store, new_worker: Callable[..., TestWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All who come later would wait behind it, and so would the rounds of its own worker."""
    waits: dict[str, set[str]] = {}

    def told(driver: psycopg.Connection[Any]) -> catalog.Run:
        run = catalog.on_driver(driver)

        def tell(statement: str, /, **parameters: Any) -> Any:
            waits.setdefault(statement.split(maxsplit=1)[0], set()).add(run("SHOW lock_timeout")[0][0])
            return run(statement, **parameters)

        return tell

    for module in (upkeep, retiring):
        monkeypatch.setattr(module, "on_driver", told)
    worker = new_worker()
    enqueued(store)
    end(worker)
    assert tend(worker, 4)[1] != []
    assert all(waits[word] == {"300ms"} for word in ("LOCK", "CREATE", "ALTER", "WITH", "DROP"))


def test_a_long_transaction_puts_it_off(store: Store, worker: TestWorker, database_url: str) -> None:
    enqueued(store)
    end(worker)
    with psycopg.connect(libpq_url(database_url)) as other:
        other.execute("SELECT count(*) FROM dbqueue_jobs")
        began = time.monotonic()
        assert tend(worker, 4) == ([], [])
        assert time.monotonic() - began < LOCK_SECONDS  # all others wait behind who waits for the table
        assert prune(worker, 4) == 0  # it can wait
    made, dropped = tend(worker, 4)
    assert made == [day(4), day(5), day(6)]
    assert day(0) in dropped


def test_a_partition_that_is_dropped_while_workers_without_a_row_are_looked_for(
    store: Store, worker: TestWorker, new_worker: Callable[..., TestWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is looked into, or its size asked for: the look goes on with the others."""
    lost = new_worker()
    enqueued(store, "zzz")  # in the DEFAULT partition, the last one
    lost.claim_one()
    for number in (0, 1):
        store.enqueue([new_job(f"{first_id(in_days(number))}-{each}") for each in range(3)])
    run_sql(store, "DELETE FROM dbqueue_workers WHERE id = :id", id=lost.id)
    session = cast(PostgresWorkSession, worker.session)
    known = session._parts()
    assert worker.session.lost_workers() == ([], True)
    run_sql(store, f"DROP TABLE dbqueue_jobs_{day(1)}")
    assert lost_workers(worker) == [lost.id]
    monkeypatch.setattr(session, "_parts", lambda: known)
    assert lost_workers(worker) == [lost.id]


def test_a_partition_that_is_dropped_while_others_are_pruned(
    store: Store, worker: TestWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pass begins again, without it."""
    monkeypatch.setattr("dbqueue.store.postgres.pruning.COUNTED_AT_ONCE", 1)
    store.enqueue([new_job(f"{first_id(in_days(number))}-{each}") for number in (0, 1) for each in range(3)])
    end(worker)
    prune_on = partial(worker.session.prune, older_than_seconds=None, keep=1, limit=100)
    prune_on()
    assert worker.session.is_pruning
    run_sql(store, f"DROP TABLE dbqueue_jobs_{day(1)}")
    for _ in range(20):
        prune_on()
    assert count(store) == 1


def lost_workers(worker: TestWorker) -> list[str]:
    """Those that the rest of a look finds."""
    found, more = worker.session.lost_workers()
    return found + lost_workers(worker) if more else found


def test_a_partition_that_the_application_refers_to_stays(store: Store, worker: TestWorker) -> None:
    enqueued(store)
    (job_id,) = end(worker)
    run_sql(store, 'CREATE TABLE orders (job text COLLATE "C" REFERENCES dbqueue_jobs)')
    run_sql(store, "INSERT INTO orders VALUES (:id)", id=job_id)
    assert day(0) not in tend(worker, 4)[1]
    run_sql(store, "DELETE FROM orders")
    assert day(0) in tend(worker, 4)[1]


def test_a_partition_that_the_application_refers_to_is_pruned_by_rows(store: Store, worker: TestWorker) -> None:
    """What refers to a job is the application's to say: here it goes with it."""
    store.enqueue([new_job() for _ in range(3)])
    job_id, *_ = end(worker)
    run_sql(store, 'CREATE TABLE orders (job text COLLATE "C" REFERENCES dbqueue_jobs ON DELETE CASCADE)')
    run_sql(store, "INSERT INTO orders VALUES (:id)", id=job_id)
    assert day(0) not in tend(worker, 4)[1]
    assert prune(worker, 4) == 3
    assert count(store) == 0
    assert day(0) in tend(worker, 4)[1]


def test_what_cannot_be_made_is_told_once_and_rows_are_deleted(
    store: Store, worker: TestWorker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (1, 2):  # something of the application's own in their place
        run_sql(store, f"DROP TABLE dbqueue_jobs_{day(number)}")
    bounds = f"FROM ('{first_id(in_days(1))}') TO ('z')"
    run_sql(store, f"CREATE TABLE mine PARTITION OF dbqueue_jobs FOR VALUES {bounds}")
    enqueued(store, "order-17")
    end(worker)
    run_sql(store, "UPDATE dbqueue_jobs SET finished_at = finished_at - interval '3 days'")
    watch = Upkeep(WorkerConfig("w", ("celery",), "solo", 1, result_expires_seconds=DAY), every_seconds=1e6)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for _ in range(4):
        now += 2 * PRUNE_EVERY_SECONDS
        watch.run(worker.session, worker.id)
    assert count(store) == 0
    assert caplog.text.count("Partitions cannot be made or dropped: partition") == 1
    enqueued(store)
    assert len(worker.claim()) == 1
