"""From a plain table of jobs to a partitioned one, and back, with what the table holds and what hangs on it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command

from dbqueue.errors import ImproperlyConfigured, OperationalError, SchemaError
from dbqueue.jobs import ClaimedJob, Succeeded
from dbqueue.store import migrate, tables
from dbqueue.store.base import Store
from dbqueue.store.postgres.partitions.making import AHEAD
from dbqueue.store.postgres.partitions.periods import SIZES, Size, time_of
from dbqueue.store.postgres.partitions.switching import Switched, _changing, switch
from dbqueue.store.postgres.work_session import PostgresWorkSession
from dbqueue.store.records import Claim, WorkerInfo
from tests.cli.commands import Commands
from tests.concurrency.test_open_transactions import Waiting
from tests.migrations.test_host_alembic import Host
from tests.migrations.test_upgrade import description
from tests.servers import libpq_url
from tests.stores import TestWorker, count, enqueued, new_job, opened, run_sql, take_out
from tests.waiting import wait_until
from tests.worker.sample import make_app
from tests.workers import WorkerProcess, starting


@pytest.fixture
def store(postgres_url: str) -> Iterator[Store]:
    with opened(postgres_url) as store:
        yield store


@pytest.fixture
def start_worker() -> Iterator[Callable[..., WorkerProcess]]:
    with starting() as start:
        yield start


def partition(store: Store, size: Size | None = "day") -> Switched:
    return switch(store, size, max_losses=3)


def rows(store: Store) -> list[str]:
    """All columns of all jobs."""
    with store.connect() as connection:
        return list(connection.scalars(sa.text("SELECT j::text FROM dbqueue_jobs j ORDER BY id")))


def in_partitions(store: Store) -> dict[str, int]:
    """How many jobs each has that has any."""
    with store.connect() as connection:
        query = "SELECT tableoid::regclass::text, count(*) FROM dbqueue_jobs GROUP BY 1"
        return {row[0]: row[1] for row in connection.execute(sa.text(query))}


def filled(store: Store) -> None:
    """Jobs in each state, with ids of all kinds."""
    worker = TestWorker(store)
    store.enqueue([new_job() for _ in range(5)])
    ended = worker.claim(2)
    worker.settle(*(Succeeded(job.id, job.lease, '{"a":  1e16}', 0.1) for job in ended))
    worker.claim(1)
    enqueued(store, "order-17")
    enqueued(store, "zoë", delay_seconds=3600.0)
    run_sql(store, "INSERT INTO dbqueue_jobs (task, args) VALUES ('shop.pack', '[1]')")
    worker.session.close_worker(worker.id)
    worker.close()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("full", [False, True], ids=["empty", "full"])
def test_there_and_back(store: Store, size: Size, full: bool) -> None:
    if full:
        filled(store)
    plain, before = description(store.engine), rows(store)
    done = partition(store, size)
    assert (done.size, done.was) == (size, None)
    assert len(done.made) == AHEAD + 3
    assert rows(store) == before
    if full:
        assert in_partitions(store)["dbqueue_jobs_before"] >= 5
        assert in_partitions(store)["dbqueue_jobs_default"] >= 2
    assert partition(store, size) == Switched(size, size)
    done = partition(store, None)
    assert (done.size, done.was, done.moved) == (None, size, len(before))
    assert rows(store) == before
    assert description(store.engine) == plain
    assert partition(store, None) == Switched(None, None)
    partition(store, size)  # no name is left that would be in the way
    assert rows(store) == before


def test_the_partitioned_table_is_the_same_to_who_names_it(store: Store) -> None:
    plain = description(store.engine)
    partition(store)
    now = description(store.engine)
    assert now["constraints"] == plain["constraints"]
    assert [each for each in now["comments"] if each[0] != "dbqueue_jobs_before"] == plain["comments"]
    assert [name for name, _ in now["indexes"]] == [name for name, _ in plain["indexes"]]
    plain_columns, columns = ([each for each in of["columns"] if each[0] == "dbqueue_jobs"] for of in (plain, now))
    (different,) = [(old, new) for old, new in zip(plain_columns, columns, strict=True) if old != new]
    assert different[0][:6] == different[1][:6]
    assert different[0][2] == "id"  # its default alone: plain SQL gets ids that sort by time
    with store.connect() as connection:
        query = "SELECT reloptions FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid WHERE c.relkind = 'r'"
        stored = [dict(option.split("=") for option in options) for options in connection.scalars(sa.text(query))]
    assert stored == [tables.JOBS_STORAGE] * (AHEAD + 3)


def test_ids_go_where_they_belong(store: Store) -> None:
    partition(store)
    enqueued(store)
    store.enqueue([new_job() for _ in range(100)])  # by COPY
    enqueued(store, "order-17")
    run_sql(store, "INSERT INTO dbqueue_jobs (task) VALUES ('by hand')")
    found = in_partitions(store)
    assert found.pop("dbqueue_jobs_default") == 1
    assert sum(found.values()) == 102
    assert all(name.startswith("dbqueue_jobs_day_") for name in found)
    with store.connect() as connection:
        (made,) = connection.scalars(sa.text("SELECT id FROM dbqueue_jobs WHERE task = 'by hand'"))
        moment = time_of(made)
        assert moment is not None
        assert connection.scalar(sa.text("SELECT abs(extract(epoch FROM now() - :at)) < 60"), {"at": moment})
    assert made[14] == "7"


@pytest.mark.parametrize("full", [False, True], ids=["empty", "full"])
def test_workers_go_on_afterwards(
    postgres_url: str, store: Store, start_worker: Callable[..., WorkerProcess], full: bool
) -> None:
    with make_app(postgres_url) as app:
        add = app.tasks["sample.add"]
        for size in ("day", None):
            before = add.delay(1, 2) if full else None
            partition(store, size)
            worker = start_worker(postgres_url)
            assert add.delay(2, 3).get(timeout=60) == 5
            assert [each.get(timeout=60) for each in add.enqueue_many([(n, n) for n in range(100)])][-1] == 198
            if before is not None:
                assert before.get(timeout=60) == 3
            assert worker.stop() == 0
            assert "Traceback" not in worker.log


@pytest.mark.parametrize("size", ["day", None])
def test_a_worker_that_runs_is_in_the_way(store: Store, size: Size | None) -> None:
    if size is None:
        partition(store)
    worker = TestWorker(store)
    before = description(store.engine)
    with pytest.raises(SchemaError, match=r"still run: worker@test\. Stop all workers first"):
        partition(store, size)
    assert description(store.engine) == before
    worker.session.close_worker(worker.id)
    partition(store, size)
    worker.close()


def test_a_worker_that_is_about_to_register_is_waited_for(store: Store, postgres_url: str) -> None:
    """Its row is not to be seen yet, and it will claim with the statements of a plain table."""
    with psycopg.connect(libpq_url(postgres_url)) as registering:
        values = "('w#1', 'w', 'h', 1, 'solo', 1, '[]', '0', 30)"
        columns = "(id, name, hostname, pid, pool, concurrency, queues, version, lease_seconds)"
        registering.execute(f"INSERT INTO dbqueue_workers {columns} VALUES {values}".encode())
        change = Waiting(store, lambda: partition(store))
        registering.commit()
        found = change.result()
    assert isinstance(found, SchemaError)
    assert "still run: w." in str(found)


def test_a_worker_that_was_killed_is_not(store: Store) -> None:
    """Its jobs are taken back first, so that it claims nothing, should it only have been stopped."""
    worker = TestWorker(store, lease_seconds=0.0)
    job_id = enqueued(store)
    worker.claim_one()
    partition(store)
    assert count(store, "status = 'PENDING'") == 1
    assert worker.claim() == []
    enqueued(store)
    assert worker.claim() == []
    other = TestWorker(store)
    assert job_id in {job.id for job in other.claim()}
    for each in (worker, other):
        each.close()


def test_a_session_that_was_open_learns_of_it_when_it_registers(store: Store) -> None:
    """A worker may connect before the change, and register behind it."""
    session = store.work_session("early")
    ids = [enqueued(store, f"{letter}-1") for letter in "abc"]
    partition(store)
    # Not due, and of the same address as one of them, in another partition.
    run_sql(store, "INSERT INTO dbqueue_jobs (task, eta, ready_at) VALUES ('t', now() + '1h', now() + '1h')")
    session.register(WorkerInfo("early#1", "early", "h", 1, "solo", 1, ("celery",), "0", 30.0))
    claimed = session.round([], Claim("early#1", str(uuid4()), ["celery"], 10)).claimed
    assert [job.id for job in claimed] == ids
    session.close()


def test_a_session_that_was_taken_for_dead_finds_nothing_by_address(store: Store, postgres_url: str) -> None:
    """It has seen a plain table: addresses there are those of other rows in the partitions of the table now."""
    store.enqueue([new_job() for _ in range(4)])
    worker = TestWorker(store)
    worker.settle(*(Succeeded(job.id, job.lease, "1", 0.0) for job in worker.claim(2)))
    worker.session.close_worker(worker.id)
    run_sql(store, "UPDATE dbqueue_jobs SET finished_at = finished_at - interval '1 day'")
    session = worker.session
    assert session.prune(older_than_seconds=60.0, limit=1) == 1
    assert session.is_pruning
    with opened(postgres_url) as another:
        partition(another)
    run_sql(store, "INSERT INTO dbqueue_jobs (id, task) SELECT 'x-' || n, 'other' FROM generate_series(1, 30) n")
    before = rows(store)
    assert session.prune(older_than_seconds=60.0, limit=100) == 0
    assert session.park(["shop.pack"], ["celery"], most=10) == 0
    assert rows(store) == before
    worker.close()
    other = TestWorker(store)
    assert other.session.park(["shop.pack"], ["celery"], most=10) == 2
    assert other.session.prune(older_than_seconds=60.0, limit=100) == 1
    other.close()


def test_a_session_has_the_words_of_the_table_that_there_is(store: Store) -> None:
    """Whatever the process's last session has found."""
    texts = []
    for size in (None, "day", None, "day"):
        partition(store, size)
        session = store.work_session("words")
        texts.append(session._outcomes.finish)  # type: ignore[attr-defined]
        session.close()
    assert texts[0] == texts[2] != texts[1] == texts[3]


