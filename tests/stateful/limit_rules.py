"""Limits: jobs that wait for a permit, and the keys that give them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import multiple, rule

from dbqueue.limits import Limit
from dbqueue.store.limits import clear_limit, set_limit
from dbqueue.store.records import Claim
from tests.stateful.machine import Call
from tests.stateful.model import ONCE
from tests.stateful.rows import Token
from tests.stateful.subject import QUEUES
from tests.stateful.worker_rules import CALLS, WANTED, WorkerRules

LIMITED = st.sampled_from(["mail", "api"])
LIMITS = st.sampled_from([Limit(running=0), Limit(running=1), Limit(running=2), Limit(rate="2/m"), Limit(1, "2/m")])
MOST = st.integers(1, 4)


class LimitRules(WorkerRules):
    tokens, workers = WorkerRules.tokens, WorkerRules.workers

    @rule(key=LIMITED, limit=LIMITS)
    def set_limit(self, key: str, limit: Limit) -> None:
        self.model.limits[key] = limit
        self.model.full_at.pop(key, None)
        for subject in self.subjects:
            set_limit(subject.store, key, limit)

    @rule(key=LIMITED)
    def clear_limit(self, key: str) -> None:
        known = self.model.limits.pop(key, None) is not None
        self.model.full_at.pop(key, None)
        self.all(lambda subject: clear_limit(subject.store, key), known)

    @rule(target=tokens, worker=workers, queues=WANTED, limit=MOST, yielding=st.booleans())
    def claim_held(self, worker: str, queues: tuple[str, ...], limit: int, yielding: bool) -> Any:
        return multiple(*self.claimed_held(worker, queues, limit, yielding=yielding))

    @rule(target=tokens, worker=workers, key=LIMITED, running=st.integers(0, 2), calls=st.lists(CALLS, min_size=3))
    def crowd(self, worker: str, key: str, running: int, calls: list[Call]) -> Any:
        """More jobs than may run at once are due; what is asked for comes one by one, and then all."""
        self.set_limit(key, Limit(running))
        for call in calls[:4]:
            self.enqueue(call._replace(key=key, delay=None))
        given = [*self.claimed_held(worker, QUEUES, 1), *self.claimed_held(worker, QUEUES, 10)]
        return multiple(*given, *self.claimed_by_key(worker, QUEUES, 10))

    @rule(target=tokens, worker=workers, queues=WANTED, limit=MOST)
    def claim_by_key(self, worker: str, queues: tuple[str, ...], limit: int) -> Any:
        return multiple(*self.claimed_by_key(worker, queues, limit))

    def claimed_by_key(self, worker: str, queues: tuple[str, ...], limit: int) -> list[Token]:
        """In a round, where the keys limit nothing but how many jobs run."""
        keys = self.model.simple_keys()
        if not keys:
            return []
        lease = self.new_lease()
        given = self.model.claim_held(worker, lease, queues, limit, keys=keys)
        claim = Claim(worker, lease, queues, limit, once=(ONCE,), keys=sorted(keys))
        self.all_claim(lambda subject: subject.round(worker, [], claim, self.model.now)[1], given)
        return given
