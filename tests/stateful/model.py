"""What a store is to do, as dictionaries. `rows` has the tables, `graph` workflows, and `permits` limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import timedelta

from dbqueue.jobs import FAILURE, PENDING, RETRY, REVOKED, STARTED, SUCCESS, TERMINAL, NewJob
from dbqueue.workflows import Edge, Workflow
from tests.stateful.graph import Graph
from tests.stateful.permits import Permits
from tests.stateful.rows import CALLED_OFF, Row, Token

MAX_LOSSES = 2
PAUSE_SECONDS = 5.0
"""Of a job that its task gives back."""
ONCE = "shop.charge"
"""A task that is never run again once it was started."""
ERROR, TRACEBACK = "Oops", "tb"
"""Of a run that fails."""
RETRY_ERROR = "Again"
"""Of one that is to be repeated."""
HOLD = "rate:shop.pack"
"""A worker's own limit, under which it lets a job wait that it has claimed."""
RELEASES = ("release", "lost", "pause", "hold")


class Model(Graph, Permits):
    # callers

    def enqueue(self, job: NewJob) -> None:
        at = self.real()
        row = Row(job, job.queue, job.priority, job.eta, at, due=job.eta or at, limit_key=job.limit_key)
        self.rows.setdefault(job.id, row)

    # workers

    def claim(self, worker: str, lease: str, queues: Sequence[str], limit: int) -> list[Token]:
        if self.workers[worker] is None:
            return []
        return [self.start_run(row, worker, lease) for row in self.due(queues, held=False)[:limit]]

    def start_run(self, row: Row, worker: str, lease: str, *, permit: str | None = None) -> Token:
        return super().start_run(replace(row, redeliver=row.job.task != ONCE), worker, lease, permit=permit)

    def opens(self, token: Token) -> bool:
        row = self.rows.get(token.job_id)
        return row is not None and row.status == STARTED and row.lease == token.lease

    def settle(
        self, pairs: Sequence[tuple[Token, str]], delay: float, queue: str | None = None, priority: int | None = None
    ) -> set[str]:
        """Outcomes of one round: for which jobs they were taken. `queue` and `priority` are what a retry asks for."""
        taken = {token.job_id: how for token, how in sorted(pairs) if self.opens(token)}
        for token, how in pairs:
            if token.job_id not in taken:
                continue
            row = self.rows[token.job_id]
            if how in TERMINAL:
                succeeded = how == SUCCESS
                self.end(row, how, self.now, row.job.id if succeeded else ERROR, None if succeeded else TRACEBACK)
            elif how == RETRY:
                row = self.wait(row, self.now + timedelta(seconds=delay), status=RETRY)
                moved = row.priority if priority is None else priority
                again = row.retries + 1
                self.change(row, retries=again, queue=queue or row.queue, priority=moved, result=RETRY_ERROR)
            else:
                row = self.wait(row, self.now + timedelta(seconds=PAUSE_SECONDS) if how == "pause" else token.due)
                limit_key = row.limit_key or (HOLD if how == "hold" else None)
                self.change(row, losses=row.losses + (how == "lost"), limit_key=limit_key)
        self.ended({job_id: how for job_id, how in taken.items() if how in TERMINAL}, self.now)
        return set(taken)

    def replace(self, token: Token, workflow: Workflow) -> bool:
        if self.opens(token):
            self.put_in_place(self.rows[token.job_id], workflow)
            return True
        return False

    def report(self, token: Token, state: str) -> None:
        if self.opens(token):
            self.change(self.rows[token.job_id], state=state)

    def hand_back(self, worker: str, held: Collection[str]) -> int:
        """What this worker was given and does not know of waits again."""
        unknown = [row for row in self.running(worker) if row.job.id not in held]
        for row in unknown:
            self.wait(row, row.created_at)
        return len(unknown)

    def running(self, worker: str) -> list[Row]:
        return [row for row in self.rows.values() if row.status == STARTED and row.worker == worker]

    # who is alive

    def heartbeat(self, worker: str) -> bool:
        if self.workers[worker] is None:
            return False
        self.workers[worker] = self.now
        return True

    def rescue(self) -> dict[str, tuple[int, int]]:
        """The workers that are dead now; how many of their jobs run again, and how many have failed."""
        oldest = self.now - timedelta(seconds=self.lease_seconds)
        dead = {worker for worker, beat in self.workers.items() if beat is not None and beat < oldest}
        found: dict[str, tuple[int, int]] = {}
        failed: list[str] = []
        for worker in dead:
            rows = self.running(worker)
            for row in rows:
                lost = replace(row, losses=row.losses + 1)
                if row.redeliver and row.losses < MAX_LOSSES:
                    # It keeps the worker's name: who had it last.
                    self.wait(lost, row.created_at, worker=worker)
                else:
                    failed.append(self.end(lost, FAILURE, self.now, "WorkerLostError", row.traceback).job.id)
            ends = Counter(self.rows[row.job.id].status for row in rows)
            found[worker] = ends[PENDING], ends[FAILURE]
            self.workers[worker] = None
        self.ended(dict.fromkeys(sorted(failed), FAILURE), self.now)
        return found

    def lost_workers(self) -> set[str]:
        return {row.worker for row in self.rows.values() if row.worker and self.is_orphan(row)}

    # operators, and what is dated by the databases' own clocks

    def revoke(self, job_id: str) -> None:
        if job_id not in self.rows:
            self.remember_revoked(job_id)
        elif self.rows[job_id].waits:
            self.cancel(job_id, revoked=True)
        elif self.rows[job_id].status == STARTED:
            self.change(self.rows[job_id], revoked=True)

    def cancel(self, job_id: str, *, revoked: bool = False) -> bool:
        row = self.rows.get(job_id)
        if row is None or not row.waits:
            return False
        at = self.real()
        self.end(replace(row, revoked=row.revoked or revoked), REVOKED, at, CALLED_OFF)
        self.ended({job_id: REVOKED}, at)
        return True

    def cancel_workflow(self, workflow: str) -> None:
        """Nothing of it is told to errbacks, for they end as well."""
        at = self.real()
        for row in list(self.rows.values()):
            if row.workflow == workflow and row.waits:
                self.end(replace(row, revoked=True), REVOKED, at, CALLED_OFF)
            elif row.workflow == workflow and row.status == STARTED:
                self.change(row, revoked=True)

    def retry(self, job_id: str) -> set[str]:
        """Which jobs begin again: those to be repeated that have ended, or are with a worker that is gone."""
        at = self.real()
        again = {
            each for each in self.to_repeat(job_id)
            if each in self.rows and (self.rows[each].finished_at or self.is_orphan(self.rows[each]))
        }  # fmt: skip
        for each in again:
            row = self.wait(self.rows[each], at)
            self.change(row, retries=0, losses=0, revoked=False, result=None, traceback=None, finished_at=None)
        self.recount(again)
        return again

    def forget(self, job_id: str) -> bool:
        row = self.rows.get(job_id)
        if row is None or row.finished_at is None or self.is_needed(job_id):
            return False
        self._delete({job_id})
        return True

    def ended_ids(self) -> list[str]:
        return [job_id for job_id, row in self.rows.items() if row.finished_at]

    def prune(self, older_than: float) -> int:
        """What ended long ago is deleted, the jobs of a workflow together."""
        oldest = self.now - timedelta(seconds=older_than)
        young = {row.workflow for row in self.rows.values() if row.finished_at is None or row.finished_at >= oldest}
        old = {
            job_id for job_id, row in self.rows.items()
            if row.finished_at and row.finished_at < oldest and (row.workflow is None or row.workflow not in young)
        }  # fmt: skip
        self._delete(old)
        return len(old)

    def _delete(self, job_ids: set[str]) -> None:
        self.rows = {job_id: row for job_id, row in self.rows.items() if job_id not in job_ids}
        self.edges = {
            edge for edge in self.edges
            if edge.successor not in job_ids and (edge.predecessor not in job_ids or self._has_served(edge))
        }  # fmt: skip

    def _has_served(self, edge: Edge) -> bool:
        """Whether a result, or a failure, came to a row that is there, or it is an errback that was called off.

        The edge tells that it cannot run again.
        """
        row = self.rows.get(edge.successor)
        if row is None or row.finished_at is None:
            return False
        return edge.predecessor in self.inputs(edge.successor) or (edge.on == "error" and row.worker is None)
