"""A worker's rounds on PostgreSQL: outcomes and the claim go in one round trip, as one transaction."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import psycopg
from sqlalchemy.pool import PoolProxiedConnection

from dbqueue import failpoints
from dbqueue.errors import AccessDenied, EncodeError, OperationalError
from dbqueue.jobs import ClaimedJob, Outcome, Progress
from dbqueue.store import steps as operations
from dbqueue.store.held import claim_held, held_queues
from dbqueue.store.postgres import held as held_postgres
from dbqueue.store.postgres import looks, pruning, sql, worker_rows
from dbqueue.store.postgres.claimed_rows import ClaimedRows
from dbqueue.store.postgres.driver import Driver, not_said_of_rows, survives, translated
from dbqueue.store.postgres.floors import Floors
from dbqueue.store.postgres.free_rows import lock_free
from dbqueue.store.postgres.held import PostgresHeld
from dbqueue.store.postgres.listening import Listening
from dbqueue.store.postgres.outcomes import Cursor, OutcomeWriter, Statement, ready
from dbqueue.store.postgres.partitions import catalog
from dbqueue.store.postgres.plans import PlanCare
from dbqueue.store.postgres.pool_connection import close_dedicated, closed_unless_opened
from dbqueue.store.postgres.pruning import Part, Pass
from dbqueue.store.postgres.rescue import take_back
from dbqueue.store.records import Claim, HeldClaim, HeldRound, Rescued, Round, Stray, WorkerInfo, WorkersBefore
from dbqueue.store.rows import part, split
from dbqueue.store.sessions import Bell, Tended, WorkSession
from dbqueue.store.statements import literal
from dbqueue.store.transactions.joining import JoinedPsycopg
from dbqueue.store.workflows import inputs, overdue, removing

if TYPE_CHECKING:
    from dbqueue.store.postgres.partitions.upkeep import PartitionUpkeep
    from dbqueue.store.postgres.store import PostgresStore

logger: Final = logging.getLogger("dbqueue.store")
T = TypeVar("T")


class PostgresWorkSession(WorkSession):
    def __init__(self, store: PostgresStore, connection: PoolProxiedConnection) -> None:
        self._store, self._connection = store, connection
        self._driver = cast(Driver, connection.dbapi_connection)
        self._listening = Listening(self._driver, hears=store.supports_listen)
        self._pruning, self._plans, self._floors = Pass(), PlanCare(self._driver, store.text), Floors()
        self._lost, self._overdue = looks.Look(looks.LOST_WORKERS), looks.Look(looks.OVERDUE)
        self._partitions: PartitionUpkeep | None = None
        """None: the table is a plain one."""
        self._words: dict[str, str] = {}
        self._outcomes = OutcomeWriter(store, self._driver, self._floors)
        with closed_unless_opened(connection):
            self._look_at_table()

    def _look_at_table(self) -> None:
        """Learn whether the table of jobs is partitioned, which nothing but the database says.

        It becomes so, or ceases to be, only while no worker is registered (`partitions.switching`). So what is asked
        after a registration holds until the worker's row is closed, and then it claims nothing.
        """
        with translated():
            partitioned = catalog.is_partitioned(catalog.on_driver(self._driver), self._store.names)
        words = catalog.row_words(partitioned=partitioned)
        self._store.names |= words
        if words == self._words:
            return
        self._words = words
        self._pruning = Pass()
        self._partitions = self._partition_upkeep() if partitioned else None
        self._prepare_texts()

    def _partition_upkeep(self) -> PartitionUpkeep:
        from dbqueue.store.postgres.partitions.upkeep import PartitionUpkeep  # of a plain table nobody needs it

        return PartitionUpkeep(self._driver, self._store.names)

    def _prepare_texts(self) -> None:
        store = self._store
        self._outcomes.look_at_table()
        self._claim, self._next_ready = map(store.text, (sql.CLAIM, sql.NEXT_READY))
        self._lock_keys, self._claim_keys = map(store.text, (held_postgres.LOCK_KEYS, held_postgres.CLAIM_KEYS))
        self._claim_behind, self._next_ready_behind = map(store.text, (sql.CLAIM_BEHIND, sql.NEXT_READY_BEHIND))

    def register(self, worker: WorkerInfo) -> None:
        self._execute(worker_rows.REGISTER, worker.columns())
        self._look_at_table()

    def round(
        self,
        outcomes: Sequence[Outcome],
        claim: Claim | None,
        *,
        linked: Collection[str] = frozenset(),
        meanwhile: Callable[[], None] | None = None,
        now: datetime | None = None,
    ) -> Round:
        failpoints.hit("complete.before", self._driver, when=bool(outcomes))
        rows = self._outcomes.ready(outcomes)
        finish, complete, failed = part(rows.finish, linked) if linked else (rows.finish, [], [])
        settled, released = self._outcomes.end_apart(outcomes, failed, now)
        takes_turn = bool(claim and not claim.keys and claim.yielding and now is None and self._floors.slow)
        refused = takes_turn and not self._turn_is_free()
        if refused:
            claim = None
            if not outcomes:
                return Round(refused=True)
        hints = self._floors.hints(claim.queues) if claim and not claim.keys and now is None else None
        statements = self._outcomes.statements(rows, finish, complete, now)
        if claim:
            if takes_turn:
                statements["turn"] = sql.TURN, {"table": self._store.names["jobs"]}
            statements |= self._claim_statements(claim, hints, now, durable=bool(outcomes or claim.once))
        with translated():
            self._plans.look()
            began = time.monotonic()
            cursors = dict(zip(statements, self._send([*statements.values()], meanwhile), strict=True))
            seconds = time.monotonic() - began
            self._plans.took(seconds, len(outcomes))
        if "turn" in cursors and cursors["turn"].fetchone() == ("false",):
            claim, refused = None, True
        claimed = ClaimedRows(cursors["claim"], claim.lease) if claim else ()
        if claim and not claim.keys and now is None:
            rows_of_both = len(outcomes) + len(claimed)
            self._floors.learn(claim, claimed, hinted=hints is not None, seconds=seconds, rows=rows_of_both)
        if complete:
            moved = cursors["complete"].fetchall()
            settled.update(job_id for job_id, free in moved if not free)
            released |= not {job_id for job_id, free in moved if free} <= {job.id for job in claimed}
        settled.update(self._outcomes.written(cursors))
        failpoints.hit("complete.after", self._driver, when=bool(outcomes))
        failpoints.hit("claim.after", self._driver, when=bool(claimed))
        if rows.requeue or released or self._outcomes.owes_word:
            self._notify()
        with_inputs = self._with_inputs(claimed, claim) if claim and claimed and claimed.have_inputs else claimed
        return Round(frozenset(settled), with_inputs, released, refused)

    def settle_free(
        self, outcomes: Sequence[Outcome], *, linked: Collection[str] = frozenset(), now: datetime | None = None
    ) -> Round:
        with translated(), self._driver.transaction():
            locked = lock_free(self._store, self._driver, outcomes, split(outcomes)[0], linked)
            rows = ready([each for each in outcomes if each.job_id not in locked])
            finish, complete, failed = part(rows.finish, linked)
            settled, released = self._outcomes.end_apart(rows.outcomes, failed, now)
            statements = self._outcomes.statements(rows, finish, complete, now)
            cursors = {name: self._driver.execute(*statement) for name, statement in statements.items()}
            moved = cursors["complete"].fetchall() if complete else ()
            settled.update((job_id for job_id, free in moved if not free), self._outcomes.written(cursors))
        released |= any(free for _, free in moved)
        # Not before: its transaction is one that does not wait for the disk.
        if rows.requeue or released or self._outcomes.owes_word:
            self._notify()
        return Round(frozenset(settled), released=released, locked=locked)

    def _claim_statements(
        self, claim: Claim, hints: dict[str, Any] | None, now: datetime | None, *, durable: bool
    ) -> dict[str, Statement]:
        parameters = _claim_parameters(claim, now, durable=durable)
        if claim.keys:
            keys = {"keys": list(claim.keys)}
            return {"lock keys": (self._lock_keys, keys), "claim": (self._claim_keys, parameters | keys)}
        return {"claim": (self._claim_behind, parameters | hints) if hints else (self._claim, parameters)}

    def _turn_is_free(self) -> bool:
        row = self._execute(sql.TURN_IS_FREE, {"table": self._store.names["jobs"]}).fetchone()
        return row is not None and bool(row[0])

    def prepare(self, outcomes: Sequence[Outcome]) -> None:
        self._outcomes.prepare(outcomes)

    def _with_inputs(self, claimed: Sequence[ClaimedJob], claim: Claim | HeldClaim) -> list[ClaimedJob]:
        with not_said_of_rows():
            kept, handed_back = self._perform(inputs.read(self._store, list(claimed), claim.max_input_bytes))
            if handed_back:
                self.round(handed_back, None)
            return kept

    def _notify(self) -> None:
        """Another worker may be idle.

        A server whose queue of notifications is full refuses that: the next round owes it. What was committed before is
        not to seem undone for it, nor what was claimed to be nobody's; and others look by themselves.
        """
        self._outcomes.owes_word = True
        try:
            with not_said_of_rows():
                self._execute(sql.NOTIFY, {})
        except EncodeError as error:
            logger.debug("No other worker was woken (%s); they find the jobs when they poll", error)
        else:
            self._outcomes.owes_word = False

    def _perform(self, steps: operations.Steps[T]) -> T:
        with translated():
            return operations.run(steps, JoinedPsycopg(self._driver).reply)

    def _send(self, statements: list[Statement], meanwhile: Callable[[], None] | None) -> list[Cursor]:
        """Run the statements as one transaction, in one round trip."""
        if len(statements) == 1 and meanwhile is None:  # a pipeline costs as much as a short statement
            return [self._driver.execute(*statements[0])]
        with self._driver.pipeline():  # until its end, which commits: one transaction
            cursors = [self._driver.execute(*statement) for statement in statements]
            if meanwhile is not None:  # the server has begun, for it does not wait for the end
                meanwhile()
            return cursors

    def report(self, reports: Sequence[Progress]) -> None:
        columns = dict(zip(Progress._fields, map(list, zip(*reports, strict=True)), strict=True))
        self._execute(sql.REPORT, columns)

    def outlook(self, queues: Sequence[str], *, now: datetime | None = None) -> tuple[float | None, bool]:
        hints = self._floors.hints(queues) if now is None else None
        statement = (self._next_ready, {"queues": list(queues)}) if hints is None else (self._next_ready_behind, hints)
        with translated():
            row = self._driver.execute(statement[0], statement[1] | {"now": now}).fetchone()
        assert row is not None
        seconds = None if row[0] is None else float(row[0])
        if hints is not None:  # and then look from the bottom
            bottom = self._floors.seconds_to_bottom
            seconds = bottom if seconds is None else min(seconds, bottom)
        return seconds, row[1]

    def claim_held(self, claim: HeldClaim, *, now: datetime | None = None) -> HeldRound:
        with translated():
            found = claim_held(PostgresHeld(self._driver, self._store.text, now), claim)
        if not any(job.inputs for job in found.claimed):
            return found
        return dataclasses.replace(found, claimed=self._with_inputs(found.claimed, claim))

    def park(self, tasks: Collection[str], queues: Sequence[str], *, most: int) -> int:
        parameters = {"tasks": list(tasks), "queues": list(queues), "most": most}
        count = self._execute(sql.PARK, parameters).rowcount
        if count:
            self._notify()  # another worker may have no rate for them
        return count

    def anything_held(self) -> bool:
        row = self._execute(sql.ANYTHING_HELD, {}).fetchone()
        return row is not None and bool(row[0])

    def waiting_queues(self) -> list[str]:
        names = {row[0] for row in self._execute(sql.WAITING_QUEUES, {}).fetchall()}
        with translated():
            return sorted(names | held_queues(PostgresHeld(self._driver, self._store.text, None)))

    def paused_queues(self) -> frozenset[str]:
        return frozenset(row[0] for row in self._execute(sql.PAUSED, {}).fetchall())

    def recorded(self, job_ids: Collection[str]) -> dict[str, tuple[str, str | None]]:
        with not_said_of_rows():
            rows = self._execute(sql.RECORDED, {"ids": list(job_ids)}).fetchall()
        return {job_id: (status, lease) for job_id, status, lease in rows}

    def strays(self, worker_id: str, job_ids: Collection[str]) -> list[Stray]:
        return [
            Stray(*row) for row in self._execute(looks.STRAYS, {"worker": worker_id, "ids": list(job_ids)}).fetchall()
        ]

    def hand_back(self, worker_id: str, held: Collection[str]) -> int:
        # Locked and let go: a heartbeat would wait for as long as the table is read.
        self._execute(sql.LOCK_WORKER, {"worker": worker_id})
        with translated(), self._reading_the_table():
            count = self._execute(sql.HAND_BACK, {"worker": worker_id, "held": list(held)}).rowcount
        if count:
            self._floors.forget()
        return count

    def rescue(self, *, max_losses: int, now: datetime | None = None) -> list[Rescued]:
        late = self._dead(now)
        if not late:
            return []
        with translated(), self._reading_the_table():
            dead = take_back(self._store, self._driver, late, max_losses=max_losses, now=now)
        if any(each.requeued or each.failed for each in dead):
            self._floors.forget()
            self._notify()
        return [each for each in dead if each.requeued or each.failed or each.locked or not each.left]

    def _dead(self, now: datetime | None) -> dict[str, str]:
        """The workers that are dead, with the heartbeats that tell it; with `now` by that time alone."""

        def look() -> list[tuple[Any, ...]]:
            return self._execute(worker_rows.OPEN_WORKERS, {"now": now}).fetchall()

        return {row[0]: row[1] for row in look() if row[3]} if now else self._store.liveness.dead(look)

    def lost_workers(self) -> tuple[list[str], bool]:
        def run(text: str, parameters: dict[str, str]) -> list[tuple[Any, ...]]:
            return self._driver.execute(text, parameters).fetchall()

        with translated():
            rows, more = self._lost.step(run, self._text_on, self._parts, at_once=looks.PAGES_AT_ONCE)
        return [row[0] for row in rows], more

    def overdue(self) -> tuple[dict[str, bool], bool]:
        def run(text: str, parameters: dict[str, str]) -> list[tuple[Any, ...]]:
            with self._seeing_all():
                return self._driver.execute(text, parameters).fetchall()

        try:
            with translated():
                rows, more = self._overdue.step(run, self._text_on, self._parts, at_once=looks.OVERDUE_PAGES_AT_ONCE)
        except AccessDenied:  # what it may not see it cannot tell of
            self._overdue = looks.Look(looks.OVERDUE)
            return {}, False
        return {row[0]: row[1] for row in rows}, more

    def let_go(self, job_ids: Collection[str], *, now: datetime | None = None) -> dict[str, str]:
        try:
            with translated(), self._seeing_all():
                found, released = self._perform(overdue.let_go(self._store, job_ids, now))
        except AccessDenied:
            return {}
        if released:
            self._notify()
        return found

    def reopen(self, worker: WorkerInfo) -> None:
        self._execute(worker_rows.REOPEN, worker.columns())

    def prune(
        self, *, older_than_seconds: float | None, limit: int, keep: int | None = None, now: datetime | None = None
    ) -> int:
        if not self._pruning.under_way:  # a pass that has begun finds nothing in a table that has become another
            self._look_at_table()
        under_way, seconds, partitions = self._pruning, older_than_seconds, self._partitions
        with translated():
            text, parts = self._text_on, self._parts
            count = under_way.prune(self._driver, text, parts, seconds=seconds, keep=keep, limit=limit, now=now)
        saw_workflows = under_way.saw_workflows or (partitions is not None and partitions.saw_workflows)
        if count < limit and not under_way.under_way and (saw_workflows or under_way.ripe):
            surplus_at = under_way.newest_surplus and under_way.newest_surplus[0]
            steps = removing.prune(
                self._store,
                under_way.ripe,
                older_than_seconds=seconds,
                surplus_at=surplus_at,
                limit=limit - count,
                now=now,
            )
            with translated(), self._reading_the_table():
                self._execute(sql.WAIT_FOR_ROWS, {})
                count += self._perform(steps)
        return count

    def _parts(self) -> list[Part]:
        return [Part(self._store.names["jobs"])] if self._partitions is None else self._partitions.parts()

    def _text_on(self, template: str, table: str) -> str:
        names = self._store.names
        return template.format(**{**names, "jobs": table, "all_jobs": names["jobs"], "jobs_text": literal(table)})

    def tend_partitions(self, *, older_than_seconds: float | None, now: datetime | None = None) -> Tended:
        self._look_at_table()
        if self._partitions is None:
            return Tended()
        with translated():
            return self._partitions.step(older_than_seconds=older_than_seconds, now=now)

    @property
    def is_pruning(self) -> bool:
        return self._pruning.under_way

    def prune_keys(self, *, limit: int) -> int:
        with translated(), self._reading_the_table():
            keys = [row[0] for row in self._execute(pruning.SPENT_KEYS, {"limit": limit}).fetchall()]
            return self._execute(pruning.PRUNE_KEYS, {"keys": keys}).rowcount if keys else 0

    def prune_limits(self) -> int:
        with translated():
            return self._execute(pruning.PRUNE_LIMITS, {}).rowcount

    def eldest_worker(self) -> str | None:
        row = self._execute(worker_rows.ELDEST, {}).fetchone()
        return str(row[0]) if row else None

    def workers_before(self, worker_id: str) -> WorkersBefore:
        row = self._execute(worker_rows.BEFORE, {"worker": worker_id}).fetchone()
        return WorkersBefore(int(row[0]), tuple(row[1] or ())) if row else WorkersBefore()

    def close_worker(self, worker_id: str) -> None:
        self._execute(worker_rows.CLOSE_WORKER, {"worker": worker_id})

    def wait(self, seconds: float, bell: Bell) -> bool:
        """The very connection that claims listens: from another thread's, a wake-up takes 0.1 ms longer."""
        return self._listening.wait(0.0 if bell.rung else seconds, bell)

    def survives(self, error: OperationalError) -> bool:
        return survives(self._driver, error)

    def close(self) -> None:
        close_dedicated(self._connection)

    @contextlib.contextmanager
    def _reading_the_table(self) -> Iterator[None]:
        """A transaction in which the planner may scan the table, for the rare statements that must."""
        with self._driver.transaction():
            self._driver.execute(sql.READ_ALL)
            yield

    @contextlib.contextmanager
    def _seeing_all(self) -> Iterator[None]:
        """A transaction in which what row-level security would hide is an error."""
        with self._driver.transaction():
            self._driver.execute(looks.SEE_ALL)
            yield

    def _execute(self, template: str, parameters: dict[str, Any]) -> psycopg.Cursor[tuple[Any, ...]]:
        with translated():
            return self._driver.execute(self._store.text(template), parameters)


def _claim_parameters(claim: Claim, now: datetime | None, *, durable: bool) -> dict[str, Any]:
    return {
        "worker": claim.worker_id,
        "lease": claim.lease,
        "queues": list(claim.queues),
        "limit": claim.limit,
        "once": list(claim.once),
        "now": now,
        "durable": durable,
    }
