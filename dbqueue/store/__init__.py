"""The only floor that knows SQLAlchemy and a dialect. `open_store` is its door.

    base.py, sessions.py, records.py   the contract that every database keeps, and the values in it
    postgres/, sqlite/                 the databases, each in what only it has
    workflows/                         jobs that wait for others
    transactions/                      in callers' transactions, and in those of transactional tasks
    tables.py, indexes.py, migrate.py, compatibility.py   the tables, how they are made, which code may use them
    engine.py, trouble.py, readiness.py       connections, what may befall them, waiting for them
    inserts.py, unique_keys.py, rows.py           jobs and outcomes as rows
    statements.py, steps.py            SQL with its parameters; operations of several statements
    heartbeats.py                      how old those of workers are before the eyes of who looks
    kept.py                            how many finished jobs are kept
    held.py, limits.py                 jobs that wait for permits; the table of what limits them
    changes.py, revoking.py, queues.py            what people do to jobs and queues, by changing.py
    queries.py, family.py, groups.py, stamps.py   what they look for
    control.py, events.py, schedules.py           a small table each, the same on every database

What differs between the databases is in their folders; what stands beside them is written once.
"""

from __future__ import annotations

import importlib

from dbqueue.store.base import Store


def load_store(url: str) -> None:
    """Import what `open_store` will need for this URL: processes that are forked later share the pages of it."""
    importlib.import_module(f"dbqueue.store.{'sqlite' if url.startswith('sqlite') else 'postgres'}.store")


def open_store(
    url: str,
    *,
    shown_url: str,
    schema: str | None = None,
    pool_size: int = 5,
    connect_timeout: float = 5.0,
    pooler: bool = False,
    listen_url: str | None = None,
    folder: str = "",
) -> Store:
    """The store at a URL that `urls.normalise_url` has been over. Connects to nothing yet.

    `shown_url` is the URL as it may be printed. `pooler`: the URL leads through a pooler in transaction mode;
    `listen_url` then leads past it, for a worker's own connections. `folder` is where a relative path of a SQLite file
    begins, by default the working folder. Times are in seconds.
    """
    if url.startswith("sqlite"):
        from dbqueue.store.sqlite.store import SqliteStore

        return SqliteStore(
            url, pool_size=pool_size, connect_timeout=connect_timeout, shown_url=shown_url, folder=folder
        )
    from dbqueue.store.postgres.store import PostgresStore

    return PostgresStore(
        url,
        schema=schema,
        pool_size=pool_size,
        connect_timeout=connect_timeout,
        shown_url=shown_url,
        pooler=pooler,
        listen_url=listen_url,
    )
