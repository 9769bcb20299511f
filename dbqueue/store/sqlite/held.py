"""Held jobs on SQLite: the statements of `held`, one after the other in this process, under the file's write lock."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol

from dbqueue.jobs import ClaimedJob
from dbqueue.limits import Limit
from dbqueue.store.held import Asked, Candidate, HeldTable, Level, LimitState
from dbqueue.store.records import HeldClaim
from dbqueue.store.sqlite import sql
from dbqueue.store.sqlite.claimed_rows import claimed_job, is_level, require_taken, without_unnamed
from dbqueue.store.sqlite.driver import immediate

# Whole seconds and their fraction: a Julian day is kept to 40 microseconds only.
_SECONDS: Final = "(strftime('%s', {time}) + substr(strftime('%f', {time}), 3))"
_NOW: Final = _SECONDS.format(time=sql.NOW)
_LEVEL: Final = f"""
SELECT rowid, limit_key, queue, priority, {_SECONDS.format(time="held_at")} - {_NOW}, CAST(task AS TEXT)
FROM {{jobs}} INDEXED BY dbqueue_jobs_held WHERE held_at IS NOT NULL AND"""
_ORDER: Final = "ORDER BY limit_key, queue, priority, held_at, id LIMIT 1"

NEXT_LEVEL: Final = f"{_LEVEL} (limit_key, queue, priority) > (:key, :queue, :priority) {_ORDER}"
NEXT_LEVEL_OF: Final = f"{_LEVEL} limit_key = :key AND (queue, priority) > (:queue, :priority) {_ORDER}"
LIMITS: Final = f"""
SELECT key, max_running, rate, full_at, {_NOW} FROM {{limits}} WHERE key IN (SELECT value FROM json_each(:keys))"""
CLOCK: Final = f"SELECT {_NOW}"
ADD: Final = """
INSERT INTO {limits} (key, max_running, rate, task, source) VALUES (?, ?, ?, ?, 'call') ON CONFLICT DO NOTHING"""
USED: Final = """
SELECT count(*) FROM (
    SELECT 1 FROM {jobs} INDEXED BY dbqueue_jobs_permit WHERE permit = ? AND permit IS NOT NULL LIMIT ?)"""
DUE: Final = f"""
SELECT rowid, id, held_at, CAST(task AS TEXT) FROM {{jobs}} INDEXED BY dbqueue_jobs_held
WHERE limit_key = :key AND queue = :queue AND priority = :priority AND held_at <= {sql.NOW}
ORDER BY held_at, id LIMIT :most"""
SPEND: Final = f"UPDATE {{limits}} SET full_at = :full_at, updated_at = {sql.NOW} WHERE key = :key"


class Session(Protocol):
    """What it needs of the work session."""

    def alive(self, worker_id: str) -> bool: ...
    def due_rows(self, queues: Sequence[str], limit: int, at: str | None) -> Iterator[tuple[Any, ...]]: ...


class SqliteHeld(HeldTable):
    # The lock is the whole file's: an enqueue would wait for a look that finds all permits in use.
    looks_first = True

    def __init__(
        self,
        session: Session,
        driver: sqlite3.Connection,
        text: Callable[[str], str],
        at: str | None,
        *,
        begun: bool = False,
    ) -> None:
        """`begun`: the caller's transaction has the lock."""
        self._session, self._driver, self._text, self._at = session, driver, text, at
        self._begun, self.looks_first = begun, not begun

    def transaction(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext() if self._begun else immediate(self._driver)

    def levels(self, keys: Collection[str], after: tuple[str, str, int], most: int) -> list[Level]:
        # Below every priority, in the first queue.
        starts = [(key, "", -(1 << 16)) for key in keys] or [after]
        template = NEXT_LEVEL_OF if keys else NEXT_LEVEL
        found: list[Level] = []
        for start in starts:
            key, queue, priority = start
            while len(found) < most and (rows := self._rows(template, key=key, queue=queue, priority=priority)):
                if is_level(self._driver, self._text, rows[0]):
                    found.append(Level._make(rows[0][1:]))
                    key, queue, priority = found[-1][:3]
        return found

    def lock(self, keys: Collection[str]) -> tuple[list[LimitState], set[str], float]:
        rows = self._rows(LIMITS, keys=json.dumps(list(keys)))
        ((now,),) = self._rows(CLOCK)
        return [LimitState._make(row[:4]) for row in rows], {row[0] for row in rows}, now

    def add(self, limits: Sequence[tuple[str, Limit, str]]) -> set[str]:
        for key, limit, task in limits:
            self._driver.execute(self._text(ADD), [key, limit.running, limit.rate_text, task])
        return {key for key, _, _ in limits}

    def first_due(self, queues: Sequence[str]) -> tuple[int, int, str] | None:
        row = next(self._session.due_rows(queues, 1, self._at), None)
        return None if row is None else (list(queues).index(row[3]), -row[4], row[16])

    def candidates(self, asked: Sequence[Asked]) -> list[Candidate]:
        free = {each.key: self._free(each) for each in asked}
        found: list[Candidate] = []
        for key, queue, priority, position, _, _ in asked:
            rows = self._rows(DUE, key=key, queue=queue, priority=priority, most=free[key])
            for _, job_id, held_at, task in without_unnamed(self._driver, self._text, rows):
                found.append(Candidate(key, free[key], position, priority, held_at, job_id, task))
        return found

    def _free(self, asked: Asked) -> int:
        if asked.running is None:
            return asked.most
        ((used,),) = self._driver.execute(self._text(USED), [asked.key, asked.running]).fetchall()
        return max(0, min(asked.most, asked.running - int(used)))

    def take(self, claim: HeldClaim, picked: Sequence[Candidate], counted: Collection[str]) -> list[ClaimedJob]:
        if not self._session.alive(claim.worker_id):
            return []
        rows = {row[1]: row for row in self._rows(sql.HELD, ids=json.dumps([each.id for each in picked]))}
        common = {"worker": claim.worker_id, "lease": claim.lease, "once": json.dumps(list(claim.once))}
        permits = {each.id: each.key if each.key in counted else None for each in picked}
        values = [{**common, "now": self._at, "id": each.id, "permit": permits[each.id]} for each in picked]
        require_taken(self._driver.executemany(self._text(sql.TAKE_HELD), values).rowcount, len(values))
        return [claimed_job(rows[each.id], claim, permits[each.id]) for each in picked]

    def spend(self, full_at: Mapping[str, float]) -> None:
        for key, at in full_at.items():
            self._rows(SPEND, key=key, full_at=at)

    def _rows(self, template: str, **parameters: Any) -> list[tuple[Any, ...]]:
        return self._driver.execute(self._text(template), {**parameters, "now": self._at}).fetchall()
