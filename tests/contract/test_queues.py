"""Queues that are paused: every worker is told, until they are resumed."""

from __future__ import annotations

from typing import Any

import pytest

from dbqueue.store import queues
from dbqueue.store.base import Store
from dbqueue.worker.claiming import queue_choice
from dbqueue.worker.claiming.queue_choice import LOOK_SECONDS, QueueChoice
from dbqueue.worker.config import WorkerConfig
from tests.clocks import set_clock
from tests.stores import TestWorker, enqueued


def choice(*queues: str, **options: Any) -> QueueChoice:
    return QueueChoice(WorkerConfig("w@test", queues, "solo", 1, **options))


def test_paused_and_resumed_as_often_as_one_likes(store: Store, worker: TestWorker) -> None:
    queues.pause(store, ["mail"])
    since = queues.paused(store)["mail"]
    queues.pause(store, ["mail", "celery"])
    assert worker.session.paused_queues() == {"mail", "celery"}
    assert (set(queues.paused(store)), queues.paused(store)["mail"]) == ({"mail", "celery"}, since)
    assert queues.resume(store, ["mail", "absent"]) == {"mail"}
    assert queues.resume(store, ["mail"]) == set()
    assert worker.session.paused_queues() == {"celery"}


def test_what_a_worker_takes_jobs_from(store: Store, worker: TestWorker) -> None:
    """It is asked again in time, by one that is idle only where the answer may change by itself."""
    for queue in ("reports.daily", "reports.secret", "mail"):
        enqueued(store, queue=queue)
    queues.pause(store, ["mail"])
    names = ("celery", "mail")
    for chosen, found, restless in [
        (choice("celery", "reports.*", excluded=("*.secret",)), ["celery", "reports.daily"], True),
        (choice(*names), ["celery"], True),
        (choice("celery", "reports.daily"), ["celery", "reports.daily"], False),
    ]:
        chosen.look(worker.session)
        assert (chosen.names, chosen.restless) == (found, restless)


def test_a_look_is_good_for_a_while_but_not_for_other_queues(
    worker: TestWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a command names them while it looks."""
    clock = set_clock(monkeypatch, queue_choice)
    chosen = choice("celery")
    chosen.look(worker.session)
    assert chosen.look_at == clock[0] + LOOK_SECONDS
    paused = worker.session.paused_queues

    def meanwhile() -> set[str]:
        chosen.consume(["mail"])
        return set(paused())

    monkeypatch.setattr(worker.session, "paused_queues", meanwhile)
    chosen.look(worker.session)
    assert chosen.look_at <= clock[0]
