"""What was acknowledged is there after a crash of the server, though it writes as late as it may.

Nothing else is committed between the operation and the crash: any commit that waits for the disk would take those
before it along. Claims need not be durable, for a lease that is forgotten is void; all else is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from dbqueue.jobs import ClaimedJob, Failed, Released, Retried, Succeeded
from dbqueue.store import revoking
from dbqueue.store.base import Store
from dbqueue.store.records import Claim
from tests.servers import PostgresServer
from tests.stores import TestWorker, enqueued, held, new_job, opened, row

Operation = Callable[[Store, TestWorker, ClaimedJob], Any]

OPERATIONS: dict[str, tuple[Operation, str, dict[str, object]]] = {
    "an enqueue": (lambda store, worker, running: enqueued(store, "new"), "new", {"status": "PENDING"}),
    "an enqueue of many": (
        lambda store, worker, running: store.enqueue([new_job("new"), *(new_job() for _ in range(200))]),
        "new",
        {"status": "PENDING"},
    ),
    "a completion": (
        lambda store, worker, running: worker.settle(Succeeded("running", running.lease, "1", 0.0)),
        "running",
        {"status": "SUCCESS"},
    ),
    "a completion beside a claim": (
        lambda store, worker, running: worker.settle_and_claim([Succeeded("running", running.lease, "1", 0.0)]),
        "running",
        {"status": "SUCCESS"},
    ),
    "a failure beside a claim": (
        lambda store, worker, running: worker.settle_and_claim([Failed("running", running.lease, "{}", None, 0.0)]),
        "running",
        {"status": "FAILURE"},
    ),
    "a retry beside a claim": (
        lambda store, worker, running: worker.settle_and_claim(
            [Retried("running", running.lease, "{}", None, 3600.0)], queues=["other"]
        ),
        "running",
        {"status": "RETRY", "retries": 1},
    ),
    "a loss beside a claim": (
        lambda store, worker, running: worker.settle_and_claim(
            [Released("running", running.lease, running.ready_at, lost=True)], queues=["other"]
        ),
        "running",
        {"status": "PENDING", "losses": 1},
    ),
    "a claim of what may never run twice": (
        lambda store, worker, running: worker.claim(once=["shop.pack"]),
        "waiting",
        {"status": "STARTED", "redeliver": False},
    ),
    "a claim of a permit by what may never run twice": (
        lambda store, worker, running: (held(store, "key", "held"), worker.claim_held(once=["shop.pack"])),
        "held",
        {"status": "STARTED", "redeliver": False},
    ),
    "a completion beside a claim of permits": (
        lambda store, worker, running: worker.session.round(
            [Succeeded("running", running.lease, "1", 0.0)],
            Claim(worker.id, str(uuid4()), worker.queues, 1, keys=("key",)),
        ),
        "running",
        {"status": "SUCCESS"},
    ),
    "an outcome beside rows that somebody has locked": (
        lambda store, worker, running: worker.session.settle_free(
            [Released("running", running.lease, running.ready_at, lost=True)]
        ),
        "running",
        {"status": "PENDING", "losses": 1},
    ),
    "a rescue": (
        lambda store, worker, running: worker.session.rescue(max_losses=3, now=datetime.now(UTC) + timedelta(hours=1)),
        "running",
        {"status": "PENDING", "losses": 1},
    ),
    "a revocation": (
        lambda store, worker, running: revoking.revoke(store, ["waiting"]),
        "waiting",
        {"status": "REVOKED"},
    ),
}


@pytest.fixture
def store(postgres_server: PostgresServer, postgres_url: str) -> Iterator[Store]:
    with opened(postgres_url) as store:
        yield store
    postgres_server.start()


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_crash_forgets_nothing_that_was_acknowledged(
    store: Store, postgres_server: PostgresServer, name: str
) -> None:
    operation, job, expected = OPERATIONS[name]
    worker = TestWorker(store)
    enqueued(store, "running")
    running = worker.claim_one()
    enqueued(store, "waiting")
    with postgres_server.lazily_written():
        operation(store, worker, running)
        postgres_server.stop("kill")
    postgres_server.start()
    with contextlib.suppress(Exception):
        worker.close()
    with opened(store.engine.url.render_as_string(hide_password=False)) as recovered:
        found = row(recovered, job)
    assert {name: found[name] for name in expected} == expected


def test_a_crash_forgets_no_registration(store: Store, postgres_server: PostgresServer) -> None:
    """A worker whose row is gone could not be declared dead: its jobs would be STARTED for ever."""
    with postgres_server.lazily_written():
        worker = TestWorker(store)
        postgres_server.stop("kill")
    postgres_server.start()
    with contextlib.suppress(Exception):
        worker.close()
    watch = store.watch_session("test")
    assert watch.heartbeat(worker.id)
    watch.close()
