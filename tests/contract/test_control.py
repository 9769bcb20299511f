"""Revoking by id, and the table of commands: what the rows promise on every database."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from dbqueue import DBQueue
from dbqueue import control as clients
from dbqueue.errors import DuplicateTaskId
from dbqueue.jobs import Released, Retried, Succeeded
from dbqueue.store import changes, control, revoking, stamps
from dbqueue.store.base import Store
from dbqueue.store.control import Reply
from dbqueue.store.records import WorkerInfo
from dbqueue.store.sessions import Sign, WatchSession
from dbqueue.worker.claiming.doorbell import Doorbell
from tests.stores import TestWorker, count, enqueued, new_job, row, run_sql
from tests.waiting import wait_until

LATER = timedelta(hours=1)
ERROR = json.dumps({"exc_type": "ValueError", "exc_message": [], "exc_module": "builtins"})


@pytest.fixture
def watch(store: Store) -> Iterator[WatchSession]:
    session = store.watch_session("test")
    yield session
    session.close()


class Answering:
    """The clock of a program that waits: in each of its pauses some workers answer the newest command."""

    def __init__(self, store: Store, watch: WatchSession) -> None:
        self._store, self._watch = store, watch
        self.now, self.at_once, self.given = 0.0, 1, 0
        self.workers: list[str] = []
        self._answered: set[tuple[str, str]] = set()

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        command = control.pending(self._watch, self.workers[0])[-1]
        left = [each for each in self.workers if (command.id, each) not in self._answered]
        for worker in left[: self.at_once]:
            self._answered.add((command.id, worker))
            control.answer(self._watch, Reply(command.id, worker, '{"ok": "pong"}'))
            self.given += 1


def hears_a_command(session: WatchSession) -> bool:
    """Whether a command was announced, or may have been."""
    return Sign.COMMANDS in session.wait(0.1)


class TestRevoke:
    def test_what_waits_ends_at_once(self, store: Store, worker: TestWorker) -> None:
        job_id = enqueued(store)
        later = enqueued(store, delay_seconds=3600)
        other = enqueued(store)
        found = revoking.revoke(store, [job_id, later])
        assert (found.ended, found.running) == ({job_id: "shop.pack", later: "shop.pack"}, frozenset())
        for each in (job_id, later):
            record = store.finished([each])[each]
            assert record.status == "REVOKED"
            error = json.loads(record.result or "")
            assert (error["exc_type"], error["exc_message"]) == ("TaskRevokedError", ["revoked"])
        assert [job.id for job in worker.claim(now=datetime.now(UTC) + LATER)] == [other]

    def test_what_has_ended_stays_as_it_is(self, store: Store, worker: TestWorker) -> None:
        job_id = enqueued(store)
        job = worker.claim_one()
        worker.settle(Succeeded(job_id, job.lease, "1", 0.0))
        before = row(store, job_id)
        assert revoking.revoke(store, [job_id]) == revoking.Revoked({}, frozenset())
        assert row(store, job_id) == before

    def test_a_running_job_goes_on_and_may_succeed(self, store: Store, worker: TestWorker) -> None:
        job_id = enqueued(store)
        job = worker.claim_one()
        assert revoking.revoke(store, [job_id]).running == {job_id}
        assert row(store, job_id)["status"] == "STARTED"
        assert worker.settle(Succeeded(job_id, job.lease, "1", 0.0)).settled == {job_id}
        assert row(store, job_id)["status"] == "SUCCESS"

    @pytest.mark.parametrize("back", ["retry", "release", "loss", "rescue"])
    def test_no_other_run_begins(self, store: Store, new_worker: Callable[..., TestWorker], back: str) -> None:
        """It comes back, and the claim says that it was revoked."""
        worker, rescuer = new_worker(lease_seconds=5), new_worker(lease_seconds=3600)
        job_id = enqueued(store)
        job = worker.claim_one()
        assert not job.revoked
        revoking.revoke(store, [job_id])
        if back == "retry":
            worker.settle(Retried(job_id, job.lease, ERROR, None, 0.0))
        elif back == "rescue":
            rescuer.session.rescue(max_losses=3, now=datetime.now(UTC) + timedelta(seconds=60))
        else:
            worker.settle(Released(job_id, job.lease, job.ready_at, lost=back == "loss"))
        again = rescuer.claim_one(now=datetime.now(UTC) + LATER)
        assert (again.id, again.revoked) == (job_id, True)

    def test_a_revoke_is_kept_for_an_id_that_is_not_enqueued_yet(self, store: Store, worker: TestWorker) -> None:
        assert revoking.revoke(store, ["early", "early"]) == revoking.Revoked({}, frozenset())
        store.enqueue([new_job("early")])
        store.enqueue([new_job("early"), new_job("other")])
        assert [job.id for job in worker.claim()] == ["other"]
        assert store.finished(["early"])["early"].status == "REVOKED"
        assert revoking.revoked_ids(store) == ["early"]

    def test_such_an_id_is_refused_in_the_callers_transaction_too(self, store: Store, worker: TestWorker) -> None:
        from dbqueue.store.transactions.joining import enqueue_in

        revoking.revoke(store, ["early"])
        with store.engine.connect() as connection, connection.begin():
            enqueue_in(store, connection, [new_job("early")])
        assert worker.claim() == []

    def test_it_goes_with_the_results_that_have_expired(self, store: Store, worker: TestWorker) -> None:
        revoking.revoke(store, ["early"])
        worker.session.prune(older_than_seconds=60, limit=10, now=datetime.now(UTC) + LATER)
        store.enqueue([new_job("early")])
        assert [job.id for job in worker.claim()] == ["early"]

    def test_another_call_of_an_id_in_use_is_still_an_error(self, store: Store) -> None:
        store.enqueue([new_job("a")])
        revoking.revoke(store, ["a"])
        with pytest.raises(DuplicateTaskId):
            store.enqueue([new_job("a", args="[1]")])

    def test_an_operators_retry_forgets_it(self, store: Store, worker: TestWorker) -> None:
        job_id = enqueued(store)
        revoking.revoke(store, [job_id])
        assert changes.retry(store, [job_id]) == {job_id}
        assert not worker.claim_one(now=datetime.now(UTC) + LATER).revoked

    def test_the_newest_are_listed_first(self, store: Store) -> None:
        revoking.revoke(store, ["a", "b", "c"])
        for number, job_id in enumerate("bca"):
            run_sql(
                store,
                f"UPDATE dbqueue_jobs SET revoked_at = '2026-01-0{number + 1} 00:00:00.000' WHERE id = '{job_id}'",
            )
        assert revoking.revoked_ids(store) == ["a", "c", "b"]

    def test_many_at_once(self, store: Store, worker: TestWorker) -> None:
        ids = [enqueued(store) for _ in range(20)]
        running = {job.id for job in worker.claim(limit=5)}
        found = revoking.revoke(store, [*ids, "absent"])
        assert set(found.ended) == set(ids) - running
        assert found.running == running
        assert set(revoking.revoked_ids(store)) == {*ids, "absent"}


class TestCommands:
    def test_a_command_and_its_reply(self, store: Store, worker: TestWorker, watch: WatchSession) -> None:
        command_id = control.send(store, "greet", '{"name": "ü"}', '{"workers": ["worker@test"]}')
        wait_until(lambda: hears_a_command(watch), what="the announcement")
        (command,) = control.pending(watch, worker.id)
        assert (command.id, command.method, json.loads(command.arguments)) == (command_id, "greet", {"name": "ü"})
        assert control.addressed(command.destination, "worker@test")
        assert control.replies(store, command_id) == []
        reply = Reply(command_id, worker.id, '{"ok": "ü"}')
        control.answer(watch, reply)
        assert control.replies(store, command_id) == [reply]
        assert control.replies(store, command_id, seen={worker.id}) == []
        assert control.replies(store, "other") == []
        assert control.pending(watch, worker.id) == [command], "a reply is no command"
        # It is kept for as long as its command: the next sender would delete what has expired.
        earlier = "DELETE FROM dbqueue_control WHERE expires_at < (SELECT max(expires_at) FROM dbqueue_control)"
        assert run_sql(store, earlier) == 0

    def test_a_reply_that_cannot_be_read_spoils_no_other(self, new_worker: Callable[..., TestWorker]) -> None:
        """Types of a worker's own are unknown to a program that does not import them."""
        worker, other = new_worker(), new_worker()
        store = worker.store
        watch = store.watch_session("test")

        def answer() -> None:
            wait_until(lambda: control.pending(watch, worker.id))
            (command,) = control.pending(watch, worker.id)
            control.answer(watch, Reply(command.id, worker.id, '{"__type__": "not.known.here", "__value__": 1}'))
            control.answer(watch, Reply(command.id, other.id, '"sound"'))

        thread = threading.Thread(target=answer)
        thread.start()
        with DBQueue(broker=store.url, set_as_current=False) as app:
            told = app.control.broadcast("own", reply=True, timeout=60) or []
        thread.join()
        watch.close()
        said = [reply for each in told for reply in each.values()]
        assert "sound" in said
        assert ["the reply cannot be read" in each["error"] for each in said if each != "sound"] == [True]

    def test_a_worker_that_starts_later_passes_over_it(
        self, store: Store, worker: TestWorker, watch: WatchSession
    ) -> None:
        control.send(store, "shutdown", "{}")
        run_sql(store, "UPDATE dbqueue_workers SET started_at = '2999-01-01 00:00:00.000'")
        assert control.pending(watch, worker.id) == []

    def test_what_has_expired_is_ignored_and_deleted(
        self, store: Store, worker: TestWorker, watch: WatchSession
    ) -> None:
        command_id = control.send(store, "ping", "{}")
        control.answer(watch, Reply(command_id, worker.id, "{}"))
        run_sql(store, "UPDATE dbqueue_control SET expires_at = '2001-01-01 00:00:00.000'")
        assert control.pending(watch, worker.id) == []
        second = control.send(store, "ping", "{}")
        assert [command.id for command in control.pending(watch, worker.id)] == [second]
        assert run_sql(store, "DELETE FROM dbqueue_control") == 1

    def test_an_enqueue_is_no_command(self, postgres_url: str) -> None:
        """Where the database notifies, the connection that claims hears of jobs, and that of commands does not."""
        from tests.stores import opened

        with opened(postgres_url) as store:
            watch, work = store.watch_session("test"), store.work_session("test")
            bell = Doorbell()
            bell.open()
            try:
                enqueued(store)
                wait_until(lambda: work.wait(0.1, bell))
                assert watch.wait(0.0) == Sign.NONE
                bell.ring()
                assert not work.wait(30, bell)
            finally:
                bell.close()
                watch.close()
                work.close()

    def test_the_oldest_comes_first(self, store: Store, worker: TestWorker, watch: WatchSession) -> None:
        sent = [control.send(store, "ping", "{}") for _ in range(3)]
        assert [command.id for command in control.pending(watch, worker.id)] == sent

    def test_a_workers_row_follows_what_it_was_told(
        self, store: Store, watch: WatchSession, new_worker: Callable[..., TestWorker]
    ) -> None:
        """Its own, and that no more once it has stopped."""
        worker, other = new_worker(), new_worker()
        control.describe(watch, worker.id, queues=["a", "ü"], concurrency=7)
        other.session.close_worker(other.id)
        control.describe(watch, other.id, queues=["b"], concurrency=8)
        with store.connect() as connection:
            rows = connection.execute(sa.text("SELECT id, queues, concurrency FROM dbqueue_workers")).all()
        shown = {row.id: (row.queues if isinstance(row.queues, list) else json.loads(row.queues)) for row in rows}
        assert shown == {worker.id: ["a", "ü"], other.id: ["celery"]}
        assert {row.id: row.concurrency for row in rows} == {worker.id: 7, other.id: 1}

    def test_jobs_are_left_alone(self, store: Store, worker: TestWorker) -> None:
        enqueued(store)
        control.send(store, "ping", "{}")
        assert count(store) == 1


