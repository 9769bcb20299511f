"""Least privilege on PostgreSQL: what each role can do, and what it cannot."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import errors as pg_errors

import dbqueue
from dbqueue import DBQueue, testing
from dbqueue.cli.run import run
from dbqueue.errors import AccessDenied, DuplicateTaskId, InvalidTaskError, OperationalError
from dbqueue.jobs import new_job_id
from dbqueue.result import GroupResult
from dbqueue.store import migrate
from dbqueue.store.postgres import roles
from dbqueue.store.sessions import Tended
from dbqueue.store.tables import metadata
from tests.chaos.proxy import Proxy
from tests.servers import PostgresServer, libpq_url
from tests.stores import TestWorker, opened
from tests.waiting import wait_until
from tests.worker.sample import make_app


def main(arguments: list[str]) -> int:
    return run(None, arguments)


USERS = {
    "t_producer": [roles.PRODUCER],
    "t_unique": [roles.PRODUCER, roles.UNIQUE],
    "t_reader": [roles.PRODUCER, roles.RESULTS, roles.UNIQUE],
    "t_worker": [roles.WORKER],
    "t_inspector": [roles.INSPECTOR],
    "t_owner": [roles.OWNER],
}


CONTENT = ("args", "kwargs", "headers", "options", "content", "result", "result_content", "traceback", "meta")
"""The columns that hold what callers and tasks have put there."""


@pytest.fixture(scope="module")
def users(postgres_server: PostgresServer) -> Iterator[None]:
    """Roles belong to the whole server: those that were there before stay."""
    with psycopg.connect(libpq_url(postgres_server.url), autocommit=True) as admin:
        before = {row[0] for row in admin.execute("SELECT rolname FROM pg_roles").fetchall()}
        for user in USERS:
            admin.execute(f"CREATE ROLE {user} LOGIN".encode())
    yield
    made = [*USERS, *(role for role in roles.ROLES if role not in before)]
    postgres_server.execute(*(f"DROP ROLE IF EXISTS {role}" for role in made))


@pytest.fixture(params=[None, "Job Queue"])
def schema(request: pytest.FixtureRequest) -> str | None:
    name: str | None = request.param
    return name


@pytest.fixture
def url(users: None, empty_postgres_url: str, schema: str | None) -> str:
    """A migrated database with the roles applied by the command line, and granted."""
    engine = sa.create_engine(empty_postgres_url)
    migrate.upgrade(engine, schema=schema)
    engine.dispose()
    database = ["--database", empty_postgres_url]
    arguments = ["migrate", "--roles", "--apply", *(["--schema", schema] if schema else [])]
    for _ in range(2):  # again is harmless
        assert main([*database, *arguments]) == 0
    with psycopg.connect(libpq_url(empty_postgres_url), autocommit=True) as admin:
        for user, granted in USERS.items():
            admin.execute(f"GRANT {', '.join(granted)} TO {user}".encode())
    return empty_postgres_url


def as_user(url: str, user: str) -> str:
    return sa.make_url(url).set(username=user, password=None).render_as_string(hide_password=False)


@contextlib.contextmanager
def connected(url: str, user: str, schema: str | None) -> Iterator[Any]:
    with psycopg.connect(libpq_url(as_user(url, user)), autocommit=True) as connection:
        if schema:
            connection.execute("SELECT set_config('search_path', %s, false)", [f'"{schema}"'])
        yield connection


def refused(connection: Any, sql: str) -> None:
    with pytest.raises(pg_errors.InsufficientPrivilege):
        connection.execute(sql)


def producer(url: str, user: str, schema: str | None, **settings: Any) -> DBQueue:
    return make_app(as_user(url, user), database_schema=schema, **settings)


def test_a_producer_can_only_insert(url: str, schema: str | None) -> None:
    with producer(url, "t_producer", schema) as app:
        add = app.tasks["sample.add"]
        sent = add.delay(1, 2)
        assert len(add.enqueue_many([(n, n) for n in range(500)])) == 500
        dbqueue.chain(add.s(1, 2), add.s(3)).apply_async()
        dbqueue.chord([add.s(1, 2), add.s(3, 4)], app.tasks["sample.echo"].s()).apply_async()
        with pytest.raises(AccessDenied, match="permission denied"):
            sent.get(timeout=5)
        with pytest.raises(AccessDenied, match="permission denied"):
            sent.revoke()
        late = dbqueue.chain(add.s(1, 2).set(countdown=3600), app.tasks["sample.echo"].s()).apply_async()
    with connected(url, "t_producer", schema) as connection:
        # By the end of a job of its own it lets one of others go, but not without what that one takes.
        own = new_job_id()
        connection.execute("INSERT INTO dbqueue_jobs (id, task, successors) VALUES (%s, 'none', true)", [own])
        connection.execute("INSERT INTO dbqueue_edges VALUES (%s, %s, 'end', NULL)", [own, late.id])
        with make_app(url, database_schema=schema) as app:
            testing.drain(app)
            found = app.AsyncResult(late.id)
            assert isinstance(found.result, InvalidTaskError), found.result
        for table in (*metadata.tables, "dbqueue_alembic_version"):
            refused(connection, f"SELECT * FROM {table}")
            refused(connection, f"DELETE FROM {table}")
            refused(connection, f"TRUNCATE {table}")
        for column in ("status", "result", "lease", "worker", "losses", "finished_at", "permit"):
            refused(connection, f"INSERT INTO dbqueue_jobs (task, {column}) VALUES ('t', NULL)")
        refused(connection, "UPDATE dbqueue_jobs SET args = '[]'")
        refused(connection, "SELECT count(*) FROM dbqueue_jobs")
        refused(connection, "INSERT INTO dbqueue_jobs (task) VALUES ('t') RETURNING id")
        refused(connection, "CREATE TABLE mine (id int)")
        for table in set(metadata.tables) - {"dbqueue_jobs", "dbqueue_edges"}:
            refused(connection, f"INSERT INTO {table} DEFAULT VALUES")


CALLS: dict[str, tuple[Callable[[Any], object], int]] = {
    "one": (lambda add: add.delay(1, 2), 1),
    "one of a limit": (lambda add: add.apply_async((1, 2), limit_key="some"), 1),
    "several": (lambda add: add.enqueue_many([(n, n) for n in range(5)]), 5),
    "many, by COPY": (lambda add: add.enqueue_many([(n, n) for n in range(60)]), 60),
    "a chain": (lambda add: dbqueue.chain(add.s(1, 2), add.s(3)).apply_async(), 2),
}
MOST_REQUESTS = 20
"""More than any of these has."""


@pytest.mark.parametrize("user", ["t_producer", "t_unique"])
@pytest.mark.parametrize("what", CALLS)
def test_a_producer_whose_reply_was_lost_is_told_that_its_job_is_there(
    url: str, schema: str | None, what: str, user: str
) -> None:
    """It may not read the row that is in the way of its second try; nobody else's has an id that it has just made."""
    call, jobs = CALLS[what]
    counted = "SELECT count(*) FROM dbqueue_jobs"
    with (
        Proxy(as_user(url, user)) as proxy,
        producer(proxy.url, user, schema) as app,
        connected(url, "postgres", schema) as admin,
    ):
        add = app.tasks["sample.add"]
        add.delay(0, 0)  # on a connection that stands: the next request is the call's
        for lost in range(MOST_REQUESTS):
            (before,), faults = admin.execute(counted).fetchone(), proxy.faults
            proxy.lose_reply(lost + 1)
            call(add)
            assert admin.execute(counted).fetchone() == (before + jobs,), f"when reply {lost + 1} was lost"
            if proxy.faults == faults:
                break
        assert 0 < lost < MOST_REQUESTS - 1


