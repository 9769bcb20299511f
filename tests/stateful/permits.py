"""The model of limits: which of the jobs that wait for a permit may start."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from dbqueue.jobs import STARTED
from dbqueue.limits import parse_rate
from tests.stateful.rows import Row, Rows, Token


class Permits(Rows):
    def due(self, queues: Sequence[str], *, held: bool) -> list[Row]:
        """The jobs that are due, in the order of claims; those that need a permit, or those that need none."""
        found = [
            row for row in self.rows.values()
            if row.due is not None and row.due <= self.now
            and row.queue in queues and (row.limit_key is not None) == held
        ]  # fmt: skip
        return sorted(found, key=lambda row: (self._place(row, queues), row.job.id))

    def _place(self, row: Row, queues: Sequence[str]) -> tuple[int, int, datetime]:
        assert row.due is not None
        return queues.index(row.queue), -row.priority, row.due

    def claim_held(
        self,
        worker: str,
        lease: str,
        queues: Sequence[str],
        limit: int,
        *,
        keys: Collection[str] = (),
        yielding: bool = False,
    ) -> list[Token]:
        """Start held jobs within their limits; `yielding`: none that comes behind a job that needs no permit."""
        tokens: list[Token] = []
        if self.workers[worker] is None:
            return tokens
        others = self.due(queues, held=False)
        for row in self.due(queues, held=True):
            behind = others and self._place(row, queues) > self._place(others[0], queues)
            if len(tokens) == limit or (yielding and behind):
                break
            assert row.limit_key is not None
            if (not keys or row.limit_key in keys) and self._admits(row.limit_key):
                tokens.append(self.start_run(row, worker, lease, permit=self._permit(row.limit_key)))
        return tokens

    def _admits(self, key: str) -> bool:
        """Whether one more may start now, which counts from then on."""
        limit = self.limits.get(key)
        if limit is None:
            return True
        running = sum(row.permit == key for row in self.rows.values())
        if limit.running is not None and running >= limit.running:
            return False
        if rate := parse_rate(limit.rate):
            if self.full_at.get(key, self.now) > self.now:
                return False
            self.full_at[key] = self.now + timedelta(seconds=rate.seconds)
        return True

    def _permit(self, key: str) -> str | None:
        limit = self.limits.get(key)
        return key if limit is not None and limit.running is not None else None

    def simple_keys(self) -> set[str]:
        """Keys that limit nothing but how many jobs run at once."""
        return {key for key, limit in self.limits.items() if limit.running is not None and limit.rate is None}

    def start_run(self, row: Row, worker: str, lease: str, *, permit: str | None = None) -> Token:
        expires_at = row.job.expires_at
        expired = expires_at is not None and expires_at <= self.now
        assert row.due is not None
        self.change(row, status=STARTED, due=None, lease=lease, worker=worker, permit=permit, started=True)
        return Token(row.job.id, lease, row.due, permit, expired, row.revoked)
