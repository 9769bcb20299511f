"""Enqueueing: what is written, once, and what is refused."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import pytest

from dbqueue.errors import DuplicateTaskId, OperationalError
from dbqueue.jobs import MAX_PRIORITY, MIN_PRIORITY, Failed, NewJob, Replaced, Retried
from dbqueue.store.base import Store
from dbqueue.store.changes import retry
from dbqueue.store.postgres.copying import FEWEST
from dbqueue.workflows import Workflow
from tests.stores import TestWorker, count, enqueued, held, moment, new_job, row, run_sql

STRANGE_TEXTS = [
    "naïve-ключ-鍵",
    "🦊🚀",
    "a" * 255,
    "with 'quotes' \"both\"",
    "100%",
    "%(id)s :id $1 ?",
    "\\N{tab}",
    "{}",
]


@contextlib.contextmanager
def leaving_out(store: Store, event: str) -> Iterator[None]:
    """Somebody's trigger has rows neither written nor refused."""
    if store.dialect == "sqlite":
        run_sql(store, f"CREATE TRIGGER skips BEFORE {event} ON dbqueue_jobs BEGIN SELECT RAISE(IGNORE); END")
    else:
        run_sql(store, "CREATE FUNCTION skips() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$")
        rows = f"BEFORE {event} ON dbqueue_jobs FOR EACH ROW"
        run_sql(store, f"CREATE TRIGGER skips {rows} EXECUTE FUNCTION skips()")
    try:
        yield
    finally:
        run_sql(store, "DROP TRIGGER skips" if store.dialect == "sqlite" else "DROP FUNCTION skips CASCADE")


@pytest.mark.parametrize("number", [1, 3, FEWEST])
def test_what_the_database_leaves_out_is_not_acknowledged(store: Store, number: int) -> None:
    jobs = [new_job() for _ in range(number)]
    with leaving_out(store, "INSERT"), pytest.raises(OperationalError, match="has not written job"):
        store.enqueue(jobs)
    assert count(store) == 0
    store.enqueue(jobs)
    assert count(store) == number


def test_a_claim_that_the_database_leaves_out_gives_nothing_to_run(store: Store, worker: TestWorker) -> None:
    """It would run beside whoever claims it next."""
    enqueued(store, "a")
    held(store, "key", "b")
    with leaving_out(store, "UPDATE"):
        with contextlib.suppress(sqlite3.IntegrityError):
            assert not worker.claim()
        with contextlib.suppress(sqlite3.IntegrityError):
            assert not worker.claim_held().claimed
    assert count(store, "status = 'PENDING'") == 2


def test_a_job_is_pending_and_holds_what_was_given(store: Store) -> None:
    job = new_job(
        args="[1, 2]",
        kwargs='{"z": 1e16}',
        headers='{"trace": "x"}',
        options='{"ignore_result": true}',
        priority=7,
        parent_id="p",
        root_id="r",
        group_id="g",
    )
    store.enqueue([job])
    record = store.fetch([job.id])[job.id]
    assert (record.status, record.task, record.queue, record.args, record.kwargs) == (
        "PENDING",
        "shop.pack",
        "celery",
        "[1, 2]",
        '{"z": 1e16}',
    )
    assert (record.retries, record.result, record.worker, record.started_at, record.finished_at) == (0, None) + (
        None,
    ) * 3
    assert abs(record.created_at - datetime.now(UTC)) < timedelta(minutes=5)
    stored = row(store, job.id)
    assert (stored["priority"], stored["parent_id"], stored["root_id"], stored["group_id"]) == (7, "p", "r", "g")


@pytest.mark.parametrize("text", STRANGE_TEXTS)
def test_any_printable_text_is_an_id_a_task_and_a_queue(store: Store, worker: TestWorker, text: str) -> None:
    args = json.dumps([text], ensure_ascii=False)
    store.enqueue([NewJob(id=text, task=text, queue=text, args=args)])
    store.enqueue([NewJob(id=f"{text[:200]}-{n}", task=text, queue=text, args=args) for n in range(2)])
    claimed = worker.claim(queues=[text])
    assert len(claimed) == 3
    assert {(job.task, job.queue, job.args) for job in claimed} == {(text, text, args)}
    assert text in {job.id for job in claimed}
    assert text in store.fetch([text])