def test_a_producer_whose_reply_was_lost_is_not_told_that_a_job_of_another_is_its_own(
    url: str, schema: str | None
) -> None:
    """Of an id that was not made just now: that may be anybody's. Whose it is stays unknown, and is not denied."""
    with Proxy(as_user(url, "t_producer")) as proxy, producer(proxy.url, "t_producer", schema) as app:
        add = app.tasks["sample.add"]
        for task_id in ("mine", "01900000-0000-7000-8000-000000000000"):
            with make_app(url, database_schema=schema) as another:
                another.tasks["sample.add"].apply_async((3, 4), task_id=task_id)
            with pytest.raises(AccessDenied, match="permission denied"):
                add.apply_async((1, 2), task_id=task_id)
            add.delay(0, 0)
            proxy.lose_reply(1)
            with pytest.raises(OperationalError, match="no right to what would tell"):
                add.apply_async((1, 2), task_id=task_id)


@pytest.mark.parametrize("what", ["one", "several", "a chain"])
def test_a_producer_whose_rights_go_with_the_reply_is_not_told_that_its_job_is_there(
    url: str, schema: str | None, what: str
) -> None:
    """Its second try is refused, but for no row that is in the way: the first one's is gone, or never was."""
    jobs = f'"{schema}".dbqueue_jobs' if schema else "dbqueue_jobs"

    def withdraw(_: str) -> None:
        with psycopg.connect(libpq_url(url), autocommit=True) as admin:
            admin.execute(f"DELETE FROM {jobs}".encode())
            admin.execute(f"REVOKE INSERT ON {jobs} FROM {roles.PRODUCER}".encode())
            for column in metadata.tables["dbqueue_jobs"].columns:
                admin.execute(f"REVOKE INSERT ({column.name}) ON {jobs} FROM {roles.PRODUCER}".encode())

    with Proxy(as_user(url, "t_producer"), withdraw) as proxy, producer(proxy.url, "t_producer", schema) as app:
        add = app.tasks["sample.add"]
        add.delay(0, 0)  # on a connection that stands: the next request is the call's
        proxy.lose_reply(1 if what == "one" else 2)  # the first of a transaction is its BEGIN
        with pytest.raises(OperationalError, match="no right to what would tell"):
            CALLS[what][0](add)
        assert proxy.faults == 1


