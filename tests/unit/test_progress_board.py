"""A worker's reports of progress, until they are written: the latest of each job, at one pace."""

from __future__ import annotations

from dbqueue.jobs import Progress
from dbqueue.worker.claiming.reports import WRITE_SECONDS, ProgressBoard

LEASES = {"a": "lease", "b": "lease"}


def report(job_id: str, meta: str = "1", *, lease: str = "lease") -> Progress:
    return Progress(job_id, lease, "PROGRESS", meta)


def test_the_latest_of_each_job_is_written_once_in_the_order_of_locks() -> None:
    board = ProgressBoard()
    for each in (report("b", "1"), report("a", "2"), report("b", "3")):
        board.put(each)
    assert board.take_due(1.0, LEASES) == [report("a", "2"), report("b", "3")]
    assert board.take_due(100.0, LEASES) == []


def test_all_jobs_share_one_pace() -> None:
    board = ProgressBoard()
    assert board.due_at() is None
    board.put(report("a"))
    assert board.take_due(1.0, LEASES) == [report("a")]
    assert board.due_at() is None
    board.put(report("b"))
    assert board.due_at() == 1.0 + WRITE_SECONDS
    assert board.take_due(1.0 + WRITE_SECONDS / 2, LEASES) == []
    assert board.take_due(1.0 + WRITE_SECONDS, LEASES) == [report("b")]


def test_what_a_run_says_whose_lease_is_gone_is_dropped() -> None:
    """The job may be here again, in a run of its own."""
    board = ProgressBoard()
    board.put(report("a", lease="an earlier one"))
    board.put(report("gone"))
    board.put(report("b"))
    assert board.take_due(1.0, LEASES) == [report("b")]
