"""A worker on a busy machine holds back once for a wake-up, and hears those that come later."""

from __future__ import annotations

import math

import pytest

from dbqueue.store.records import WorkersBefore
from dbqueue.worker.claiming import neighbours
from dbqueue.worker.claiming.claims import Claims
from dbqueue.worker.claiming.handover import Handover
from dbqueue.worker.claiming.held_jobs import HeldJobs
from dbqueue.worker.claiming.holding import Holding
from dbqueue.worker.claiming.rates import TaskRates
from dbqueue.worker.config import WorkerConfig
from tests.stores import TestWorker

CONFIG = WorkerConfig("worker", ("celery",), "solo", 1)
BUSY = 1_000_000


@pytest.fixture
def claims(worker: TestWorker, monkeypatch: pytest.MonkeyPatch) -> Claims:
    """Of an idle worker that has just been woken, and holds back."""
    monkeypatch.setattr(neighbours, "waiting_threads", lambda: BUSY)
    monkeypatch.setattr(neighbours, "idle_seconds", lambda: 0.0)
    for name in ("JOIN_EVERY_SECONDS", "LONGEST_SECONDS"):
        monkeypatch.setattr(neighbours, name, 1e9)
    holding = Holding()
    handover = Handover(holding, lambda: None)
    held = HeldJobs(CONFIG, TaskRates({}))
    ask = worker.session
    claims = Claims(CONFIG, holding, handover, held, must_poll=False, tried=lambda what, operation: operation(ask))
    claims.allowed = True
    claims._neighbours.before = WorkersBefore(BUSY)
    handover.want(1)
    claims.announced()
    assert claims.next(now=False)[0] is None
    return claims


def test_what_a_round_has_released_is_claimed_at_once_and_the_next_wake_up_is_heard(claims: Claims) -> None:
    claim, _ = claims.next(now=True)
    assert claim is not None
    claims.clock.claim_found(0, claim.limit)
    assert not claims.clock.due
    claims.announced()
    assert claims.clock.due


def test_one_whose_claim_was_refused_does_not_hold_back_as_well(
    claims: Claims, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would wait for others twice, at each of many tries."""
    with monkeypatch.context() as patched:
        patched.setattr(neighbours, "idle_seconds", lambda: math.inf)
        claims.clock.at_once()
        assert claims.next(now=False)[0] is not None
    claims.clock.claim_refused()
    claims.announced()
    assert claims.next(now=False)[0] is not None
