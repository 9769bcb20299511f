"""PostgreSQL's plans of the hot statements, under every kind of wrong statistics.

The table of a queue is never what it was when it was analysed. Each statement must keep to the
claim index, the primary key and row addresses whatever the planner believes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from typing import Any, cast
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from dbqueue.jobs import Released, Succeeded
from dbqueue.store import open_store
from dbqueue.store.postgres import free_rows, looks, pruning
from dbqueue.store.postgres import held as held_sql
from dbqueue.store.postgres import sql as postgres_sql
from dbqueue.store.postgres.floors import Floors
from dbqueue.store.postgres.outcomes import columns
from dbqueue.store.postgres.store import PostgresStore
from dbqueue.store.postgres.work_session import PostgresWorkSession, _claim_parameters
from dbqueue.store.records import Claim
from dbqueue.store.rows import Finish, Requeue, split
from dbqueue.store.statements import pyformat
from dbqueue.store.workflows import changes, failure, inputs, operators, overdue, removing, success, writing
from tests.servers import libpq_url
from tests.stores import TestWorker

Driver = psycopg.Connection[Any]

ROWS = 20_000

TABLES = ("dbqueue_jobs", "dbqueue_edges", "dbqueue_unique_keys")

PARAMETER = re.compile(r"%\((\w+)\)s")

FILL = """
INSERT INTO dbqueue_jobs (id, task, queue, priority, args)
SELECT 'job-' || n, 'shop.pack', 'q' || n %% 5, n %% 3, '[1]' FROM generate_series(1, %s) n"""

HOLD_HALF = """
UPDATE dbqueue_jobs SET ready_at = NULL, held_at = now(), blocked_reason = 'limit', limit_key = 'k' || priority
WHERE substr(id, 5)::int % 2 = 0"""

FINISH_HALF = """
UPDATE dbqueue_jobs
SET status = 'SUCCESS', ready_at = NULL, finished_at = now(), lease = gen_random_uuid(), worker = 'w'
WHERE substr(id, 5)::int % 2 = 0"""


LEAVES = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = to_regclass(%s)"
ORIGINALS = """
SELECT c.relname, p.relname FROM pg_inherits i
JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent"""
"""The table of which one is a partition, and the index of the whole table of which one is a part."""
BY_ID_AND_ADDRESS = re.compile(r"\(\(id >= \w+\.id\) AND \(id <= \w+\.id\)\) .*\(\w+\.tid = ctid\).*")


@pytest.fixture
def session(postgres_url: str) -> Iterator[PostgresWorkSession]:
    store = cast(PostgresStore, open_store(postgres_url, shown_url=""))
    session = store.work_session("plans")
    yield session
    session.close()
    store.close()


STATISTICS = ["never", "empty", "emptied", "full", "vacuumed", "half done", "tiny"]
"""When the planner last looked: before the first row, after the last was deleted, ..."""


def fill(url: str, table: str, rows: str, statistics: str) -> None:
    """Fill a table, with statistics from another time."""
    number = [3 if statistics == "tiny" else ROWS]
    with psycopg.connect(libpq_url(url), autocommit=True) as connection:
        # The server's own look, which may come at any moment, would make each run another.
        for leaf in connection.execute(LEAVES, [table]).fetchall() or [(table,)]:
            connection.execute(f"ALTER TABLE {leaf[0]} SET (autovacuum_enabled = off)".encode())
        if statistics == "empty":
            connection.execute(f"ANALYZE {table}")
        connection.execute(rows, number)
        if statistics == "emptied":  # pages, but no rows on them: plans cost nothing then, whatever they read
            connection.execute(f"DELETE FROM {table}")
            connection.execute(f"ANALYZE {table}")
            connection.execute(rows, number)
        if statistics in ("tiny", "full"):
            connection.execute(f"ANALYZE {table}")
        if statistics == "vacuumed":
            connection.execute(f"VACUUM ANALYZE {table}")


def prepare(url: str, statistics: str) -> None:
    """Fill the table of jobs, with statistics from another time."""
    fill(url, "dbqueue_jobs", FILL, statistics)
    if statistics == "half done":
        with psycopg.connect(libpq_url(url), autocommit=True) as connection:
            connection.execute(FINISH_HALF)
            connection.execute("ANALYZE dbqueue_jobs")
            connection.execute(
                "UPDATE dbqueue_jobs SET status = 'PENDING', ready_at = now(), finished_at = NULL,"
                " lease = NULL WHERE status = 'SUCCESS'"
            )


def nodes(plan: dict[str, Any], *, sorted_above: bool = False) -> Iterator[dict[str, Any]]:
    """All of a plan, each with whether what it gives is sorted before a LIMIT has cut it: then all of it is read."""
    yield plan | {"Sorted": sorted_above}
    sorts = plan["Node Type"] in ("Sort", "Incremental Sort")
    for child in plan.get("Plans", ()):
        yield from nodes(child, sorted_above=plan["Node Type"] != "Limit" and (sorted_above or sorts))


def explain(session: PostgresWorkSession, template: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """How the tables are read by a statement of the worker's session."""
    return explain_text(session._driver, session._store.text(template), parameters)


