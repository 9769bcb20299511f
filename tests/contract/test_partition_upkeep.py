"""Partitions made ahead and dropped behind: by a worker's session, a step at a time."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import errors

from dbqueue.jobs import ClaimedJob, Succeeded
from dbqueue.store import changes
from dbqueue.store.base import Store
from dbqueue.store.postgres.partitions import catalog, retiring, upkeep
from dbqueue.store.postgres.partitions.periods import Period, first_id
from dbqueue.store.postgres.partitions.retiring import Retiring
from dbqueue.store.sessions import Tended
from dbqueue.worker.claiming.upkeep import PRUNE_EVERY_SECONDS, Upkeep
from dbqueue.worker.config import WorkerConfig
from tests.contract.workflows import chain
from tests.servers import PostgresServer, libpq_url
from tests.stores import TestWorker, count, enqueued, new_job, opened, partitioned, row, run_sql

DAY = 86400.0
NOW = datetime.now(UTC)
"""One moment for all of a test, whether midnight comes or not."""


@pytest.fixture
def database_url(
    postgres_server: PostgresServer, postgres_template: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """It stays the moment at which the table was partitioned, for all that makes ids or partitions."""
    with postgres_server.database(postgres_template) as url:
        partitioned(url)
        with psycopg.connect(libpq_url(url)) as connection:
            moment = catalog.leaves(catalog.on_driver(connection), catalog.JOBS)[0].end
        assert moment is not None
        ticks = itertools.count(int(first_id(moment).replace("-", ""), 16) << 12)
        monkeypatch.setattr(sys.modules[__name__], "NOW", moment)
        monkeypatch.setattr(upkeep, "clock", lambda run: moment)
        monkeypatch.setattr("dbqueue.jobs._ticks", lambda number: min([next(ticks) for _ in range(number)]))
        yield url


def in_days(number: float) -> datetime:
    return NOW + timedelta(days=number)


def partitions(store: Store) -> list[str]:
    with store.connect() as connection:
        found = catalog.leaves(catalog.on_connection(connection), store.names["jobs"])
        return [leaf.table.removeprefix("dbqueue_jobs_") for leaf in found]


def in_partitions(store: Store) -> list[str]:
    """Those that have jobs."""
    with store.connect() as connection:
        return list(connection.scalars(sa.text("SELECT DISTINCT tableoid::regclass::text FROM dbqueue_jobs")))


def day(number: int) -> str:
    return Period.of("day", in_days(number)).table.removeprefix("dbqueue_jobs_")


def tend(worker: TestWorker, days: float, seconds: float | None = DAY) -> tuple[list[str], list[str]]:
    """A pass of it, so many days from now: what was made and what was dropped."""
    done = steps(worker, days, seconds)
    assert [each.problem for each in done if each.problem] == []
    return made_and_dropped(done)


def steps(worker: TestWorker, days: float, seconds: float | None = DAY) -> list[Tended]:
    done = []
    while True:
        done.append(worker.session.tend_partitions(older_than_seconds=seconds, now=in_days(days)))
        if not done[-1].under_way:
            return done


def made_and_dropped(done: list[Tended]) -> tuple[list[str], list[str]]:
    made = [name.removeprefix("dbqueue_jobs_") for each in done for name in each.made]
    dropped = [name.removeprefix("dbqueue_jobs_") for each in done for name in each.dropped]
    return made, dropped


def prune(worker: TestWorker, days: float, *, keep: int | None = None) -> int:
    deleted = 0
    while True:
        deleted += worker.session.prune(older_than_seconds=DAY, keep=keep, limit=1000, now=in_days(days))
        if not worker.session.is_pruning:
            return deleted


def end(worker: TestWorker, number: int = 100) -> list[str]:
    jobs = worker.claim(number)
    worker.settle(*(Succeeded(job.id, job.lease, "1", 0.0) for job in jobs))
    return [job.id for job in jobs]


def test_partitions_are_made_before_they_are_needed(store: Store, worker: TestWorker) -> None:
    assert partitions(store) == ["before", day(0), day(1), day(2), "default"]
    assert tend(worker, 0, None) == ([], [])
    assert tend(worker, 1, None) == ([day(3)], [])
    assert tend(worker, 1, None) == ([], [])


def test_a_partition_of_the_operators_own_is_theirs(store: Store, worker: TestWorker) -> None:
    """Whatever its bounds are: only one that dbqueue has made is dropped."""
    bounds = f"FROM ('{first_id(in_days(5))}') TO ('{first_id(in_days(6))}')"
    run_sql(store, f"CREATE TABLE theirs PARTITION OF dbqueue_jobs FOR VALUES {bounds}")
    _, dropped = tend(worker, 9)
    assert dropped == ["before", day(0), day(1), day(2)]
    with store.connect() as connection:
        names = [leaf.table for leaf in catalog.leaves(catalog.on_connection(connection), store.names["jobs"])]
    assert "theirs" in names


def test_a_day_goes_at_once_when_all_of_it_has_expired(store: Store, worker: TestWorker) -> None:
    store.enqueue([new_job() for _ in range(20)])
    end(worker)
    made, dropped = tend(worker, 1)
    assert (made, dropped) == ([day(3)], ["before"])
    assert count(store) == 20
    assert prune(worker, 2) == 0  # they will go at once
    assert tend(worker, 3)[1] == [day(0), day(1)]
    assert count(store) == 0
    assert partitions(store) == [*map(day, range(2, 6)), "default"]
    with store.connect() as connection:
        assert connection.scalar(sa.text("SELECT to_regclass(:name)"), {"name": f"dbqueue_jobs_{day(0)}"}) is None


@pytest.mark.parametrize("state", ["waiting", "started", "held", "late"])
def test_a_day_stays_while_a_job_of_it_has_not_ended_long_ago(store: Store, worker: TestWorker, state: str) -> None:
    store.enqueue([new_job() for _ in range(20)])
    end(worker)
    more = {"limit_key": "k", "blocked_reason": "limit"} if state == "held" else {}
    job_id = enqueued(store, **more)
    jobs = worker.claim() if state in ("started", "late") else []
    for job in jobs if state == "late" else []:
        worker.settle(Succeeded(job.id, job.lease, "1", 0.0), now=in_days(3.5))
    assert day(0) not in tend(worker, 4)[1]
    assert prune(worker, 4) == 20  # row by row, as ever
    assert row(store, job_id)["id"] == job_id
    if state == "late":
        assert day(0) in tend(worker, 5)[1]
        assert count(store) == 0


def test_what_has_no_partition_is_deleted_by_rows(store: Store, worker: TestWorker) -> None:
    enqueued(store, "order-17")
    end(worker)
    tend(worker, 0.5)
    assert prune(worker, 0.5) == 0
    tend(worker, 1.5)
    assert prune(worker, 1.5) == 1


def test_nothing_expires(store: Store, worker: TestWorker) -> None:
    enqueued(store)
    end(worker)
    assert tend(worker, 30, None) == ([day(30), day(31), day(32)], [])
    assert count(store) == 1


def test_workflows_go_as_wholes_and_before_their_day(store: Store, worker: TestWorker) -> None:
    store.enqueue_workflow(chain(*[new_job().id for _ in range(2)]))
    store.enqueue([new_job() for _ in range(5)])
    end(worker)
    assert day(0) not in tend(worker, 4)[1]
    assert prune(worker, 4) == 0  # one of them waits yet
    assert day(0) not in tend(worker, 4)[1]
    assert prune(worker, 4) == 5  # by rows then
    end(worker)
    assert day(0) not in tend(worker, 4)[1]
    assert prune(worker, 4) == 2
    with store.connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM dbqueue_edges")) == 0
    assert day(0) in tend(worker, 4)[1]


def test_workflows_that_have_ended_go_before_the_next_look_at_their_day(store: Store, worker: TestWorker) -> None:
    """Which finds nothing but jobs that go with it."""
    store.enqueue_workflow(chain(*[new_job().id for _ in range(2)]))
    store.enqueue([new_job() for _ in range(5)])
    for _ in range(2):
        end(worker)
    assert day(0) not in tend(worker, 4)[1]
    assert prune(worker, 4) == 2
    assert day(0) in tend(worker, 4)[1]
    assert count(store) == 0


def test_no_more_than_so_many_are_kept(store: Store, worker: TestWorker) -> None:
    """By rows, in whatever partition they are; those that have expired are dropped."""
    store.enqueue([new_job() for _ in range(20)])
    end(worker)
    tend(worker, 0.5)
    assert prune(worker, 0.5, keep=12) == 8
    assert day(0) in tend(worker, 4)[1]
    assert count(store) == 0


def test_jobs_that_came_before_their_partition(
    store: Store, worker: TestWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No worker ran for a week: they are in the DEFAULT partition, and the next one begins behind them."""
    noon = Period.of("day", in_days(7)).start + timedelta(hours=12)
    now = noon
    monkeypatch.setattr("dbqueue.jobs._ticks", lambda number: int(now.timestamp() * 1000) << 12)
    first = enqueued(store)
    end(worker)
    assert tend(worker, 7)[0] == [day(7), day(8), day(9)]
    now += timedelta(milliseconds=1)
    enqueued(store)
    with store.connect() as connection:
        query = "SELECT tableoid::regclass::text FROM dbqueue_jobs ORDER BY id"
        assert list(connection.scalars(sa.text(query))) == ["dbqueue_jobs_default", f"dbqueue_jobs_{day(7)}"]
    assert row(store, first)["status"] == "SUCCESS"


