"""Workflows: written whole, ended and called off job by job, and replacements that jobs put in their own place."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import initialize, multiple, rule

from dbqueue.jobs import SUCCESS, Replaced
from dbqueue.store import changes
from dbqueue.store.revoking import revoke
from dbqueue.workflows import ERRBACK, FIRST_ARGUMENT, Edge, Event, Workflow
from tests.stateful.machine import Call, Machine
from tests.stateful.rows import Token
from tests.stateful.subject import QUEUES, Subject
from tests.stateful.worker_rules import CALLS


class Member(NamedTuple):
    """A job of a workflow: what it waits for, by their numbers, and whether their results are passed to it."""

    call: Call
    on: Event | None = None
    predecessors: tuple[int, ...] = ()
    passes: bool = False


EVENTS: st.SearchStrategy[Event | None] = st.sampled_from([None, "success", "success", "success", "error", "end"])


@st.composite
def members(draw: st.DrawFn) -> list[Member]:
    """Of any workflow, in the shapes that chains, groups, chords, links and errbacks come to.

    What hangs below an errback waits for jobs that do so as well.
    """
    found = [Member(draw(CALLS)), Member(draw(CALLS), "success", (0,), draw(st.booleans()))]
    branches = [0, 0]
    """Of each job the errback that it hangs below."""
    for number in range(2, draw(st.integers(2, 5))):
        on = draw(EVENTS)
        branch = branches[draw(st.integers(0, number - 1))]
        near = [each for each in range(number) if branches[each] == branch]
        predecessors = draw(st.lists(st.sampled_from(near), min_size=1, unique=True))
        if on is None:
            found.append(Member(draw(CALLS)))
        else:
            passes = on != "end" and draw(st.booleans())
            found.append(Member(draw(CALLS), on, tuple(sorted(predecessors)), passes))
        branches.append(0 if on is None else number if on == "error" else branch)
    return found


def edges_of(ids: list[str], number: int, member: Member) -> list[Edge]:
    if member.on is None:
        return []
    many = len(member.predecessors) > 1
    found = []
    for place, predecessor in enumerate(member.predecessors):
        to = ERRBACK if member.on == "error" else f"[{place}]" if many else FIRST_ARGUMENT
        found.append(Edge(ids[predecessor], ids[number], member.on, to if member.passes else None))
    return found


class WorkflowRules(Machine):
    tokens, workers, jobs = Machine.tokens, Machine.workers, Machine.jobs

    def __init__(self, urls: list[str]) -> None:
        super().__init__(urls)
        self._workflows: list[Workflow] = []

    @initialize(target=jobs, members=members())
    def enqueue_one_workflow(self, members: list[Member]) -> object:
        return multiple(*self._enqueued(members, None))

    @rule(target=jobs, members=members(), revoked=st.sampled_from([None, None, 0, 1, 2, 3]))
    def enqueue_workflow(self, members: list[Member], revoked: int | None) -> object:
        """`revoked`: the number of a job that was revoked before."""
        return multiple(*self._enqueued(members, revoked))

    def _enqueued(self, members: list[Member], revoked: int | None) -> list[str]:
        ids = [self.new_id("job") for _ in members]
        # One that waits for nothing has its time from the machine's clock: what is freed in the same transaction comes
        # before it, by whatever clock.
        jobs = [
            self.new_job(job_id, each.call, waits=True)
            if each.on is not None
            else self.new_job(job_id, each.call._replace(delay=each.call.delay or 0))
            for job_id, each in zip(ids, members, strict=True)
        ]
        workflow = Workflow.of(
            jobs, [edge for number, each in enumerate(members) for edge in edges_of(ids, number, each)]
        )
        if revoked is not None and revoked < len(ids):
            self.model.revoke(ids[revoked])
            for subject in self.subjects:
                revoke(subject.store, [ids[revoked]])
        self.model.write(workflow)
        self._workflows.append(workflow)
        for subject in self.subjects:
            subject.store.enqueue_workflow(workflow)
        return ids

    @rule(data=st.data())
    def enqueue_workflow_again(self, data: st.DataObject) -> None:
        """A caller who did not hear the answer repeats it."""
        known = [each for each in self._workflows if all(job.id in self.model.rows for job in each.jobs)]
        if known:
            workflow = data.draw(st.sampled_from(known))
            for subject in self.subjects:
                subject.store.enqueue_workflow(workflow)

    @rule(target=jobs, worker=workers, token=tokens, calls=st.lists(CALLS, min_size=1, max_size=3))
    def replace(self, worker: str, token: Token, calls: list[Call]) -> object:
        """A run puts a job in its place, or a chord, whose body that is."""
        body, *heads = calls
        ids = [self.new_id("job") for _ in heads]
        jobs = [self.new_job(job_id, call) for job_id, call in zip(ids, heads, strict=True)]
        tail = self.new_job(token.job_id, body, waits=bool(heads))
        links = Member(body, "success" if heads else None, tuple(range(len(heads))), passes=True)
        workflow = Workflow.of([*jobs, tail], edges_of([*ids, token.job_id], len(heads), links))
        taken = self.model.replace(token, workflow)
        outcome = Replaced(token.job_id, token.lease, workflow, 0.0)

        def ask(subject: Subject) -> set[str]:
            return subject.round(worker, [outcome], None, self.model.now)[0]

        self.all(ask, {token.job_id} if taken else set())
        return multiple(*(ids if taken else ()))

    @rule(target=jobs, worker=workers)
    def forget_in_the_middle(self, worker: str) -> object:
        """What has succeeded is to be forgotten while its successor has still to read it, and when it has."""
        call = Call("shop.pack", QUEUES[0], 1, None, None, None)
        first, second = self._enqueued([Member(call), Member(call, "success", (0,), passes=True)], None)
        self.settled(worker, [(token, SUCCESS) for token in self.claimed(worker, QUEUES, 10)])
        for _ in range(2):
            self.all(lambda subject: subject.store.forget(first), self.model.forget(first))
            self.settled(worker, [(token, SUCCESS) for token in self.claimed(worker, QUEUES, 10)])
        return multiple(first, second)

    @rule(job=jobs)
    def cancel_workflow(self, job: str) -> None:
        row = self.model.rows.get(job)
        if row is not None and row.workflow is not None:
            self.model.cancel_workflow(row.workflow)
            for subject in self.subjects:
                changes.cancel_workflow(subject.store, job)