def explain_text(driver: Driver, statement: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """How the tables are read by the plan for these values, and by the one for any, which workers use."""
    text = pyformat(statement)
    names = list(dict.fromkeys(PARAMETER.findall(text)))
    numbered = PARAMETER.sub(lambda match: f"${names.index(match[1]) + 1}", text).replace("%%", "%")
    given = sql.SQL(", ").join(sql.Literal(parameters[name]) for name in names)
    driver.execute(f"PREPARE hot AS {numbered}".encode())
    generic = driver.execute(
        sql.SQL("EXPLAIN (FORMAT JSON) EXECUTE hot") + (sql.SQL("({})").format(given) if names else sql.SQL(""))
    )
    plans = [driver.execute(f"EXPLAIN (FORMAT JSON) {text}".encode(), parameters).fetchone(), generic.fetchone()]
    driver.execute("DEALLOCATE hot")
    originals = {row[0]: row[1] for row in driver.execute(ORIGINALS).fetchall()}
    found = (node for row in plans if row is not None for node in nodes(row[0][0]["Plan"]))
    found = (as_of_whole_table(node, originals) for node in found)
    # A bitmap's own node names the index and its condition, and no table.
    return [node for node in found if node.get("Relation Name") in TABLES or node["Node Type"] == "Bitmap Index Scan"]


def leaves_of(session: PostgresWorkSession) -> list[str]:
    """The tables that hold the jobs."""
    return [row[0] for row in session._driver.execute(LEAVES, ["dbqueue_jobs"]).fetchall()] or ["dbqueue_jobs"]


def as_of_whole_table(node: dict[str, Any], originals: dict[str, str]) -> dict[str, Any]:
    """What is read of a partition, as if it were read of the table that it is a partition of."""
    if node["Node Type"] == "Bitmap Index Scan":
        return node | {"Index Name": originals.get(node["Index Name"], node["Index Name"])}
    if node.get("Relation Name") not in originals:
        return node
    node = node | {"Relation Name": originals[node["Relation Name"]], "Alias": node["Alias"].partition("_")[0] + "*"}
    if BY_ID_AND_ADDRESS.fullmatch(f"{node.get('Index Cond')} {node.get('Filter')}"):
        # It has the row's id and its address. Once in its partition, it finds it by either.
        return {name: value for name, value in node.items() if name != "Index Name"} | {"Node Type": "Tid Scan"}
    return node | ({"Index Name": originals[node["Index Name"]]} if "Index Name" in node else {})


def reads(found: list[dict[str, Any]]) -> set[str]:
    """How the jobs table is read: by which index, or by row address."""
    return {
        node.get("Index Name", node["Node Type"])
        for node in found
        if node["Node Type"] not in ("ModifyTable", "LockRows")
    }


JOBS_OF_A_LEVEL = ("queue = ", "priority = ", "ready_at <= ")
HELD_JOBS_OF_A_LEVEL = ("limit_key = ", "queue = ", "priority = ", "held_at <= ")


def check_steps(found: list[dict[str, Any]], jobs: tuple[str, ...], levels: tuple[str, ...] = ("queue = ",)) -> None:
    """From one level to the next, and along each as far as the LIMIT: by conditions of the index alone, in its order.

    `jobs` are the conditions by which the jobs of a level are found (`i`), `levels` those of the next level (`j`).
    """
    steps = [node for node in found if node.get("Index Name") in ("dbqueue_jobs_claim", "dbqueue_jobs_held")]
    steps = [node for node in steps if node.get("Alias", "?")[0] in "ij"]
    assert {node["Alias"][0] for node in steps} == {"i", "j"}
    for node in steps:
        wanted = jobs if node["Alias"][0] == "i" else levels
        missing = [condition for condition in wanted if condition not in node.get("Index Cond", "")]
        assert not missing, node
        assert " = ANY" not in node["Index Cond"], node
        assert "Filter" not in node, node
        assert not node["Sorted"], node


@pytest.mark.parametrize("queues", [1, 200])
@pytest.mark.parametrize("statistics", STATISTICS)
def test_plans_do_not_depend_on_statistics(
    postgres_url: str, session: PostgresWorkSession, statistics: str, queues: int
) -> None:
    prepare(postgres_url, statistics)
    names = [f"q{n}" for n in range(queues)]
    claim = Claim("w#1", str(uuid4()), names, 500)
    first = explain(session, postgres_sql.CLAIM, _claim_parameters(claim, None, durable=True))
    assert reads(first) == {"dbqueue_jobs_claim", "Tid Scan"}
    check_steps(first, JOBS_OF_A_LEVEL)
    floors = Floors()
    floors._bottom_at = float("inf")
    floors._floors = {(name, priority): ("2026-01-01 00:00:00+00", "job-7") for name in names for priority in (0, 2)}
    hints = floors.hints(names) or {}
    behind = explain(session, postgres_sql.CLAIM_BEHIND, _claim_parameters(claim, None, durable=True) | hints)
    after = explain(session, postgres_sql.NEXT_READY_BEHIND, hints | {"now": None})
    assert reads(behind) == {"dbqueue_jobs_claim", "Tid Scan"}
    assert reads(after) == {"dbqueue_jobs_claim", "dbqueue_jobs_held"}
    check_steps(behind, JOBS_OF_A_LEVEL)
    check_steps(after, JOBS_OF_A_LEVEL[:2])
    by_place = sum("ROW(ready_at, id) > " in node.get("Index Cond", "") for node in behind + after)
    assert by_place == 4 * len(leaves_of(session))  # two plans each
    look = explain(session, postgres_sql.NEXT_READY, {"queues": names, "now": None})
    assert reads(look) == {"dbqueue_jobs_claim", "dbqueue_jobs_held"}
    check_steps(look, JOBS_OF_A_LEVEL[:2])
    assert reads(explain(session, postgres_sql.ANYTHING_HELD, {})) == {"dbqueue_jobs_held"}

    finish, _ = split([Succeeded(f"job-{n}", str(uuid4()), "1", 0.1) for n in range(500)])
    assert reads(explain(session, postgres_sql.FINISH, columns(Finish, finish, None))) == {"dbqueue_jobs_pkey"}
    _, requeue = split([Released(f"job-{n}", str(uuid4()), "2026-01-01 00:00:00+00") for n in range(500)])
    assert reads(explain(session, postgres_sql.REQUEUE, columns(Requeue, requeue, None))) == {"dbqueue_jobs_pkey"}
    ids = {"ids": [f"job-{n}" for n in range(100)]}
    assert reads(explain(session, postgres_sql.RECORDED, ids)) == {"dbqueue_jobs_pkey"}


@pytest.mark.parametrize("keys", [1, 300])
@pytest.mark.parametrize("statistics", STATISTICS)
def test_plans_of_held_jobs(postgres_url: str, session: PostgresWorkSession, statistics: str, keys: int) -> None:
    prepare(postgres_url, statistics)
    session._driver.execute(HOLD_HALF)
    names = [f"k{n}" for n in range(keys)]
    now = {"now": None}
    after = {"key": "", "queue": "", "priority": 0, "most": 500}
    for levels in (
        explain(session, held_sql.LEVELS, now | after),
        explain(session, held_sql.LEVELS_OF, now | {"keys": names, "most": 500}),
    ):
        assert reads(levels) == {"dbqueue_jobs_held"}
        assert all("ROW(" in node["Index Cond"] or "limit_key = " in node["Index Cond"] for node in levels)
    candidates = explain(
        session,
        held_sql.CANDIDATES,
        now
        | {"keys": names, "running": [10] * keys, "most": [500] * keys, "level_keys": names}
        | {"queues": ["q0"] * keys, "priorities": [0] * keys, "positions": [0] * keys},
    )
    assert reads(candidates) == {"dbqueue_jobs_held", "dbqueue_jobs_permit"}
    assert all(
        "limit_key" in node["Index Cond"] or "permit" in node["Index Cond"]
        for node in candidates
        if "Index Name" in node
    )
    ids = [f"job-{n}" for n in range(500)]
    lease = str(uuid4())
    taken = {"worker": "w", "lease": lease, "once": [], "durable": False, "ids": ids, "permits": ids}
    take = explain(session, held_sql.TAKE, now | taken | {"times": ["2026-01-01 00:00:00+00"] * 500})
    assert reads(take) == {"dbqueue_jobs_pkey", "Tid Scan"}
    assert all("Index Cond" in node for node in take if "Index Name" in node)
    assert reads(explain(session, held_sql.FIRST_DUE, now | {"queues": names})) == {"dbqueue_jobs_claim"}


LINK = """
INSERT INTO dbqueue_edges (predecessor, successor, event, place)
SELECT 'job-' || n, 'job-' || n + 1, 'success', '[]' FROM generate_series(2, %s) n"""

IDS = [f"job-{n}" for n in range(500)]
STAGES = (writing, inputs, success, failure, overdue, changes, operators, removing)
OF_WORKFLOWS: dict[str, dict[str, Any]] = {
    "INPUTS": {"limit": 1_000_000},
    "BLOCKED_BELOW": {},
    "WITH_SUCCESSORS": {},
    "LOCK_TOGETHER": {},
    "LOCK_BLOCKED": {},
    "EDGES_INTO": {},
    "END": {"status": "FAILURE", "error": "{}", "traceback": "", "now": None},
    "FREE": {"now": None},
    "FIRE": {"pairs": json.dumps(dict.fromkeys(IDS, "job-7")), "now": None},
    "LOWER": {"pairs": json.dumps(dict.fromkeys(IDS, 1))},
    "UNLINK": {},
    "UNLINK_FROM": {},
    "DELETE": {},
    "DELETE_OF_WORKFLOW": {"workflow": "job-1"},
    "SUCCESSORS": {},
    "REPLACE": {**dict.fromkeys(changes._REWRITTEN), "id": "job-7", "lease": str(uuid4()), "in_workflow": True},
    "LOCK_RUNNING": {"id": "job-7", "lease": str(uuid4())},
    "IS_RUNNING": {"id": "job-7", "lease": str(uuid4())},
    "IS_BLOCKED": {"id": "job-7"},
    "ADOPT": {"workflow": "job-1"},
    "IS_MEMBER": {"id": "job-7", "workflow": "job-1"},
    "LAST_PLACE": {"id": "job-7"},
    "RAISE_COUNT": {"id": "job-7", "more": 1},
    "NOT_SUCCEEDED": {"workflow": "job-1"},
    "TO_REPEAT": {},
    "NEVER": {},
    "FAILED_BEFORE": {},
    "TOLD": {},
    "ALL_SUCCESSORS": {},
    "WAITING_SUCCESSORS": {},
    "LOCK_READ": {},
    "RECOUNT": {},
    "PREDECESSORS": {},
    "UNFINISHED": {"workflow": "job-1"},
    "REVOKE_WAITING": {"error": "{}"},
    "REVOKE_RUNNING": {},
    "FORGET": {},
    "LOCK_WORKFLOWS": {},
    "STILL_RIPE": {"seconds": 60, "surplus_at": None, "now": None},
    "DELETE_WORKFLOWS": {},
}
"""The statements that begin with ids, and their other parameters."""

OF_WORKFLOW_INDEXES = {
    "dbqueue_jobs_pkey",
    "dbqueue_jobs_workflow",
    "dbqueue_edges_pkey",
    "dbqueue_edges_successor",
    "Tid Scan",
}

TARGETS = {name: {"dbqueue_jobs", "dbqueue*"} for name in ("FIRE", "LOWER", "RECOUNT")} | {
    "COMPLETE_POSTGRES": {"s_2", "s*"},
    "TAKE_KEYS": {"held"},
}


@pytest.mark.parametrize("statistics", STATISTICS)
@pytest.mark.parametrize("analysed", ["never", "empty", "emptied", "full", "vacuumed"])
def test_plans_of_workflows(postgres_url: str, session: PostgresWorkSession, statistics: str, analysed: str) -> None:
    prepare(postgres_url, statistics)
    fill(postgres_url, "dbqueue_edges", LINK, "tiny" if statistics == "tiny" else analysed)
    finish, _ = split([Succeeded(job_id, str(uuid4()), "1", 0.1) for job_id in IDS])
    complete = explain(session, success.COMPLETE_POSTGRES, columns(Finish, finish, None))
    check("COMPLETE_POSTGRES", complete, statistics, analysed)
    for name, more in OF_WORKFLOWS.items():
        check(name, explain(session, template_of(name), {"ids": IDS, **more}), statistics, analysed)
    check("STRAYS", explain(session, looks.STRAYS, {"ids": IDS, "worker": "w"}), statistics, analysed)
    check("LOCKED", explain(session, free_rows.LOCKED, {"ids": IDS}), statistics, analysed)
    check("LOCKED_BELOW", explain(session, free_rows.LOCKED_BELOW, {"ids": IDS, "failed": IDS}), statistics, analysed)


def template_of(name: str) -> str:
    """The text of a statement of workflows."""
    return cast(str, next(getattr(stage, name) for stage in STAGES if hasattr(stage, name)))


FIRST_COLUMNS = {
    "dbqueue_jobs_pkey": "id",
    "dbqueue_jobs_workflow": "workflow_id",
    "dbqueue_edges_pkey": "predecessor",
    "dbqueue_edges_successor": "successor",
    "dbqueue_unique_keys_pkey": "key",
}


def is_led(node: dict[str, Any], edges: str) -> bool:
    """Whether a condition leads to a place of the index. One on a later column alone is looked for in all of it."""
    condition = node.get("Index Cond", "")
    # Of a table that is thought to be empty the planner reads either index, for they cost it the same.
    either = edges == "emptied" and node["Index Name"] == "dbqueue_edges_pkey" and "(successor = " in condition
    return either or f"({FIRST_COLUMNS[node['Index Name']]} " in condition


def check(
    name: str,
    found: list[dict[str, Any]],
    statistics: str,
    edges: str,
    *,
    indexes: Collection[str] = OF_WORKFLOW_INDEXES,
) -> None:
    """Nothing is read but what the condition of an index leads to. `edges`: the statistics of their table."""
    assert reads(found) <= set(indexes), name
    bare = {node.get("Alias") for node in found if "Index Name" in node and not is_led(node, edges)}
    if statistics == "tiny":  # an index of three rows may well be read as a whole
        return
    # FINISH's own part: for 500 of 20,000 rows either way costs the same.
    bare -= {"j"} if name == "COMPLETE_POSTGRES" else set()
    # Rows to update that are joined with their new values: where the table is thought to be empty, either may be first.
    bare -= TARGETS.get(name, set()) if statistics == "emptied" else set()
    assert bare == set(), name


OF_KEYS = {"keys": [f"k{n}" for n in range(100)]}
ELSEWHERE: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "one outcome": (
        postgres_sql.FINISH_ONE,
        {"id": "job-1", "lease": str(uuid4()), "status": "SUCCESS", "result": "1", "traceback": None, "seconds": 0.1}
        | {"now": None},
        {"dbqueue_jobs_pkey"},
    ),
    "the state of one": (postgres_sql.FETCH_ONE, {"id": "job-1"}, {"dbqueue_jobs_pkey"}),
    "the state of many": (postgres_sql.FETCH, {"ids": IDS}, {"dbqueue_jobs_pkey"}),
    "waiting for one": (postgres_sql.FINISHED_ONE, {"id": "job-1"}, {"dbqueue_jobs_pkey"}),
    "forgetting one": (postgres_sql.FORGET_ALONE, {"id": "job-1"}, {"dbqueue_jobs_pkey"}),
    "waiting for many": (postgres_sql.FINISHED, {"ids": IDS}, {"dbqueue_jobs_pkey"}),
    "progress": (
        postgres_sql.REPORT,
        # Not 500: for so many of 20,000 rows it costs the same to read them all.
        {"job_id": IDS[:50], "lease": [str(uuid4())] * 50, "state": ["P"] * 50, "meta": ["{}"] * 50},
        {"dbqueue_jobs_pkey", "Tid Scan"},
    ),
    "waiting queues": (postgres_sql.WAITING_QUEUES, {}, {"dbqueue_jobs_claim"}),
    "claim of freed permits": (
        held_sql.CLAIM_KEYS,
        _claim_parameters(Claim("w#1", str(uuid4()), ["q0", "q1"], 500), None, durable=True) | OF_KEYS,
        {"dbqueue_jobs_held", "dbqueue_jobs_permit", "Tid Scan"},
    ),
    "outcomes in another serializer": (
        postgres_sql.CONTENT,
        {"id": IDS[:50], "lease": [str(uuid4())] * 50, "content": [b"x"] * 50},
        {"dbqueue_jobs_pkey"},
    ),
    "parking": (
        postgres_sql.PARK,
        {"tasks": ["shop.pack"], "queues": ["q0", "q1"], "most": 1000},
        {"dbqueue_jobs_claim", "Tid Scan"},
    ),
    "pruning": (
        pruning.PRUNE_PAGES,
        {"first": "(0,0)", "end": "(4096,0)", "seconds": 60, "limit": 1000, "now": None}
        | {"surplus_at": "2026-01-01", "surplus_id": "job-1"},
        {"Tid Range Scan", "Tid Scan"},
    ),
    "counting what is kept": (
        pruning.COUNT_PAGES,
        {"first": "(0,0)", "end": "(4096,0)", "marks": 100},
        {"Tid Range Scan"},
    ),
    "looking for lost workers": (looks.LOST_WORKERS, {"first": "(0,0)", "end": "(4096,0)"}, {"Tid Range Scan"}),
    "forgetting limits": (pruning.PRUNE_LIMITS, {}, {"dbqueue_jobs_permit", "dbqueue_jobs_held"}),
    "looking for what is overdue": (
        looks.OVERDUE,
        {"first": "(0,0)", "end": "(4096,0)"},
        {"Tid Range Scan", "dbqueue_jobs_pkey", "dbqueue_edges_successor"},
    ),
}

