"""A worker's rounds on SQLite: statement by statement, under the file's write lock."""

from __future__ import annotations

import dataclasses
import json
import math
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, cast

from sqlalchemy.pool import PoolProxiedConnection

from dbqueue import failpoints
from dbqueue.jobs import ClaimedJob, Outcome, Progress
from dbqueue.store import steps as operations
from dbqueue.store.held import claim_held, held_queues
from dbqueue.store.readiness import wait_readable
from dbqueue.store.records import Claim, HeldClaim, HeldRound, Rescued, Round, Stray, WorkerInfo
from dbqueue.store.rows import LOST_ERROR, Finish, contents, part, replacements, split
from dbqueue.store.sessions import ELDEST_SECONDS, Bell, WorkSession
from dbqueue.store.sqlite import sql
from dbqueue.store.sqlite.claimed_rows import claimed_job, refuse, require_taken, rows_of, without_unnamed
from dbqueue.store.sqlite.driver import immediate
from dbqueue.store.sqlite.held import SqliteHeld
from dbqueue.store.sqlite.looks import OVERDUE_ROWS_AT_ONCE, Look
from dbqueue.store.sqlite.pruning import ROWS_AT_ONCE, Pass
from dbqueue.store.transactions.joining import JoinedSqlite
from dbqueue.store.values import sqlite_time
from dbqueue.store.workflows import failure, inputs, overdue, removing, success
from dbqueue.store.workflows.changes import replace

if TYPE_CHECKING:
    from dbqueue.store.sqlite.store import SqliteStore

T = TypeVar("T")