class TestReplies:
    """How long a program waits for them, by a clock that its pauses move; the workers answer in its pauses."""

    TIMEOUT = 60.0

    @pytest.fixture
    def app(self, store: Store) -> Iterator[DBQueue]:
        with DBQueue(broker=store.url, set_as_current=False) as app:
            yield app

    @pytest.fixture
    def answering(self, store: Store, watch: WatchSession, monkeypatch: pytest.MonkeyPatch) -> Answering:
        answering = Answering(store, watch)
        monkeypatch.setattr(clients, "time", answering)
        return answering

    def test_of_those_that_live_and_are_meant(
        self, app: DBQueue, answering: Answering, new_worker: Callable[..., TestWorker]
    ) -> None:
        first, second, dead = new_worker(), new_worker(), new_worker()
        run_sql(app.database.store, "UPDATE dbqueue_workers SET name = 'two@test' WHERE id = :id", id=second.id)
        long_ago = "UPDATE dbqueue_workers SET heartbeat_at = '2001-01-01 00:00:00.000' WHERE id = :id"
        run_sql(app.database.store, long_ago, id=dead.id)
        answering.workers = [first.id, second.id]
        assert len(app.control.ping(timeout=self.TIMEOUT)) == 2
        answering.workers = [second.id]
        assert len(app.control.ping(destination="two@test", timeout=self.TIMEOUT)) == 1
        assert len(app.control.ping(pattern="two*", timeout=self.TIMEOUT)) == 1
        assert answering.now < self.TIMEOUT

    def test_for_a_second_where_nobody_says_for_how_long(
        self, app: DBQueue, answering: Answering, new_worker: Callable[..., TestWorker]
    ) -> None:
        answering.workers = [new_worker().id]
        new_worker()  # it is silent
        assert app.control.inspect(timeout=None).ping() is not None
        assert answering.now == pytest.approx(1.0, abs=0.1)

    def test_no_more_than_are_wanted(
        self, app: DBQueue, answering: Answering, new_worker: Callable[..., TestWorker]
    ) -> None:
        answering.workers = [new_worker().id for _ in range(3)]
        answering.at_once = 2
        silent = new_worker()
        told: list[Any] = []
        assert len(app.control.ping(limit=1, timeout=self.TIMEOUT, callback=told.append)) == len(told) == 1
        assert len(app.control.ping(limit=3, timeout=self.TIMEOUT)) == 3
        assert answering.now < self.TIMEOUT
        assert len(app.control.ping(destination="worker@test", timeout=self.TIMEOUT)) == 3
        assert answering.now >= self.TIMEOUT, silent.id

    def test_a_revoke_of_what_runs_nowhere_is_answered_where_that_is_asked_for(
        self, app: DBQueue, answering: Answering, worker: TestWorker
    ) -> None:
        answering.workers = [worker.id]
        assert app.control.revoke("unknown") is None
        assert app.control.revoke("unknown", reply=True, timeout=self.TIMEOUT) == [{"worker@test": {"ok": "pong"}}]

    def test_by_the_whole_name_of_a_worker(self, app: DBQueue, answering: Answering, worker: TestWorker) -> None:
        """Whatever signs are in it: one of them tells its incarnations apart."""
        info = WorkerInfo("shop#1@test#0123456789ab", "shop#1@test", "test", 1, "solo", 1, ("celery",), "0", 30.0)
        worker.session.register(info)
        answering.workers = [info.id]
        assert app.control.ping(destination=info.name, timeout=self.TIMEOUT) == [{info.name: {"ok": "pong"}}]

    def test_stamps_are_looked_for_when_the_workers_know_them(
        self, app: DBQueue, answering: Answering, worker: TestWorker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A job that is enqueued between the two is refused by its worker."""
        answering.workers = [worker.id]
        known: list[int] = []

        def find(store: Store, wanted: object) -> list[str]:
            known.append(answering.given)
            return []

        monkeypatch.setattr(stamps, "find", find)
        assert app.control.revoke_by_stamped_headers({"a": "b"}, timeout=self.TIMEOUT) is None
        assert known == [1]


class TestWhatIsSent:
    @pytest.fixture
    def app(self, store: Store) -> Iterator[DBQueue]:
        with DBQueue(broker=store.url, set_as_current=False) as app:
            yield app

    def test_to_terminate_with_a_signal(
        self, app: DBQueue, store: Store, worker: TestWorker, watch: WatchSession
    ) -> None:
        job_id = enqueued(store)
        worker.claim_one()
        app.control.terminate(job_id, signal="SIGKILL")
        (command,) = control.pending(watch, worker.id)
        assert json.loads(command.arguments) == {"task_id": [job_id], "terminate": True, "signal": "SIGKILL"}

    def test_ids_one_by_one_or_as_a_list(self, app: DBQueue, worker: TestWorker, watch: WatchSession) -> None:
        for ids in (("a", "b"), (["a", "b"],)):
            app.control.inspect(timeout=0).query_task(*ids)
        assert [json.loads(each.arguments) for each in control.pending(watch, worker.id)] == [{"ids": ["a", "b"]}] * 2

    def test_a_pattern_that_is_none_is_refused(self, app: DBQueue, store: Store) -> None:
        """No worker would have done it, and nobody known why."""
        with pytest.raises(ValueError, match="no regular expression"):
            app.control.shutdown(pattern="(", matcher="pcre")
        assert run_sql(store, "DELETE FROM dbqueue_control") == 0


@pytest.mark.parametrize(
    ("destination", "found"),
    [
        (None, True),
        ('{"workers": ["a@h"]}', True),
        ('{"workers": ["b@h"]}', False),
        ('{"pattern": "a@*", "matcher": "glob"}', True),
        ('{"pattern": "b@*", "matcher": "glob"}', False),
        ('{"pattern": "^a@", "matcher": "pcre"}', True),
        ('{"pattern": "^b@", "matcher": "pcre"}', False),
        ('{"pattern": "a", "matcher": "pcre"}', True),
        ('{"pattern": "h", "matcher": "pcre"}', False),
        ('{"pattern": "(", "matcher": "pcre"}', False),
    ],
)
def test_whom_a_command_is_for(destination: str | None, found: bool) -> None:
    assert control.addressed(destination, "a@h") is found
