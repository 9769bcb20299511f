"""The end of a job in a transaction that is not a worker's round: its task's own, or its caller's.

The statements are those of the round, with the same fence: id, lease and STARTED. What they find out is
raised instead of returned, since whoever runs the transaction has to undo it: a job that is another's by
now must take nothing of this run along.
"""

from __future__ import annotations

from typing import NamedTuple

from dbqueue.codec.plain import json_object
from dbqueue.errors import DBQueueError, LeaseLost, OperationalError
from dbqueue.jobs import SUCCESS, Replaced, Succeeded
from dbqueue.store.base import Store
from dbqueue.store.postgres import sql as postgres_sql
from dbqueue.store.reading import reading
from dbqueue.store.rows import Finish
from dbqueue.store.sqlite import sql as sqlite_sql
from dbqueue.store.statements import Statement, named
from dbqueue.store.steps import Steps, run
from dbqueue.store.transactions.joining import JoinedConnection
from dbqueue.store.workflows import success
from dbqueue.store.workflows.changes import replace
from dbqueue.workflows import REPLACED


def complete(store: Store, outcome: Succeeded | Replaced, *, linked: bool) -> Steps[bool]:
    """Write what came of the running job; whether other jobs may run now that could not before.

    `linked`: whether others wait for it. Raises LeaseLost where no row is this run's.
    """
    if isinstance(outcome, Replaced):
        ended, released = (yield from replace(store, outcome)), True
    else:
        job_id, lease, result, seconds, content = outcome
        if content is not None:
            yield store.content_of(job_id, lease, content)
        row = Finish(job_id, lease, SUCCESS, result, None, seconds)
        ended, released = yield from store.finishing(row, linked=linked)
    if not ended:
        raise LeaseLost(f"job {outcome.job_id} is not this run's any more: nothing that it wrote may stay")
    return released


class Recorded(NamedTuple):
    """Of a job's row; all None where there is none."""

    status: str | None = None
    lease: str | None = None
    replaced_by: str | None = None
    """The lease of the run that has put a workflow in its place, the last one if there were several."""

    def tells(self, outcome: Succeeded | Replaced) -> bool:
        """Whether this outcome was committed."""
        if isinstance(outcome, Replaced):  # it has given up the lease, and others may have had the job since
            return self.replaced_by == outcome.lease
        return self.status == SUCCESS and self.lease == outcome.lease


def recorded_now(store: Store, job_id: str) -> Recorded:
    """As it is committed at this moment, whoever is about to change it."""
    with reading(store) as connection:
        return run(_recorded(store, job_id), JoinedConnection(connection).reply)


def recorded_at_last(store: Store, job_id: str, standing: Standing | None = None) -> Recorded:
    """As it is once every transaction that has changed it is over: a COMMIT without an answer may be under way.

    `standing`: asked from there.
    """
    return store.perform(lambda: _recorded_from(store, job_id, standing))


class Standing(NamedTuple):
    """What decides which tables a transaction on PostgreSQL finds, and what it may do with them."""

    role: str
    search_path: str


def standing() -> Steps[Standing]:
    """Of the transaction that this runs in."""
    reply = yield Statement("SELECT current_user, current_setting('search_path')", {})
    return Standing(*reply.rows[0])


def lead_astray(store: Store, job_id: str, standing: Standing) -> bool:
    """Whether dbqueue's tables are there, though not for who stands here. False where that cannot be found out."""
    try:
        recorded_at_last(store, job_id)
    except DBQueueError:
        return False
    try:
        recorded_at_last(store, job_id, standing)
    except OperationalError:
        return False
    except Exception:  # noqa: BLE001 - about the tables, the rights to them, or the role itself
        return True
    return False


def _recorded_from(store: Store, job_id: str, standing: Standing | None) -> Steps[Recorded]:
    if standing is not None:
        take = "SELECT set_config('role', :role, true), set_config('search_path', :search_path, true)"
        yield Statement(take, standing._asdict())
    return (yield from _recorded(store, job_id, "{lock}"))


def _recorded(store: Store, job_id: str, lock: str = "") -> Steps[Recorded]:
    text = store.text(f"SELECT status, CAST(lease AS text), CAST(options AS text) FROM {{jobs}} WHERE id = :id {lock}")
    rows = (yield Statement(text, {"id": job_id})).rows
    if not rows:
        return Recorded()
    status, lease, options = rows[0]
    return Recorded(status, lease, json_object(options).get(REPLACED))


def finish_postgres(store: Store, row: Finish, *, linked: bool) -> Steps[tuple[bool, bool]]:
    """Whether the row was ended, and whether others may run that waited for it."""
    if linked:
        columns = {name: [value] for name, value in row._asdict().items()}
        text = named(store.text(success.COMPLETE_POSTGRES))
        rows = (yield Statement(text, {**columns, "now": None})).rows
        return any(not free for _, free in rows), any(free for _, free in rows)
    text = named(store.text(postgres_sql.FINISH_ONE))
    return bool((yield Statement(text, {**row._asdict(), "now": None})).rows), False


def content_postgres(store: Store, job_id: str, lease: str, content: bytes) -> Statement:
    text = named(store.text(postgres_sql.CONTENT))
    return Statement(text, {"id": [job_id], "lease": [lease], "content": [content]})


def finish_sqlite(store: Store, row: Finish, *, linked: bool) -> Steps[tuple[bool, bool]]:
    """As `finish_postgres`."""
    reply = yield Statement(store.text(sqlite_sql.FINISH), {**row._asdict(), "now": None})
    if not reply.changed or not linked:
        return bool(reply.changed), False
    return True, (yield from success.release_sqlite(store, [row.id], None))


def content_sqlite(store: Store, job_id: str, lease: str, content: bytes) -> Statement:
    return Statement(store.text(sqlite_sql.CONTENT), {"id": job_id, "lease": lease, "content": content})