def test_runs_of_a_partition_that_was_taken_out_are_lost_ones(store: Store) -> None:
    """A worker was killed when it had taken it out; on the way back its jobs are found."""
    partition(store)
    worker = TestWorker(store)
    store.enqueue([new_job() for _ in range(3)])
    worker.settle(*(Succeeded(job.id, job.lease, "1", 0.0) for job in worker.claim(1)))
    worker.claim(1)
    worker.session.close_worker(worker.id)
    worker.close()
    (today,) = in_partitions(store)
    name = take_out(store, today)
    run_sql(store, f"ALTER TABLE {name} DROP COLUMN meta")
    assert partition(store, None).moved == 3
    other = TestWorker(store)
    (rescued,) = other.session.rescue(max_losses=3)
    assert (rescued.requeued, rescued.failed) == (1, 0)
    assert len(other.claim()) == 2
    other.close()


def test_two_changes_are_made_one_after_the_other(store: Store) -> None:
    """And none while the tables are migrated."""
    with migrate.transaction(store.engine) as connection, migrate.locked(connection, store.schema):
        change = Waiting(store, lambda: partition(store))
    assert change.result().size == "day"


def test_where_nothing_is_missing_no_lock_is_taken(store: Store, postgres_url: str) -> None:
    partition(store)
    with psycopg.connect(libpq_url(postgres_url)) as other:
        other.execute("SELECT count(*) FROM dbqueue_jobs")
        assert partition(store) == Switched("day", "day")


