"""The session of the rounds over broken connections: how often it tries, and what it puts right."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace

import pytest

from dbqueue.errors import OperationalError
from dbqueue.jobs import Released, Succeeded
from dbqueue.store.base import Store
from dbqueue.store.sessions import WorkSession
from dbqueue.worker import lasting_session
from dbqueue.worker.holding import Holding
from dbqueue.worker.lasting_session import FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS, LATE_COMMIT_SECONDS, LastingSession
from tests.stores import TestWorker, enqueued, opened, row, run_sql


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    with opened(database_url) as store:
        yield store


def test_it_tries_again_ever_more_seldom_but_often_enough(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not all workers at the same moment: each pause is drawn from half of its longest to all of it."""
    pauses: list[float] = []
    monkeypatch.setattr(lasting_session, "time", SimpleNamespace(sleep=pauses.append, monotonic=time.monotonic))
    restored: list[bool] = []
    tries: list[WorkSession] = []
    session = LastingSession(store, "w@test", Holding(), restored=lambda: restored.append(True))

    def ask(session: WorkSession) -> str:
        tries.append(session)
        if len(tries) <= 12:
            raise OperationalError("the database is away")
        return "answer"

    assert session.surely(ask) == "answer"
    longest = [min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2**number) for number in range(12)]
    assert all(most / 2 <= pause <= most for pause, most in zip(pauses, longest, strict=True))
    assert any(earlier != later for earlier, later in pairwise(pauses[-5:]))
    assert len(restored) == 13, "each time over a new connection"
    session.close()


def test_what_a_new_connection_puts_right(store: Store) -> None:
    worker = TestWorker(store)
    ids = [enqueued(store) for _ in range(5)]
    by_id = {job.id: job for job in worker.claim(5)}
    runs, forgotten, over, answered, unseen = (by_id[each] for each in ids)
    holding = Holding()
    holding.worker_id = worker.id
    holding.take([runs, forgotten, over, answered])
    # What a crash of the server forgets looks like this; what a transactional task has ended itself like that.
    worker.settle(*(Released(job.id, job.lease, job.ready_at) for job in (forgotten, answered)))
    worker.settle(Succeeded(over.id, over.lease, "1", 0.0))
    holding.outcomes.append(Succeeded(answered.id, answered.lease, "1", 0.0))
    session = LastingSession(store, "w@test", holding, restored=lambda: None)
    before = session.has_broken
    assert session.surely(lambda current: current.anything_held()) is False
    assert (before, session.has_broken) == (False, True)
    assert list(session.lost_leases) == [forgotten.id]
    # The reply to its claim was lost: it is nobody's.
    assert [row(store, job.id)["status"] for job in (runs, unseen)] == ["STARTED", "PENDING"]
    session.close()
    worker.close()


def test_late_claims_are_looked_for_more_and_more_rarely(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look reads the whole table. The last one is when no claim can be under way any more."""
    now = 1000.0
    monkeypatch.setattr(lasting_session, "time", SimpleNamespace(sleep=time.sleep, monotonic=lambda: now))
    worker, looks = TestWorker(store), list[float]()
    holding = Holding()
    holding.worker_id = worker.id
    session = LastingSession(store, "w@test", holding, restored=lambda: None)
    session.surely(lambda current: current.anything_held())
    for _ in range(60):  # each ten seconds, as dead workers are looked for
        now += 10.0
        late = enqueued(store)
        worker.claim_one()
        session.hand_back_late_claims(worker.session)
        if row(store, late)["status"] == "PENDING":
            looks.append(now - 1000.0)
        run_sql(store, "DELETE FROM dbqueue_jobs")
    assert looks == [10, 20, 40, 80, 160]
    assert looks[-1] > LATE_COMMIT_SECONDS > looks[-2]
    session.close()
    worker.close()