def test_ids_of_the_future_are_in_nobody_s_way(store: Store, worker: TestWorker) -> None:
    """They fill a day to its end, in the DEFAULT partition: that day gets no partition, the next one does."""
    last = f"{first_id(Period.of('day', in_days(3)).end - timedelta(milliseconds=1))}-7000-8000-000000000000"
    enqueued(store, last)
    assert tend(worker, 2)[0] == [day(4)]
    assert [job.id for job in worker.claim()] == [last]


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Has a function called after a partition was looked through, and before it is taken out."""

    def use(do: Callable[[], None]) -> None:
        take_out = Retiring._take_out

        def late(self: Any, leaf: Any) -> bool:
            if leaf.table.endswith(day(0)):
                do()
            return take_out(self, leaf)

        monkeypatch.setattr(Retiring, "_take_out", late)

    return use


@pytest.mark.parametrize("kind", ["ready", "held", "of a workflow"])
def test_a_job_that_comes_while_its_day_is_looked_through(
    store: Store, worker: TestWorker, between: Callable[[Callable[[], None]], None], kind: str
) -> None:
    """The clock of its producer is days behind."""
    enqueued(store)
    end(worker)
    late: list[str] = []

    def enqueue() -> None:
        late.append(new_job().id)
        if kind == "of a workflow":  # it waits for one in the DEFAULT partition
            store.enqueue_workflow(chain("zzz", late[0]))
        else:
            enqueued(store, late[0], **({"limit_key": "k", "blocked_reason": "limit"} if kind == "held" else {}))

    between(enqueue)
    assert day(0) not in tend(worker, 4)[1]
    assert prune(worker, 4) == 1  # the rest goes by rows
    assert row(store, late[0])["status"] == "PENDING"
    assert f"dbqueue_jobs_{day(0)}" in in_partitions(store)


def test_nobody_writes_between_the_last_look_and_the_taking_out(
    store: Store, worker: TestWorker, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither through the table nor into the partition itself, which upkeep names when it deletes by rows. The lock of
    the table comes first, as with whoever uses it: in the other order each would wait for the other."""
    job_id = enqueued(store)
    end(worker)
    ask, looks = Retiring._ask, list[str]()

    def ask_last(self: Any, statement: str, table: str, **parameters: Any) -> bool:
        if statement == retiring._ANY_WAITS and table.endswith(day(0)):
            looks.append(table)
            with psycopg.connect(libpq_url(database_url), autocommit=True) as other:
                other.execute("SET lock_timeout = '100ms'")
                for write in (
                    "INSERT INTO dbqueue_jobs (task) VALUES ('late')",
                    "INSERT INTO dbqueue_jobs (id, task) VALUES ('zzz', 'in the DEFAULT partition')",
                    f"UPDATE {table} SET ready_at = now() WHERE id = '{job_id}'",
                ):
                    with pytest.raises(errors.LockNotAvailable):
                        other.execute(write.encode())
        return ask(self, statement, table, **parameters)

    monkeypatch.setattr(Retiring, "_ask", ask_last)
    assert day(0) in tend(worker, 4)[1]
    assert len(looks) == 1


