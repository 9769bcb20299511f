"""Rounds in which the database refuses something: whatever it is, each outcome is written, put aside, or a FAILURE."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from dbqueue.errors import AccessDenied, LockTimeout, OperationalError, SchemaError
from dbqueue.jobs import Failed, Outcome, Released, Replaced, Retried, Settled, Succeeded
from dbqueue.store.base import Store
from dbqueue.store.postgres import sql
from dbqueue.store.records import Claim, Round
from dbqueue.worker.claiming import settling
from dbqueue.worker.claiming.settling import NO_ROW, settle, settle_free, settle_in_time
from dbqueue.workflows import Edge, Workflow
from tests.servers import libpq_url
from tests.stores import TestWorker, enqueued, new_job, opened, row, run_sql
from tests.waiting import wait_until

Settle = Callable[..., Round]
WAYS = pytest.mark.parametrize("way", [settle, settle_in_time, settle_free])


@pytest.fixture
def store(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setitem(sql.SESSION, "lock_timeout", "100ms")
    with opened(postgres_url) as store:
        yield store


@pytest.fixture
def worker(store: Store) -> Iterator[TestWorker]:
    worker = TestWorker(store)
    yield worker
    worker.close()


@pytest.fixture
def somebody(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(libpq_url(postgres_url)) as somebody:
        yield somebody


def ends(worker: TestWorker, names: str, *, bad: str = "", waits: str = "") -> list[Outcome]:
    """Of jobs that run: each succeeds, but `bad` ones with what is no JSON, and `waits` take an id that is not free."""
    worker.store.enqueue([new_job(name) for name in names])
    return [_end(job.id, job.lease, bad, waits) for job in worker.claim()]


def _end(job_id: str, lease: str, bad: str, waits: str) -> Outcome:
    if job_id in waits:
        jobs = [new_job(f"new {job_id}"), new_job(job_id)]
        return Replaced(job_id, lease, Workflow.of(jobs, [Edge(jobs[0].id, job_id)]), 0.0)
    return Succeeded(job_id, lease, "no JSON" if job_id in bad else "1", 0.0)


def lock(somebody: psycopg.Connection[Any], found: str = "", not_found: str = "") -> None:
    """Rows that a look finds locked, and ids of which nobody can see that they are another's."""
    somebody.execute("SELECT FROM dbqueue_jobs WHERE id = ANY(%s) FOR UPDATE", [list(found)])
    for name in not_found:
        somebody.execute("INSERT INTO dbqueue_jobs (id, task) VALUES (%s, 'shop.pack')", [f"new {name}"])