def test_a_lock_that_is_not_to_be_had(store: Store, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "DDL_LOCK_SECONDS", 1)
    before = description(store.engine)
    with psycopg.connect(libpq_url(postgres_url)) as other:
        other.execute("SELECT count(*) FROM dbqueue_jobs")
        with pytest.raises(OperationalError, match="did not get its lock in time"):
            partition(store)
    assert description(store.engine) == before
    partition(store)


def test_workers_do_not_wait_long_behind_more_partitions(store: Store, postgres_url: str) -> None:
    """They run meanwhile, and all of them wait behind whoever waits for the lock on the table."""
    partition(store)
    with psycopg.connect(libpq_url(postgres_url)) as other:
        other.execute("SELECT count(*) FROM dbqueue_jobs")
        began = time.monotonic()
        with pytest.raises(OperationalError, match="did not get its lock in time"):
            partition(store, "week")
        assert time.monotonic() - began < migrate.DDL_LOCK_SECONDS
    partition(store, "week")


def test_it_may_take_longer_than_the_statements_of_the_database(store: Store) -> None:
    """All of a table is read, or copied."""
    name = sa.make_url(store.engine.url).database
    run_sql(store, f"ALTER DATABASE {name} SET statement_timeout = '1h'")
    store.engine.dispose()
    with store.connect() as connection:
        assert connection.scalar(sa.text("SHOW statement_timeout")) == "1h"
    with _changing(store) as run:
        assert run("SHOW statement_timeout")[0][0] == "0"