def test_results_and_unique_calls_are_grants_of_their_own(url: str, schema: str | None) -> None:
    with producer(url, "t_producer", schema) as app, pytest.raises(AccessDenied, match="permission denied"):
        app.tasks["sample.add"].apply_async([1, 2], unique=True)
    with producer(url, "t_reader", schema) as app:
        first = app.tasks["sample.add"].apply_async([1, 2], unique=True)
        assert app.tasks["sample.add"].apply_async([1, 2], unique=True).id == first.id
        assert first.status == "PENDING"
        with pytest.raises(DuplicateTaskId):
            app.tasks["sample.add"].apply_async([3, 4], task_id=first.id)
        with pytest.raises(DuplicateTaskId):
            dbqueue.chain(
                app.tasks["sample.add"].s(3, 4).set(task_id=first.id), app.tasks["sample.add"].s(5)
            ).apply_async()
        group = dbqueue.group(app.tasks["sample.add"].s(n, n) for n in range(2)).apply_async()
        group.save()
        restored = GroupResult.restore(group.id, app=app)
        assert restored is not None
        assert len(restored.results) == 2
    with producer(url, "t_unique", schema) as app:
        assert app.tasks["sample.add"].apply_async([1, 2], unique=True).id == first.id
        with pytest.raises(AccessDenied, match="permission denied"):
            app.AsyncResult(first.id).get(timeout=5)
    with connected(url, "t_unique", schema) as connection:
        for column in ("args", "kwargs", "result", "options", "task", "lease"):
            refused(connection, f"SELECT {column} FROM dbqueue_jobs")
        refused(connection, "DELETE FROM dbqueue_unique_keys")
        refused(connection, "SELECT * FROM dbqueue_groups")
    with connected(url, "t_reader", schema) as connection:
        refused(connection, "SELECT lease FROM dbqueue_jobs")
        refused(connection, "SELECT * FROM dbqueue_schedules")
        refused(connection, "UPDATE dbqueue_jobs SET status = 'SUCCESS'")
        refused(connection, "DELETE FROM dbqueue_jobs")


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_worker_works(url: str, schema: str | None, start_worker: Callable[..., Any], pool: str) -> None:
    """All that a worker does, as the worker's role: limits, workflows, retries, beat, events, commands, upkeep."""
    settings = {"database_schema": schema, "worker_lease_seconds": 30.0}
    worker = start_worker(as_user(url, "t_worker"), pool=pool, settings=settings, beat=True, task_events=True)
    with producer(url, "t_reader", schema) as app, producer(url, "t_worker", schema) as operator:
        add = app.tasks["sample.add"]
        assert add.delay(1, 2).get(timeout=60) == 3
        assert dbqueue.chain(add.s(1, 2), add.s(3)).apply_async().get(timeout=60) == 6
        assert dbqueue.chord([add.s(1, 2), add.s(3, 4)], app.tasks["sample.echo"].s()).apply_async().get(timeout=60)
        assert (
            app.tasks["sample.backing_off"].apply_async([str(worker.folder / "x")]).get(timeout=60, propagate=False)
            is not None
        )
        assert add.apply_async([1, 1], limit_key="some").get(timeout=60) == 2
        assert add.apply_async([2, 2], unique=True).get(timeout=60) == 4
        operator.schedules.set("often", "sample.add", 3600, args=[1, 2])
        assert operator.schedules.run("often").get(timeout=60) == 3
        linked = {"link": [{"task": "sample.add", "args": [4]}], "link_error": [{"task": "sample.echo"}]}
        operator.schedules.set("linked", "sample.add", 0.5, args=[1, 2], options=linked)
        with connected(url, "t_worker", schema) as connection:
            query = "SELECT 1 FROM dbqueue_jobs WHERE task = 'sample.add' AND result::text = '7'"
            wait_until(lambda: connection.execute(query).fetchone(), what="the callback of a periodic call")
        operator.schedules.remove("linked")
        assert [*operator.control.ping(timeout=30, limit=1)]
        late = add.apply_async([1, 2], countdown=600)
        operator.control.revoke(late.id)
        assert late.status == "REVOKED"
    assert worker.stop() == 0
    assert "denied" not in worker.log
    with connected(url, "t_worker", schema) as connection:
        assert connection.execute("SELECT version_num FROM dbqueue_alembic_version").fetchone()
        refused(connection, "CREATE TABLE mine (id int)")
        refused(connection, "ALTER TABLE dbqueue_jobs ADD COLUMN x int")
        refused(connection, "DROP TABLE dbqueue_jobs")
        refused(connection, "TRUNCATE dbqueue_jobs")
        refused(connection, "UPDATE dbqueue_alembic_version SET version_num = '9999'")


