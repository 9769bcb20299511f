"""A connection through a pooler in transaction mode (PgBouncer): nothing may outlive a transaction.

Each transaction there may be on another connection of the server's. So there are no session settings, no LISTEN and
no prepared statements: what a session would be told once, each transaction is told by its first statement, which
travels with the rest of it in one round trip.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
from psycopg.pq import PipelineStatus, TransactionStatus

from dbqueue.store.postgres.pool_connection import PoolConnection


class PoolerConnection(PoolConnection):
    """In autocommit. With `local_settings` every statement is in a transaction that begins by making them."""

    local_settings: Mapping[str, str] = {}

    @contextlib.contextmanager
    def transaction(self, *arguments: Any, **options: Any) -> Iterator[psycopg.Transaction]:
        outermost = self._is_idle
        with super().transaction(*arguments, **options) as transaction:
            if outermost and self.local_settings:
                super().execute(*_set_local(self.local_settings))
            yield transaction

    @contextlib.contextmanager
    def pipeline(self) -> Iterator[psycopg.Pipeline]:
        """One transaction, unless it is in one."""
        if not (self._is_idle and self.local_settings):
            with super().pipeline() as pipeline:
                yield pipeline
            return
        with super().pipeline() as pipeline, super().transaction():
            super().execute(*_set_local(self.local_settings))
            yield pipeline

    def execute(self, *arguments: Any, **options: Any) -> psycopg.Cursor[tuple[Any, ...]]:
        if not (self._is_idle and self.local_settings):
            return super().execute(*arguments, **options)
        with self.pipeline():
            return super().execute(*arguments, **options)

    @property
    def _is_idle(self) -> bool:
        return (
            self.pgconn.pipeline_status == PipelineStatus.OFF
            and self.pgconn.transaction_status == TransactionStatus.IDLE
        )


def _set_local(settings: Mapping[str, str]) -> tuple[str, list[str]]:
    calls = ", ".join("set_config(%s, %s, true)" for _ in settings)
    return f"SELECT {calls}", [text for pair in settings.items() for text in pair]
