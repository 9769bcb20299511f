"""Jobs that a worker's own code cannot deal with, whatever the reason: these end, and the others go on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dbqueue import signals
from dbqueue.jobs import ClaimedJob, Failed, Outcome
from dbqueue.worker.supervising.reception import Reception
from tests.stores import claimed_job

CLAIMED = [claimed_job(each) for each in ("a", "bad", "c")]


def stumble(job: ClaimedJob) -> bool:
    if job.id == "bad":
        raise RecursionError("whatever it is")
    return False


@pytest.fixture
def ended() -> list[Outcome]:
    return []


@pytest.fixture
def refused() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def jobs() -> list[ClaimedJob]:
    return list(CLAIMED)


@pytest.fixture
def reception(ended: list[Outcome], refused: list[tuple[str, str]], jobs: list[ClaimedJob]) -> Reception:
    config: Any = SimpleNamespace(name="w@test")
    rounds: Any = SimpleNamespace(take_claimed=lambda: jobs)
    revoker: Any = SimpleNamespace(refuses=stumble, refuse=lambda job, why: refused.append((job.id, why)))
    events: Any = SimpleNamespace(received=lambda jobs: [stumble(job) for job in jobs])
    return Reception(config, rounds, revoker, events, ended.append)


@pytest.mark.parametrize("where", ["taken", "announced"])
def test_one_job_is_not_the_end_of_the_others(
    reception: Reception, ended: list[Outcome], caplog: pytest.LogCaptureFixture, where: str
) -> None:
    kept = reception.take(None) if where == "taken" else reception.announced(CLAIMED)
    assert [job.id for job in kept] == ["a", "c"]
    (outcome,) = ended
    assert isinstance(outcome, Failed)
    assert (outcome.job_id, "RecursionError" in outcome.error) == ("bad", True)
    (told,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert told.exc_info is not None


@pytest.mark.parametrize("batch", [CLAIMED[:2], CLAIMED[1:]])
def test_of_two_jobs_that_a_child_is_to_get_the_other_is_kept(
    reception: Reception, ended: list[Outcome], batch: list[ClaimedJob]
) -> None:
    assert [job.id for job in reception.announced(batch)] == [job.id for job in batch if job.id != "bad"]
    assert [outcome.job_id for outcome in ended] == ["bad"]


@pytest.mark.parametrize("ends", [False, True])
def test_what_may_not_run_is_refused_by_a_worker_that_ends_as_well(
    reception: Reception, refused: list[tuple[str, str]], jobs: list[ClaimedJob], *, ends: bool
) -> None:
    """There may be no other worker that would do so. A job that was revoked is that, however late it is."""
    late, off = claimed_job("late", expired=True), claimed_job("off", expired=True, revoked=True)
    jobs[:] = [late, claimed_job("a"), off]
    given_back: list[ClaimedJob] = []
    kept = reception.take(given_back.append if ends else None)
    assert [job.id for job in (given_back if ends else kept)] == ["a"]
    assert len(kept) + len(given_back) == 1
    assert refused == [("late", "expired"), ("off", "revoked")]


def test_each_job_of_a_batch_is_told_of(reception: Reception, caplog: pytest.LogCaptureFixture) -> None:
    """By the log, and by the signal, whose sender is the worker's name."""
    told: list[tuple[Any, str]] = []

    def tell(sender: Any, request: Any, **_: Any) -> None:
        told.append((sender, request.id))

    jobs = [claimed_job(each) for each in "abc"]
    signals.task_received.connect(tell)
    try:
        with caplog.at_level("INFO"):
            assert reception.announced(jobs) == jobs
    finally:
        signals.task_received.disconnect(tell)
    assert told == [("w@test", each) for each in "abc"]
    assert [record.message for record in caplog.records] == [f"Task pack[{each}] received" for each in "abc"]
