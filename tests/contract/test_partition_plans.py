"""The plans of the hot statements on a table of jobs in nine partitions: those on a plain one, in each partition."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from uuid import uuid4

import psycopg
import pytest

from dbqueue.jobs import Succeeded
from dbqueue.store.postgres import sql as postgres_sql
from dbqueue.store.postgres.outcomes import columns
from dbqueue.store.postgres.partitions import retiring
from dbqueue.store.postgres.work_session import PostgresWorkSession
from dbqueue.store.rows import Finish, split
from tests.contract import test_plans as plain
from tests.contract import test_rare_plans as rare
from tests.contract.test_plans import nodes, prepare, reads
from tests.servers import PostgresServer, libpq_url
from tests.stores import TestWorker, opened, partitioned

session = plain.session

STATISTICS = ["never", "emptied", "full", "half done", "tiny"]
LARGE = STATISTICS[:-1]


@pytest.fixture
def postgres_url(postgres_server: PostgresServer, postgres_template: str) -> Iterator[str]:
    """Partitions by what the ids of the jobs of these tests begin with."""
    with postgres_server.database(postgres_template) as url:
        partitioned(url)
        with psycopg.connect(libpq_url(url), autocommit=True) as connection:
            for (leaf,) in connection.execute(plain.LEAVES, ["dbqueue_jobs"]).fetchall():
                if not leaf.endswith("default"):
                    connection.execute(f"DROP TABLE {leaf}".encode())
            for n in range(1, 9):
                bounds = f"FOR VALUES FROM ('job-{n}') TO ('job-{n + 1}')"
                connection.execute(f"CREATE TABLE jobs_{n} PARTITION OF dbqueue_jobs {bounds}".encode())
        yield url


@pytest.mark.parametrize("statistics", STATISTICS)
def test_rounds(postgres_url: str, session: PostgresWorkSession, statistics: str) -> None:
    plain.test_plans_do_not_depend_on_statistics(postgres_url, session, statistics, queues=3)


@pytest.mark.parametrize("statistics", STATISTICS)
def test_held_jobs(postgres_url: str, session: PostgresWorkSession, statistics: str) -> None:
    plain.test_plans_of_held_jobs(postgres_url, session, statistics, keys=3)


@pytest.mark.parametrize("statistics", STATISTICS)
@pytest.mark.parametrize("analysed", ["never", "full"])
def test_workflows(postgres_url: str, session: PostgresWorkSession, statistics: str, analysed: str) -> None:
    plain.test_plans_of_workflows(postgres_url, session, statistics, analysed)


@pytest.mark.parametrize("statistics", STATISTICS)
def test_everything_else(postgres_url: str, session: PostgresWorkSession, statistics: str) -> None:
    plain.test_plans_of_everything_else_that_is_asked_often(postgres_url, session, statistics)


@pytest.mark.parametrize("statistics", LARGE)
@pytest.mark.parametrize(
    "test",
    [
        rare.test_a_rescue_reads_the_table_once,
        rare.test_what_a_worker_leaves_is_found_in_one_pass,
        rare.test_unique_keys_that_have_served_are_looked_for_in_one_pass,
        rare.test_workflows_that_have_served_are_looked_for_in_one_pass,
    ],
)
def test_what_is_rare(
    postgres_url: str,
    session: PostgresWorkSession,
    statistics: str,
    test: Callable[[str, PostgresWorkSession, str], None],
) -> None:
    test(postgres_url, session, statistics)


@pytest.mark.parametrize("statistics", STATISTICS)
def test_a_look_at_a_partition_before_it_is_dropped(
    postgres_url: str, session: PostgresWorkSession, statistics: str
) -> None:
    """Whether a job of it is kept: some pages at a time. Whether one waits, under a lock: by an entry of each index."""
    prepare(postgres_url, statistics)
    pages = {"first": "(0,0)", "end": "(4096,0)", "before": "2026-01-01"}
    for leaf in plain.leaves_of(session):
        kept, waits, of_workflow = (
            plain.explain_text(session._driver, template.format(table=leaf), pages)
            for template in (retiring._ANY_KEPT, retiring._ANY_WAITS, retiring._ANY_OF_WORKFLOW)
        )
        assert reads(kept) == {"Tid Range Scan"}
        assert reads(waits) == {"dbqueue_jobs_claim", "dbqueue_jobs_held", "dbqueue_jobs_workflow"}
        assert reads(of_workflow) == {"dbqueue_jobs_workflow"}


@pytest.mark.parametrize("statistics", ["never", "full", "half done"])
def test_a_look_by_one_id_reads_one_partition(
    postgres_url: str,
    session: PostgresWorkSession,
    statistics: str,
) -> None:
    """On a pooled connection, too, where the planner may do as it likes."""
    prepare(postgres_url, statistics)
    with psycopg.connect(libpq_url(postgres_url)) as pooled:
        for template in (postgres_sql.FETCH_ONE, postgres_sql.FINISHED_ONE):
            text = f"EXPLAIN (FORMAT JSON) {session._store.text(template)}".encode()
            (plan,) = pooled.execute(text, {"id": "job-17"}).fetchone() or ([],)
            (found,) = [node for node in nodes(plan[0]["Plan"]) if "Relation Name" in node]
            assert (found["Relation Name"], found["Node Type"]) == ("jobs_1", "Index Scan")


@pytest.mark.parametrize("statistics", STATISTICS)
def test_a_batch_is_found_by_its_ids(postgres_url: str, session: PostgresWorkSession, statistics: str) -> None:
    """Whatever the planner thinks: there is no other way. In one partition each, at run time."""
    prepare(postgres_url, statistics)
    finish, _ = split([Succeeded(f"job-{n}", str(uuid4()), "1", 0.1) for n in (1, 20, 300, 4000, 20_000)])
    template, parameters = postgres_sql.FINISH, columns(Finish, finish, None)
    found = plain.explain(session, template, parameters)
    assert all("id >= " in node["Index Cond"] for node in found if "Index Name" in node)
    (plan,) = session._driver.execute(
        f"EXPLAIN (ANALYZE, FORMAT JSON) {session._store.text(template)}", parameters
    ).fetchone() or ([],)
    looks = [node["Actual Loops"] for node in nodes(plan[0]["Plan"]) if "Index Name" in node]
    assert sum(looks) == len(finish)
    assert len(looks) == len(plain.leaves_of(session))


def test_a_claim_comes_in_its_order_from_all_partitions(postgres_url: str) -> None:
    prepare(postgres_url, "never")
    with opened(postgres_url) as store:
        worker = TestWorker(store, queues=("q0", "q1"))
        claimed = worker.claim(2500)
        asked = [(worker.queues.index(job.queue), -job.priority, job.ready_at, job.id) for job in claimed]
        assert asked == sorted(asked)
        assert {job.id[:5] for job in claimed} == {f"job-{n}" for n in range(1, 10)}
        worker.close()
