"""What a worker does for the partitions, beside its rounds: one small step at a time.

A user who may not make tables does none of it: jobs go to the DEFAULT partition once there is no other, and all that
has expired is deleted by rows, as from a plain table.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import psycopg
from psycopg import errors

from dbqueue.store.postgres.partitions.catalog import leaves, may_change, on_driver, size_in_use
from dbqueue.store.postgres.partitions.making import clock, make_ahead, missing
from dbqueue.store.postgres.partitions.retiring import LOCK_MILLISECONDS, Retiring, expiry
from dbqueue.store.postgres.pruning import Part
from dbqueue.store.sessions import Tended
from dbqueue.store.trouble import first_line

MAKING_MILLISECONDS: Final = 2000
"""For each partition, under the lock: enough for ten million rows in the DEFAULT partition, which it reads."""
MAKE_AGAIN_SECONDS: Final = 3600.0
"""After it took longer. There are partitions for two periods to come."""


class PartitionUpkeep:
    """For one session of a worker."""

    def __init__(self, driver: psycopg.Connection[Any], names: Mapping[str, str]) -> None:
        self._driver, self._names, self._run = driver, names, on_driver(driver)
        self._retiring = Retiring(driver, names)
        self._drops = False
        """Whether partitions are dropped by this session; before its first step nobody knows."""
        self._make_at = 0.0
        """When to make partitions next, on the monotonic clock."""
        self._problem = ""

    @property
    def saw_workflows(self) -> bool:
        return self._drops and self._retiring.saw_workflows

    def parts(self) -> list[Part]:
        """The partitions, as they are to be pruned by rows: not those that will be dropped."""
        found = leaves(self._run, self._names["jobs"])
        return [Part(leaf.name, not self._drops or leaf.name in self._retiring.by_rows) for leaf in found]

    def step(self, *, older_than_seconds: float | None, now: datetime | None) -> Tended:
        try:
            return self._step(older_than_seconds, now)
        except psycopg.DatabaseError as error:
            if self._driver.closed:
                raise
            # Rights that nobody asked about: then all by rows.
            self._drops, self._retiring = False, Retiring(self._driver, self._names)
            return Tended(problem=first_line(error))

    def _step(self, older_than_seconds: float | None, now: datetime | None) -> Tended:
        made: list[str] = []
        self._problem = ""
        if not self._retiring.under_way:
            self._drops = may_change(self._run, self._names["jobs"])
            if not self._drops:
                return Tended()
            moment = now or clock(self._run)
            made = self._make_ahead(moment)
            self._retiring.begin(expiry(moment, older_than_seconds))
        self._retiring.step()
        dropped, self._retiring.dropped = self._retiring.dropped, []
        return Tended(self._retiring.under_way, made, dropped, self._problem or self._retiring.problem)

    def _make_ahead(self, moment: datetime) -> list[str]:
        found = leaves(self._run, self._names["jobs"])
        size = size_in_use(found)
        if size is None or time.monotonic() < self._make_at or not missing(found, size, moment):
            return []
        try:
            with self._driver.transaction():
                self._run(f"SET LOCAL lock_timeout = {LOCK_MILLISECONDS}")
                self._run(f"SET LOCAL statement_timeout = {MAKING_MILLISECONDS}")
                return make_ahead(self._run, self._names["jobs"], size, moment)
        except errors.LockNotAvailable:
            return []
        except psycopg.DatabaseError as error:  # a partition of the application's own in the way, for one
            if self._driver.closed:
                raise
            self._problem = first_line(error)
            if isinstance(error, errors.QueryCanceled):
                self._problem += ": the DEFAULT partition is too large to be read under a lock by a worker"
                self._make_at = time.monotonic() + MAKE_AGAIN_SECONDS
            return []
