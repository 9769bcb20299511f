"""The model of workflows: what the end of a job does to those that wait for it."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from dbqueue.jobs import FAILURE, REVOKED, STARTED, SUCCESS, TERMINAL, NewJob
from dbqueue.workflows import DELAY, FIRST_ARGUMENT, Edge, Workflow
from tests.stateful.rows import Row, Rows

FAILED = (FAILURE, REVOKED)


class Graph(Rows):
    def write(self, workflow: Workflow) -> None:
        """All of it is new; but ids that were revoked before stay so."""
        revoked = [job.id for job in workflow.jobs if job.id in self.rows]
        self._insert(workflow.jobs, workflow.edges, workflow.first.id)
        for job_id in revoked:
            job = self.rows[job_id].job._replace(successors=any(edge.predecessor == job_id for edge in workflow.edges))
            self.change(self.rows[job_id], job=job, workflow=workflow.first.id)
        self.ended(dict.fromkeys(revoked, REVOKED), self.real())

    def _insert(self, jobs: Iterable[NewJob], edges: Collection[Edge], workflow: str) -> None:
        at = self.real()
        for job in jobs:
            awaits = frozenset(edge.predecessor for edge in edges if edge.successor == job.id)
            due = None if awaits else job.eta or at
            row = Row(job, job.queue, job.priority, job.eta, at, limit_key=job.limit_key)
            self.rows.setdefault(job.id, replace(row, due=due, awaits=awaits, workflow=workflow))
        self.edges.update(edges)

    def ended(self, causes: Mapping[str, str], at: datetime) -> None:
        """What waits for these jobs, which have ended just now with this status, moves on."""
        todo = deque((job_id, status, True) for job_id, status in causes.items())
        while todo:
            job_id, status, told = todo.popleft()
            for edge in [edge for edge in self.edges if edge.predecessor == job_id]:
                row = self.rows.get(edge.successor)
                if row is None or job_id not in row.awaits:
                    continue
                if edge.on == "success" and status != SUCCESS:
                    todo.append(self._cannot_run(row, self.rows[job_id], at))
                elif edge.on == "error" and status != SUCCESS and told:
                    self._free(self.change(row, told_of=job_id), at)  # the first failure is enough
                else:
                    self._came(row, edge, at)

    def _cannot_run(self, row: Row, cause: Row, at: datetime) -> tuple[str, str, bool]:
        """It ends as its predecessor did; a job in which several come together, with an error of its own.

        Errbacks hear of the failure itself and of a chord's, not of each job that a failure kept from running.
        """
        joins = self._joins(row.job.id)
        status = FAILURE if joins else cause.status
        self.end(row, status, at, "ChordError" if joins else cause.result, cause.traceback)
        return row.job.id, status, joins or row.replaced

    def _came(self, row: Row, edge: Edge, at: datetime) -> None:
        """One thing less to wait for: a success or an end that has come, or a failure that cannot come any more."""
        row = self.change(row, awaits=row.awaits - {edge.predecessor})
        if not row.awaits and edge.on == "error":
            self._drop(row)
        elif not row.awaits:
            self._free(row, at)

    def _joins(self, job_id: str) -> bool:
        edges = [edge for edge in self.edges if edge.successor == job_id]
        return len(edges) > 1 or edges[0].place not in (None, FIRST_ARGUMENT)

    def _free(self, row: Row, at: datetime) -> None:
        """It waits for its time, which counts from now, and for its permit."""
        delay = json.loads(row.job.options or "{}").get(DELAY)
        due = at + timedelta(seconds=delay or 0)
        due = max(due, row.eta or due)
        self.change(row, awaits=frozenset(), due=due, eta=row.eta if delay is None else due)

    def _drop(self, row: Row) -> None:
        """An errback that no failure can reach any more is deleted, and with it what waits for it."""
        del self.rows[row.job.id]
        for edge in [edge for edge in self.edges if edge.predecessor == row.job.id]:
            below = self.rows.get(edge.successor)
            if below is not None and below.awaits:
                self._drop(below)
        self.edges = {edge for edge in self.edges if edge.successor != row.job.id}

    def put_in_place(self, row: Row, workflow: Workflow) -> None:
        """The row becomes the job of its id in the workflow, and begins anew; the others go before it."""
        (job,) = [job for job in workflow.jobs if job.id == row.job.id]
        others = [each for each in workflow.jobs if each.id != job.id]
        job = job._replace(
            expires_at=job.expires_at or row.job.expires_at, successors=job.successors or row.job.successors
        )
        awaits = frozenset(edge.predecessor for edge in workflow.edges if edge.successor == job.id)
        self.edges = {edge for edge in self.edges if edge.successor != job.id}
        row = self.wait(self.change(row, eta=job.eta), self.real())
        self.change(
            row, job=job, queue=job.queue, priority=job.priority, limit_key=job.limit_key, retries=0, losses=0,
            result=None, traceback=None, awaits=awaits, due=None if awaits else row.due, replaced=True,
            workflow=(row.workflow or job.id) if others else row.workflow,
        )  # fmt: skip
        self._insert(others, workflow.edges, row.workflow or job.id)

    # an operator's changes

    def to_repeat(self, job_id: str) -> set[str]:
        """The job, the failed ones that it waits for, and those that could not run without any of these."""
        above, below = {job_id}, set[str]()
        while more := {
            edge.predecessor for edge in self.edges
            if edge.on == "success" and edge.successor in above and self._status(edge.predecessor) in FAILED
        } - above:  # fmt: skip
            above |= more
        while more := {
            edge.successor for edge in self.edges
            if edge.on == "success" and edge.predecessor in above | below
            and self._status(edge.successor) in FAILED and self.rows[edge.successor].worker is None
        } - below:  # fmt: skip
            below |= more
        never = {each for each, row in self.rows.items() if not row.job.task}.union(self.bereft())
        never |= {edge.predecessor for edge in self.edges if self._is_needed_now(edge)}
        never |= {edge.successor for edge in self.edges if edge.on == "error" and self._is_told_of_nothing(edge)}
        while more := {
            edge.successor for edge in self.edges
            if edge.on == "success" and edge.predecessor in never and self._status(edge.predecessor) != SUCCESS
        } - never:  # fmt: skip
            never |= more
        if job_id in never:
            return set()
        found = (above | below) - never
        while more := {
            edge.successor for edge in self.edges
            if edge.on == "success" and edge.successor in found
            and edge.predecessor not in found and self._status(edge.predecessor) in FAILED
        } | {each for each in found if self._has_nothing_to_be_told(each, found)}:  # fmt: skip
            found -= more
        return found

    def _has_nothing_to_be_told(self, job_id: str, repeated: set[str]) -> bool:
        """Whether it is an errback that was called off before any failure, and that there can be none for now."""
        row = self.rows.get(job_id)
        if row is None or row.worker is not None:
            return False  # it was forgotten; or it has run, and so was told
        told_of = row.told_of
        before = [edge.predecessor for edge in self.edges if edge.on == "error" and edge.successor == job_id]
        return bool(before) and not any(
            each in repeated
            or self._status(each) not in (None, *TERMINAL)
            or (each == told_of and self._status(each) in FAILED)
            for each in before
        )

    def _is_needed_now(self, edge: Edge) -> bool:
        """Whether the successor runs, or is an errback that is about to be told."""
        row = self.rows.get(edge.successor)
        if row is None or row.status == STARTED:
            return row is not None
        told = edge.on == "error" and edge.place is not None and row.told_of == edge.predecessor
        return told and row.waits and not row.awaits

    def _is_told_of_nothing(self, edge: Edge) -> bool:
        """Whether the failure that the errback was told of is none, or it may be dropped at this moment."""
        row, status = self.rows.get(edge.successor), self._status(edge.predecessor)
        if row is None:
            return False
        if row.told_of == edge.predecessor:
            return status in (SUCCESS, STARTED)
        return status == STARTED and (row.told_of is None or self._status(row.told_of) not in FAILED)

    def recount(self, job_ids: Collection[str]) -> None:
        """Jobs that were put back, and those that wait behind them, wait for what has not happened yet."""
        behind = {
            edge.successor for edge in self.edges
            if edge.predecessor in job_ids and (row := self.rows.get(edge.successor))
            and (row.awaits or (edge.on == "success" and row.waits))
        }  # fmt: skip
        for job_id in behind.union(job_ids):
            row = self.rows[job_id]
            edges = [edge for edge in self.edges if edge.successor == job_id]
            told = any(
                edge.on == "error" and edge.predecessor == row.told_of and self._status(row.told_of) in FAILED
                for edge in edges
            )
            awaits = frozenset(() if told else (edge.predecessor for edge in edges if self._is_to_come(edge)))
            self.change(row, awaits=awaits, due=None if awaits else row.due)

    def _is_to_come(self, edge: Edge) -> bool:
        status = self._status(edge.predecessor)
        return status not in ((None, SUCCESS) if edge.on == "success" else (None, *TERMINAL))

    def _status(self, job_id: str) -> str | None:
        return self.rows[job_id].status if job_id in self.rows else None

    def is_needed(self, job_id: str) -> bool:
        """Whether a job that has not ended is yet to read this one's result."""
        return any(
            row.finished_at is None and (edge.on == "success" or row.told_of == job_id)
            for edge in self.edges
            if edge.predecessor == job_id and edge.place is not None and (row := self.rows.get(edge.successor))
        )

    def bereft(self) -> list[str]:
        """Jobs that took results, or a failure, of which the rows are gone."""
        return [job_id for job_id in self.rows if self.inputs(job_id) - self.rows.keys()]

    def inputs(self, job_id: str) -> set[str]:
        """Whose results, or failure, the job is passed."""
        told_of = self.rows[job_id].told_of
        return {
            edge.predecessor
            for edge in self.edges
            if edge.successor == job_id and edge.place is not None
            and (edge.on == "success" or edge.predecessor == told_of)
        }  # fmt: skip
