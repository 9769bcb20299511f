"""Jobs that a worker's own code cannot deal with, whatever the reason: these end, and the others go on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dbqueue.jobs import ClaimedJob, Failed, Outcome
from dbqueue.worker.reception import Reception
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
def reception(ended: list[Outcome]) -> Reception:
    config: Any = SimpleNamespace(name="w@test")
    rounds: Any = SimpleNamespace(take_claimed=lambda: CLAIMED)
    revoker: Any = SimpleNamespace(refuses=stumble)
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
