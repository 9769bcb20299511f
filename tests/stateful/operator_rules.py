"""What people do to jobs: revoke, cancel, retry, forget."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from dbqueue.jobs import NewJob
from dbqueue.store import changes
from dbqueue.store.revoking import revoke
from tests.stateful.machine import Machine
from tests.stateful.worker_rules import QUEUE_NAMES


class OperatorRules(Machine):
    jobs = Machine.jobs

    @rule(job=jobs)
    def revoke(self, job: str) -> None:
        if job in self.model.rows:
            self.model.revoke(job)
            for subject in self.subjects:
                revoke(subject.store, [job])

    @rule(target=jobs, queue=QUEUE_NAMES)
    def revoke_and_enqueue(self, queue: str) -> str:
        """In the wrong order: it never runs."""
        job = NewJob(self.new_id("job"), "shop.pack", queue)
        self.model.revoke(job.id)
        self.model.enqueue(job)
        for subject in self.subjects:
            revoke(subject.store, [job.id])
        self.all(lambda subject: dict(subject.store.enqueue([job])), {})
        return job.id

    @rule(job=jobs)
    def cancel(self, job: str) -> None:
        done = {job} if self.model.cancel(job) else set()
        self.all(lambda subject: changes.cancel(subject.store, [job]), done)

    @rule(job=jobs)
    def retry(self, job: str) -> None:
        self._retried(job)

    @precondition(lambda self: self.model.bereft())
    @rule(data=st.data())
    def retry_what_took_a_result_that_is_gone(self, data: st.DataObject) -> None:
        self._retried(data.draw(st.sampled_from(self.model.bereft())))

    def _retried(self, job: str) -> None:
        self.repeated = again = self.model.retry(job)
        self.all(lambda subject: changes.retry(subject.store, [job]), again)

    @rule(job=jobs, several=st.booleans())
    def forget(self, job: str, several: bool) -> None:
        """By the command, or by a result."""
        self._forgotten(job, several=several)

    @precondition(lambda self: any(map(self.model.is_needed, self.model.ended_ids())))
    @rule(data=st.data(), several=st.booleans())
    def forget_what_is_needed(self, data: st.DataObject, several: bool) -> None:
        needed = [job for job in self.model.ended_ids() if self.model.is_needed(job)]
        self._forgotten(data.draw(st.sampled_from(needed)), several=several)

    def _forgotten(self, job: str, *, several: bool) -> None:
        gone = self.model.forget(job)
        if several:
            self.all(lambda subject: changes.delete(subject.store, [job]), {job} if gone else set())
        else:
            self.all(lambda subject: subject.store.forget(job), gone)