def test_an_inspector_sees_no_arguments(
    url: str, schema: str | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with producer(url, "t_producer", schema) as app:
        app.tasks["sample.add"].delay("secret", "argument")
    with connected(url, "t_inspector", schema) as connection:
        for column in (*CONTENT, "limit_key", "permit", "lease"):
            refused(connection, f"SELECT {column} FROM dbqueue_jobs")
        refused(connection, "SELECT * FROM dbqueue_jobs")
        refused(connection, "SELECT j FROM dbqueue_jobs j")
        refused(connection, "SELECT 1 FROM dbqueue_jobs WHERE args::text LIKE '%secret%'")
        for table in ("events", "limits", "schedules", "unique_keys", "groups"):
            refused(connection, f"SELECT * FROM dbqueue_{table}")
        for column in ("body", "destination"):
            refused(connection, f"SELECT {column} FROM dbqueue_control")
        refused(connection, "UPDATE dbqueue_jobs SET priority = 1")
        refused(connection, "INSERT INTO dbqueue_jobs (task) VALUES ('t')")
        assert connection.execute("SELECT task, status FROM dbqueue_jobs").fetchall() == [("sample.add", "PENDING")]
    if schema:
        monkeypatch.setenv("DBQUEUE_DATABASE_SCHEMA", schema)
    database = ["--database", as_user(url, "t_inspector")]
    for command in (["queues"], ["migrate", "--check"]):
        main([*database, *command])
        shown = capsys.readouterr()
        assert "denied" not in shown.out + shown.err, command
    # What is granted, it may.
    with psycopg.connect(libpq_url(url), autocommit=True) as admin:
        admin.execute(f"GRANT {roles.RESULTS} TO t_inspector")
    try:
        assert main([*database, "jobs", "list"]) == 0
        assert "sample.add" in capsys.readouterr().out
    finally:
        with psycopg.connect(libpq_url(url), autocommit=True) as admin:
            admin.execute(f"REVOKE {roles.RESULTS} FROM t_inspector")


def test_to_apply_them_again_takes_back_what_was_granted_beside_them(url: str, schema: str | None) -> None:
    """To a role, or to everybody: whole tables, and columns of them."""
    arguments = ["--database", url, "migrate", "--roles", "--apply", *(["--schema", schema] if schema else [])]
    for to in ("PUBLIC", roles.PRODUCER):
        with psycopg.connect(libpq_url(url), autocommit=True) as admin:
            path = f'"{schema}".' if schema else ""
            admin.execute(f"GRANT DELETE ON {path}dbqueue_jobs TO {to}".encode())
            admin.execute(f"GRANT SELECT (result) ON {path}dbqueue_jobs TO {to}".encode())
            admin.execute(f"GRANT SELECT ON {path}dbqueue_schedules TO {to}".encode())
        with connected(url, "t_producer", schema) as connection:
            connection.execute("DELETE FROM dbqueue_jobs")
            connection.execute("SELECT result FROM dbqueue_jobs")
            assert main(arguments) == 0
            refused(connection, "DELETE FROM dbqueue_jobs")
            refused(connection, "SELECT result FROM dbqueue_jobs")
            refused(connection, "SELECT * FROM dbqueue_schedules")


def test_they_are_applied_whole_or_not_at_all(url: str, schema: str | None) -> None:
    """By a user who owns the tables, and may not give them to the owners' role, which is the last step."""
    path = f'"{schema}".' if schema else ""
    with psycopg.connect(libpq_url(url), autocommit=True) as admin:
        for table in (*metadata.tables, "dbqueue_alembic_version"):
            admin.execute(f"ALTER TABLE {path}{table} OWNER TO t_producer".encode())
        admin.execute(f"GRANT DELETE ON {path}dbqueue_jobs TO {roles.INSPECTOR}".encode())
    arguments = ["migrate", "--roles", "--apply", *(["--schema", schema] if schema else [])]
    assert main(["--database", as_user(url, "t_producer"), *arguments]) != 0
    with connected(url, "t_inspector", schema) as connection:
        connection.execute("DELETE FROM dbqueue_jobs")


def test_the_owner_migrates(url: str, schema: str | None) -> None:
    engine = sa.create_engine(as_user(url, "t_owner"))
    with engine.connect() as connection:
        connection.execute(sa.text(f"SET ROLE {roles.OWNER}"))
        migrate.downgrade(connection, schema=schema, revision="base")
        migrate.upgrade(connection, schema=schema)
        connection.commit()
    engine.dispose()
    with opened(url) as store:
        assert store.dialect == "postgresql"


def test_the_sql_is_printed_and_connects_to_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = "postgresql://nobody:secret@127.0.0.1:1/none"
    assert main(["--database", nowhere, "migrate", "--roles", "--schema", "Job Queue"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("BEGIN;\n")
    assert shown.endswith("COMMIT;\n")
    assert 'GRANT INSERT ("id"' in shown or "GRANT INSERT (id" in shown
    assert '"Job Queue".dbqueue_jobs TO dbqueue_producer' in shown
    assert "secret" not in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--roles", "--apply"], "roles are PostgreSQL's"),
        (["--roles"], "roles are PostgreSQL's"),
        (["--apply"], "--apply goes with --roles"),
        (["--roles", "--check"], "--roles goes with"),
    ],
)
def test_what_is_refused(sqlite_url: str, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    assert main(["--database", sqlite_url, "migrate", *arguments]) != 0
    assert said in capsys.readouterr().err


def test_who_may_not_is_told_what_to_do(url: str, schema: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["migrate", "--roles", "--apply", *(["--schema", schema] if schema else [])]
    assert main(["--database", as_user(url, "t_producer"), *arguments]) != 0
    assert "let an administrator run what `dbqueue migrate --roles` prints" in capsys.readouterr().err


def test_partitions(url: str, schema: str | None, start_worker: Callable[..., Any]) -> None:
    """Made by the owner, used by all through the table; a worker that may make none does without."""
    in_schema = ["--schema", schema] if schema else []
    owner = ["--database", as_user(url, "t_owner"), "migrate"]
    with producer(url, "t_producer", schema) as app:
        app.tasks["sample.add"].delay(1, 2)
    for refused_user in ("t_producer", "t_worker", "t_inspector"):
        assert main(["--database", as_user(url, refused_user), "migrate", "--partition", "day", *in_schema]) != 0
    assert main([*owner, "--partition", "day", *in_schema]) == 0
    with connected(url, "t_owner", schema) as connection:
        connection.execute("GRANT SELECT ON dbqueue_jobs_default TO PUBLIC")
    assert main(["--database", url, "migrate", "--roles", "--apply", *in_schema]) == 0
    test_a_producer_can_only_insert(url, schema)
    test_results_and_unique_calls_are_grants_of_their_own(url, schema)
    test_a_worker_works(url, schema, start_worker, "threads")
    with connected(url, "t_worker", schema) as connection:
        owners = """SELECT DISTINCT relowner::regrole::text FROM pg_class
            WHERE relname LIKE 'dbqueue_jobs%' AND relkind IN ('r', 'p')"""
        assert connection.execute(owners).fetchall() == [(roles.OWNER,)]
        connection.execute("SELECT args FROM dbqueue_jobs_default")  # it deletes by rows there
    for user in ("t_producer", "t_reader", "t_inspector"):
        with connected(url, user, schema) as connection:
            refused(connection, "SELECT args FROM dbqueue_jobs_default")
            refused(connection, "INSERT INTO dbqueue_jobs_default (task) VALUES ('t')")
    with opened(as_user(url, "t_worker"), schema=schema) as store:
        worker = TestWorker(store)
        late = datetime.now(UTC) + timedelta(days=10)
        assert worker.session.tend_partitions(older_than_seconds=60, now=late) == Tended()
        ended = worker.session.prune(older_than_seconds=60, limit=1000, now=late)
        assert ended > 0  # row by row
        worker.session.close_worker(worker.id)
        worker.close()
    with opened(as_user(url, "t_owner"), schema=schema) as store:
        worker = TestWorker(store)
        tended = worker.session.tend_partitions(older_than_seconds=None, now=late)
        assert len(tended.made) == 3
        worker.session.close_worker(worker.id)
        worker.close()
    with connected(url, "t_worker", schema) as connection:
        assert connection.execute(owners).fetchall() == [(roles.OWNER,)], "another of its members may drop them"
        for name in tended.made:
            connection.execute(f"SELECT args FROM {name}")
    assert main([*owner, "--partition", "off", *in_schema]) == 0
    test_a_producer_can_only_insert(url, schema)
    test_a_worker_works(url, schema, start_worker, "threads")