def test_many_are_written_in_one_call(store: Store) -> None:
    jobs = [new_job(args=f"[{n}]", priority=n % 3) for n in range(1500)]
    store.enqueue(jobs)
    assert count(store, "status = 'PENDING'") == 1500
    assert store.fetch([jobs[1234].id])[jobs[1234].id].args == "[1234]"


def test_none_is_no_error(store: Store) -> None:
    store.enqueue([])
    assert count(store) == 0


def test_many_mix_their_options(store: Store) -> None:
    asked = datetime(2050, 1, 2, 3, 4, 5, tzinfo=UTC)
    plain, later, soon = new_job(), new_job(eta=asked, headers="{}"), new_job(delay_seconds=60, expires_seconds=120)
    store.enqueue([plain, later, soon])
    assert row(store, plain.id)["eta"] is None
    assert moment(row(store, later.id)["eta"]) == asked
    assert moment(row(store, later.id)["ready_at"]) == asked
    assert moment(row(store, soon.id)["ready_at"]) == moment(row(store, soon.id)["eta"])
    eta, expires_at = (moment(row(store, soon.id)[name]) for name in ("eta", "expires_at"))
    assert eta is not None
    assert expires_at is not None
    assert (expires_at - eta).total_seconds() == pytest.approx(60, abs=0.01)


def test_binary_content_is_kept(store: Store, worker: TestWorker) -> None:
    content = bytes(range(256))
    first, second = (new_job(content=content, content_type="application/x-own") for _ in range(2))
    store.enqueue([first])
    store.enqueue([second, new_job()])
    by_id = {job.id: job for job in worker.claim()}
    for job in (first, second):
        assert bytes(by_id[job.id].content or b"") == content
        assert by_id[job.id].content_type == "application/x-own"


@pytest.mark.parametrize("priority", [MIN_PRIORITY, -1, 0, MAX_PRIORITY])
def test_every_priority_of_the_range_is_claimed(store: Store, worker: TestWorker, priority: int) -> None:
    job_id = enqueued(store, priority=priority)
    assert [(job.id, job.priority) for job in worker.claim()] == [(job_id, priority)]


class TestTheSameIdTwice:
    def test_same_content_is_written_once(self, store: Store) -> None:
        job = new_job("again", args="[1]")
        store.enqueue([job])
        store.enqueue([job])
        store.enqueue([job, new_job()])
        assert count(store) == 2

    def test_same_content_does_not_reset_a_job_that_runs(self, store: Store, worker: TestWorker) -> None:
        job = new_job("again")
        store.enqueue([job])
        worker.claim_one()
        store.enqueue([job])
        assert row(store, "again")["status"] == "STARTED"

    @pytest.mark.parametrize("change", [{"task": "shop.other"}, {"args": "[2]"}, {"kwargs": '{"a":1}'}])
    def test_other_content_is_refused(self, store: Store, change: dict[str, str]) -> None:
        store.enqueue([new_job("taken", args="[1]")])
        with pytest.raises(DuplicateTaskId, match="taken"):
            store.enqueue([new_job("taken", **{"args": "[1]"} | change)])
        assert row(store, "taken")["task"] == "shop.pack"
        assert store.fetch(["taken"])["taken"].args == "[1]"

    def test_a_job_that_has_changed_since_is_the_same(self, store: Store, worker: TestWorker) -> None:
        """The reply to an enqueue was lost; before it is repeated the job runs, and asks for a retry with others."""
        jobs = [new_job("text", args="[1]"), new_job("bytes", content=b"1", content_type="application/x-own")]
        store.enqueue(jobs)
        for job in worker.claim():
            other = Retried(job.id, job.lease, "{}", None, 0.0)
            worker.settle(
                other._replace(args="[2]", kwargs='{"a":1}') if job.id == "text" else other._replace(content=b"2")
            )
        for same in (jobs[:1], jobs[1:], jobs):
            assert store.enqueue(same) == {}
        with pytest.raises(DuplicateTaskId):
            store.enqueue([new_job("text", task="shop.other", args="[1]")])
        (again,) = (job for job in worker.claim(now=datetime.now(UTC) + timedelta(seconds=1)) if job.id == "text")
        worker.settle(Failed("text", again.lease, "{}", None, 0.0))
        assert retry(store, ["text"]) == {"text"}  # which begins to count anew
        assert store.enqueue(jobs[:1]) == {}

    def test_a_job_that_was_replaced_since_is_the_same(self, store: Store, worker: TestWorker) -> None:
        job = new_job("first", args="[1]")
        store.enqueue([job])
        tail = new_job("first", task="shop.other", args="[2]")
        run = worker.claim_one()
        worker.settle(Replaced(job.id, run.lease, Workflow((tail,)), 0.0))
        assert row(store, "first")["task"] == "shop.other"
        assert store.enqueue([job]) == {}
        assert store.enqueue([job, new_job()]) == {}
        assert count(store) == 2

    def test_of_many_with_one_refused_none_is_enqueued(self, store: Store) -> None:
        store.enqueue([new_job("taken", args="[1]")])
        with pytest.raises(DuplicateTaskId):
            store.enqueue([new_job("fresh-1"), new_job("taken", args="[2]"), new_job("fresh-2")])
        assert sorted(store.fetch(["taken", "fresh-1", "fresh-2"])) == ["taken"]

    def test_the_store_is_usable_after_a_refusal(self, store: Store) -> None:
        store.enqueue([new_job("taken")])
        for _ in range(12):  # more often than the pool has connections
            with pytest.raises(DuplicateTaskId):
                store.enqueue([new_job("taken", args="[2]"), new_job()])
        enqueued(store, "after")
        assert count(store) == 2

    def test_one_id_twice_in_one_call(self, store: Store) -> None:
        store.enqueue([new_job("twin", args="[1]"), new_job("twin", args="[1]")])
        assert count(store) == 1
        with pytest.raises(DuplicateTaskId):
            store.enqueue([new_job("rival", args="[1]"), new_job("rival", args="[2]")])
        assert count(store) == 1


