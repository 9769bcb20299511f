"""One step of the rounds after the other, as the test asks for them: what each must leave behind.

A real worker does most of it again a second later, for then it looks at everything, so that nothing there tells what a
step has forgotten. Here nothing comes by itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from uuid import uuid4

import pytest
import sqlalchemy as sa

from dbqueue.errors import OperationalError, SchemaError
from dbqueue.jobs import ClaimedJob, Outcome, Progress, Succeeded
from dbqueue.limits import Limit, Rate
from dbqueue.store import limits, queues
from dbqueue.store.base import Store
from dbqueue.store.records import Claim
from dbqueue.worker.claiming import rounds as module
from dbqueue.worker.claiming.held_jobs import GAP_SECONDS, PASS_ON_SECONDS
from dbqueue.worker.claiming.rates import TaskRates
from dbqueue.worker.claiming.rounds import Rounds
from dbqueue.worker.config import WorkerConfig
from dbqueue.workflows import Edge, Workflow
from tests.stores import TestWorker, enqueued, held, new_job, opened, row, run_sql
from tests.worker.rounds import NAME, NEVER


class Steps(Rounds):
    """The rounds without their thread."""

    def __init__(self, store: Store, rates: TaskRates | None = None) -> None:
        config = WorkerConfig(NAME, ("celery",), "solo", 1, heartbeat_seconds=NEVER, poll_seconds=NEVER)
        self.registrations: list[tuple[str, float]] = []
        super().__init__(
            store,
            config,
            rates=rates or TaskRates({}),
            notify=lambda: None,
            registered=lambda *registered: self.registrations.append(registered),
        )
        self.info = config.new_info()
        session = store.work_session(NAME)
        session.register(self.info)
        self._session.current, self._holding.worker_id = session, self.info.id
        self.resume_claiming()

    def step(self, *outcomes: Outcome, want: int) -> list[ClaimedJob]:
        """What one step claims."""
        for outcome in outcomes:
            self.complete(outcome)
        self.want(want)
        self._step()
        self.handover.give()
        return self.take_claimed()

    def sleeps(self) -> None:
        """Nothing is due, and nothing was announced."""
        self._clock.at = self._held._next_at = later = time.monotonic() + NEVER
        self._upkeeper.rescue_at = self._upkeeper._look_at = self._upkeeper._prune_at = later
        self._bell.answer()


@pytest.fixture
def store(postgres_url: str) -> Iterator[Store]:
    with opened(postgres_url) as store:
        yield store


@pytest.fixture
def steps(store: Store) -> Iterator[Steps]:
    steps = Steps(store)
    yield steps
    steps._session.close()


@pytest.fixture
def told(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """When other workers were told to look for jobs."""
    told: list[str] = []
    monkeypatch.setattr(store, "wake", lambda: told.append("wake"))
    return told


def done(job: ClaimedJob) -> Outcome:
    return Succeeded(job.id, job.lease, "1", 0.0)


def names(jobs: Sequence[ClaimedJob]) -> list[str]:
    return [job.id for job in jobs]


def unseen(store: Store, steps: Steps) -> str:
    """A job that this worker has claimed without ever having been told."""
    job_id = enqueued(store)
    session = store.work_session("lost")
    session.round([], Claim(steps.info.id, str(uuid4()), ["celery"], 1))
    session.close()
    assert row(store, job_id)["status"] == "STARTED"
    return job_id


# claims


def test_the_claim_that_a_look_has_left_no_room_for_is_made_next(store: Store, steps: Steps) -> None:
    held(store, "k", "held")
    enqueued(store, "plain")
    assert names(steps.step(want=1)) == ["held"]
    assert names(steps.step(want=1)) == ["plain"]


def test_a_look_and_a_claim_take_no_more_than_is_wanted_together(store: Store, steps: Steps) -> None:
    held(store, "k", "held")
    for number in range(3):
        enqueued(store, f"plain {number}")
    assert names(steps.step(want=2)) == ["held", "plain 0"]


def test_what_waits_for_a_job_is_claimed_in_the_round_that_ends_it(store: Store, steps: Steps) -> None:
    store.enqueue_workflow(Workflow.of([new_job("first"), new_job("second")], [Edge("first", "second")]))
    (first,) = steps.step(want=1)
    steps.sleeps()
    assert names(steps.step(done(first), want=1)) == ["second"]


def test_what_an_outcome_has_freed_is_looked_for_as_soon_as_there_is_room(store: Store, steps: Steps) -> None:
    store.enqueue_workflow(Workflow.of([new_job("first"), new_job("second")], [Edge("first", "second")]))
    (first,) = steps.step(want=1)
    steps.sleeps()
    steps.step(done(first), want=0)
    assert steps._held.due_at is not None
    assert steps._held.due_at <= time.monotonic() + GAP_SECONDS, "it may wait for a permit"
    assert names(steps.step(want=1)) == ["second"]


def test_a_claim_that_fails_is_made_again_soon_but_not_at_once(steps: Steps) -> None:
    steps.consume(["no\0text"])
    assert steps.step(want=1) == []
    assert steps._clock.at is not None
    assert time.monotonic() < steps._clock.at < time.monotonic() + 60.0


def test_a_job_that_needs_no_permit_gets_its_turn_beside_those_that_do(store: Store, steps: Steps) -> None:
    """The round that frees a permit claims for it, before all else where nothing else has come lately."""
    limits.set_limit(store, "k", Limit(running=1))
    held(store, "k")
    jobs = steps.step(want=1)
    assert steps.step(want=1) == []
    enqueued(store, "plain")
    for _ in range(20):
        held(store, "k")
    ended: list[str] = []
    while "plain" not in ended and len(ended) < 10:
        ended += names(jobs)
        steps._clock.at_once()
        jobs = steps.step(*map(done, jobs), want=1)
    assert "plain" in ended


def test_each_claim_that_is_sent_has_a_lease_of_its_own(steps: Steps) -> None:
    """One whose reply was lost may have been granted, and handed back, and its jobs claimed by another."""
    claim = Claim(steps.info.id, "lease", ["celery"], 1)
    assert len({claim.lease, steps._anew(claim).lease, steps._anew(claim).lease}) == 3


def test_while_all_queues_are_paused_they_are_looked_at_again(store: Store, steps: Steps) -> None:
    queues.pause(store, ["celery"])
    enqueued(store, "job")
    assert steps.step(want=1) == []
    assert steps._clock.at == steps._claims.queues.look_at


def test_a_look_that_has_ended_is_no_claim_under_way(store: Store, steps: Steps) -> None:
    """Else a job that is revoked here would be waited for, and refused when it is run again by hand."""
    held(store, "k", "held")
    steps._clock.at = time.monotonic() + NEVER
    assert names(steps.step(want=1)) == ["held"]
    assert steps.handover.taken == steps.handover.begun == 1


def test_what_was_claimed_is_handed_over_though_the_database_is_away_now(steps: Steps, store: Store) -> None:
    enqueued(store)
    steps.want(1)
    steps._step()  # claimed, and to be read beside the next round
    assert steps._session.current is not None
    steps._session.current.close()
    with pytest.raises(OperationalError):
        steps._round(steps._session.current, [], Claim(steps.info.id, str(uuid4()), ["celery"], 1))
    assert len(steps.take_claimed()) == 1


def test_parked_jobs_do_not_hide_those_behind_them(store: Store) -> None:
    steps = Steps(store, TaskRates({"shop.pack": Rate(1 / 3600)}))
    for number in range(3):
        enqueued(store, f"pack {number}")
    enqueued(store, "other", task="shop.other")
    assert names(steps.step(want=2)) == ["pack 0"]
    assert steps._held.due_at is not None, "there will be tokens again"
    assert names(steps.step(want=1)) == ["other"]
    steps._session.close()


def test_what_is_parked_is_held_until_that_is_written(store: Store) -> None:
    """Else it would be taken for a job of a claim whose reply was lost, should the connection break before."""
    steps = Steps(store, TaskRates({"shop.pack": Rate(1 / 3600)}))
    for number in range(2):
        enqueued(store, f"pack {number}")
    assert names(steps.step(want=2)) == ["pack 0"]
    assert (set(steps._holding.known), steps.waiting_outcomes) == ({"pack 0", "pack 1"}, 1)
    steps.step(want=0)
    assert (set(steps._holding.known), steps.waiting_outcomes) == ({"pack 0"}, 0)
    steps._session.close()


# signs


def test_who_claims_again_looks_at_once(steps: Steps) -> None:
    steps.stop_claiming()
    steps.sleeps()
    steps.resume_claiming()
    assert steps._clock.due


def test_a_sign_of_new_jobs_is_one_of_those_that_wait_for_permits(steps: Steps) -> None:
    steps.sleeps()
    steps.woken()
    assert steps._held.due_at is not None
    assert steps._held.due_at <= time.monotonic() + GAP_SECONDS


def test_when_the_database_works_again_it_is_looked_at_once(steps: Steps) -> None:
    steps.sleeps()
    steps._held._permits = {"lost": "k", "kept": "k"}
    steps._restored([("lost", "lease")])
    assert steps._clock.due
    assert list(steps._held._permits) == ["kept"], "who has undone a lease has freed its permit"


def test_permits_without_a_slot_are_passed_on_in_time(store: Store, steps: Steps, told: list[str]) -> None:
    limits.set_limit(store, "k", Limit(running=1))
    held(store, "k")
    (job,) = steps.step(want=1)
    steps.sleeps()
    steps.step(done(job), want=0)
    told.clear()
    steps._bell.answer()
    assert steps._pause() <= PASS_ON_SECONDS
    time.sleep(PASS_ON_SECONDS)
    assert told == []
    assert not steps._step()
    assert told == ["wake"]


def test_what_keeps_a_worker_from_ending_without_its_database(store: Store, steps: Steps) -> None:
    """A job, an outcome, a claim of which nothing is known, a run that may be STARTED; and that it is not to end."""
    enqueued(store)
    assert not steps._may_leave()
    steps._stopping = True
    assert steps._may_leave()
    (job,) = steps.step(want=1)
    assert not steps._may_leave()
    steps.complete(done(job))
    steps._holding.forget([job.id])
    assert not steps._may_leave()
    steps._holding.aside.put([steps._holding.outcomes.popleft()])
    assert not steps._may_leave()
    steps._holding.aside.tried(steps._holding.aside.next_try(), frozenset())
    assert steps._may_leave()
    steps.handover.claim_begins()
    assert not steps._may_leave()
    steps.handover.claim_ended()
    steps._holding.astray.add(job.id)
    assert not steps._may_leave()


def test_permits_that_were_freed_last_are_others(store: Store, steps: Steps, told: list[str]) -> None:
    limits.set_limit(store, "k", Limit(running=1))
    held(store, "k")
    (job,) = steps.step(want=1)
    steps.sleeps()
    steps.step(done(job), want=0)
    told.clear()
    steps._say_goodbye()
    assert told == ["wake"]


def test_others_hear_of_permits_that_this_worker_has_freed_and_cannot_use(
    store: Store, steps: Steps, told: list[str]
) -> None:
    """It takes jobs of one queue, and those that wait are of another."""
    limits.set_limit(store, "k", Limit(running=1))
    held(store, "k")
    held(store, "k", queue="others'")
    (job,) = steps.step(want=1)
    steps.sleeps()
    steps.step(done(job), want=0)
    steps._held._simple = frozenset()  # the next look is one of its own
    told.clear()
    steps.step(want=1)
    assert told == ["wake"]


def test_an_outcome_that_is_written_at_last_lets_others_run(steps: Steps, store: Store) -> None:
    enqueued(store)
    (job,) = steps.step(want=1)
    steps._holding.aside.put([done(job)])
    steps._holding.aside._again_at = 0.0
    steps.sleeps()
    steps._write_aside()
    assert row(store, job.id)["status"] == "SUCCESS"
    assert steps._clock.due


def test_jobs_of_a_dead_worker_are_looked_for_at_once(store: Store, steps: Steps) -> None:
    enqueued(store)
    dead = TestWorker(store)
    job = dead.claim_one()
    dead.close()
    run_sql(store, f"UPDATE dbqueue_workers SET heartbeat_at = now() - interval '1 hour' WHERE id = '{dead.id}'")
    steps.sleeps()
    assert steps._session.current is not None
    steps._upkeeper.rescue_at = 0.0
    steps._upkeep(steps._session.current)
    assert row(store, job.id)["status"] == "PENDING"
    assert steps._clock.due


# pauses


def test_a_report_is_written_in_time(steps: Steps) -> None:
    steps.sleeps()
    steps._board.put(Progress("job", "lease", "PROGRESS", "{}"))
    assert steps._pause() == 0.0


def test_what_is_aside_is_tried_in_time(steps: Steps) -> None:
    steps.sleeps()
    steps._holding.aside.put([Succeeded("a", "lease", "1", 0.0)])
    assert steps._pause() < 1.0


# trouble, and the end


def test_the_lease_of_a_new_identity_begins_before_it_is_registered(
    store: Store, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock of its own: read after the database has answered, it would end later here than for others."""
    info = replace(steps.info, id="w#anew")
    seen: list[int] = []

    def clock() -> float:
        with store.connect() as connection:
            query = sa.text("SELECT count(*) FROM dbqueue_workers WHERE id = :id")
            seen.append(connection.execute(query, {"id": info.id}).scalar_one())
        return 17.0

    monkeypatch.setattr(module, "boot_clock", clock)
    steps.register_anew(info)
    steps._step()
    assert (seen, steps.registrations) == ([0], [(info.id, 17.0)])
    assert steps._holding.worker_id == info.id
    assert not steps.registering


