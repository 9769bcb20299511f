"""What programs send to workers and what workers read for them, on every database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from dbqueue import DBQueue
from dbqueue import control as clients
from dbqueue.errors import PayloadTooLarge
from dbqueue.jobs import MAX_NAME_LENGTH
from dbqueue.store import control
from dbqueue.store.base import Store
from dbqueue.store.records import WorkerInfo
from dbqueue.store.sessions import WatchSession
from dbqueue.worker.control import inspection
from tests.stores import TestWorker, count, enqueued, moment, new_job, row, run_sql

DAY = 86400.0


@pytest.fixture
def watch(store: Store) -> Iterator[WatchSession]:
    session = store.watch_session("test")
    yield session
    session.close()


@pytest.fixture
def app(store: Store) -> Iterator[DBQueue]:
    with DBQueue(broker=store.url, set_as_current=False) as app:
        yield app


class TestLongCommands:
    """The rows of the jobs have changed by the time that workers are told."""

    @pytest.mark.parametrize("most", [1024, 1 << 20])
    def test_a_revoke_of_thousands_reaches_the_worker_whatever_a_payload_may_be(
        self, app: DBQueue, store: Store, worker: TestWorker, watch: WatchSession, most: int
    ) -> None:
        app.conf.max_payload_bytes = most
        ids = [f"{number:04}-{'ü' * 40}" for number in range(4500)]
        store.enqueue([new_job(job_id) for job_id in ids[-3:]])
        assert len(worker.claim()) == 3
        assert app.control.revoke(ids, terminate=True, signal="SIGKILL") is None
        told = [json.loads(each.arguments) for each in control.pending(watch, worker.id)]
        assert [job_id for each in told for job_id in each["task_id"]] == ids
        assert all((each["terminate"], each["signal"]) == (True, "SIGKILL") for each in told)
        assert all(len(each["task_id"]) <= clients.IDS_AT_ONCE for each in told)
        if most == 1024:
            assert max(len(json.dumps(each)) for each in told) < clients.COMMAND_BYTES
        assert count(store, "revoked_at IS NOT NULL") == len(ids)

    def test_ids_as_long_as_they_can_be(
        self, app: DBQueue, store: Store, worker: TestWorker, watch: WatchSession
    ) -> None:
        """Plain SQL makes longer ones than calls do. What is far too long keeps no worker from hearing of others."""
        app.conf.max_payload_bytes = 1024
        longest = "\U0001f600" * MAX_NAME_LENGTH
        enqueued(store, longest)
        worker.claim_one()
        app.control.revoke([longest, "y" * 3_000_000, "x" * 1000], terminate=True)
        (command,) = control.pending(watch, worker.id)
        assert json.loads(command.arguments)["task_id"] == [longest, "x" * 1000]
        assert row(store, longest)["revoked_at"] is not None

    def test_another_command_that_is_too_long_is_an_error_and_sent_to_nobody(self, app: DBQueue, store: Store) -> None:
        app.conf.max_payload_bytes = 1024
        app.control.inspect(timeout=0).query_task([str(number) for number in range(5000)])
        assert run_sql(store, "DELETE FROM dbqueue_control") == 1
        with pytest.raises(PayloadTooLarge):
            app.control.inspect(timeout=0).query_task([str(number) for number in range(50_000)])
        assert run_sql(store, "DELETE FROM dbqueue_control") == 0

    def test_what_waits_and_what_runs_is_revoked_by_its_stamps(
        self, app: DBQueue, store: Store, worker: TestWorker
    ) -> None:
        """In the rows: a worker that starts later, and takes what is tried again, knows of no stamp."""

        def stamped(customer: str) -> str:
            return enqueued(
                store, headers=json.dumps({"stamped_headers": ["customer"], "stamps": {"customer": [customer]}})
            )

        running = stamped("acme")
        worker.claim_one()
        waiting, other = stamped("acme"), stamped("else")
        app.control.revoke_by_stamped_headers({"customer": "acme"}, timeout=0)
        assert row(store, running)["revoked_at"] is not None
        assert [row(store, job_id)["status"] for job_id in (running, waiting, other)] == [
            "STARTED",
            "REVOKED",
            "PENDING",
        ]

    def test_nothing_is_revoked_by_stamps_that_no_command_can_carry(
        self, app: DBQueue, store: Store, worker: TestWorker
    ) -> None:
        headers = json.dumps({"stamped_headers": ["customer"], "stamps": {"customer": ["acme"]}})
        job_id = enqueued(store, headers=headers)
        with pytest.raises(PayloadTooLarge):
            app.control.revoke_by_stamped_headers({"customer": ["acme", "x" * (2 << 20)]})
        assert row(store, job_id)["status"] == "PENDING"


class TestWhatIsSent:
    @pytest.mark.parametrize(
        ("call", "sent"),
        [
            (("rate_limit", "a", "10/m"), {"task_name": "a", "rate_limit": "10/m"}),
            (("time_limit", "a", 1, 2), {"task_name": "a", "soft": 1, "hard": 2}),
            (("add_consumer", "q", "x", "topic", "r"), {"queue": "q"}),
            (("cancel_consumer", "q"), {"queue": "q"}),
            (("pool_grow", 2), {"n": 2}),
            (("pool_grow",), {"n": 1}),
            (("pool_shrink", 3), {"n": 3}),
            (("pool_shrink",), {"n": 1}),
            (("pool_restart", ("a", "b"), True), {"modules": ["a", "b"], "reload": True}),
            (("pool_restart",), {"modules": [], "reload": False}),
            (("autoscale", 5, 2), {"max": 5, "min": 2}),
            (("heartbeat",), {}),
            (("shutdown",), {}),
            (("enable_events",), {}),
            (("disable_events",), {}),
        ],
    )
    def test_a_command_of_its_name_to_those_that_are_meant(
        self, app: DBQueue, worker: TestWorker, watch: WatchSession, call: tuple[Any, ...], sent: dict[str, Any]
    ) -> None:
        name, *arguments = call
        getattr(app.control, name)(*arguments)
        getattr(app.control, name)(*arguments, destination="one@test")
        getattr(app.control, name)(*arguments, destination=["one@test"], extra=7)
        to_all, to_one, with_more = control.pending(watch, worker.id)
        assert {each.method for each in (to_all, to_one, with_more)} == {name}
        assert json.loads(to_all.arguments) == json.loads(to_one.arguments) == sent
        assert json.loads(with_more.arguments) == sent | {"extra": 7}
        assert to_all.destination is None
        for each in (to_one, with_more):
            assert control.addressed(each.destination, "one@test")
            assert not control.addressed(each.destination, "two@test")

    @pytest.mark.parametrize(
        ("question", "sent"),
        [
            (("active", True), {"safe": True}),
            (("reserved",), {}),
            (("scheduled",), {}),
            (("registered", "rate_limit", "acks_late"), {"taskinfoitems": ["rate_limit", "acks_late"]}),
            (("stats",), {}),
            (("active_queues",), {}),
            (("revoked",), {}),
            (("query_task", "a", "b"), {"ids": ["a", "b"]}),
            (("conf", True), {"with_defaults": True}),
            (("conf",), {"with_defaults": False}),
            (("report",), {}),
            (("clock",), {}),
        ],
    )
    def test_a_question_of_its_name(
        self, app: DBQueue, worker: TestWorker, watch: WatchSession, question: tuple[Any, ...], sent: dict[str, Any]
    ) -> None:
        name, *arguments = question
        assert getattr(app.control.inspect(["one@test"], timeout=0), name)(*arguments) is None
        (command,) = control.pending(watch, worker.id)
        assert (command.method, json.loads(command.arguments)) == (name, sent)
        assert not control.addressed(command.destination, "worker@test")


class TestWhatWaitsForItsTime:
    """What a worker tells of the jobs in its queues that are due later."""

    @staticmethod
    def told(store: Store, *queues: str, excluded: tuple[str, ...] = ()) -> Any:
        worker: Any = SimpleNamespace(
            store=store, rounds=SimpleNamespace(queues=queues), config=SimpleNamespace(excluded=excluded)
        )
        return inspection.scheduled(worker)

    def test_all_that_is_told_of_one(self, store: Store, worker: TestWorker) -> None:
        enqueued(store, "due now")
        enqueued(store, "a", args='[1, "ü"]', kwargs='{"b": 2}', priority=3, queue="mail", delay_seconds=DAY)
        enqueued(store, "elsewhere", queue="other", delay_seconds=DAY)
        ready_at = moment(row(store, "a")["ready_at"])
        assert ready_at is not None
        assert self.told(store, "celery", "mail") == [
            {
                "eta": ready_at.isoformat(),
                "priority": 3,
                "request": {
                    "id": "a",
                    "name": "shop.pack",
                    "type": "shop.pack",
                    "args": [1, "ü"],
                    "kwargs": {"b": 2},
                    "hostname": None,
                    "time_start": None,
                    "acknowledged": False,
                    "delivery_info": {"exchange": "", "routing_key": "mail", "priority": 3, "redelivered": False},
                    "worker_pid": None,
                },
            }
        ]

    def test_one_that_was_lost_with_its_worker_was_delivered_before(self, store: Store) -> None:
        enqueued(store, "a", delay_seconds=DAY)
        run_sql(store, "UPDATE dbqueue_jobs SET losses = 1")
        (told,) = self.told(store, "celery")
        assert told["request"]["delivery_info"]["redelivered"] is True

    def test_in_the_queues_that_a_pattern_stands_for(self, store: Store) -> None:
        for number, queue in enumerate(("reports.b", "reports.a", "reports.secret", "mail")):
            enqueued(store, queue, queue=queue, delay_seconds=DAY + number)
        ids = [each["request"]["id"] for each in self.told(store, "reports.*", excluded=("*.secret",))]
        assert ids == ["reports.b", "reports.a"]
        assert [each["request"]["id"] for each in self.told(store, "mail", "*.secret")] == ["reports.secret", "mail"]
        assert self.told(store, "nothing.*") == []


class TestWhoAnswers:
    def test_a_worker_is_called_by_the_whole_of_its_name(self, app: DBQueue, store: Store, worker: TestWorker) -> None:
        """Whatever signs are in it: one of them tells its incarnations apart."""
        name = "shop#1#a@test"
        worker.id = f"{name}#0123456789ab"
        worker.session.register(WorkerInfo(worker.id, name, "test", 1, "solo", 1, ("celery",), "0", 30.0))
        app.conf.task_track_started = True
        job_id = enqueued(store)
        worker.claim_one()
        assert app.AsyncResult(job_id).worker == name
        assert app.AsyncResult(job_id).info == {"pid": None, "hostname": name}