def test_an_enqueue_waits_and_is_not_lost(store: Store, postgres_url: str) -> None:
    """It comes while the change is under way, and finds the new table under the old name."""
    store.enqueue([new_job() for _ in range(10)])
    thread = threading.Thread(target=enqueued, args=(store, "late"))
    with psycopg.connect(libpq_url(postgres_url)) as gate, opened(postgres_url) as another:
        gate.execute("LOCK TABLE dbqueue_edges IN ACCESS SHARE MODE")
        gate.execute("SELECT FROM dbqueue_jobs LIMIT 0")
        change = threading.Thread(target=partition, args=(another,))
        change.start()
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'dbqueue_jobs'::regclass"
        with store.connect() as watch:
            wait_until(lambda: watch.scalar(sa.text(waiting)) == 1, what="the change to wait")
            thread.start()
            wait_until(lambda: watch.scalar(sa.text(waiting)) == 2, what="the enqueue to wait behind it")
        gate.rollback()
        change.join()
        thread.join()
    assert count(store) == 11
    assert in_partitions(store) == {"dbqueue_jobs_before": 10, "dbqueue_jobs_default": 1}


@pytest.mark.parametrize("size", ["day", None])
def test_what_an_open_transaction_has_enqueued_is_carried_over(
    store: Store, postgres_url: str, size: Size | None
) -> None:
    """Rows are copied under the lock alone: what commits after the copy would be dropped with the former table."""
    if size is None:
        partition(store)
    enqueued(store, "early")
    with psycopg.connect(libpq_url(postgres_url)) as other:
        other.execute("SELECT FROM dbqueue_jobs LIMIT 0")
        change = Waiting(store, lambda: partition(store, size))
        other.execute("INSERT INTO dbqueue_jobs (id, task) VALUES ('late', 'shop.pack')")
        other.commit()
        assert change.result().size == size
    assert {job.id for job in claimed_by_a_new_worker(store)} == {"early", "late"}


def claimed_by_a_new_worker(store: Store) -> list[ClaimedJob]:
    worker = TestWorker(store)
    try:
        return worker.claim()
    finally:
        worker.close()


@pytest.mark.parametrize("size", ["day", None])
def test_another_that_has_done_it_meanwhile(
    store: Store, postgres_url: str, monkeypatch: pytest.MonkeyPatch, size: Size | None
) -> None:
    """After the first look nothing is locked, for the jobs of killed workers are taken back in between."""
    filled(store)
    if size is None:
        partition(store)
    rescue, done = PostgresWorkSession.rescue, list[Switched]()

    def late(session: PostgresWorkSession, *, max_losses: int) -> object:
        if not done:
            done.append(Switched(None, None))
            with opened(postgres_url) as another:
                done[0] = partition(another, size)
        return rescue(session, max_losses=max_losses)

    monkeypatch.setattr(PostgresWorkSession, "rescue", late)
    before = rows(store)
    assert partition(store, size) == Switched(size, size)
    assert done[0] == Switched(size, "day" if size is None else None, done[0].made, done[0].moved)
    assert rows(store) == before


@pytest.mark.parametrize(
    ("make", "what"),
    [
        ("CREATE VIEW waiting AS SELECT id FROM dbqueue_jobs", "the view waiting"),
        ("CREATE MATERIALIZED VIEW waiting AS SELECT id FROM dbqueue_jobs", "the view waiting"),
        ("CREATE TRIGGER t BEFORE INSERT ON dbqueue_jobs EXECUTE FUNCTION suppress_redundant_updates_trigger()", "t"),
        ("ALTER TABLE dbqueue_jobs ENABLE ROW LEVEL SECURITY", "row-level security"),
        ("CREATE POLICY mine ON dbqueue_jobs USING (true)", "the policy mine"),
        ("CREATE PUBLICATION changes FOR TABLE dbqueue_jobs", "the publication changes"),
        ("CREATE STATISTICS dependent ON queue, status FROM dbqueue_jobs", "the statistics dependent"),
        ("CREATE UNIQUE INDEX one_a_task ON dbqueue_jobs (task)", "the unique index one_a_task"),
        (
            "CREATE FUNCTION waiting() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM dbqueue_jobs; END",
            r"the function waiting\(\)",
        ),
        (
            "CREATE FUNCTION all_of() RETURNS SETOF dbqueue_jobs LANGUAGE sql AS 'SELECT * FROM dbqueue_jobs'",
            r"the function all_of\(\)",
        ),
        (
            "CREATE FUNCTION number(dbqueue_jobs[]) RETURNS int LANGUAGE sql AS 'SELECT cardinality($1)'",
            r"the function number\(dbqueue_jobs\[\]\)",
        ),
        ("ALTER TABLE dbqueue_jobs ADD EXCLUDE USING btree (task WITH =)", "the unique index dbqueue_jobs_task_excl"),
    ],
)
def test_what_cannot_be_carried_over_is_named(store: Store, make: str, what: str) -> None:
    run_sql(store, make)
    with pytest.raises(SchemaError, match=rf"cannot be carried over: .*{what}"):
        partition(store)