OF_PAGES = ("pruning", "counting what is kept", "looking for lost workers", "looking for what is overdue")
"""Of a table that is partitioned, one partition at a time."""


@pytest.mark.parametrize("statistics", STATISTICS)
def test_plans_of_everything_else_that_is_asked_often(
    postgres_url: str, session: PostgresWorkSession, statistics: str
) -> None:
    prepare(postgres_url, statistics)
    session._driver.execute(HOLD_HALF)
    for name, (template, parameters, expected) in ELSEWHERE.items():
        tables = leaves_of(session) if name in OF_PAGES else ["{jobs}"]
        texts = [template.replace("{jobs}", table).replace("{all_jobs}", "{jobs}") for table in tables]
        found = [node for text in texts for node in explain(session, text, parameters)]
        assert reads(found) == expected, name
        # The first of all queues is the first of the index. Of a table that is thought to have no rows, or three, the
        # planner reads all: `store.postgres.plans` sees to that.
        if name == "claim of freed permits":
            check_steps(found, HELD_JOBS_OF_A_LEVEL, HELD_JOBS_OF_A_LEVEL[:2])
        if name == "parking":
            check_steps(found, JOBS_OF_A_LEVEL)
        if name == "forgetting limits":
            assert all("permit = " in node["Index Cond"] or "limit_key = " in node["Index Cond"] for node in found)
        if name != "waiting queues" and statistics not in ("tiny", "emptied"):
            assert all("Index Cond" in node for node in found if "Index Name" in node), name


