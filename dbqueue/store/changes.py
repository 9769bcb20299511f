"""What an operator may do to jobs: retry, cancel, delete, purge.

Workers go on meanwhile. Each change names in its WHERE the state that it starts from, so that a
job which a worker has claimed or ended a moment ago is left alone; the ids that were changed come
back, and the caller tells about the others.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

import sqlalchemy as sa

from dbqueue.codec import describe_exception
from dbqueue.codec.plain import json_object
from dbqueue.errors import TaskRevokedError
from dbqueue.jobs import (
    BLOCKED_BY_LIMIT,
    PENDING,
    RETRIES_OPTION,
    REVOKED,
    STARTED,
    TERMINAL,
    WAITING,
    NewJob,
    storable,
)
from dbqueue.store.base import Store
from dbqueue.store.changing import Ask, among, changed
from dbqueue.store.queries import is_orphan
from dbqueue.store.reading import reading
from dbqueue.store.revoking import Revoked, revoke
from dbqueue.store.steps import run
from dbqueue.store.tables import Json, database_now, jobs
from dbqueue.store.transactions.joining import JoinedConnection
from dbqueue.store.unique_keys import key_in, take_unique_keys
from dbqueue.store.workflows import failure, operators, removing
from dbqueue.workflows import REPLACED

_HAS_ENDED: Final = sa.or_(jobs.c.status.in_(TERMINAL), is_orphan())


def retry(store: Store, job_ids: Collection[str]) -> set[str]:
    """Put ended jobs back as if they were new, and wake a worker; returns the ids of those it did.

    A job that is STARTED under a worker which has stopped counts as ended. Retries and losses
    begin again at 0 (a job that had used them up would fail at once), the old result is dropped,
    and so is an expiry that has passed. `options` records how often this was done.

    A job of a workflow takes with it the failed ones that it waits for, and those that ended because they
    could not run without it, unless they wait for another that has failed: they wait again, and so does what was let
    go and does not run yet. Errbacks do not; one that ran has run. Left alone, with what cannot run without them, are

    - a job that was revoked before it was enqueued: there is nothing to run;
    - one that takes a result which was deleted: it would run without that argument;
    - one after which another runs, or whose errback is about to be told of its failure: these need it as it is;
    - an errback of a failure that is none any more, or may soon be none, or that was called off before there was
      one and can be told of none;
    - one whose unique key is another job's by now (`queries.holders`).
    """

    def change(connection: sa.Connection, ask: Ask) -> set[str]:
        # First, as an enqueue does: whoever waits for a key has locked no job, and no two wait for each other.
        keyed = _take_keys(store, connection, storable(job_ids))
        again = run(operators.to_repeat(store, storable(job_ids)), ask)
        done = {job_id for chunk in _chunks(again) for job_id in _put_back(connection, chunk, keyed)}
        run(operators.recount(store, done), ask)
        return done

    if done := changed(store, change, repeatable=False):  # it may have run, and ended, in between
        store.wake()
    return done


def retry_workflow(store: Store, job_id: str) -> set[str]:
    """`retry` of all that has failed, or could not run, in the workflow that the job belongs to; which jobs wait again.

    What has succeeded keeps its result.
    """
    workflow_id = _workflow_of(store, job_id)
    if workflow_id is None:
        return retry(store, [job_id])
    return retry(store, store.perform(lambda: operators.not_succeeded(store, workflow_id)))


def _put_back(connection: sa.Connection, job_ids: Collection[str], keyed: Collection[str]) -> list[str]:
    """One statement for all of them: on PostgreSQL one for each took eight times as long, mostly for its plan.

    But for those with a unique key that are not among the `keyed`, which have theirs; the ids of those that wait again.
    """
    now = database_now()
    due = sa.case((jobs.c.eta > now, jobs.c.eta), else_=now)
    limited = jobs.c.limit_key.is_not(None)  # it waits for a permit again
    # In the order of ids, in which all batches lock their rows.
    found = connection.execute(_ended(job_ids).order_by(jobs.c.id).with_for_update(of=jobs)).all()
    found = [row for row in found if row.id in keyed or _keyed(*row) is None]
    each = _each(connection, {job_id: _counted(options) for job_id, options, _ in found})
    again = (
        sa.update(jobs)
        .where(jobs.c.id == each.c.key, _HAS_ENDED)
        .values(
            status=PENDING,
            ready_at=sa.case((limited, sa.null()), else_=due),
            held_at=sa.case((limited, due)),
            blocked_reason=sa.case((limited, BLOCKED_BY_LIMIT)),
            expires_at=sa.case((jobs.c.expires_at <= now, sa.null()), else_=jobs.c.expires_at),
            options=sa.cast(each.c.value, Json),
            retries=0,
            losses=0,
            **dict.fromkeys(
                ("started_at", "finished_at", "worker", "lease", "permit", "result", "traceback"),
                sa.null(),
            ),
            revoked_at=sa.null(),
            result_content=sa.null(),
            state=sa.null(),
            meta=sa.null(),
        )
    )
    connection.execute(again)
    return [row.id for row in found]


def _ended(job_ids: Collection[str]) -> sa.Select[Any]:
    """Those of these jobs that can be put back: id, options, workflow_id."""
    query = sa.select(jobs.c.id, sa.cast(jobs.c.options, sa.Text), jobs.c.workflow_id)
    return query.where(jobs.c.id.in_(job_ids), _HAS_ENDED)


def _keyed(job_id: str, options: str | None, workflow_id: str | None) -> NewJob | None:
    """The job as it asked for its unique key; None for one without a key, or that was replaced by another call."""
    key = key_in(options) if workflow_id is None else None
    if key is None or json_object(options).get(REPLACED):
        return None
    return NewJob(job_id, "", "", unique_key=key[0], unique_seconds=key[1])


def _take_keys(store: Store, connection: sa.Connection, job_ids: Collection[str]) -> Collection[str]:
    """Take the unique keys of these jobs, where they are not others'; the ids of the jobs that have theirs.

    As between two enqueues, whoever comes second waits for the first one's commit.
    """
    found = [
        _keyed(*row) for chunk in _chunks(job_ids) for row in connection.execute(_ended(chunk).order_by(jobs.c.id))
    ]
    keyed = [job for job in found if job is not None]
    if not keyed:
        return ()
    joined = JoinedConnection(connection)
    taken = run(take_unique_keys(store.inserts, keyed, again=True), joined.reply)
    return {job.id for job in keyed} - taken.keys()


def _each(connection: sa.Connection, texts: Mapping[str, str]) -> sa.TableValuedAlias:
    """The texts as rows of a statement, with the columns `key` and `value`."""
    function = sa.func.json_each_text if connection.dialect.name == "postgresql" else sa.func.json_each
    return function(_json(json.dumps(texts))).table_valued("key", "value")


def _chunks(job_ids: Collection[str]) -> Iterator[list[str]]:
    """In lists that a statement with a parameter for each takes, in the order of ids."""
    ids = sorted(job_ids)
    for start in range(0, len(ids), 1000):
        yield ids[start : start + 1000]


def _workflow_of(store: Store, job_id: str) -> str | None:
    with reading(store) as connection:
        return connection.scalar(sa.select(jobs.c.workflow_id).where(jobs.c.id.in_(storable([job_id]))))


def cancel(store: Store, job_ids: Collection[str]) -> set[str]:
    """End jobs that wait as REVOKED; returns the ids of those it did.

    What cannot run without one of them ends as well, and its errbacks run.
    """
    error, _ = describe_exception(TaskRevokedError("revoked"), max_bytes=4096)
    end = (
        sa.update(jobs)
        .where(among(store, job_ids), jobs.c.status.in_(WAITING))
        .values(
            status=REVOKED,
            ready_at=sa.null(),
            finished_at=database_now(),
            blocked_reason=sa.null(),
            held_at=sa.null(),
            result=_json(error),
            traceback=sa.null(),
        )
        .returning(jobs.c.id, jobs.c.successors)
    )

    def change(connection: sa.Connection, ask: Ask) -> tuple[set[str], bool]:
        run(failure.lock_with_below(store, job_ids), ask)
        rows = connection.execute(end).all()
        causes = [failure.Ended(row.id, REVOKED, error) for row in rows if row.successors]
        return {row.id for row in rows}, run(failure.propagate(store, causes), ask)

    done, released = changed(store, change)
    if released:
        store.wake()
    return done


def cancel_workflow(store: Store, job_id: str) -> Revoked:
    """Revoke all that has not ended in the workflow that the job belongs to, errbacks as well.

    Jobs that run are marked, as by `revoking.revoke`.
    """
    workflow_id = _workflow_of(store, job_id)
    if workflow_id is None:
        return revoke(store, [job_id])
    return Revoked(*store.perform(lambda: operators.cancel(store, workflow_id)))


def delete(store: Store, job_ids: Collection[str]) -> set[str]:
    """Delete jobs that have ended, with their results; returns the ids of those it did.

    A job stays while another has still to read its result.
    """
    return store.perform(lambda: removing.forget(store, job_ids))


def set_state(store: Store, job_id: str, *, state: str | None, meta: str | None) -> bool:
    """Show a state and a meta (JSON text) on a job that is running; False where it is not."""
    change = (
        sa.update(jobs)
        .where(jobs.c.id.in_(storable([job_id])), jobs.c.status == STARTED)
        .values(state=state, meta=sa.null() if meta is None else _json(meta))
    )
    return changed(store, lambda connection, _: connection.execute(change).rowcount > 0)


def purge(store: Store, *, queues: Collection[str] = (), excluded: Collection[str] = ()) -> int:
    """Delete the jobs that wait, due or not, in these queues (in all, if none is named); returns how many.

    Jobs in other queues that cannot run without one of them end as REVOKED.
    """
    waiting = [jobs.c.status.in_(WAITING)]
    if queues:
        waiting.append(jobs.c.queue.in_(storable(queues)))
    if excluded:
        waiting.append(jobs.c.queue.not_in(storable(excluded)))
    members = sa.select(jobs.c.id).where(*waiting, jobs.c.workflow_id.is_not(None))
    error, _ = describe_exception(TaskRevokedError("purged"), max_bytes=4096)

    def change(connection: sa.Connection, ask: Ask) -> tuple[int, bool]:
        found = list(connection.scalars(members))
        if found:
            run(failure.lock_with_below(store, found), ask)
        member = jobs.c.workflow_id.is_not(None)
        gone = list(connection.scalars(sa.delete(jobs).where(*waiting, member).returning(jobs.c.id)))
        # Errbacks are not told: the row of which they would be told is gone.
        causes = [failure.Ended(job_id, REVOKED, error) for job_id in gone]
        released = run(failure.propagate(store, causes, told=False), ask)
        run(removing.unlink(store, gone), ask)
        return len(gone) + connection.execute(sa.delete(jobs).where(*waiting, ~member)).rowcount, released

    purged, released = changed(store, change, repeatable=False)  # it would delete what was enqueued in between
    if released:
        store.wake()
    return purged


def record(
    store: Store,
    job: NewJob,
    *,
    status: str,
    result: str | None,
    traceback: str | None,
    retries: int,
    worker: str,
    result_content: bytes | None = None,
) -> None:
    """Write the row of a job that has run elsewhere and is over: what an eager call stores.

    `result` is JSON text. An ended job of the same id is replaced.
    """
    now = database_now()
    json_fields = {"args": job.args, "kwargs": job.kwargs, "headers": job.headers, "options": job.options}
    values: dict[str, Any] = {name: sa.null() if text is None else _json(text) for name, text in json_fields.items()}
    plain = ("id", "task", "queue", "priority", "parent_id", "root_id", "group_id", "content_type", "content")
    values |= {name: getattr(job, name) for name in plain}
    values |= {"status": status, "retries": retries, "worker": worker, "traceback": traceback}
    values |= {"result": sa.null() if result is None else _json(result), "ready_at": sa.null()}
    values["result_content"] = result_content

    def change(connection: sa.Connection, ask: Ask) -> None:
        if connection.execute(sa.delete(jobs).where(jobs.c.id == job.id, jobs.c.finished_at.is_not(None))).rowcount:
            run(removing.unlink(store, [job.id]), ask)
        connection.execute(sa.insert(jobs).values(**values, started_at=now, finished_at=now))

    changed(store, change)


def _counted(options: str | None) -> str:
    values = json_object(options)
    before = values.get(RETRIES_OPTION)
    again = before + 1 if isinstance(before, int) else 1
    values |= {RETRIES_OPTION: again}
    text = json.dumps(values, ensure_ascii=False)
    # Half of a surrogate pair, which a row may hold as an escape, is no character that can be sent.
    return json.dumps(values) if any("\ud800" <= char <= "\udfff" for char in text) else text


def _json(text: str) -> sa.ColumnElement[str]:
    """JSON text as a value of a JSON column, byte for byte."""
    return sa.cast(sa.bindparam(None, text, type_=sa.Text), Json)