class TestTimes:
    def test_a_countdown_runs_on_the_databases_clock(self, store: Store) -> None:
        job_id = enqueued(store, delay_seconds=3600)
        stored = row(store, job_id)
        ready, created = moment(stored["ready_at"]), moment(stored["created_at"])
        assert ready is not None
        assert created is not None
        assert abs(ready - created - timedelta(hours=1)) < timedelta(seconds=5)
        assert stored["eta"] == stored["ready_at"]

    @pytest.mark.parametrize("seconds", [0, -5, 1e-9])
    def test_a_countdown_of_nothing_is_due_at_once(self, store: Store, worker: TestWorker, seconds: float) -> None:
        job_id = enqueued(store, delay_seconds=seconds)
        soon = datetime.now(UTC) + timedelta(seconds=1)
        assert [job.id for job in worker.claim(now=soon)] == [job_id]

    def test_an_eta_in_another_zone_is_the_same_moment(self, store: Store) -> None:
        eta = datetime(2049, 6, 1, 12, 0, 0, 123000, tzinfo=timezone(timedelta(hours=5, minutes=30)))
        assert moment(row(store, enqueued(store, eta=eta))["eta"]) == eta

    def test_an_eta_is_never_rounded_to_an_earlier_time(self, store: Store) -> None:
        eta = datetime(2049, 6, 1, 12, 0, 0, 123456, tzinfo=UTC)
        ready = moment(row(store, enqueued(store, eta=eta))["ready_at"])
        assert ready is not None
        assert eta <= ready <= eta + timedelta(milliseconds=1)

    def test_the_last_time_of_all_can_be_asked_for(self, store: Store) -> None:
        """`expires=datetime.max` says never."""
        last = datetime.max.replace(tzinfo=UTC)
        job = enqueued(store, expires_at=last)
        assert "9999-12-31" in str(row(store, job)["expires_at"])

    def test_an_eta_in_the_past_keeps_its_word_and_takes_no_precedence(self, store: Store, worker: TestWorker) -> None:
        first = enqueued(store, "first")
        run_sql(store, "UPDATE dbqueue_jobs SET ready_at = created_at")
        past = datetime(2001, 1, 1, tzinfo=UTC)
        second = enqueued(store, "second", eta=past)
        assert moment(row(store, second)["eta"]) == past
        assert [job.id for job in worker.claim(now=datetime.now(UTC) + timedelta(minutes=1))] == [first, second]


def test_the_same_id_with_other_bytes_is_refused(store: Store) -> None:
    """Jobs in another serializer than JSON have their arguments in `content`."""
    columns = {"content_type": "application/x-yaml", "content": b"[[1], {}]"}
    enqueued(store, "bytes", **columns)
    enqueued(store, "bytes", **columns)
    with pytest.raises(DuplicateTaskId):
        enqueued(store, "bytes", **columns | {"content": b"[[2], {}]"})
