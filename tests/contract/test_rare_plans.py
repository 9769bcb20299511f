"""The plans of what is rare and has no index of its own: it may read a table once, not for each row it finds."""

from __future__ import annotations

from typing import Any

import pytest

from dbqueue.store.postgres import pruning, rescue
from dbqueue.store.postgres import sql as postgres_sql
from dbqueue.store.postgres.work_session import PostgresWorkSession
from dbqueue.store.workflows import removing
from tests.contract import test_plans as plain
from tests.contract.test_plans import IDS, LINK, STATISTICS, explain, fill, is_led, leaves_of, prepare, reads

session = plain.session

LARGE = [each for each in STATISTICS if each != "tiny"]
"""A table of three rows may well be read as a whole."""

KEYS = """
INSERT INTO dbqueue_unique_keys (key, job_id, until)
SELECT 'key-' || n, 'job-' || n, now() FROM generate_series(1, %s) n"""


@pytest.mark.parametrize("statistics", LARGE)
def test_a_rescue_reads_the_table_once(postgres_url: str, session: PostgresWorkSession, statistics: str) -> None:
    prepare(postgres_url, statistics)
    with session._reading_the_table():
        found = explain(session, rescue.HELD, {"workers": ["w#1", "w#2"], "max_losses": 3})
        assert {node["Node Type"] for node in found} - {"LockRows", "Sort"} in ({"Seq Scan"}, {"Index Scan"})
        parameters = {"ids": [f"{number}" for number in range(1000)], "max_losses": 3, "error": "{}", "now": None}
        found = explain(session, rescue.TAKE_BACK, parameters)
        assert {node["Node Type"] for node in found} <= {"ModifyTable", "Seq Scan", "Index Scan"}
        check_one_pass(session, explain(session, rescue.LEFT, {"workers": ["w#1", "w#2"]}))


@pytest.mark.parametrize("statistics", LARGE)
def test_what_a_worker_leaves_is_found_in_one_pass(
    postgres_url: str, session: PostgresWorkSession, statistics: str
) -> None:
    """By its name, for which there is no index: jobs of a claim whose answer was lost, which the worker cannot name."""
    prepare(postgres_url, statistics)
    with session._reading_the_table():
        found = explain(session, postgres_sql.HAND_BACK, {"worker": "w#1", "held": IDS})
        check_one_pass(session, found)


def check_one_pass(session: PostgresWorkSession, found: list[dict[str, Any]]) -> None:
    """Each of the two plans reads each table from end to end, and nothing else."""
    scans = [node for node in found if node["Node Type"] not in ("ModifyTable", "LockRows")]
    assert {node["Node Type"] for node in scans} == {"Seq Scan"}
    assert {node["Parent Relationship"] for node in scans} <= {"Outer", "Member"}  # not for each row of another
    assert len(scans) == 2 * len(leaves_of(session))


@pytest.mark.parametrize("statistics", LARGE)
def test_unique_keys_that_have_served_are_looked_for_in_one_pass(
    postgres_url: str, session: PostgresWorkSession, statistics: str
) -> None:
    """The table of keys is read once; the jobs, of which there may be ten million, by the ids that it names."""
    prepare(postgres_url, statistics)
    fill(postgres_url, "dbqueue_unique_keys", KEYS, statistics)
    with session._reading_the_table():
        spent = explain(session, pruning.SPENT_KEYS, {"limit": 1000})
        gone = explain(session, pruning.PRUNE_KEYS, {"keys": [f"key-{number}" for number in range(100)]})
    for found in (spent, gone):
        of_jobs = [node for node in found if node["Relation Name"] == "dbqueue_jobs"]
        of_keys = [node for node in found if node["Relation Name"] == "dbqueue_unique_keys"]
        assert reads(of_jobs) == {"dbqueue_jobs_pkey"}
        assert all("id = u.job_id" in node["Index Cond"] for node in of_jobs)
        assert len(of_jobs) == 2 * len(leaves_of(session))
        assert reads(of_keys) <= {"Seq Scan", "dbqueue_unique_keys_pkey"}


@pytest.mark.parametrize("statistics", LARGE)
def test_workflows_that_have_served_are_looked_for_in_one_pass(
    postgres_url: str, session: PostgresWorkSession, statistics: str
) -> None:
    """It finds them all; whether one has ended long ago is asked by the index."""
    prepare(postgres_url, statistics)
    fill(postgres_url, "dbqueue_edges", LINK, statistics)
    age = {"seconds": 60, "surplus_at": None, "now": None}
    with session._reading_the_table():
        ripe = explain(session, removing.RIPE_WORKFLOWS, age)
        still = explain(session, removing.STILL_RIPE, age | {"ids": IDS[:20]})
        unlinked = [explain(session, each, {"ids": IDS[:20]}) for each in (removing.UNLINK, removing.UNLINK_FROM)]
        whole = [
            explain(session, each, {"ids": IDS[:20]}) for each in (removing.LOCK_WORKFLOWS, removing.DELETE_WORKFLOWS)
        ]
    members = [node for node in ripe + still if node["Alias"].startswith("m")]
    assert reads(members) == {"dbqueue_jobs_workflow"}
    assert all("workflow_id = " in node["Index Cond"] for node in members)
    passes = [node for node in ripe if node not in members]
    assert reads(passes) <= {"Seq Scan", "dbqueue_jobs_workflow"}
    assert len(passes) == 2 * len(leaves_of(session))
    for found in unlinked:
        assert reads(found) <= {"dbqueue_edges_pkey", "dbqueue_edges_successor", "dbqueue_jobs_pkey", "Tid Scan"}
        assert all(is_led(node, statistics) for node in found if "Index Name" in node)
    for found in whole:
        assert reads(found) <= {"Seq Scan", "dbqueue_jobs_workflow"}
        scans = [node for node in found if node["Node Type"] not in ("ModifyTable", "LockRows")]
        assert len(scans) == 2 * len(leaves_of(session))
