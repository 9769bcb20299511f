"""A store as a test uses it: jobs to enqueue, workers that claim, rows to look at."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import sqlalchemy as sa

from dbqueue import urls
from dbqueue.jobs import BLOCKED_BY_LIMIT, ClaimedJob, NewJob, Outcome, new_job_id
from dbqueue.store import migrate, open_store
from dbqueue.store.base import Store
from dbqueue.store.postgres.partitions.catalog import TAKEN_OUT, TAKEN_OUT_MARK, on_connection
from dbqueue.store.postgres.partitions.making import AHEAD, make_ahead
from dbqueue.store.postgres.partitions.periods import Size
from dbqueue.store.postgres.partitions.switching import switch
from dbqueue.store.records import MAX_INPUT_BYTES, Claim, HeldClaim, HeldRound, Round, WorkerInfo
from dbqueue.store.sessions import WorkSession


@contextlib.contextmanager
def opened(url: str, *, schema: str | None = None) -> Iterator[Store]:
    store = open_store(urls.normalise_url(url), shown_url=urls.mask_url(url), schema=schema)
    try:
        yield store
    finally:
        store.close()


def partitioned(url: str, *, size: Size = "day", days: int = 3) -> None:
    """Have the table of jobs partitioned, for so many days from today on."""
    with opened(url) as store:
        switch(store, size, max_losses=3)
        with migrate.transaction(store.engine) as connection:
            run, now = on_connection(connection), datetime.now(UTC)
            for number in range(1, days - AHEAD):
                make_ahead(run, store.names["jobs"], size, now + timedelta(days=number))


def take_out(store: Store, table: str) -> str:
    """Have a partition taken out of the table of jobs, as a worker has that was killed then; its new name."""
    run_sql(store, f"ALTER TABLE dbqueue_jobs DETACH PARTITION {table}")
    run_sql(store, f"COMMENT ON TABLE {table} IS '{TAKEN_OUT_MARK}'")
    run_sql(store, f"ALTER TABLE {table} RENAME TO {table}{TAKEN_OUT}")
    return f"{table}{TAKEN_OUT}"


def claimed_job(id: str = "job", **fields: Any) -> ClaimedJob:
    """As a worker holds it, without a database."""
    return ClaimedJob(
        id=id, lease="lease", task="pack", queue="celery", priority=0, args="[]", kwargs="{}", headers=None,
        options=None, content_type=None, content=None, parent_id=None, root_id=None, group_id=None, eta=None,
        expires_at=None, ready_at="2026-01-01", retries=0, losses=0, redeliver=True, expired=False,
    )._replace(**fields)  # fmt: skip


def new_job(id: str | None = None, **fields: Any) -> NewJob:
    return NewJob(**{"id": id or new_job_id(), "task": "shop.pack", "queue": "celery"} | fields)


def enqueued(store: Store, id: str | None = None, **fields: Any) -> str:
    job = new_job(id, **fields)
    store.enqueue([job])
    return job.id


class TestWorker:
    """A registered worker whose rounds the test asks for one by one."""

    __test__ = False

    def __init__(self, store: Store, *, queues: Sequence[str] = ("celery",), lease_seconds: float = 30.0) -> None:
        self.store = store
        self.queues = tuple(queues)
        self.id = f"worker@test#{uuid4().hex[:12]}"
        self.session: WorkSession = store.work_session("test")
        self.session.register(WorkerInfo(self.id, "worker@test", "test", 1, "solo", 1, self.queues, "0", lease_seconds))
        self.linked: set[str] = set()

    def claim(
        self,
        limit: int = 100,
        *,
        queues: Sequence[str] | None = None,
        once: Sequence[str] = (),
        now: datetime | None = None,
        max_input_bytes: int = MAX_INPUT_BYTES,
    ) -> list[ClaimedJob]:
        result = self.settle_and_claim([], limit, queues=queues, once=once, now=now, max_input_bytes=max_input_bytes)
        return list(result.claimed)

    def settle_and_claim(
        self,
        outcomes: Sequence[Outcome],
        limit: int = 100,
        *,
        queues: Sequence[str] | None = None,
        once: Sequence[str] = (),
        now: datetime | None = None,
        max_input_bytes: int = MAX_INPUT_BYTES,
    ) -> Round:
        claim = Claim(self.id, str(uuid4()), queues or self.queues, limit, once, max_input_bytes)
        result = self.session.round(outcomes, claim, linked=self.linked, now=now)
        self.linked.update(job.id for job in result.claimed if job.successors)
        return result

    def claim_held(self, limit: int = 100, *, now: datetime | None = None, **options: Any) -> HeldRound:
        """Claim of the jobs that wait for permits."""
        claim = HeldClaim(self.id, str(uuid4()), options.pop("queues", self.queues), limit, **options)
        found = self.session.claim_held(claim, now=now)
        self.linked.update(job.id for job in found.claimed if job.successors)
        return found

    def claim_one(self, **options: Any) -> ClaimedJob:
        (job,) = self.claim(**options)
        return job

    def settle(self, *outcomes: Outcome, now: datetime | None = None) -> Round:
        return self.session.round(outcomes, None, linked=self.linked, now=now)

    def close(self) -> None:
        self.session.close()


def held(store: Store, key: str, id: str | None = None, **fields: Any) -> str:
    """Enqueue a job that waits for a permit of this key."""
    return enqueued(store, id, limit_key=key, blocked_reason=BLOCKED_BY_LIMIT, **fields)


def row(store: Store, job_id: str) -> dict[str, Any]:
    with store.connect() as connection:
        query = sa.text("SELECT * FROM dbqueue_jobs WHERE id = :id")
        return dict(connection.execute(query, {"id": job_id}).mappings().one())


def run_sql(store: Store, sql: str, **parameters: Any) -> int:
    with store.connect() as connection:
        return connection.execute(sa.text(sql), parameters).rowcount


def count(store: Store, where: str = "true") -> int:
    with store.connect() as connection:
        return int(connection.execute(sa.text(f"SELECT count(*) FROM dbqueue_jobs WHERE {where}")).scalar_one())


def moment(value: Any) -> datetime | None:
    """A time of a row, whatever form the database keeps it in."""
    if value is None:
        return None
    if isinstance(value, str):
        parsed = datetime.fromisoformat(value)
        return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    assert isinstance(value, datetime)
    return value.astimezone(UTC)