def test_progress_that_cannot_be_written_for_want_of_a_table_is_no_ones_own(store: Store, steps: Steps) -> None:
    """As everywhere else: a worker that has no table ends, and does not drop what is reported."""
    enqueued(store)
    (job,) = steps.step(want=1)
    steps.report(Progress(job.id, job.lease, "PROGRESS", "{}"))
    steps._session._has_worked = False
    run_sql(store, "ALTER TABLE dbqueue_jobs RENAME TO away")
    with pytest.raises(SchemaError):
        steps._write_reports()


def test_late_claims_are_handed_back_when_dead_workers_are_looked_for(store: Store, steps: Steps) -> None:
    steps._session.close()
    session = steps._session._reconnect()
    job_id = unseen(store, steps)
    steps._upkeeper.rescue_at = 0.0
    steps._upkeep(session)
    assert row(store, job_id)["status"] == "PENDING"


def test_at_its_end_it_hands_back_what_a_lost_claim_took(store: Store, steps: Steps) -> None:
    """The row is closed, and nobody rescues the jobs of a closed one."""
    steps._session.close()
    steps._session._reconnect()
    job_id = unseen(store, steps)
    steps._say_goodbye()
    assert row(store, job_id)["status"] == "PENDING"


def test_at_its_end_it_takes_back_what_it_gives_back_in_vain(store: Store, steps: Steps, told: list[str]) -> None:
    """Somebody has changed the lease of a job that the supervisor never took."""
    job_id = enqueued(store)
    steps.want(1)
    steps._step()
    steps.handover.give()
    run_sql(store, "UPDATE dbqueue_jobs SET lease = :lease WHERE id = :id", lease=str(uuid4()), id=job_id)
    told.clear()
    steps._say_goodbye()
    stored = row(store, job_id)
    assert (stored["status"], stored["losses"]) == ("PENDING", 1)
    assert told == ["wake"], "others are to run it"