def test_what_hangs_on_a_partition_is_named(store: Store) -> None:
    partition(store)
    run_sql(store, "CREATE VIEW waiting AS SELECT id FROM dbqueue_jobs_default")
    with pytest.raises(SchemaError, match=r"cannot be carried over: the view waiting\."):
        partition(store, None)


@pytest.mark.parametrize("orders", ["plain", "partitioned"])
def test_foreign_keys_of_the_application_are_carried_over(store: Store, orders: str) -> None:
    enqueued(store, "a")
    by = "" if orders == "plain" else "PARTITION BY LIST (job)"
    run_sql(store, f'CREATE TABLE orders (job text COLLATE "C" REFERENCES dbqueue_jobs ON DELETE CASCADE) {by}')
    if by:
        run_sql(store, "CREATE TABLE orders_a PARTITION OF orders DEFAULT")
    run_sql(store, "INSERT INTO orders VALUES ('a')")
    for size in ("day", None):
        partition(store, size)
        with pytest.raises(OperationalError, match="violates foreign key"):
            run_sql(store, "INSERT INTO orders VALUES ('nobody')")
    run_sql(store, "DELETE FROM dbqueue_jobs")
    with store.connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM orders")) == 0


def rights(store: Store) -> dict[str, set[tuple[object, ...]]]:
    """Owner and grants of the table of jobs, and of each of its partitions."""
    query = """SELECT c.relname, c.relowner::regrole::text, a.grantee::regrole::text, a.privilege_type, a.is_grantable
        FROM pg_class c, aclexplode(c.relacl) a WHERE c.relname LIKE 'dbqueue_jobs%' AND c.relkind IN ('r', 'p')"""
    found: dict[str, set[tuple[object, ...]]] = {}
    with store.connect() as connection:
        for name, *rest in connection.execute(sa.text(query)):
            found.setdefault(name, set()).add(tuple(rest))
    return found


def test_owner_and_grants_are_carried_over_to_each_partition(store: Store) -> None:
    """Upkeep names partitions, and another member of the owner may be the one who drops them."""
    run_sql(store, "ALTER TABLE dbqueue_jobs OWNER TO pg_monitor")
    run_sql(store, "GRANT SELECT, DELETE ON dbqueue_jobs TO pg_signal_backend WITH GRANT OPTION")
    run_sql(store, "GRANT SELECT ON dbqueue_jobs TO pg_read_all_stats")
    (plain,) = rights(store).values()
    partition(store)
    found = rights(store)
    assert len(found) == AHEAD + 4
    assert all(each == plain for each in found.values())
    partition(store, None)
    assert rights(store) == {"dbqueue_jobs": plain}


def test_indexes_of_the_application_are_carried_over(store: Store) -> None:
    run_sql(store, "CREATE INDEX by_task ON dbqueue_jobs (task, created_at DESC) WHERE status = 'FAILURE'")
    plain = description(store.engine)
    partition(store)
    assert "by_task" in {name for name, _ in description(store.engine)["indexes"]}
    partition(store, None)
    assert description(store.engine) == plain


