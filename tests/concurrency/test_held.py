"""Workers that admit, complete and die at once: never more than the limit runs, and every job runs."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Self, cast
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy as sa

from dbqueue.jobs import ClaimedJob, Outcome, Released, Retried, Succeeded
from dbqueue.limits import Limit, Policies
from dbqueue.store import limits
from dbqueue.store.base import Store
from dbqueue.store.postgres.work_session import PostgresWorkSession
from dbqueue.store.records import Claim
from dbqueue.store.sqlite.work_session import SqliteWorkSession
from tests.concurrency.test_two_connections import at_once
from tests.servers import libpq_url
from tests.stores import TestWorker, count, enqueued, held, opened, row
from tests.waiting import wait_until

THREADS = 6


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    with opened(database_url) as store:
        yield store


class Watcher:
    """Looks at the permits in use, over and over, from a connection of its own."""

    def __init__(self, store: Store) -> None:
        self.most: dict[str, int] = {}
        self.looks = 0
        self._store, self._stop = store, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        query = sa.text("SELECT permit, count(*) FROM dbqueue_jobs WHERE permit IS NOT NULL GROUP BY permit")
        while not self._stop.is_set():
            with self._store.engine.connect() as connection:
                for key, number in connection.execute(query):
                    self.most[key] = max(number, self.most.get(key, 0))
            self.looks += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def work(store: Store, policies: Policies, quick: bool, seed: int) -> int:
    """Claim, and end what was claimed in one way or another, until nothing is left."""
    dice = random.Random(seed)
    worker = TestWorker(store)
    done = 0
    outcomes: list[Outcome] = []
    keys: set[str] = set()
    while outcomes or count(store, "finished_at IS NULL"):
        jobs: list[ClaimedJob] = []
        if quick and keys:
            claim = Claim(worker.id, str(uuid4()), worker.queues, 5, keys=sorted(keys))
            jobs = [*worker.session.round(outcomes, claim).claimed]
        else:
            worker.settle(*outcomes)
        done += sum(type(each) is Succeeded for each in outcomes)
        jobs = [*jobs, *worker.claim_held(5, policies=policies).claimed]
        keys = {job.permit for job in jobs if job.permit is not None}
        outcomes = []
        for job in jobs:
            if dice.random() < 0.2 and job.retries < 3:
                outcomes.append(Retried(job.id, job.lease, "{}", None, 0.0))
            elif dice.random() < 0.1:
                outcomes.append(Released(job.id, job.lease, job.ready_at))
            else:
                outcomes.append(Succeeded(job.id, job.lease, "1", 0.0))
    worker.close()
    return done


@pytest.mark.parametrize("quick", [False, True])
def test_rivals_never_admit_more_than_the_limit(store: Store, quick: bool) -> None:
    policies = Policies({"shop.pack": Limit(running=3, key="{customer}"), "shop.mail": Limit(running=1)})
    for number in range(150):
        held(store, f"c{number % 3}", priority=number % 2)
        held(store, "shop.mail", task="shop.mail")
    with Watcher(store) as watcher:
        done = at_once(*[lambda n=n: work(store, policies, quick, n) for n in range(THREADS)])
        wait_until(lambda: watcher.looks > 0, what="a look")
    assert sum(done) == 300
    assert count(store, "status = 'SUCCESS'") == 300
    assert set(watcher.most) <= {"c0", "c1", "c2", "shop.mail"}
    assert all(most <= (1 if key == "shop.mail" else 3) for key, most in watcher.most.items())
    # Each key's row was made once, by whoever was first.
    assert {row.key: row.max_running for row in limits.rows(store)} == {"c0": 3, "c1": 3, "c2": 3, "shop.mail": 1}


def test_one_token_is_for_one_rival(store: Store) -> None:
    limits.set_limit(store, "k", Limit(rate="1/h"))
    for _ in range(THREADS):
        held(store, "k")
    workers = [TestWorker(store) for _ in range(THREADS)]
    found = at_once(*[lambda worker=worker: len(worker.claim_held().claimed) for worker in workers])
    assert sorted(found) == [0] * (THREADS - 1) + [1]
    for worker in workers:
        worker.close()


def test_a_rescue_against_admissions(store: Store) -> None:
    """The permits of the dead are free exactly once."""
    limits.set_limit(store, "k", Limit(running=4))
    for _ in range(40):
        held(store, "k")
    dead = TestWorker(store, lease_seconds=5)
    assert len(dead.claim_held().claimed) == 4
    # A session is used by one thread: those who rescue are not those who claim.
    alive, rescuers = ([TestWorker(store, lease_seconds=3600) for _ in range(3)] for _ in range(2))
    later = datetime.now(UTC) + timedelta(seconds=60)
    with Watcher(store) as watcher:
        at_once(
            *[lambda worker=worker: worker.session.rescue(max_losses=9, now=later) for worker in rescuers],
            *[lambda worker=worker: [worker.claim_held(now=later) for _ in range(5)] for worker in alive],
        )
        for worker in alive:
            worker.claim_held(now=later)
    assert count(store, "permit = 'k'") == 4
    assert watcher.most.get("k", 0) <= 4
    for worker in [dead, *alive, *rescuers]:
        worker.close()


def test_a_claim_of_freed_permits_counts_what_a_rival_has_admitted_meanwhile(postgres_url: str) -> None:
    """The rival has the key: the claim waits for it, and looks at the permits after that."""
    claimed: list[ClaimedJob] = []
    with opened(postgres_url) as store, psycopg.connect(libpq_url(postgres_url)) as rival:
        limits.set_limit(store, "k", Limit(running=1))
        admitted, waits = held(store, "k"), held(store, "k")
        worker = TestWorker(store)
        cast(PostgresWorkSession, worker.session)._driver.execute("SET lock_timeout = '60s'")

        def claim() -> None:
            keys = Claim(worker.id, str(uuid4()), worker.queues, 5, keys=["k"])
            claimed.extend(worker.session.round([], keys).claimed)

        thread = threading.Thread(target=claim)
        rival.execute("SELECT FROM dbqueue_limits FOR UPDATE")
        thread.start()
        waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        wait_until(lambda: has_rows(postgres_url, waiting), what="the claim's wait for the key")
        rival.execute(
            "UPDATE dbqueue_jobs SET status = 'STARTED', permit = 'k', held_at = NULL, blocked_reason = NULL,"
            " lease = gen_random_uuid(), worker = 'rival', started_at = now() WHERE id = %s",
            [admitted],
        )
        rival.commit()
        thread.join(60)
        assert (claimed, row(store, waits)["status"]) == ([], "PENDING")
        worker.close()


def has_rows(url: str, query: str) -> bool:
    """Whether it has a row, seen from a transaction of its own."""
    with psycopg.connect(libpq_url(url)) as connection:
        return bool(connection.execute(query.encode()).fetchall())


def test_on_a_file_no_job_is_parked_that_a_rival_has_claimed(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks for jobs to be parked has the lock: a rival that is about to claim one waits for the end of it."""
    claimed: list[ClaimedJob] = []
    with opened(sqlite_url) as store:
        worker, rival = TestWorker(store), TestWorker(store)
        session = cast(SqliteWorkSession, worker.session)
        look, thread = session.due_rows, threading.Thread(target=lambda: claimed.extend(rival.claim()))

        def due_rows(*arguments: Any) -> Iterator[tuple[Any, ...]]:
            rows = list(look(*arguments))
            thread.start()
            thread.join(0.3)
            yield from rows

        enqueued(store)
        monkeypatch.setattr(session, "due_rows", due_rows)
        assert session.park(["shop.pack"], ["celery"], most=10) == 1
        thread.join(60)
        assert (claimed, count(store, "status = 'STARTED'")) == ([], 0)
        worker.close()
        rival.close()
