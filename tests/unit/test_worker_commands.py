"""What each command of a worker answers and changes, on a worker whose loop and processes are not there."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from dbqueue import DBQueue
from dbqueue.jobs import ClaimedJob
from dbqueue.limits import parse_rate
from dbqueue.store.control import Command
from dbqueue.worker.claiming.rates import TaskRates
from dbqueue.worker.config import WorkerConfig
from dbqueue.worker.control import CommandInfo, Panel, carry_out
from dbqueue.worker.control.commands import signal_number
from dbqueue.worker.supervising.children import Child
from dbqueue.worker.supervising.crew import Crew
from dbqueue.worker.supervising.limits import Limits, TimeLimits
from dbqueue.worker.supervising.supervisor import Supervisor
from tests.stores import claimed_job


class Worker:
    """Its parts are real, and nothing runs."""

    def __init__(self, app: DBQueue, *, pool: str = "prefork", queues: tuple[str, ...] = ("celery",), **options: Any):
        config = WorkerConfig("w@test", queues, pool, 2, **options)
        self.crew = Crew(config, SimpleNamespace(), lambda name: None)
        self.limits = TimeLimits({}, Limits(soft=30, hard=60))
        self.rates = TaskRates({})
        store: Any = SimpleNamespace(
            sees_deaths=True, must_poll=False, supports_listen=True, dialect="postgresql", url="postgresql://host/shop"
        )
        self.supervisor = Supervisor(store, config, self.crew, limits=self.limits, rates=self.rates, app=app)
        self.state = self.supervisor._control
        self.dispatcher, self.revoker, self.events = self.state.dispatcher, self.state.revoker, self.state.events
        self._theirs: list[socket.socket] = []

    def child(self, *jobs: ClaimedJob, pid: int = 4711) -> Child:
        """A process that holds these."""
        ours, theirs = socket.socketpair()
        self._theirs.append(theirs)
        number = len(self._theirs)
        child = self.crew.children[number] = Child(number, 1, ours)
        child.pid = pid
        child.send_jobs(jobs)
        return child

    def told(self, command: str, **arguments: Any) -> Any:
        return json.loads(carry_out(self.state, Command("id", command, json.dumps(arguments), None)))

    def close(self) -> None:
        for child in self.crew.children.values():
            child.close()
        for each in self._theirs:
            each.close()
        self.crew.close()
        self.supervisor.close()


@pytest.fixture
def app() -> Iterator[DBQueue]:
    with DBQueue("shop", broker="sqlite://", set_as_current=False) as app:
        app.task(name="shop.pack", rate_limit="10/m")(lambda: None)
        app.task(name="shop.send", acks_late=False)(lambda: None)
        yield app


@pytest.fixture
def make_worker(app: DBQueue) -> Iterator[Any]:
    made: list[Worker] = []

    def make(**options: Any) -> Worker:
        made.append(Worker(app, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def worker(make_worker: Any) -> Worker:
    made: Worker = make_worker()
    return made


class TestWhatIsHere:
    def test_what_runs_and_what_waits(self, make_worker: Any) -> None:
        """A job is one or the other, wherever it waits: in a process, behind its own earlier run, alone, in line."""
        worker: Worker = make_worker(pool="threads")
        child = worker.child(claimed_job("runs"), claimed_job("sent ahead"))
        waiting = [claimed_job("in line"), claimed_job("suspect", losses=1), claimed_job("again")]
        worker.dispatcher.add(waiting, going_on=["again"])
        assert [job.id for job in worker.dispatcher.suspects] == ["suspect"]
        here = {"sent ahead", "in line", "suspect", "again"}
        assert [each["id"] for each in worker.told("active")] == ["runs"]
        assert sorted(each["id"] for each in worker.told("reserved")) == sorted(here)
        assert worker.told("stats")["prefetch_count"] == 4
        found = worker.told("query_task", ids=["runs", *here, "absent"])
        assert {job_id: kind for job_id, (kind, _) in found.items()} == {"runs": "active"} | dict.fromkeys(
            here, "reserved"
        )
        assert all(fields["id"] == job_id for job_id, (_, fields) in found.items())
        assert worker.told("query_task", ids="suspect").keys() == {"suspect"}
        assert worker.told("query_task", ids="r") == {}
        child.write_off(child.running[0])  # a run that goes on has the slot still
        assert worker.told("active") == []
        assert len(worker.told("reserved")) == 4

    def test_all_that_is_told_of_one(self, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(worker.limits, "ran_seconds", lambda child, job: 7.0)
        fields: dict[str, Any] = {"task": "shop.pack", "args": '[1, "ü"]', "kwargs": '{"a": [2]}', "queue": "mail"}
        job = claimed_job("a", **fields, priority=3, losses=2, redeliver=False)
        said = {
            "id": "a",
            "name": "shop.pack",
            "type": "shop.pack",
            "args": [1, "ü"],
            "kwargs": {"a": [2]},
            "hostname": "w@test",
            "delivery_info": {"exchange": "", "routing_key": "mail", "priority": 3, "redelivered": True},
        }
        worker.dispatcher.add([job])
        (reserved,) = worker.told("reserved")
        assert reserved == said | {"acknowledged": False, "worker_pid": None, "time_start": None}
        worker.dispatcher.take_waiting()
        worker.child(job)
        (active,) = worker.told("active")
        assert abs(time.time() - 7 - active.pop("time_start")) < 60
        assert active == said | {"acknowledged": True, "worker_pid": 4711}
        (found,) = worker.told("query_task", ids=["a"]).values()
        assert (found[0], found[1]["worker_pid"], found[1]["acknowledged"]) == ("active", 4711, True)

    def test_one_that_is_run_again_where_its_process_dies_is_not_acknowledged(self, worker: Worker) -> None:
        worker.child(claimed_job("a", redeliver=True))
        assert worker.told("active")[0]["acknowledged"] is False

    @pytest.mark.parametrize("text", ["[1, ", '{"__type__": "nobody.knows", "__value__": 1}', "[" * 900 + "]" * 900])
    def test_arguments_that_cannot_be_shown_are_told_as_they_stand(self, worker: Worker, text: str) -> None:
        """And all else is told: one row that is odd hides no other."""
        worker.dispatcher.add([claimed_job("odd", args=text), claimed_job("sound", args="[1]")])
        assert [each["args"] for each in worker.told("reserved")] == [text, [1]]


class TestWhatTheWorkerIs:
    def test_counts_and_facts(self, make_worker: Any) -> None:
        worker: Worker = make_worker(max_tasks_per_child=9, task_events=True)
        worker.child(pid=1)
        worker.child(pid=2)
        worker.state.total.add("shop.pack")
        worker.told("ping")
        stats = worker.told("stats")
        assert stats["total"] == {"shop.pack": 1}
        assert (stats["pid"], stats["clock"], stats["task_events"], stats["uptime"]) == (os.getpid(), "2", True, 0)
        assert stats["pool"] == {
            "implementation": "dbqueue.pools.prefork",
            "max-concurrency": 2,
            "processes": [1, 2],
            "max-tasks-per-child": 9,
            "timeouts": [30, 60],
        }
        assert stats["broker"] == {"transport": "postgresql", "hostname": "postgresql://host/shop"}
        assert {"utime", "stime", "maxrss"} <= stats["rusage"].keys()
        assert "autoscaler" not in stats

    def test_where_nothing_is_bounded(self, make_worker: Any) -> None:
        worker: Worker = make_worker(pool="threads")
        worker.limits.worker = Limits()
        pool = worker.told("stats")["pool"]
        assert (pool["implementation"], pool["max-tasks-per-child"], pool["timeouts"]) == (
            "dbqueue.pools.threads", "N/A", [0, 0],
        )  # fmt: skip

    def test_the_queues_in_celerys_shape(self, make_worker: Any) -> None:
        first, second = make_worker(queues=("mail", "reports.*")).told("active_queues")
        assert (first["name"], first["routing_key"], second["name"]) == ("mail", "mail", "reports.*")
        assert [first[flag] for flag in ("durable", "auto_delete", "exclusive", "no_ack")] == [
            True,
            False,
            False,
            False,
        ]
        assert first["exchange"]["type"] == "direct"
        assert first["max_priority"] is None

    def test_the_clock_counts_what_is_done_and_what_fails(self, worker: Worker) -> None:
        assert worker.told("clock") == {"clock": 1}
        assert worker.told("nonsense") == {"error": "this worker has no command 'nonsense'"}
        assert "TypeError" in worker.told("query_task")["error"]
        assert worker.told("clock") == {"clock": 4}

    def test_the_tasks_it_knows(self, worker: Worker, app: DBQueue) -> None:
        def told(**arguments: Any) -> list[str]:
            """Without the shared tasks of other modules, which every application of this process has."""
            return [each for each in worker.told("registered", **arguments) if not each.startswith("tests.")]

        assert told() == ["shop.pack [rate_limit=10/m]", "shop.send"]
        assert told(taskinfoitems=[]) == told()
        assert told(taskinfoitems=["acks_late", "nothing", "rate_limit"]) == [
            "shop.pack [rate_limit=10/m]",
            "shop.send [acks_late=False]",
        ]
        everything = told(builtins=True)
        assert {"shop.pack [rate_limit=10/m]", "shop.send"} < set(everything)
        assert all(each.startswith(("celery.", "shop.")) for each in everything)
        assert sorted(everything) == everything
        app.conf.task_default_rate_limit = "5/s"
        assert told() == ["shop.pack [rate_limit=10/m]", "shop.send [rate_limit=5/s]"]

    def test_its_settings(self, worker: Worker, app: DBQueue) -> None:
        app.conf.task_signing_keys = ["a secret of the shop's own, long enough"]
        app.conf.worker_poll_interval = 7
        changed = worker.told("conf")
        assert changed["worker_poll_interval"] == 7
        assert "result_expires" not in changed
        everything = worker.told("conf", with_defaults=True)
        assert everything.keys() > changed.keys()
        assert "result_expires" in everything
        assert "a secret" not in json.dumps([changed, everything])


class TestEvents:
    def test_they_are_switched_on_and_off(self, worker: Worker) -> None:
        assert worker.told("disable_events") == {"ok": "task events already disabled"}
        assert worker.told("enable_events") == {"ok": "task events enabled"}
        assert worker.told("enable_events") == {"ok": "task events already enabled"}
        assert worker.told("stats")["task_events"] is True
        assert worker.told("disable_events") == {"ok": "task events disabled"}
        assert [each["type"] for each in worker.events._waiting] == ["worker-online", "worker-offline"]

    def test_a_heartbeat_is_sent_to_who_asks_for_it(self, worker: Worker) -> None:
        """Though events about tasks are off: it is how one that begins to read finds the workers."""
        worker.child(claimed_job("a"), claimed_job("behind it"))
        assert worker.told("heartbeat") is None
        (beat,) = worker.events._waiting
        assert (beat["type"], beat["active"]) == ("worker-heartbeat", 1)


class TestTellingOfTasks:
    def test_to_revoke(self, worker: Worker) -> None:
        worker.dispatcher.add([claimed_job("a"), claimed_job("b"), claimed_job("c")])
        assert worker.told("revoke", task_id="a") == {"ok": "tasks a flagged as revoked"}
        assert worker.told("revoke", task_id=["b", "x"], signal="SIGKILL") == {"ok": "tasks b, x flagged as revoked"}
        assert worker.revoker._orders == {"a": None, "b": None, "x": None}
        worker.revoker.keep()
        assert [job.id for job in worker.dispatcher.waiting] == ["c"]

    def test_to_terminate(self, worker: Worker) -> None:
        assert worker.told("revoke", task_id=["a", "b"], terminate=True) == {"ok": "terminate: a, b"}
        assert worker.told("terminate", task_id="c", signal="KILL") == {"ok": "terminate: c"}
        assert worker.told("revoke", task_id="d", terminate=True, signal=int(signal.SIGUSR1)) == {"ok": "terminate: d"}
        assert worker.revoker._orders == {
            "a": signal.SIGTERM, "b": signal.SIGTERM, "c": signal.SIGKILL, "d": signal.SIGUSR1,
        }  # fmt: skip

    def test_a_signal_that_there_is_not_ends_nothing(self, worker: Worker) -> None:
        for wrong in ("SIGNOTHING", "999", 0, -1):
            assert "error" in worker.told("revoke", task_id="a", terminate=True, signal=wrong)
            assert "error" in worker.told("terminate", task_id="a", signal=wrong)
        assert worker.revoker._orders == {}

    @pytest.mark.parametrize(
        ("name", "number"), [(None, 15), ("TERM", 15), ("sigterm", 15), ("SIGKILL", 9), ("9", 9), (2, 2), ("usr1", 10)]
    )
    def test_the_names_of_signals(self, name: str | int | None, number: int) -> None:
        assert signal_number(name) == number

    def test_to_revoke_by_stamps(self, worker: Worker) -> None:
        stamped = json.dumps({"stamped_headers": ["customer"], "stamps": {"customer": ["acme"]}})
        worker.dispatcher.add([claimed_job("waits", headers=stamped), claimed_job("another")])
        worker.child(claimed_job("runs", headers=stamped))
        said = worker.told("revoke_by_stamped_headers", headers={"customer": "acme"})
        assert said["ok"].endswith("flagged as revoked, but not terminated")
        assert worker.revoker._orders == {"waits": None, "runs": None}
        assert worker.revoker.refuses(claimed_job("later", headers=stamped))
        said = worker.told("revoke_by_stamped_headers", headers=["customer=acme"], terminate=True, signal="INT")
        assert said["ok"].endswith("flagged as revoked")
        assert worker.revoker._orders == {"waits": signal.SIGINT, "runs": signal.SIGINT}

    def test_stamps_with_a_signal_that_there_is_not_are_not_remembered(self, worker: Worker) -> None:
        said = worker.told("revoke_by_stamped_headers", headers={"a": "b"}, terminate=True, signal="SIGNOTHING")
        assert "error" in said
        stamped = json.dumps({"stamped_headers": ["a"], "stamps": {"a": ["b"]}})
        assert not worker.revoker.refuses(claimed_job("later", headers=stamped))

    def test_time_limits(self, worker: Worker) -> None:
        done = {"ok": "time limits set successfully"}
        assert worker.told("time_limit", task_name="shop.pack", soft=5, hard=9) == done
        assert worker.limits.by_task["shop.pack"] == Limits(soft=5, hard=9)
        assert worker.told("time_limit", task_name="shop.pack", soft=7, hard=7) == done
        for soft, hard in ((-1, None), (None, "9"), (0, None), (9, 5)):
            assert "error" in worker.told("time_limit", task_name="shop.pack", soft=soft, hard=hard)
        assert worker.limits.by_task["shop.pack"] == Limits(soft=7, hard=7)
        assert worker.told("time_limit", task_name="absent", hard=1) == {"error": "unknown task"}

    def test_rates(self, worker: Worker, app: DBQueue) -> None:
        done = {"ok": "new rate limit set successfully"}
        assert worker.told("rate_limit", task_name="shop.send", rate_limit="2/h") == done
        assert worker.rates._rates == {"shop.send": parse_rate("2/h")}
        assert worker.told("rate_limit", task_name="absent", rate_limit="2/h") == {"error": "unknown task"}
        assert worker.told("rate_limit", task_name="shop.send", rate_limit="x")["error"].startswith(
            "Invalid rate limit"
        )
        assert worker.rates._rates.keys() == {"shop.send"}
        assert "shop.send [rate_limit=2/h]" in worker.told("registered")

    def test_what_is_shown_of_a_rate_that_was_lifted(self, worker: Worker, app: DBQueue) -> None:
        """Not the default of the settings: the worker keeps to none."""
        app.conf.task_default_rate_limit = "5/s"
        lifted = {"ok": "rate limit disabled successfully"}
        assert worker.told("rate_limit", task_name="shop.send", rate_limit=None) == lifted
        assert worker.rates._rates == {}
        assert "shop.send [rate_limit=0]" in worker.told("registered")

    def test_rates_where_the_worker_keeps_to_none(self, worker: Worker, app: DBQueue) -> None:
        app.conf.worker_disable_rate_limits = True
        assert worker.told("rate_limit", task_name="shop.send", rate_limit="2/h")["ok"]
        assert worker.rates._rates == {}
        assert "shop.send [rate_limit=2/h]" in worker.told("registered")


class TestTellingOfQueues:
    def test_one_more_and_one_less(self, worker: Worker) -> None:
        assert worker.told("add_consumer", queue="mail") == {"ok": "add consumer mail"}
        assert worker.told("add_consumer", queue="mail") == {"ok": "already consuming from 'mail'"}
        assert worker.state.rounds.queues == ("celery", "mail")
        assert worker.told("cancel_consumer", queue="celery") == {"ok": "no longer consuming from celery"}
        assert list(worker.state.rounds.queues) == ["mail"]

    @pytest.mark.parametrize("name", [5, None, "", ["mail"], {"name": "mail"}, "a\nb", "x" * 256])
    def test_what_is_no_name_is_refused(self, worker: Worker, name: Any) -> None:
        """No claim would succeed with it among the queues."""
        for command in ("add_consumer", "cancel_consumer"):
            assert "the name of a queue is a text" in worker.told(command, queue=name)["error"]
        assert worker.state.rounds.queues == ("celery",)

    def test_one_that_a_pattern_stands_for_is_not_cancelled_alone(self, make_worker: Any) -> None:
        """Its jobs would be taken all the same, so the answer must not be that they are not."""
        worker: Worker = make_worker(queues=("reports.*", "*", "reports.daily"), excluded=("secret",))
        assert "cancel that, or pause the queue" in worker.told("cancel_consumer", queue="reports.daily")["error"]
        assert worker.state.rounds.queues == ("reports.*", "*", "reports.daily")
        assert worker.told("cancel_consumer", queue="secret") == {"ok": "no longer consuming from secret"}
        assert worker.told("cancel_consumer", queue="*") == {"ok": "no longer consuming from *"}
        assert "fits 'reports.*'" in worker.told("cancel_consumer", queue="reports.daily")["error"]
        assert worker.told("cancel_consumer", queue="reports.*") == {"ok": "no longer consuming from reports.*"}
        assert worker.told("cancel_consumer", queue="reports.daily") == {"ok": "no longer consuming from reports.daily"}
        assert list(worker.state.rounds.queues) == []

    def test_one_that_is_excluded_is_taken_when_it_is_asked_for_by_its_name(self, make_worker: Any) -> None:
        """As in Celery: `-X` is about what the worker starts with."""
        worker: Worker = make_worker(queues=("*",), excluded=("mail", "reports.*"))
        session: Any = SimpleNamespace(waiting_queues=lambda: ["celery", "mail", "reports.a"], paused_queues=frozenset)
        choice = worker.state.rounds._claims.queues
        choice.look(session)
        assert choice.names == ["celery"]
        assert worker.told("add_consumer", queue="mail") == {"ok": "add consumer mail"}
        assert worker.told("add_consumer", queue="report*") == {"ok": "add consumer report*"}
        choice.look(session)
        assert choice.names == ["celery", "mail"]


class TestTellingOfTheWorker:
    def test_to_shut_down(self, worker: Worker) -> None:
        assert worker.told("shutdown") == {"ok": "shutting down"}
        assert worker.told("shutdown", msg="again") == {"ok": "shutting down"}
        assert [request.how for request in worker.supervisor._stop_requests] == ["warm"]

    def test_what_its_settings_do_not_allow(self, worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
        assert "Autoscale not enabled" in worker.told("autoscale", max=3)["error"]
        assert "worker_pool_restarts" in worker.told("pool_restart")["error"]
        lines = [(record.levelname, record.getMessage(), bool(record.exc_info)) for record in caplog.records]
        assert lines == [
            ("WARNING", "The command autoscale was refused: Autoscale not enabled", False),
            (
                "WARNING",
                "The command pool_restart was refused: Pool restarts not enabled: set worker_pool_restarts",
                False,
            ),
        ]

    def test_a_refusal_is_one_line_whatever_was_asked(
        self, worker: Worker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def greet(state: object, name: str) -> None:
            raise ValueError(f"nobody is called {name}")

        monkeypatch.setitem(Panel.commands, "greet", CommandInfo("greet", greet, "control"))
        worker.told("greet", name="a\nb\x1b")
        message = caplog.records[-1].getMessage()
        assert message.startswith("The command greet was refused: nobody is called a")
        assert message.isprintable()

    def test_what_refuses_a_command_is_traced_where_somebody_debugs(
        self, worker: Worker, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It may be a fault in a command of one's own."""
        with caplog.at_level("DEBUG", "dbqueue"):
            worker.told("autoscale", max=3)
        assert caplog.records[-1].exc_info