def test_a_claim_comes_in_the_order_of_its_plan(postgres_url: str) -> None:
    """No ORDER BY stands over the UPDATE: the order is that of the join's outer side."""
    prepare(postgres_url, "never")
    store = open_store(postgres_url, shown_url="")
    worker = TestWorker(store, queues=("q0",))
    claimed = worker.claim(300)
    assert [job.priority for job in claimed] == sorted((job.priority for job in claimed), reverse=True)
    worker.close()
    store.close()


@pytest.mark.parametrize("then", ["three rows", "no rows"])
def test_plans_that_have_gone_bad_are_made_anew(
    postgres_url: str, session: PostgresWorkSession, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    """When the planner last looked there was next to nothing; now there is a lot, and each batch would read it all."""
    monkeypatch.setattr("dbqueue.store.postgres.plans.SLOW_SECONDS", 0.0)
    monkeypatch.setattr("dbqueue.store.postgres.plans.SLOW_SECONDS_A_ROW", 0.0)
    monkeypatch.setattr("dbqueue.store.postgres.plans.AGAIN_SECONDS", 0.0)
    store, worker = session._store, TestWorker(session._store, queues=("q0",))
    if then == "no rows":
        prepare(postgres_url, "emptied")
    else:
        prepare(postgres_url, "tiny")
    driver = worker.session._driver  # type: ignore[attr-defined]

    def entries_read() -> int:
        """Of the primary key, by all so far."""
        driver.execute("SELECT pg_stat_force_next_flush()")
        with store.connect() as connection:
            query = "SELECT idx_tup_read FROM pg_stat_all_indexes WHERE indexrelname = 'dbqueue_jobs_pkey'"
            return int(connection.exec_driver_sql(query).scalar_one())

    def finish(number: int) -> int:
        jobs = worker.claim(number)
        assert len(jobs) == number
        before = entries_read()
        worker.settle(*(Succeeded(job.id, job.lease, "1", 0.1) for job in jobs))
        return entries_read() - before

    if then == "three rows":
        with psycopg.connect(libpq_url(postgres_url)) as other:
            other.execute("UPDATE dbqueue_jobs SET queue = 'q0'")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("dbqueue.store.postgres.plans.SLOW_SECONDS", 1e9)
            finish(2)
            with psycopg.connect(libpq_url(postgres_url)) as other:
                other.execute(FILL.replace("'job-'", "'more-'"), [ROWS])
            assert finish(50) > ROWS / 2  # the fault is there
    finish(50)
    assert finish(50) < 1000
    worker.close()