class SqliteWorkSession(WorkSession):
    def __init__(self, store: SqliteStore, connection: PoolProxiedConnection) -> None:
        self._store, self._connection = store, connection
        self._driver = cast(sqlite3.Connection, connection.dbapi_connection)
        self._check_file = store.still_there()
        self._finish, self._requeue = store.text(sql.FINISH), store.text(sql.REQUEUE)
        self._pruning = Pass(self._driver, store.text)
        self._lost, self._overdue = Look(sql.LOST_WORKERS), Look(sql.OVERDUE)
        self._highest, self._priority = map(store.text, (sql.HIGHEST_PRIORITY, sql.PRIORITY))
        self._due, self._take = map(store.text, (sql.DUE, sql.TAKE))

    def register(self, worker: WorkerInfo) -> None:
        self._store.worker_locks.hold(worker.id)
        self._execute(sql.REGISTER, worker.columns())

    def round(
        self,
        outcomes: Sequence[Outcome],
        claim: Claim | None,
        *,
        linked: Collection[str] = frozenset(),
        meanwhile: Callable[[], None] | None = None,
        now: datetime | None = None,
    ) -> Round:
        if meanwhile is not None:
            meanwhile()
        self._check_file()
        at = sqlite_time(now)
        failpoints.hit("complete.before", when=bool(outcomes))
        with self._store.translating():
            # Nothing to write: look before taking the lock that all processes share.
            if not outcomes and not (claim and (claim.keys or next(self.due_rows(claim.queues, 1, at), None))):
                return Round()
            claimed: list[ClaimedJob] = []
            with immediate(self._driver):
                settled, released = self._settle(outcomes, linked, at)
                if claim and self.alive(claim.worker_id):
                    claimed = self._claim(claim, at)
        failpoints.hit("complete.after", when=bool(outcomes))
        failpoints.hit("claim.after", when=bool(claimed))
        return Round(frozenset(settled), claimed, released)

    def _settle(self, outcomes: Sequence[Outcome], linked: Collection[str], at: str | None) -> tuple[set[str], bool]:
        """Write the outcomes: the jobs that they were written for, and whether jobs that waited for them may run."""
        finish, requeue = split(outcomes)
        settled: set[str] = set()
        for content in contents(outcomes):
            self._execute(sql.CONTENT, content._asdict())
        for done in finish:
            if self._driver.execute(self._finish, {**done._asdict(), "now": at}).rowcount:
                settled.add(done.id)
        for back in requeue:
            values = back._asdict()
            values["eta"], values["expires_at"] = _from_iso(back.eta), _from_iso(back.expires_at)
            if self._driver.execute(self._requeue, {**values, "now": at}).rowcount:
                settled.add(back.id)
        failpoints.hit("complete.between", when=bool(linked))
        released = self._move([done for done in finish if done.id in settled], linked, at) if linked else False
        replaced = {each.job_id for each in replacements(outcomes) if self._perform(replace(self._store, each))}
        return settled | replaced, released or bool(replaced)

    def _move(self, ended: Sequence[Finish], linked: Collection[str], at: str | None) -> bool:
        """See to what waits for jobs that have ended just now; whether any of it may run."""
        _, succeeded, failed = part(ended, linked)
        released = False
        if succeeded:
            released = self._perform(success.release_sqlite(self._store, [row.id for row in succeeded], at))
        causes = [failure.Ended(row.id, row.status, row.result, row.traceback) for row in failed]
        return self._perform(failure.propagate(self._store, causes, at)) or released

    def _perform(self, steps: operations.Steps[T]) -> T:
        return operations.run(steps, JoinedSqlite(self._driver).reply)

    def alive(self, worker_id: str) -> bool:
        """Whether the worker was not declared dead; asked under the lock."""
        return self._execute(sql.ALIVE, [worker_id]).fetchone() is not None

    def _claim(self, claim: Claim, at: str | None) -> list[ClaimedJob]:
        if claim.keys:
            held = HeldClaim(claim.worker_id, claim.lease, claim.queues, claim.limit, claim.once, keys=claim.keys)
            found = claim_held(SqliteHeld(self, self._driver, self._store.text, at, begun=True), held)
            return self._with_inputs(found.claimed, claim, at)
        due = list(self.due_rows(claim.queues, claim.limit, at))
        rows = without_unnamed(self._driver, self._store.text, due)
        if rows:
            taken = self._driver.execute(
                self._take,
                {
                    "rows": json.dumps([row[0] for row in rows]),
                    "worker": claim.worker_id,
                    "lease": claim.lease,
                    "once": json.dumps(list(claim.once)),
                    "now": at,
                },
            )
            require_taken(taken.rowcount, len(rows))
        return self._with_inputs([claimed_job(row, claim) for row in rows], claim, at)

    def _with_inputs(self, claimed: list[ClaimedJob], claim: Claim | HeldClaim, at: str | None) -> list[ClaimedJob]:
        if not any(job.inputs for job in claimed):
            return claimed
        kept, handed_back = self._perform(inputs.read(self._store, claimed, claim.max_input_bytes))
        for back in split(handed_back)[1]:
            self._driver.execute(self._requeue, {**back._asdict(), "now": at})
        return kept

    def due_rows(self, queues: Sequence[str], limit: int, at: str | None) -> Iterator[tuple[Any, ...]]:
        """Rows to claim, in order; queue by queue, within it by priority, by probes of the claim index."""
        for queue in queues:
            statement: str = self._highest
            parameters: list[Any] = [queue]
            while limit > 0:
                row = self._driver.execute(statement, parameters).fetchone()
                if row is None:
                    break
                priority, number = row
                if type(priority) is not int:
                    refuse(self._driver, self._store.text, number, "its priority is no whole number")
                    continue
                statement, parameters = self._priority, [queue, priority]
                values = {"queue": queue, "priority": priority, "now": at, "limit": limit}
                due = rows_of(self._driver, self._due, values)
                limit -= len(due)
                yield from due

    def report(self, reports: Sequence[Progress]) -> None:
        with self._store.translating(), immediate(self._driver):
            self._driver.executemany(self._store.text(sql.REPORT), [report._asdict() for report in reports])

    def outlook(self, queues: Sequence[str], *, now: datetime | None = None) -> tuple[float | None, bool]:
        row = self._execute(sql.NEXT_READY, {"queues": json.dumps(list(queues)), "now": sqlite_time(now)}).fetchone()
        return None if row[0] is None else float(row[0]), bool(row[1])

    def claim_held(self, claim: HeldClaim, *, now: datetime | None = None) -> HeldRound:
        with self._store.translating():
            found = claim_held(SqliteHeld(self, self._driver, self._store.text, sqlite_time(now)), claim)
            return dataclasses.replace(found, claimed=self._with_inputs(found.claimed, claim, sqlite_time(now)))

    def park(self, tasks: Collection[str], queues: Sequence[str], *, most: int) -> int:
        with self._store.translating(), immediate(self._driver):
            rows = [row[0] for row in self.due_rows(queues, most, None) if row[2] in tasks]
            return self._driver.execute(self._store.text(sql.PARK), {"rows": json.dumps(rows)}).rowcount

    def anything_held(self) -> bool:
        return bool(self._execute(sql.ANYTHING_HELD, []).fetchone()[0])

    def waiting_queues(self) -> list[str]:
        names = {row[0] for row in self._execute(sql.WAITING_QUEUES, []).fetchall() if isinstance(row[0], str)}
        with self._store.translating():
            return sorted(names | held_queues(SqliteHeld(self, self._driver, self._store.text, None)))

    def paused_queues(self) -> frozenset[str]:
        return frozenset(row[0] for row in self._execute(sql.PAUSED, []).fetchall())

    def recorded(self, job_ids: Collection[str]) -> dict[str, tuple[str, str | None]]:
        rows = self._execute(sql.RECORDED, [json.dumps(list(job_ids))])
        return {job_id: (status, lease) for job_id, status, lease in rows}

    def strays(self, worker_id: str, job_ids: Collection[str]) -> list[Stray]:
        rows = self._execute(sql.STRAYS, {"worker": worker_id, "ids": json.dumps(list(job_ids))}).fetchall()
        return [
            Stray(job_id, lease, ready_at, bool(redeliver), losses, bool(successors))
            for job_id, lease, ready_at, redeliver, losses, successors in rows
        ]

    def hand_back(self, worker_id: str, held: Collection[str]) -> int:
        return self._execute(sql.HAND_BACK, {"worker": worker_id, "held": json.dumps(list(held))}).rowcount

    def rescue(self, *, max_losses: int, now: datetime | None = None) -> list[Rescued]:
        self._check_file()
        at = sqlite_time(now)
        if not self._dead(at):
            return []
        with self._store.translating(), immediate(self._driver):
            dead = self._dead(at)
            parameters = {"workers": json.dumps(dead), "max_losses": max_losses, "error": LOST_ERROR, "now": at}
            found = self._driver.execute(self._store.text(sql.RESCUE), parameters).fetchall()
            failpoints.hit("rescue.between")
            self._perform(failure.propagate(self._store, failure.lost(found), at))
            rows = [row[:2] for row in found]
            for worker in dead:
                self._execute(sql.CLOSE_WORKER, [worker])
        return [Rescued(worker, rows.count((worker, "PENDING")), rows.count((worker, "FAILURE"))) for worker in dead]

    def _dead(self, at: str | None) -> list[str]:
        return [worker_id for worker_id, dead in self._workers(at).items() if dead]

    def _workers(self, at: str | None, *, longest: float = math.inf) -> dict[str, bool]:
        """Whether each is dead: its heartbeat is older than its lease (than `longest` at most), or the kernel has
        released its lock. The eldest first."""
        rows = self._execute(sql.WORKERS, {"now": at}).fetchall()
        ages = self._store.heartbeats.ages({row[0]: row[1] for row in rows})
        released = self._store.worker_locks.released
        return {
            worker_id: bool(late) or ages[worker_id] > min(lease_seconds, longest) or released(worker_id)
            for worker_id, _, lease_seconds, late in rows
        }

    def lost_workers(self) -> tuple[list[str], bool]:
        rows, more = self._lost.step(self._execute, at_once=ROWS_AT_ONCE)
        return [row[0] for row in rows], more

    def overdue(self) -> tuple[dict[str, bool], bool]:
        rows, more = self._overdue.step(self._execute, at_once=OVERDUE_ROWS_AT_ONCE)
        return {job_id: bool(complete) for job_id, complete in rows}, more

    def let_go(self, job_ids: Collection[str], *, now: datetime | None = None) -> dict[str, str]:
        with self._store.translating(), immediate(self._driver):
            return self._perform(overdue.let_go(self._store, job_ids, sqlite_time(now)))[0]

    def reopen(self, worker: WorkerInfo) -> None:
        self._execute(sql.REOPEN, worker.columns())

    def prune(
        self, *, older_than_seconds: float | None, limit: int, keep: int | None = None, now: datetime | None = None
    ) -> int:
        with self._store.translating():
            under_way, at = self._pruning, sqlite_time(now)
            if not under_way.has_counted(keep):
                return 0
            count = under_way.delete(seconds=older_than_seconds, limit=limit, at=at)
            if count < limit:
                surplus_at = under_way.newest_surplus and under_way.newest_surplus[0]
                steps = removing.prune(
                    self._store,
                    under_way.ripe,
                    older_than_seconds=older_than_seconds,
                    surplus_at=surplus_at,
                    limit=limit - count,
                    now=at,
                )
                with immediate(self._driver):
                    count += self._perform(steps)
            if count < limit:
                under_way.rest()
        return count

    @property
    def is_pruning(self) -> bool:
        return self._pruning.under_way

    def prune_keys(self, *, limit: int) -> int:
        return self._execute(sql.PRUNE_KEYS, {"limit": limit}).rowcount

    def prune_limits(self) -> int:
        return self._execute(sql.PRUNE_LIMITS, []).rowcount

    def eldest_worker(self) -> str | None:
        workers = self._workers(None, longest=ELDEST_SECONDS)
        return next((worker_id for worker_id, dead in workers.items() if not dead), None)

    def close_worker(self, worker_id: str) -> None:
        self._execute(sql.CLOSE_WORKER, [worker_id])
        self._store.worker_locks.drop(worker_id)

    def wait(self, seconds: float, bell: Bell) -> bool:
        if not bell.rung:
            wait_readable([bell], seconds)
        return False

    def close(self) -> None:
        self._connection.close()

    def _execute(self, template: str, parameters: dict[str, Any] | Sequence[Any]) -> sqlite3.Cursor:
        with self._store.translating():
            return self._driver.execute(self._store.text(template), parameters)


def _from_iso(text: str | None) -> str | None:
    return None if text is None else sqlite_time(datetime.fromisoformat(text))