@pytest.mark.parametrize("redeliver", [True, False])
def test_a_run_that_begins_while_its_day_is_looked_through(
    store: Store, worker: TestWorker, between: Callable[[Callable[[], None]], None], redeliver: bool
) -> None:
    """Its row is gone for a moment, in which its worker may write in vain: so it counts as lost."""
    enqueued(store)
    (ended,) = end(worker)
    other = TestWorker(store)
    held: list[ClaimedJob] = []

    def again() -> None:
        changes.retry(store, [ended])
        held.extend(other.claim(once=[] if redeliver else ["shop.pack"]))

    between(again)
    assert day(0) in tend(worker, 4)[1]
    (rescued,) = worker.session.rescue(max_losses=3)
    assert (rescued.requeued, rescued.failed) == (int(redeliver), int(not redeliver))
    assert row(store, ended)["status"] == ("PENDING" if redeliver else "FAILURE")
    assert worker.session.rescue(max_losses=3) == []
    (job,) = held
    assert other.settle(Succeeded(job.id, job.lease, "1", 0.0)).settled == frozenset()
    other.close()


def test_a_run_that_ends_after_its_day_was_looked_through(
    store: Store, worker: TestWorker, between: Callable[[Callable[[], None]], None]
) -> None:
    enqueued(store)
    (ended,) = end(worker)
    held: list[ClaimedJob] = []

    def again() -> None:
        changes.retry(store, [ended])
        held.extend(worker.claim())

    between(again)
    assert day(0) in tend(worker, 4)[1]
    (job,) = held
    assert worker.settle(Succeeded(job.id, job.lease, "2", 0.0)).settled == {ended}
    assert row(store, ended)["result"] == 2
    assert [rescued.requeued + rescued.failed for rescued in worker.session.rescue(max_losses=3)] == [0]