@pytest.mark.parametrize("commands_schema", ["Job Queue", "it's"])
def test_in_a_schema(empty_postgres_url: str, commands_schema: str) -> None:
    engine = sa.create_engine(empty_postgres_url, poolclass=sa.NullPool)
    migrate.upgrade(engine, schema=commands_schema)
    with make_app(empty_postgres_url, database_schema=commands_schema) as app:
        app.tasks["sample.add"].delay(1, 2)
        for size in ("week", None):
            switch(app.database.store, size, max_losses=3)
            app.tasks["sample.add"].delay(1, 2)
            worker = TestWorker(app.database.store)
            worker.settle(*(Succeeded(job.id, job.lease, "1", 0.0) for job in worker.claim()))
            assert worker.session.prune(older_than_seconds=-1.0, limit=10) >= 1
            assert worker.session.lost_workers()[0] == []
            worker.session.close_worker(worker.id)
            worker.close()
        names = set(sa.inspect(engine).get_table_names(schema=commands_schema))
        assert sa.inspect(engine).get_table_names() == []
        assert names == {*tables.metadata.tables, "dbqueue_alembic_version"}


def test_a_change_of_size_holds_for_what_comes(store: Store) -> None:
    partition(store, "day")
    assert partition(store, "week").made != []
    assert partition(store, "week") == Switched("week", "week")
    (made,) = partition(store, "day").made  # all of the near future is in weeks already
    assert made.startswith("dbqueue_jobs_day_")
    assert partition(store, "day").made == []


# -- other migrations


def test_revisions_on_a_partitioned_table(store: Store) -> None:
    enqueued(store, "a")
    partition(store)
    partitions = set(in_partitions(store))
    migrate.downgrade(store.engine, revision="0001")
    migrate.upgrade(store.engine)
    assert migrate.check(store.engine).is_current
    assert set(in_partitions(store)) == partitions
    assert count(store) == 1
    with store.engine.begin() as connection:  # what later revisions will do
        connection.execute(sa.text("ALTER TABLE dbqueue_jobs ADD COLUMN more text"))
        connection.execute(sa.text("CREATE INDEX dbqueue_jobs_more ON dbqueue_jobs (more)"))
    partition(store, None)
    with store.connect() as connection:
        found = sa.inspect(connection)
        assert "more" in {column["name"] for column in found.get_columns("dbqueue_jobs")}
        assert "dbqueue_jobs_more" in {index["name"] for index in found.get_indexes("dbqueue_jobs")}
    partition(store)
    migrate.downgrade(store.engine)
    assert sa.inspect(store.engine).get_table_names() == []
    migrate.upgrade(store.engine)
    assert count(store) == 0


def test_an_application_s_alembic_overlooks_the_partitions(tmp_path: Path, store: Store, postgres_url: str) -> None:
    host = Host(tmp_path, postgres_url, options="include_name=include_name")
    command.upgrade(host.config, "head")
    partition(store)
    proposal = host.autogenerate()
    assert "dbqueue" not in proposal
    assert proposal.count("pass") == 2


# -- the command


def test_the_command(tmp_path: Path, postgres_url: str, store: Store) -> None:
    commands = Commands(tmp_path, postgres_url)
    assert "Nothing to do: the table of jobs is a plain one." in commands.ok("migrate", "--partition", "off")
    enqueued(store, "order-17")
    killed = TestWorker(store, lease_seconds=0.0)
    killed.claim_one()
    killed.close()
    said = commands.ok("migrate", "--partition", "day")
    assert count(store, "status = 'PENDING' AND losses = 1") == 1, "it may run again, as often as the settings say"
    assert "Now the table of jobs is partitioned by day: 1 row copied, in " in said
    assert "New partitions: dbqueue_jobs_before, dbqueue_jobs_day_" in said
    assert "Nothing to do: the table of jobs is partitioned by day." in commands.ok("migrate", "--partition", "day")
    assert "Nothing to do" in commands.ok("migrate")
    found = commands.json("migrate", "--partition", "off")
    assert found == {"partition": "off", "was": "day", "made": [], "moved": 1}
    commands.close()


def test_the_command_refuses_what_goes_not_with_it(tmp_path: Path, sqlite_url: str) -> None:
    commands = Commands(tmp_path, sqlite_url)
    refused = commands.here("migrate", "--partition", "day")
    assert refused.returncode != 0
    assert "partitions are PostgreSQL's: on sqlite the table of jobs has none" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert "--partition goes with" in commands.here("migrate", "--partition", "day", "--sql").stderr
    commands.close()


def test_sqlite_has_none(sqlite_url: str) -> None:
    with opened(sqlite_url) as store, pytest.raises(ImproperlyConfigured, match="PostgreSQL's"):
        partition(store)


def test_no_tables_no_partitions(empty_postgres_url: str) -> None:
    with opened(empty_postgres_url) as store, pytest.raises(SchemaError, match="run `dbqueue migrate`"):
        partition(store)
