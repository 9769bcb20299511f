"""What callers and workers do: enqueue, claim, complete, beat, lose their connections."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, multiple, rule

from dbqueue.jobs import FAILURE, RETRY, REVOKED, SUCCESS, Progress
from dbqueue.store.records import Claim
from tests.stateful.machine import LEASE_SECONDS, Call, Machine
from tests.stateful.model import ONCE, RELEASES
from tests.stateful.rows import Token
from tests.stateful.subject import QUEUES, Given, Subject

TASKS = st.sampled_from(["shop.pack", ONCE])
KEYS = st.sampled_from([None, None, None, "mail"])
QUEUE_NAMES = st.sampled_from(QUEUES)
WANTED = st.sampled_from([QUEUES, QUEUES[::-1], QUEUES[:1], QUEUES[1:]])
PRIORITIES = st.integers(-1, 1)
HOWS = st.sampled_from([*[SUCCESS] * 6, *[FAILURE] * 3, REVOKED, RETRY, *RELEASES])
SECONDS = st.sampled_from([0, 0, 5, 20])
DELAYS = st.sampled_from([None, None, None, 0, 5, 20])


CALLS = st.builds(Call, TASKS, QUEUE_NAMES, PRIORITIES, KEYS, DELAYS, DELAYS)


class WorkerRules(Machine):
    tokens, workers, jobs = Machine.tokens, Machine.workers, Machine.jobs

    @rule(target=workers)
    def register(self) -> str:
        worker = self.new_id("worker@test#")
        self.model.workers[worker] = self.model.now
        for subject in self.subjects:
            subject.register(worker, self.model.now)
        return worker

    @initialize(target=workers)
    def register_two(self) -> Any:
        return multiple(self.register(), self.register())

    @initialize(target=jobs, calls=st.lists(CALLS, min_size=1, max_size=2))
    def enqueue_some(self, calls: list[Call]) -> Any:
        return multiple(*[self.enqueue(call) for call in calls])

    @rule(target=jobs, call=CALLS)
    def enqueue(self, call: Call) -> str:
        job = self.new_job(self.new_id("job"), call)
        self.model.enqueue(job)
        self.all(lambda subject: dict(subject.store.enqueue([job])), {})
        return job.id

    @rule(job=jobs)
    def enqueue_again(self, job: str) -> None:
        """A caller who did not hear the answer repeats it."""
        row = self.model.rows.get(job)
        if row is not None and row.workflow is None and not row.replaced:
            self.all(lambda subject: dict(subject.store.enqueue([row.job])), {})

    @rule(target=tokens, worker=workers, queues=WANTED, limit=st.integers(1, 4))
    def claim(self, worker: str, queues: tuple[str, ...], limit: int) -> Any:
        return multiple(*self.claimed(worker, queues, limit))

    @rule(target=tokens, worker=workers, hows=st.lists(HOWS, min_size=1, max_size=5))
    def claim_and_settle(self, worker: str, hows: list[str]) -> Any:
        """A worker takes all there is, and is quick with the first of it."""
        given = self.claimed(worker, QUEUES, 10) + self.claimed_held(worker, QUEUES, 10)
        if given:
            self.settled(worker, [*zip(given, hows, strict=False)], 20)
        return multiple(*given)

    @rule(target=tokens, worker=workers, token=tokens, how=HOWS, delay=SECONDS)
    def settle_and_claim(self, worker: str, token: Token, how: str, delay: int) -> Any:
        """In one round; what it has freed may be claimed by it or by the next, so that is done in two."""
        lease = self.new_lease()
        before = self.model.seen()
        taken = self.model.settle([(token, how)], delay)
        changed = {job_id for job_id, each in self.model.seen().items() if before.get(job_id) != each}
        given = self.model.claim(worker, lease, QUEUES, 2)
        if changed & {each.job_id for each in given}:
            self.all_settle(worker, [(token, how)], delay, taken)
            self.all_claim_round(worker, lease, QUEUES, 2, given)
            return multiple(*given)
        claim = Claim(worker, lease, QUEUES, 2, once=(ONCE,))

        def ask(subject: Subject) -> list[Given]:
            settled, claimed = subject.round(worker, [subject.outcome(token, how, delay)], claim, self.model.now)
            assert settled == taken
            return claimed

        self.all_claim(ask, given)
        return multiple(*given)

    @rule(worker=workers, token=tokens, how=HOWS, delay=SECONDS)
    def settle(self, worker: str, token: Token, how: str, delay: int) -> None:
        """By any worker's connection: the lease alone decides."""
        self.settled(worker, [(token, how)], delay)

    @rule(worker=workers, token=tokens, delay=SECONDS, queue=st.none() | QUEUE_NAMES, priority=st.none() | PRIORITIES)
    def retry_elsewhere(self, worker: str, token: Token, delay: int, queue: str | None, priority: int | None) -> None:
        self.settled(worker, [(token, RETRY)], delay, queue, priority)

    @rule(worker=workers, pairs=st.lists(st.tuples(tokens, HOWS), min_size=2, max_size=5))
    def settle_many(self, worker: str, pairs: list[tuple[Token, str]]) -> None:
        """In one round; a worker has one outcome of each job."""
        self.settled(worker, [*{token.job_id: (token, how) for token, how in pairs}.values()])

    @rule(worker=workers, token=tokens, how=st.sampled_from([SUCCESS, FAILURE]))
    def settle_unheard(self, worker: str, token: Token, how: str) -> None:
        """It was committed, its caller was told of an error, and tries again: the row says whose it is."""
        taken = self.settled(worker, [(token, how)])
        self.all_settle(worker, [(token, how)], 0.0, set())
        if taken:
            expected = {token.job_id: (how, token.lease)}
            self.all(lambda subject: subject.sessions[worker].recorded([token.job_id]), expected)

    @rule(worker=workers, limit=st.integers(1, 3))
    def claim_unheard(self, worker: str, limit: int) -> None:
        """It was committed, and its reply was lost with the connection: what nobody knows of is handed back."""
        known = {row.job.id for row in self.model.running(worker)}
        given = self.claimed(worker, QUEUES, limit)
        count = self.model.hand_back(worker, known)
        assert count == len(given)
        self.all(lambda subject: subject.sessions[worker].hand_back(worker, known), count)

    @rule(worker=workers, held=st.lists(tokens, max_size=3))
    def hand_back(self, worker: str, held: list[Token]) -> None:
        job_ids = {token.job_id for token in held}
        count = self.model.hand_back(worker, job_ids)
        self.all(lambda subject: subject.sessions[worker].hand_back(worker, job_ids), count)

    @rule(worker=workers, token=tokens, state=st.sampled_from(["PROGRESS", "HALF"]))
    def report(self, worker: str, token: Token, state: str) -> None:
        self.model.report(token, state)
        for subject in self.subjects:
            subject.sessions[worker].report([Progress(token.job_id, token.lease, state, '{"done": 1}')])

    @rule(worker=workers)
    def heartbeat(self, worker: str) -> None:
        alive = self.model.heartbeat(worker)
        self.all(lambda subject: subject.heartbeat(worker, self.model.now), alive)

    @rule(worker=workers, passed=st.sampled_from([0, 0, LEASE_SECONDS + 1]))
    def rescue(self, worker: str, passed: float) -> None:
        """Some time after the last that was heard of the others."""
        self.model.now += timedelta(seconds=passed)
        self.heartbeat(worker)
        self.all(lambda subject: subject.rescue(worker, self.model.now), self.model.rescue())

    @rule(target=tokens, worker=workers, token=tokens, first=st.sampled_from([None, RETRY, "release"]), how=HOWS)
    def overtake(self, worker: str, token: Token, first: str | None, how: str) -> Any:
        """Whoever had the job gave it back, or was silent past its lease; another has it, and then the first acts."""
        if first is not None:
            self.settled(worker, [(token, first)])
        self.rescue(worker, LEASE_SECONDS + 1)
        given = self.claimed(worker, QUEUES, 10) + self.claimed_held(worker, QUEUES, 10)
        self.report(worker, token, "LATE")
        taken = self.settled(worker, [(token, how)])
        assert taken.isdisjoint(each.job_id for each in given)
        return multiple(*given)

    @rule(worker=workers)
    def stop(self, worker: str) -> None:
        """Whatever it holds is nobody's."""
        self.model.workers[worker] = None
        for subject in self.subjects:
            subject.sessions[worker].close_worker(worker)

    @rule(worker=workers, other=workers)
    def look_for_lost_workers(self, worker: str, other: str) -> None:
        """One whose row is closed, and who holds jobs, has its row opened: it lives on, or is found dead."""
        lost = self.model.lost_workers()
        self.all(lambda subject: subject.lost_workers(other), lost)
        if worker in lost:
            self.model.workers[worker] = self.model.now
            for subject in self.subjects:
                subject.open_again(worker, self.model.now)

    @rule(worker=workers)
    def look_for_overdue_jobs(self, worker: str) -> None:
        """Whoever ends the last of what a job waits for lets it go, in the same transaction."""
        self.all(lambda subject: subject.overdue(worker), set())

    @rule(worker=workers)
    def register_again(self, worker: str) -> None:
        """A registration whose reply was lost: one that was declared dead since stays so."""
        for subject in self.subjects:
            subject.register(worker, self.model.now)

    @rule(seconds=st.sampled_from([1, 10, 31, 2000]))
    def advance(self, seconds: int) -> None:
        self.model.now += timedelta(seconds=seconds)

    @rule(worker=workers, seconds=st.sampled_from([0, 20, 600]))
    def prune(self, worker: str, seconds: int) -> None:
        def ask(subject: Subject) -> int:
            return subject.sessions[worker].prune(older_than_seconds=seconds, limit=1000, now=self.model.now)

        self.all(ask, self.model.prune(seconds))

    @rule(worker=workers)
    def drop_the_connection(self, worker: str) -> None:
        for subject in self.subjects:
            subject.break_connection(worker)

    @rule()
    def reopen(self) -> None:
        for subject in self.subjects:
            subject.reopen()
