"""What `dbqueue doctor` looks at: each check yields findings, with what to do where something is wrong."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from dbqueue import settings
from dbqueue.cli.findings import Finding, Level
from dbqueue.cli.output import count, duration
from dbqueue.errors import DBQueueError
from dbqueue.queue_patterns import matches
from dbqueue.worker.config import OWN_SHARE

if TYPE_CHECKING:
    from dbqueue.cli.target import Target
    from dbqueue.store.queries import QueueCounts

OLDEST_POSTGRES: Final = (15,)
OLDEST_SQLITE: Final = (3, 35)
"""RETURNING came with it."""

SQLITE_WAL_FIXED: Final = (3, 51, 3)
SQLITE_WAL_BACKPORTS: Final = {(3, 44): 6, (3, 50): 7}
"""Releases without the bug by which a checkpoint at an unlucky moment can damage a database in WAL mode
("WAL-reset bug", https://sqlite.org/wal.html)."""

LONG_WAIT_SECONDS: Final = 300.0
CLOCK_SKEW_SECONDS: Final = 5.0
SHOWN_IDS: Final = 5


def examine(target: Target) -> Iterator[Finding]:
    """All findings, in the order in which one rests on the other; ends early where the next would only repeat."""
    yield from _settings(target)
    for check in (_database, _tables):
        findings = list(check(target))
        yield from findings
        if any(finding.level is Level.ERROR for finding in findings):
            return
    if target.raw_store.dialect == "postgresql":
        from dbqueue.cli.server_checks import examine_server

        yield from examine_server(target)
    for check in (_clock, _workers, _queues, _orphans):
        yield from check(target)


def _settings(target: Target) -> Iterator[Finding]:
    conf = target.database_app.conf
    beat, lease = conf.worker_heartbeat_interval, conf.worker_lease_seconds
    problems = []
    if beat is not None and beat > lease / 2:
        problems.append(
            Finding(
                "settings",
                Level.ERROR if beat >= OWN_SHARE * lease else Level.WARNING,
                f"worker_heartbeat_interval ({beat:g} s) is too long for worker_lease_seconds ({lease:g} s): "
                "a worker that lives may be taken for dead, and its jobs run twice",
                "set the interval to a third of the lease, or leave it out",
            )
        )
    if conf.result_expires is None and conf.result_max_kept is None:
        problems.append(
            Finding(
                "settings",
                Level.WARNING,
                "result_expires is None: ended jobs are never deleted, and the table grows",
                "set it or result_max_kept, or delete old rows yourself",
            )
        )
    idle = sorted(name for name in conf.changes if name not in settings.SETTINGS)
    if idle:
        problems.append(Finding("settings", Level.WARNING, f"without effect here: {', '.join(idle)}"))
    yield from problems or [Finding("settings", Level.OK, "nothing to object to")]


def _database(target: Target) -> Iterator[Finding]:
    from dbqueue.store import queries

    store = target.raw_store
    try:
        target.refuse_missing_file()
        version = queries.server_version(store)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what there is to say
        text = getattr(error, "message", str(error))
        yield Finding("database", Level.ERROR, f"{store.url}: {text}", "check the URL, and that the server runs")
        return
    number = ".".join(map(str, version))
    if store.dialect == "sqlite":
        yield from _sqlite(f"SQLite {number} at {store.url}", version)
    elif version < OLDEST_POSTGRES:
        yield Finding(
            "database",
            Level.WARNING,
            f"PostgreSQL {number} at {store.url} is older than dbqueue is tested with",
            "use 15 or later",
        )
    else:
        yield Finding("database", Level.OK, f"PostgreSQL {number} at {store.url}")


def _sqlite(where: str, version: tuple[int, ...]) -> Iterator[Finding]:
    if version < OLDEST_SQLITE:
        yield Finding("database", Level.ERROR, f"{where} is too old", "use a Python with SQLite 3.35 or later")
    elif has_wal_bug(version):
        yield Finding(
            "database",
            Level.WARNING,
            f"{where} has the WAL-reset bug: very rarely, a checkpoint while another process writes damages the file",
            "use a Python with SQLite 3.51.3 or later (or 3.50.7, 3.44.6), and make backups",
        )
    else:
        yield Finding("database", Level.OK, where)


def has_wal_bug(version: tuple[int, ...]) -> bool:
    """Whether this release of SQLite may damage a database in WAL mode."""
    fixed = SQLITE_WAL_BACKPORTS.get((version[0], version[1]))
    return version < SQLITE_WAL_FIXED and (fixed is None or version[2] < fixed)


def _tables(target: Target) -> Iterator[Finding]:
    from dbqueue.store import migrate, queries
    from dbqueue.store.tables import CLAIM_INDEX

    store = target.raw_store
    try:
        with store.translating():
            state = migrate.check(store.engine, schema=store.schema)
    except DBQueueError as error:
        yield Finding("tables", Level.ERROR, str(error), "check the rights of the database's user")
        return
    if state.is_usable:
        yield Finding("tables", Level.OK, f"current (revision {state.revision})" if state.is_current else str(state))
    else:
        message, _, advice = str(state).partition(": ")
        yield Finding("tables", Level.ERROR, message, advice.replace("dbqueue migrate", target.command_line("migrate")))
        return
    missing = queries.missing_indexes(store)
    if store.dialect == "postgresql":
        # Of the others, and of those that are there and broken, `server_checks` tells.
        missing, without = [name for name in missing if name == CLAIM_INDEX], "each claim reads the whole table"
    else:
        without = "statements read the whole table, and those that name it fail"
        if not missing:
            yield Finding("index", Level.OK, "no index is missing")
    for name in missing:
        yield Finding(
            "index",
            Level.ERROR,
            f"the index {name} is missing: {without}",
            "make it again: `dbqueue migrate --sql` shows its statement",
        )


def _clock(target: Target) -> Iterator[Finding]:
    from dbqueue.store.reading import database_time

    skew = (datetime.now(UTC) - database_time(target.raw_store)).total_seconds()
    if abs(skew) > CLOCK_SKEW_SECONDS:
        yield Finding(
            "clock",
            Level.WARNING,
            f"this machine's clock is {duration(abs(skew))} {'ahead of' if skew > 0 else 'behind'} the database's",
            "synchronise both: an eta that is computed here is waited for there",
        )
    else:
        yield Finding("clock", Level.OK, "this machine and the database agree about the time")


def _workers(target: Target) -> Iterator[Finding]:
    from dbqueue.store import queries

    known = queries.open_workers(target.raw_store)
    alive = [worker for worker in known if worker.alive]
    for worker in known:
        if not worker.alive:
            yield Finding(
                "workers",
                Level.WARNING,
                f"{worker.name} (pid {worker.pid} on {worker.hostname}) has had no heartbeat for "
                f"{duration(worker.heartbeat_age_seconds)}",
                "a worker that runs takes its jobs back"
                if alive
                else f"start a worker, which takes its jobs back: `{target.command_line('worker')}`",
            )
    if alive:
        slots = sum(worker.concurrency for worker in alive)
        yield Finding("workers", Level.OK, f"{count(len(alive), 'worker')} online, for {count(slots, 'task')} at once")
    else:
        yield Finding("workers", Level.WARNING, "no worker is online", f"start one: `{target.command_line('worker')}`")


def _queues(target: Target) -> Iterator[Finding]:
    from dbqueue.store import queries, queues
    from dbqueue.store.reading import database_time

    store = target.raw_store
    chosen = {queue for worker in queries.open_workers(store) if worker.alive for queue in worker.queues}
    counted = queries.queue_counts(store)
    served = chosen | {each.queue for each in counted if matches(each.queue, chosen)}
    paused, now = queues.paused(store), database_time(store)
    # Without any worker there is one thing to say, and it has been said.
    problems = [
        *(_unserved(target, counted, served) if served else ()),
        *_paused(target, [each for each in counted if each.queue in paused]),
        *_slow([each for each in counted if each.queue not in paused], served, now),
    ]
    waiting, running = sum(each.waiting for each in counted), sum(each.running for each in counted)
    yield from problems or [Finding("queues", Level.OK, f"{count(waiting, 'job')} waiting, {running} running")]


def _unserved(target: Target, counted: list[QueueCounts], served: set[str]) -> Iterator[Finding]:
    for each in counted:
        if each.queue not in served and each.waiting + each.scheduled:
            yield Finding(
                "queues",
                Level.WARNING,
                f"{count(each.waiting + each.scheduled, 'job')} in the queue {each.queue!r}, which no worker serves",
                f"start one for it: `{target.command_line('worker')} -Q {shlex.quote(each.queue)}`",
            )


def _paused(target: Target, counted: list[QueueCounts]) -> Iterator[Finding]:
    for each in counted:
        if each.waiting:
            yield Finding(
                "queues",
                Level.WARNING,
                f"{count(each.waiting, 'job')} waiting in the queue {each.queue!r}, which is paused",
                f"let workers take them again: `{target.command_line('queues resume')} {shlex.quote(each.queue)}`",
            )


def _slow(counted: list[QueueCounts], served: set[str], now: datetime) -> Iterator[Finding]:
    for each in counted:
        waits = (now - each.oldest_ready_at).total_seconds() if each.oldest_ready_at else 0.0
        if each.queue in served and waits > LONG_WAIT_SECONDS:
            yield Finding(
                "queues",
                Level.WARNING,
                f"{count(each.waiting, 'job')} waiting in the queue {each.queue!r}, the oldest for {duration(waits)}",
                "the workers are too few or too slow for it: raise --concurrency, or start more",
            )


def _orphans(target: Target) -> Iterator[Finding]:
    from dbqueue.store import queries

    found = queries.orphans(target.raw_store)
    if not found:
        yield Finding("jobs", Level.OK, "every running job has its worker")
        return
    shown = shlex.join(found[:SHOWN_IDS]) + (" ..." if len(found) > SHOWN_IDS else "")
    yield Finding(
        "jobs",
        Level.ERROR,
        f"{count(len(found), 'job')} STARTED by workers that have stopped, or whose rows were deleted",
        "a running worker finds out within minutes, and takes them back as those of a dead one; or run them again "
        f"now: `{target.command_line('jobs')} retry {shown}`",
    )