def refuse_changes(store: Store, *, first: str = "", state: str = "raise_exception") -> None:
    """By a trigger, which does `first` before it refuses with this SQLSTATE."""
    body = f"BEGIN {first} RAISE 'not now' USING ERRCODE = '{state}'; END"
    run_sql(store, f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$")
    run_sql(store, "CREATE TRIGGER refuse BEFORE UPDATE ON dbqueue_jobs FOR EACH ROW EXECUTE FUNCTION refuse()")


def claim_of(worker: TestWorker, queue: str = "celery", **options: Any) -> Claim:
    return Claim(worker.id, str(uuid4()), [queue], 1, **options)


def with_status(store: Store, status: str, names: str) -> str:
    return "".join(name for name in names if row(store, name)["status"] == status)


@WAYS
def test_a_claim_that_is_refused_is_no_fault_of_the_outcomes(store: Store, worker: TestWorker, way: Settle) -> None:
    refused = claim_of(worker, "no\0text")
    outcomes = ends(worker, "ab")
    if way is settle_free:
        with pytest.raises(psycopg.DataError):
            way(worker.session, outcomes, refused, ())
    else:
        way(worker.session, outcomes, refused, ())
    assert with_status(store, "SUCCESS", "ab") == "ab"
    with pytest.raises(psycopg.DataError):
        way(worker.session, [], refused, ())


@WAYS
@pytest.mark.parametrize("bad", ["a", "c", "e", "be", "abcde"])
@pytest.mark.parametrize("claiming", [False, True])
def test_one_bad_row_does_not_poison_a_batch(
    store: Store, worker: TestWorker, way: Settle, bad: str, claiming: bool
) -> None:
    outcomes = ends(worker, "abcde", bad=bad)
    result = way(worker.session, outcomes, claim_of(worker) if claiming else None, ())
    assert result.settled == set("abcde")
    assert with_status(store, "FAILURE", "abcde") == bad
    assert with_status(store, "SUCCESS", "abcde") == "".join(sorted(set("abcde") - set(bad)))


FULL = """
DO $$ BEGIN RAISE 'too many notifications in the NOTIFY queue' USING ERRCODE = 'program_limit_exceeded'; END $$"""


@WAYS
def test_a_notification_that_is_refused_undoes_nothing_of_its_round(
    store: Store, worker: TestWorker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, way: Settle
) -> None:
    """The server's queue of them is full, as while somebody listens in an open transaction: all is committed."""
    enqueued(store, "a")
    job = worker.claim_one()
    enqueued(store, "b")
    with monkeypatch.context() as patched:
        patched.setattr(sql, "NOTIFY", FULL)
        result = way(worker.session, [Retried(job.id, job.lease, "{}", None, 0.0, 600.0)], claim_of(worker), ())
    assert [each.id for each in result.claimed] == ["b"]
    assert result.settled == {"a"}
    assert caplog.text == ""


@WAYS
def test_what_cannot_end_at_all_is_put_aside_until_it_can(store: Store, worker: TestWorker, way: Settle) -> None:
    """Somebody has made a trigger for the time of his work, say; that an outcome is a FAILURE it refuses as well."""
    outcomes = ends(worker, "abcd")
    refuse_changes(store)
    result = way(worker.session, outcomes, None, ())
    assert (result.settled, result.locked, result.refusal) == (frozenset(), frozenset("abcd"), "not now")
    assert with_status(store, "STARTED", "abcd") == "abcd"
    run_sql(store, "DROP TRIGGER refuse ON dbqueue_jobs")
    way(worker.session, outcomes, None, ())
    assert with_status(store, "SUCCESS", "abcd") == "abcd"


@WAYS
@pytest.mark.parametrize("half", [0, 1])
def test_what_waits_for_those_of_a_batch_that_was_taken_apart_is_looked_for(
    store: Store, worker: TestWorker, way: Settle, half: int
) -> None:
    store.enqueue_workflow(Workflow.of([new_job("b"), new_job("next")], [Edge("b", "next")]))
    outcomes = ends(worker, "a", bad="a")
    outcomes.sort(key=lambda each: (each.job_id == "b") == (half == 1))
    assert [each.job_id for each in outcomes].index("b") == half
    assert way(worker.session, outcomes, None, {"b"}).released
    assert worker.claim_one().id == "next"
    assert not way(worker.session, ends(worker, "cd", bad="c"), None, ()).released


@WAYS
def test_what_waits_for_a_job_whose_outcome_is_refused_ends_with_it(
    store: Store, worker: TestWorker, way: Settle
) -> None:
    store.enqueue_workflow(Workflow.of([new_job("bad"), new_job("next")], [Edge("bad", "next")]))
    way(worker.session, ends(worker, "", bad="bad"), None, {"bad"})
    assert [row(store, name)["status"] for name in ("bad", "next")] == ["FAILURE", "FAILURE"]


def test_what_waits_for_a_job_whose_outcome_is_refused_is_not_left_behind_while_it_is_locked(
    store: Store, worker: TestWorker, somebody: psycopg.Connection[Any]
) -> None:
    store.enqueue_workflow(Workflow.of([new_job("bad"), new_job("next")], [Edge("bad", "next")]))
    outcomes = ends(worker, "", bad="bad")
    somebody.execute("SELECT FROM dbqueue_jobs WHERE id = 'next' FOR UPDATE")
    with pytest.raises(LockTimeout):
        settle(worker.session, outcomes, None, {"bad"})
    assert settle_in_time(worker.session, outcomes, None, {"bad"}).locked == {"bad"}
    assert [row(store, name)["status"] for name in ("bad", "next")] == ["STARTED", "PENDING"]


@pytest.mark.parametrize("locked", ["a", "d", "ad", "bcd", "abcd"])
@pytest.mark.parametrize("found", [True, False])
def test_what_is_locked_is_put_aside_and_nothing_else(
    store: Store,
    worker: TestWorker,
    somebody: psycopg.Connection[Any],
    caplog: pytest.LogCaptureFixture,
    found: bool,
    locked: str,
) -> None:
    outcomes = ends(worker, "abcd", waits="" if found else locked)
    lock(somebody, found=locked if found else "", not_found="" if found else locked)
    result = settle_in_time(worker.session, outcomes, None, ())
    assert result.locked == set(locked)
    assert result.settled == set("abcd") - set(locked)
    assert with_status(store, "STARTED", "abcd") == locked
    assert "lost its lease" not in caplog.text


@pytest.mark.parametrize("first", ["b", "c"])
def test_what_may_run_after_a_half_is_looked_for(
    store: Store, worker: TestWorker, somebody: psycopg.Connection[Any], first: str
) -> None:
    store.enqueue_workflow(Workflow.of([new_job(first), new_job("next")], [Edge(first, "next")]))
    outcomes = ends(worker, "abcd".replace(first, ""), waits="a")
    lock(somebody, not_found="a")
    assert settle_in_time(worker.session, outcomes, None, {first}).released
    assert not settle_in_time(worker.session, ends(worker, "ef"), None, ()).released


def test_the_claim_comes_after_what_could_be_written(
    store: Store, worker: TestWorker, somebody: psycopg.Connection[Any]
) -> None:
    store.enqueue_workflow(Workflow.of([new_job("b"), new_job("next")], [Edge("b", "next")]))
    outcomes = ends(worker, "a")
    lock(somebody, found="a")
    result = settle_in_time(worker.session, outcomes, claim_of(worker), {"b"})
    assert result.settled == {"b"}
    assert result.locked == {"a"}
    assert result.released
    assert [job.id for job in result.claimed] == ["next"]


@pytest.mark.parametrize("names", ["", "ab"])
def test_a_claim_of_permits_waits_for_nobody(
    store: Store, worker: TestWorker, somebody: psycopg.Connection[Any], names: str
) -> None:
    """There are other ways to those jobs, and others to claim; any other claim is tried again."""
    outcomes = ends(worker, names)
    somebody.execute("INSERT INTO dbqueue_limits (key, max_running) VALUES ('k', 1)")
    somebody.commit()
    lock(somebody, found="a")
    somebody.execute("SELECT FROM dbqueue_limits FOR UPDATE")
    enqueued(store, "held", limit_key="k", blocked_reason="limit")
    result = settle_in_time(worker.session, outcomes, claim_of(worker, keys=["k"]), ())
    assert result.settled == set(names) - {"a"}
    assert result.locked == set(names) & {"a"}
    assert not result.claimed
    somebody.execute("SELECT FROM dbqueue_workers FOR UPDATE")
    with pytest.raises(LockTimeout):
        settle_in_time(worker.session, [], claim_of(worker), ())
    with pytest.raises(LockTimeout):
        settle_free(worker.session, outcomes, claim_of(worker), ())


def test_a_bad_row_among_locked_ones(store: Store, worker: TestWorker, somebody: psycopg.Connection[Any]) -> None:
    outcomes = ends(worker, "abcd", bad="b", waits="d")
    lock(somebody, found="a", not_found="d")
    result = settle_in_time(worker.session, outcomes, None, ())
    assert result.locked == {"a", "d"}
    assert [row(store, name)["status"] for name in "abcd"] == ["STARTED", "FAILURE", "SUCCESS", "STARTED"]


def test_no_call_waits_for_many_locks_one_after_the_other(
    store: Store, worker: TestWorker, somebody: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not tried counts as locked until the next call."""
    monkeypatch.setattr(settling, "MAX_WAITS", 1)
    outcomes = ends(worker, "abcd", waits="a")
    lock(somebody, not_found="a")
    assert settle_free(worker.session, outcomes, None, ()).locked == set("abcd")
    somebody.rollback()
    assert settle_free(worker.session, outcomes, None, ()).settled == set("abcd")


def test_what_is_not_tried_for_others_locks_is_not_always_the_same(
    store: Store, worker: TestWorker, somebody: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "MAX_WAITS", 2)
    outcomes = ends(worker, "abcd", waits="ab")
    lock(somebody, not_found="ab")

    def are_written() -> bool:
        settle_free(worker.session, outcomes, None, ())
        return with_status(store, "SUCCESS", "cd") == "cd"

    wait_until(are_written, what="the end of those that nobody has locked")


@pytest.mark.parametrize(("way", "tries"), [(settle, 4), (settle_in_time, 4), (settle_free, 5)])
def test_no_call_tries_many_that_are_refused_one_after_the_other(
    store: Store, worker: TestWorker, somebody: Any, monkeypatch: pytest.MonkeyPatch, way: Settle, tries: int
) -> None:
    monkeypatch.setattr(settling, "MAX_WAITS", 1)
    outcomes = ends(worker, "abcd")
    run_sql(store, "CREATE SEQUENCE tries")
    refuse_changes(store, first="PERFORM nextval('tries');")
    result = way(worker.session, outcomes, None, ())
    assert (result.locked, result.refusal) == (frozenset("abcd"), "not now")
    # All, a half, one alone, for `settle_free` the same as `settle` does it, and as a FAILURE.
    assert somebody.execute("SELECT last_value FROM tries").fetchall() == [(tries,)]


def test_what_an_earlier_try_of_the_same_round_has_let_go_is_looked_for(store: Store, worker: TestWorker) -> None:
    """Failures are written apart, before the round meets what it cannot write."""
    store.enqueue_workflow(Workflow.of([new_job("a"), new_job("errback")], [Edge("a", "errback", "error")]))
    outcomes = ends(worker, "b", bad="b")
    failed = [Failed("a", each.lease, "{}", None, 0.0) if each.job_id == "a" else each for each in outcomes]
    assert settle(worker.session, failed, None, {"a"}).released
    assert worker.claim_one().id == "errback"


@WAYS
def test_what_has_been_written_by_its_own_transaction_is_not_written_again(
    store: Store, worker: TestWorker, way: Settle, caplog: pytest.LogCaptureFixture
) -> None:
    way(worker.session, [Settled("own", "lease", 0.0, succeeded=True), *ends(worker, "a")], None, ())
    assert with_status(store, "SUCCESS", "a") == "a"
    assert not caplog.text


@WAYS
def test_trouble_is_not_about_one_row(
    store: Store, worker: TestWorker, somebody: psycopg.Connection[Any], way: Settle, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes = ends(worker, "ab")
    query = """
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE application_name = 'dbqueue test' AND datname = current_database()"""
    assert somebody.execute(query).fetchall() == [(True,)]
    with pytest.raises(OperationalError):
        way(worker.session, outcomes, claim_of(worker), ())
    assert with_status(store, "STARTED", "ab") == "ab"
    # The driver says of its own that a pipeline was given up, if it sees the connection's end early enough.
    assert not [record for record in caplog.records if record.name.startswith("dbqueue")]


@WAYS
@pytest.mark.parametrize(
    ("state", "error"), [("undefined_table", SchemaError), ("insufficient_privilege", AccessDenied)]
)
@pytest.mark.parametrize("bad", ["", "ab"])
def test_tables_or_rights_that_are_away_are_not_about_one_row(
    store: Store, worker: TestWorker, way: Settle, caplog: pytest.LogCaptureFixture, state: str, error: Any, bad: str
) -> None:
    """Nor of a bad one, whose FAILURE cannot be written for that."""
    outcomes = ends(worker, "ab", bad=bad)
    refuse_changes(store, state=state)
    with pytest.raises(error):
        way(worker.session, outcomes, claim_of(worker), ())
    assert with_status(store, "STARTED", "ab") == "ab"
    assert not [record for record in caplog.records if record.name.startswith("dbqueue")]


def test_a_bad_row_that_is_locked_when_it_is_written_alone(
    worker: TestWorker, somebody: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = ends(worker, "b", bad="b")
    to_write: Callable[..., Round] = worker.session.settle_free

    def then_locked(*arguments: Any, **options: Any) -> Round:
        try:
            return to_write(*arguments, **options)
        finally:
            lock(somebody, found="b")

    monkeypatch.setattr(worker.session, "settle_free", then_locked)
    assert settle_free(worker.session, outcomes, None, ()).locked == {"b"}


def test_what_was_handed_back_already_is_no_outcome_that_is_dropped(
    worker: TestWorker, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that was taken for dead hands back what it had only claimed: of each job a warning would be."""
    (claimed,) = ends(worker, "a")
    (run,) = ends(worker, "b")
    (late,) = ends(worker, "c")
    (rejected,) = ends(worker, "d")
    run_sql(worker.store, "UPDATE dbqueue_jobs SET status = 'PENDING', lease = NULL, worker = NULL, ready_at = now()")
    caplog.set_level("INFO")
    unseen = Released(claimed.job_id, claimed.lease, "now")
    ended = Released(run.job_id, run.lease, "now", ended=True)
    given_back = Released(rejected.job_id, rejected.lease, "now", delay_seconds=1.0)
    settle(worker.session, [unseen, ended, late, given_back], None, ())
    told = {record.message.partition(":")[0]: record.levelname for record in caplog.records}
    runs = {f"Job {name} lost its lease while it ran here": "WARNING" for name in "bcd"}
    assert told == {"Job a need not be handed back": "INFO"} | runs


def test_a_lease_that_is_another_s_was_not_only_missed(worker: TestWorker, caplog: pytest.LogCaptureFixture) -> None:
    """A task whose own transaction did not find it; no more does its worker, and nothing becomes of that run."""
    (end,) = ends(worker, "a")
    run_sql(worker.store, "UPDATE dbqueue_jobs SET lease = gen_random_uuid()")
    settle(worker.session, [Released(end.job_id, end.lease, "now", lost=True, missed="it runs again")], None, ())
    (said,) = caplog.messages
    assert "lost its lease while it ran here" in said
    assert "it runs again" not in said


def test_an_outcome_without_a_row_is_said_to_have_none(worker: TestWorker, caplog: pytest.LogCaptureFixture) -> None:
    """Rather than that an earlier try may have written it."""
    (end,) = ends(worker, "a")
    run_sql(worker.store, "DELETE FROM dbqueue_jobs")
    settle(worker.session, [Retried(end.job_id, end.lease, "{}", None, 0.0, 1.0)], None, ())
    (said,) = caplog.messages
    assert NO_ROW in said


def test_an_end_by_another_hand_is_no_end_of_this_run(worker: TestWorker, caplog: pytest.LogCaptureFixture) -> None:
    (late,) = ends(worker, "a")
    (died,) = ends(worker, "b")
    run_sql(worker.store, "UPDATE dbqueue_jobs SET status = 'SUCCESS', lease = gen_random_uuid(), finished_at = now()")
    settle(worker.session, [late, Released(died.job_id, died.lease, "now", lost=True)], None, ())
    told = {(record.levelname, record.message.partition(":")[0]) for record in caplog.records}
    assert told == {("WARNING", f"Job {name} lost its lease while it ran here") for name in "ab"}


def test_what_has_no_row_need_not_be_handed_back(worker: TestWorker, caplog: pytest.LogCaptureFixture) -> None:
    (claimed,) = ends(worker, "a")
    run_sql(worker.store, "DELETE FROM dbqueue_jobs")
    caplog.set_level("INFO")
    settle(worker.session, [Released(claimed.job_id, claimed.lease, "now")], None, ())
    assert [record.message for record in caplog.records] == ["Job a need not be handed back: it has no row"]
