"""Queues that are paused: every worker is told, until they are resumed."""

from __future__ import annotations

from dbqueue.store import queues
from dbqueue.store.base import Store
from tests.stores import TestWorker


def test_paused_and_resumed_as_often_as_one_likes(store: Store, worker: TestWorker) -> None:
    queues.pause(store, ["mail"])
    since = queues.paused(store)["mail"]
    queues.pause(store, ["mail", "celery"])
    assert worker.session.paused_queues() == {"mail", "celery"}
    assert (set(queues.paused(store)), queues.paused(store)["mail"]) == ({"mail", "celery"}, since)
    assert queues.resume(store, ["mail", "absent"]) == {"mail"}
    assert queues.resume(store, ["mail"]) == set()
    assert worker.session.paused_queues() == {"celery"}
