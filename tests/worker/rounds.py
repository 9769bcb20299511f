"""The thread of the rounds by itself, without a worker around it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg

from dbqueue.jobs import ClaimedJob
from dbqueue.store.base import Store
from dbqueue.worker.claiming.rates import TaskRates
from dbqueue.worker.claiming.rounds import Rounds
from dbqueue.worker.config import WorkerConfig
from tests.waiting import wait_until

NAME = "rounds@test"
NEVER = 600.0


class RunningRounds:
    """`Rounds` on a real database, and the jobs that it has claimed."""

    def __init__(self, store: Store, **config: Any) -> None:
        times = {"heartbeat_seconds": NEVER, "poll_seconds": NEVER} | config
        self.config = WorkerConfig(NAME, ("celery",), "solo", 1, **times)
        rates = TaskRates({})
        self.rounds = Rounds(store, self.config, rates=rates, notify=lambda: None, registered=lambda *_: None)
        info = self.config.new_info()
        session = store.work_session(NAME)
        session.register(info)
        self.worker_id = info.id
        self.rounds.start(session, info.id)

    @property
    def reconnected(self) -> bool:
        return self.rounds._session.has_broken

    @property
    def has_claimed(self) -> bool:
        return bool(self.rounds.handover._claimed)

    def take(self) -> ClaimedJob:
        """The next job that it claims."""
        self.rounds.want(1)
        wait_until(lambda: self.has_claimed, what="a claimed job")
        (job,) = self.rounds.take_claimed()
        return job


@contextlib.contextmanager
def running_rounds(store: Store, **config: Any) -> Iterator[RunningRounds]:
    running = RunningRounds(store, **config)
    try:
        yield running
    finally:
        assert running.rounds.stop(60)
        assert running.rounds.failed is None


def backend(admin: psycopg.Connection[Any]) -> tuple[int] | None:
    """The server's process that serves the rounds just now."""
    query = "SELECT pid FROM pg_stat_activity WHERE application_name = %s AND datname = current_database()"
    return admin.execute(query, [f"dbqueue {NAME}"]).fetchone()


def is_asleep(admin: psycopg.Connection[Any]) -> bool:
    """Whether it waits, with nothing left to ask."""
    query = """
        SELECT count(*) FROM pg_stat_activity
        WHERE application_name = %s AND datname = current_database()
          AND state = 'idle' AND query LIKE '%%min(first%%'"""
    return admin.execute(query, [f"dbqueue {NAME}"]).fetchone() == (1,)
