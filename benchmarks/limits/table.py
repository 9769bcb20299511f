"""The least table that a durable queue with results needs, and its two statements.

Ids are text and results are kept, as in dbqueue. One statement completes a batch, one claims the next; both
follow the rules of `dbqueue/store/postgres/sql.py`, without which they are slower, not faster.
"""

from __future__ import annotations

import uuid

import psycopg

SESSION = (
    "SET plan_cache_mode = force_generic_plan",
    *(f"SET enable_{road} = off" for road in ("seqscan", "bitmapscan", "hashjoin", "mergejoin")),
    "SET jit = off",
)

CREATE = """
DROP TABLE IF EXISTS bare_jobs;
CREATE TABLE bare_jobs (
    id text COLLATE "C" PRIMARY KEY, task text NOT NULL, args json NOT NULL, status text NOT NULL DEFAULT 'PENDING',
    ready_at timestamptz DEFAULT now(), lease uuid, finished_at timestamptz, result json
) WITH (fillfactor = 70, autovacuum_enabled = off);
CREATE INDEX bare_jobs_claim ON bare_jobs (ready_at, id) WHERE ready_at IS NOT NULL;
"""

COMPLETE = """
UPDATE bare_jobs j SET status = 'SUCCESS', result = d.result::json, finished_at = now()
FROM unnest(%(ids)s::text[], %(results)s::text[]) AS d(id, result)
WHERE j.id = d.id COLLATE "C" AND j.lease = %(lease)s::uuid AND j.status = 'STARTED'"""

CLAIM = """
WITH picked AS MATERIALIZED (
    SELECT ctid AS tid FROM bare_jobs WHERE ready_at <= now()
    ORDER BY ready_at, id LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
UPDATE bare_jobs j SET status = 'STARTED', ready_at = NULL, lease = %(lease)s::uuid
FROM picked p WHERE j.ctid = p.tid AND j.status = 'PENDING'
RETURNING j.id, j.task, j.args::text"""

Job = tuple[str, str, str]


def libpq_url(url: str) -> str:
    return url.replace("postgresql+psycopg://", "postgresql://", 1)


def fill(url: str, jobs: int) -> None:
    with psycopg.connect(libpq_url(url), autocommit=True) as connection:
        connection.execute(CREATE)
        with connection.cursor() as cursor, cursor.copy("COPY bare_jobs (id, task, args) FROM STDIN") as copy:
            for number in range(jobs):
                copy.write_row((f"{number:012}-{uuid.uuid4()}"[:36], "add", "[1, 1]"))
        connection.execute("VACUUM ANALYZE bare_jobs")
        connection.execute("CHECKPOINT")  # of the contestant before


class Session:
    """One connection that completes and claims."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(libpq_url(url), autocommit=True, prepare_threshold=0)
        for statement in SESSION:
            self._connection.execute(statement)

    def round(self, ids: list[str], results: list[str], lease: str, limit: int) -> list[Job]:
        """Complete these, which were claimed with `lease`, and claim up to `limit` with it, in one round trip."""
        with self._connection.pipeline(), self._connection.transaction():
            if ids:
                self._connection.execute(COMPLETE, {"ids": ids, "results": results, "lease": lease})
            cursor = self._connection.execute(CLAIM, {"limit": limit, "lease": lease}) if limit else None
        return cursor.fetchall() if cursor else []

    def finished(self) -> int:
        row = self._connection.execute("SELECT count(*) FROM bare_jobs WHERE finished_at IS NOT NULL").fetchone()
        assert row is not None
        return int(row[0])
