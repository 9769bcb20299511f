"""Outcomes: what each does to its row, and that only the holder of the lease may write one."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from dbqueue.jobs import ClaimedJob, Failed, Outcome, Progress, Released, Retried, Succeeded
from dbqueue.store.base import Store
from dbqueue.store.records import Claim
from dbqueue.worker.claiming.settling import settle
from dbqueue.workflows import Edge, Workflow
from tests.stores import TestWorker, enqueued, moment, new_job, row, run_sql

NewWorker = Callable[..., TestWorker]
MakeOutcome = Callable[[str, str], Outcome]

ERROR = json.dumps({"exc_type": "ValueError", "exc_message": ["nö"], "exc_module": "builtins"}, ensure_ascii=False)

OUTCOMES: dict[str, MakeOutcome] = {
    "succeeded": lambda job_id, lease: Succeeded(job_id, lease, '{"sum": 3}', 0.25),
    "succeeded without a value": lambda job_id, lease: Succeeded(job_id, lease, None, 0.0),
    "succeeded in another serializer": lambda job_id, lease: Succeeded(job_id, lease, None, 0.25, b"\x80pickled"),
    "failed": lambda job_id, lease: Failed(job_id, lease, ERROR, "Traceback: ...", 0.25),
    "revoked": lambda job_id, lease: Failed(job_id, lease, ERROR, None, 0.0, status="REVOKED"),
    "retried": lambda job_id, lease: Retried(job_id, lease, ERROR, None, 0.1),
    "released": lambda job_id, lease: Released(job_id, lease, "2020-01-01 00:00:00.000"),
    "lost": lambda job_id, lease: Released(job_id, lease, "2020-01-01 00:00:00.000", lost=True),
}
HALF = '"\ud800"'
"""Half a character, which no database takes."""
each_outcome = pytest.mark.parametrize("make", OUTCOMES.values(), ids=OUTCOMES.keys())


class TestTheFence:
    @each_outcome
    def test_another_lease_writes_nothing(self, store: Store, worker: TestWorker, make: MakeOutcome) -> None:
        enqueued(store)
        job = worker.claim_one()
        before = row(store, job.id)
        assert worker.settle(make(job.id, str(uuid4()))).settled == frozenset()
        assert row(store, job.id) == before

    @each_outcome
    @pytest.mark.parametrize("first", OUTCOMES.values(), ids=OUTCOMES.keys())
    def test_a_second_outcome_writes_nothing(
        self, store: Store, worker: TestWorker, first: MakeOutcome, make: MakeOutcome
    ) -> None:
        enqueued(store)
        job = worker.claim_one()
        assert worker.settle(first(job.id, job.lease)).settled == {job.id}
        before = row(store, job.id)
        assert worker.settle(make(job.id, job.lease)).settled == frozenset()
        assert row(store, job.id) == before

    @each_outcome
    def test_after_a_rescue_the_old_holder_writes_nothing(
        self, store: Store, new_worker: NewWorker, make: MakeOutcome
    ) -> None:
        enqueued(store)
        dead, rescuer = new_worker(lease_seconds=5), new_worker(lease_seconds=3600)
        job = dead.claim_one()
        rescuer.session.rescue(max_losses=3, now=datetime.now(UTC) + timedelta(seconds=60))
        assert dead.settle(make(job.id, job.lease)).settled == frozenset()
        assert row(store, job.id)["status"] == "PENDING"
        again = rescuer.claim_one()
        before = row(store, job.id)
        assert dead.settle(make(job.id, job.lease)).settled == frozenset()
        assert row(store, job.id) == before
        assert rescuer.settle(make(again.id, again.lease)).settled == {job.id}

    def test_a_waiting_job_takes_no_outcome(self, store: Store, worker: TestWorker) -> None:
        job_id = enqueued(store)
        assert worker.settle(Succeeded(job_id, str(uuid4()), "1", 0.0)).settled == frozenset()
        assert row(store, job_id)["status"] == "PENDING"

    def test_one_refused_outcome_does_not_hold_up_the_batch(self, store: Store, worker: TestWorker) -> None:
        enqueued(store, "a")
        enqueued(store, "b")
        a, b = worker.claim()
        outcomes = [Succeeded(a.id, a.lease, "1", 0.0), Succeeded(b.id, str(uuid4()), "2", 0.0)]
        assert worker.settle(*outcomes, Succeeded("absent", a.lease, "3", 0.0)).settled == {a.id}


class TestEndings:
    def test_success(self, store: Store, worker: TestWorker) -> None:
        enqueued(store)
        job = worker.claim_one()
        worker.settle(Succeeded(job.id, job.lease, '{"b": 1, "a": "ü🦊"}', 0.25))
        record = store.finished([job.id])[job.id]
        assert (record.status, record.result, record.traceback) == ("SUCCESS", '{"b": 1, "a": "ü🦊"}', None)
        assert record.started_at is not None
        assert record.finished_at is not None
        assert record.finished_at - record.started_at == pytest.approx(
            timedelta(seconds=0.25), abs=timedelta(milliseconds=2)
        )
        assert record.worker == worker.id

    def test_failure(self, store: Store, worker: TestWorker) -> None:
        enqueued(store)
        job = worker.claim_one()
        worker.settle(Failed(job.id, job.lease, ERROR, "Traceback\n  ü", 0.0))
        record = store.finished([job.id])[job.id]
        assert (record.status, record.traceback) == ("FAILURE", "Traceback\n  ü")
        assert json.loads(record.result or "")["exc_message"] == ["nö"]

    def test_revoked(self, store: Store, worker: TestWorker) -> None:
        enqueued(store)
        job = worker.claim_one()
        worker.settle(Failed(job.id, job.lease, ERROR, None, 0.0, status="REVOKED"))
        assert store.finished([job.id])[job.id].status == "REVOKED"

    @pytest.mark.parametrize("seconds", [0.0, 1e-7, 123456.789])
    def test_the_length_of_the_run_is_kept(self, store: Store, worker: TestWorker, seconds: float) -> None:
        enqueued(store)
        job = worker.claim_one()
        at = datetime(2040, 1, 1, tzinfo=UTC)
        worker.settle(Succeeded(job.id, job.lease, "1", seconds), now=at)
        record = store.fetch([job.id])[job.id]
        assert record.finished_at == at
        assert record.started_at is not None
        assert abs(at - record.started_at - timedelta(seconds=seconds)) <= timedelta(milliseconds=1)


class TestRetries:
    def retried(self, store: Store, worker: TestWorker, **fields: object) -> ClaimedJob:
        enqueued(store, args="[1]", kwargs="{}", expires_seconds=3600)
        job = worker.claim_one()
        worker.settle(Retried(job.id, job.lease, ERROR, "Traceback", 0.1, **fields))  # type: ignore[arg-type]
        return job

    def test_it_waits_in_state_retry_with_its_error(self, store: Store, worker: TestWorker) -> None:
        job = self.retried(store, worker, delay_seconds=60)
        stored, record = row(store, job.id), store.fetch([job.id])[job.id]
        assert (record.status, record.retries, record.result, record.traceback) == ("RETRY", 1, ERROR, "Traceback")
        assert (stored["losses"], stored["lease"], stored["worker"], stored["started_at"]) == (0, None, None, None)
        assert record.finished_at is None
        assert store.finished([job.id]) == {}

    def test_it_runs_again_when_the_pause_is_over(self, store: Store, worker: TestWorker) -> None:
        job = self.retried(store, worker, delay_seconds=60)
        assert worker.claim() == []
        again = worker.claim_one(now=datetime.now(UTC) + timedelta(seconds=61))
        assert (again.id, again.retries, again.args, again.lease != job.lease) == (job.id, 1, "[1]", True)

    def test_an_eta_of_the_retry_is_kept(self, store: Store, worker: TestWorker) -> None:
        eta = datetime(2050, 1, 1, 12, tzinfo=UTC)
        job = self.retried(store, worker, eta=eta.astimezone().isoformat())
        assert moment(row(store, job.id)["ready_at"]) == eta

    def test_changes_of_the_call(self, store: Store, worker: TestWorker) -> None:
        job = self.retried(
            store,
            worker,
            args="[2]",
            kwargs='{"k":1}',
            options='{"ignore_result":true}',
            queue="other",
            priority=5,
            expires_at="2051-01-01T00:00:00+00:00",
            headers='{"tenant":"tea"}',
        )
        again = worker.claim_one(queues=["other"], now=datetime.now(UTC) + timedelta(seconds=1))
        assert (again.id, again.args, again.kwargs, again.options, again.priority) == (
            job.id,
            "[2]",
            '{"k":1}',
            '{"ignore_result":true}',
            5,
        )
        assert datetime.fromisoformat(again.expires_at or "") == datetime(2051, 1, 1, tzinfo=UTC)
        assert again.headers == '{"tenant":"tea"}'

    def test_what_is_not_changed_stays(self, store: Store, worker: TestWorker) -> None:
        self.retried(store, worker)
        again = worker.claim_one(now=datetime.now(UTC) + timedelta(seconds=1))
        assert (again.args, again.kwargs, again.queue, again.priority) == ("[1]", "{}", "celery", 0)
        assert again.expires_at is not None

    def test_arguments_in_another_serializer(self, store: Store, worker: TestWorker) -> None:
        enqueued(store, content=b"\x80old", content_type="application/x-python-serialize")
        job = worker.claim_one()
        worker.settle(Retried(job.id, job.lease, ERROR, None, 0.0, content=b"\x80new"))
        job = worker.claim_one(now=datetime.now(UTC) + timedelta(seconds=1))
        assert job.content == b"\x80new"
        worker.settle(Retried(job.id, job.lease, ERROR, None, 0.0))
        job = worker.claim_one(now=datetime.now(UTC) + timedelta(seconds=1))
        assert (job.content, job.content_type) == (b"\x80new", "application/x-python-serialize")

    def test_each_retry_counts(self, store: Store, worker: TestWorker) -> None:
        enqueued(store)
        for retries in range(4):
            job = worker.claim_one(now=datetime.now(UTC) + timedelta(seconds=1))
            assert job.retries == retries
            worker.settle(Retried(job.id, job.lease, ERROR, None, 0.0))

    def test_a_retry_is_never_before_the_eta_of_the_call(self, store: Store, worker: TestWorker) -> None:
        eta = datetime(2045, 1, 1, tzinfo=UTC)
        enqueued(store, eta=eta)
        job = worker.claim_one(now=eta)
        earlier = Retried(job.id, job.lease, ERROR, None, 0.0, eta=(eta - timedelta(hours=1)).isoformat())
        assert worker.settle(earlier, now=eta).settled == {job.id}
        assert moment(row(store, job.id)["ready_at"]) == eta

    def test_success_after_a_retry_leaves_no_error(self, store: Store, worker: TestWorker) -> None:
        self.retried(store, worker)
        again = worker.claim_one(now=datetime.now(UTC) + timedelta(seconds=1))
        worker.settle(Succeeded(again.id, again.lease, "1", 0.0))
        record = store.fetch([again.id])[again.id]
        assert (record.status, record.result, record.traceback, record.retries) == ("SUCCESS", "1", None, 1)


class TestReleases:
    def test_a_released_job_keeps_its_place_and_counts_nothing(self, store: Store, worker: TestWorker) -> None:
        for job_id in ("a", "b", "c"):
            enqueued(store, job_id)
        before = {job_id: row(store, job_id)["ready_at"] for job_id in ("a", "b", "c")}
        jobs = worker.claim()
        order = [job.id for job in jobs]
        worker.settle(*(Released(job.id, job.lease, job.ready_at) for job in reversed(jobs)))
        for job_id, ready_at in before.items():
            stored = row(store, job_id)
            assert (stored["status"], stored["ready_at"]) == ("PENDING", ready_at)
            assert (stored["retries"], stored["losses"], stored["worker"], stored["lease"]) == (0, 0, None, None)
        assert [job.id for job in worker.claim()] == order

    def test_a_loss_is_counted(self, store: Store, worker: TestWorker) -> None:
        enqueued(store)
        for losses in range(3):
            job = worker.claim_one()
            assert (job.losses, job.retries) == (losses, 0)
            worker.settle(Released(job.id, job.lease, job.ready_at, lost=True))

    def test_a_count_that_is_full_keeps_no_outcome_out(self, store: Store, worker: TestWorker) -> None:
        """Somebody else has written the row: its columns hold no more than that."""
        enqueued(store)
        run_sql(store, f"UPDATE dbqueue_jobs SET retries = {2**31 - 1}, losses = {2**31 - 1}")
        job = worker.claim_one()
        assert worker.settle(Released(job.id, job.lease, job.ready_at, lost=True)).settled == {job.id}
        job = worker.claim_one()
        assert worker.settle(Retried(job.id, job.lease, ERROR, None, 0.0)).settled == {job.id}
        stored = row(store, job.id)
        assert min(stored["retries"], stored["losses"]) >= 2**31 - 2

    def test_a_released_job_with_an_eta_keeps_both(self, store: Store, worker: TestWorker) -> None:
        eta = datetime(2020, 1, 1, 0, 0, 0, 123456, tzinfo=UTC)
        job_id = enqueued(store, eta=eta)
        before = row(store, job_id)
        job = worker.claim_one()
        worker.settle(Released(job.id, job.lease, job.ready_at))
        after = row(store, job_id)
        assert (after["eta"], after["ready_at"]) == (before["eta"], before["ready_at"])

    def test_a_rejected_job_comes_back_after_its_pause(self, store: Store, worker: TestWorker) -> None:
        """Not at its old place, where it would run again and again at once."""
        enqueued(store)
        job = worker.claim_one()
        begun = datetime.now(UTC)
        options = json.dumps({"rejections": 1})
        worker.settle(Released(job.id, job.lease, job.ready_at, delay_seconds=60.0, options=options))
        stored = row(store, job.id)
        assert (stored["status"], stored["retries"], stored["losses"]) == ("PENDING", 0, 0)
        ready_at = moment(stored["ready_at"])
        assert ready_at is not None
        assert begun + timedelta(seconds=55) < ready_at < begun + timedelta(seconds=120)
        assert not worker.claim()
        assert worker.claim_one(now=begun + timedelta(seconds=120)).options == options

    def test_a_release_of_a_retry_keeps_its_count_and_its_error(self, store: Store, worker: TestWorker) -> None:
        enqueued(store)
        job = worker.claim_one()
        worker.settle(Retried(job.id, job.lease, ERROR, "Traceback", 0.0))
        job = worker.claim_one(now=datetime.now(UTC) + timedelta(seconds=1))
        worker.settle(Released(job.id, job.lease, job.ready_at))
        record = store.fetch([job.id])[job.id]
        assert (record.retries, record.result, record.traceback) == (1, ERROR, "Traceback")


def test_a_run_that_was_revoked_and_then_asked_for_a_retry_has_ended(store: Store, worker: TestWorker) -> None:
    """Both may be of one round."""
    enqueued(store)
    job = worker.claim_one()
    worker.settle(OUTCOMES["revoked"](job.id, job.lease), OUTCOMES["retried"](job.id, job.lease))
    assert row(store, job.id)["status"] == "REVOKED"


class TestOutcomesThatCannotBeStored:
    """The round refuses them as a whole and changes nothing: the worker looks for the bad one."""

    def test_of_a_batch_nothing_is_written(self, store: Store, worker: TestWorker) -> None:
        enqueued(store, "a")
        enqueued(store, "b")
        a, b = worker.claim()
        half = "\ud800"
        with pytest.raises(Exception, match=r"surrogate|encode"):
            worker.settle(Succeeded(a.id, a.lease, "1", 0.0), Succeeded(b.id, b.lease, f'"{half}"', 0.0))
        assert {row(store, job_id)["status"] for job_id in "ab"} == {"STARTED"}
        assert worker.settle(Succeeded(a.id, a.lease, "1", 0.0), Failed(b.id, b.lease, ERROR, None, 0.0)).settled == {
            "a",
            "b",
        }

    def test_a_pause_beyond_all_dates_is_no_operational_error(self, store: Store, worker: TestWorker) -> None:
        """OperationalError means "try again": the worker would, for ever."""
        from dbqueue.errors import OperationalError

        enqueued(store)
        job = worker.claim_one()
        with pytest.raises(Exception) as caught:  # noqa: PT011 - the driver's own
            worker.settle(Retried(job.id, job.lease, ERROR, None, 0.0, delay_seconds=1e15))
        assert not isinstance(caught.value, OperationalError)
        assert worker.settle(Failed(job.id, job.lease, ERROR, None, 0.0)).settled == {job.id}

    def test_text_that_is_no_json_is_no_operational_error(self, postgres_url: str) -> None:
        from tests.stores import TestWorker as Worker
        from tests.stores import opened

        with opened(postgres_url) as store:
            worker = Worker(store)
            for result in ('{"half', '"\0"'):
                enqueued(store)
                job = worker.claim_one()
                with pytest.raises(Exception) as caught:  # noqa: PT011
                    worker.settle(Succeeded(job.id, job.lease, result, 0.0))
                assert type(caught.value).__module__.startswith("psycopg")
                assert worker.settle(Failed(job.id, job.lease, ERROR, None, 0.0)).settled == {job.id}
            worker.close()


class TestReports:
    def test_they_show_until_the_outcome(self, store: Store, worker: TestWorker) -> None:
        enqueued(store)
        job = worker.claim_one()
        worker.session.report([Progress(job.id, job.lease, "PACKING", '{"done": 1}')])
        record = store.fetch([job.id])[job.id]
        assert (record.status, record.state, record.meta) == ("STARTED", "PACKING", '{"done": 1}')
        worker.session.report([Progress(job.id, job.lease, None, None)])
        record = store.fetch([job.id])[job.id]
        assert (record.state, record.meta) == (None, None)
        worker.session.report([Progress(job.id, job.lease, "PACKING", None)])
        worker.settle(Succeeded(job.id, job.lease, "1", 0.1))
        record = store.fetch([job.id])[job.id]
        assert (record.status, record.state, record.meta) == ("SUCCESS", None, None)

    @pytest.mark.parametrize("make", [OUTCOMES["retried"], OUTCOMES["released"]], ids=["retried", "released"])
    def test_nothing_of_a_run_is_shown_of_the_next(self, store: Store, worker: TestWorker, make: MakeOutcome) -> None:
        enqueued(store)
        job = worker.claim_one()
        worker.session.report([Progress(job.id, job.lease, "PACKING", "1")])
        worker.settle(make(job.id, job.lease))
        record = store.fetch([job.id])[job.id]
        assert (record.state, record.meta) == (None, None)

    def test_they_are_fenced(self, store: Store, worker: TestWorker) -> None:
        enqueued(store)
        job = worker.claim_one()
        before = row(store, job.id)
        others = [Progress(job.id, str(uuid4()), "OTHER", "{}"), Progress("unknown", job.lease, "X", None)]
        worker.session.report(others)
        assert row(store, job.id) == before
        worker.settle(Succeeded(job.id, job.lease, "1", 0.1))
        before = row(store, job.id)
        worker.session.report([Progress(job.id, job.lease, "LATE", "{}")])
        assert row(store, job.id) == before


class TestWhatTheDatabaseRefuses:
    """One outcome of a round: it ends as FAILURE, and the others as they are."""

    @pytest.mark.parametrize("bad", range(5))
    def test_one_of_many(self, store: Store, worker: TestWorker, bad: int) -> None:
        for _ in range(5):
            enqueued(store)
        jobs = worker.claim()
        results = ["1"] * 5
        results[bad] = HALF
        waiting = enqueued(store)
        claim = Claim(worker.id, str(uuid4()), worker.queues, 10, ())
        outcomes: list[Outcome] = [
            Succeeded(job.id, job.lease, text, 0.0) for job, text in zip(jobs, results, strict=True)
        ]
        assert settle(worker.session, outcomes, claim, ()).claimed == ()
        after = store.fetch([job.id for job in jobs])
        assert [after[job.id].status for job in jobs] == ["FAILURE" if each == bad else "SUCCESS" for each in range(5)]
        assert "cannot be stored" in str(after[jobs[bad].id].result)
        assert [job.id for job in worker.claim()] == [waiting]

    def test_the_only_one(self, store: Store, worker: TestWorker) -> None:
        """What waits for it is let go as after any failure, and the round says so."""
        first, last = new_job(), new_job()
        store.enqueue_workflow(Workflow.of((first, last), (Edge(first.id, last.id),)))
        job = worker.claim_one()
        outcome = Succeeded(job.id, job.lease, HALF, 0.0)
        assert settle(worker.session, [outcome], None, {job.id}).released
        assert {record.status for record in store.fetch([first.id, last.id]).values()} == {"FAILURE"}


class TestWhatIsLoggedOfASecondTry:
    """A worker repeats a round whose reply was lost: its first try may have committed."""

    @pytest.mark.parametrize("how", ["retried", "released", "lost"])
    def test_one_that_gave_up_the_lease_is_not_called_another_s_alone(
        self, store: Store, worker: TestWorker, how: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        enqueued(store)
        job = worker.claim_one()
        worker.settle(OUTCOMES[how](job.id, job.lease))
        with caplog.at_level("INFO"):
            settle(worker.session, [OUTCOMES[how](job.id, job.lease)], None, ())
        assert "by another hand now, or by an earlier try to write this, which had no answer" in caplog.text

    @pytest.mark.parametrize("how", ["succeeded", "failed"])
    def test_one_that_ended_the_job_is_not_mentioned(
        self, store: Store, worker: TestWorker, how: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        enqueued(store)
        job = worker.claim_one()
        worker.settle(OUTCOMES[how](job.id, job.lease))
        settle(worker.session, [OUTCOMES[how](job.id, job.lease)], None, ())
        assert not caplog.text

    def test_one_that_another_worker_has_ended_is_dropped_and_said_to_be(
        self, store: Store, worker: TestWorker, caplog: pytest.LogCaptureFixture
    ) -> None:
        enqueued(store)
        job = worker.claim_one()
        worker.settle(OUTCOMES["succeeded"](job.id, job.lease))
        settle(worker.session, [OUTCOMES["failed"](job.id, str(uuid4()))], None, ())
        assert f"Job {job.id} lost its lease while it ran here" in caplog.text
        assert row(store, job.id)["status"] == "SUCCESS"

    def test_a_run_that_died_after_its_own_commit_is_said_to_have_ended(
        self, store: Store, worker: TestWorker, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        enqueued(store)
        job = worker.claim_one()
        worker.settle(OUTCOMES["succeeded"](job.id, job.lease))  # as the task's own transaction does
        settle(worker.session, [OUTCOMES["lost"](job.id, job.lease)], None, ())
        assert f"Job {job.id} had ended as SUCCESS in that run: it does not run again" in caplog.text


def test_what_was_prepared_is_of_its_own_round(store: Store, worker: TestWorker) -> None:
    """Another may come before it, such as one that hands jobs back."""
    store.enqueue([new_job("next"), new_job("now")])
    jobs = {job.id: job for job in worker.claim()}
    following, present = ([Succeeded(name, jobs[name].lease, "1", 0.0)] for name in ("next", "now"))
    worker.session.prepare(following)
    assert worker.session.round(present, None).settled == {"now"}
    assert row(store, "next")["status"] == "STARTED"
    assert worker.session.round(following, None).settled == {"next"}