def test_a_result_that_comes_while_its_day_is_looked_through(
    store: Store, worker: TestWorker, between: Callable[[Callable[[], None]], None]
) -> None:
    enqueued(store)
    (ended,) = end(worker)

    def again() -> None:
        changes.retry(store, [ended])
        jobs = worker.claim()
        worker.settle(*(Succeeded(job.id, job.lease, "2", 0.0) for job in jobs), now=in_days(4))

    between(again)
    assert day(0) in tend(worker, 4)[1]
    assert row(store, ended)["result"] == 2
    assert worker.session.rescue(max_losses=3) == []


def test_a_large_partition_is_looked_through_in_parts(
    store: Store, worker: TestWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retiring, "PAGES_AT_ONCE", 2)
    store.enqueue([new_job(args=f'["{"x" * 400}"]') for _ in range(150)])
    end(worker, 200)
    steps = 0
    while worker.session.tend_partitions(older_than_seconds=DAY, now=in_days(4)).under_way:
        steps += 1
    assert steps > 10
    assert count(store) == 0
    assert day(0) not in partitions(store)


def test_each_partition_is_looked_through_from_its_first_page(
    store: Store, worker: TestWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many pages the one before it had."""
    monkeypatch.setattr(retiring, "PAGES_AT_ONCE", 1)
    late = enqueued(store, f"{first_id(in_days(1))}-late")
    worker.settle(*(Succeeded(job.id, job.lease, "1", 0.0) for job in worker.claim()), now=in_days(3.5))
    for number in (0, 1):
        padded = {"args": f'["{"x" * 400}"]'}
        store.enqueue([new_job(f"{first_id(in_days(number))}-{each}", **padded) for each in range(60)])
    end(worker, 120)
    dropped = tend(worker, 4)[1]
    assert day(0) in dropped
    assert day(1) not in dropped
    assert row(store, late)["status"] == "SUCCESS"


def test_the_eldest_worker_sees_to_it(
    store: Store, worker: TestWorker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Through the same upkeep that prunes by rows."""
    caplog.set_level("INFO")
    store.enqueue([new_job() for _ in range(3)])
    end(worker)
    enqueued(store, "order-17")
    end(worker)
    # Two days ago, as far as the times of the rows and the bounds of the partition go.
    run_sql(store, "UPDATE dbqueue_jobs SET finished_at = finished_at - interval '3 days'")
    run_sql(store, f"DROP TABLE dbqueue_jobs_{day(2)}")
    watch = Upkeep(WorkerConfig("w", ("celery",), "solo", 1, result_expires_seconds=DAY), every_seconds=1e6)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    pause = 0.0
    while count(store) > 3 or pause < PRUNE_EVERY_SECONDS / 2:
        now = max(now, watch.due_at)
        began = now
        watch.run(worker.session, worker.id)
        pause = watch.due_at - began
    assert count(store) == 3  # their day is not over
    assert partitions(store) == ["before", day(0), day(1), day(2), "default"]
    assert f"Made partitions for the jobs to come: dbqueue_jobs_{day(2)}" in caplog.text
    assert "Dropped" not in caplog.text


def test_a_plain_table_has_nothing_to_tend(postgres_server: PostgresServer, postgres_template: str) -> None:
    with postgres_server.database(postgres_template) as url, opened(url) as store:
        plain = TestWorker(store)
        assert tend(plain, 4) == ([], [])
        plain.close()
