"""Celery's guide "Monitoring and Management": events and what monitors make of them."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from dbqueue import DBQueue
from dbqueue.events import Event, EventReceiver
from dbqueue.events.state import MAX_HEARTBEATS, State
from dbqueue.store import events
from tests.stores import run_sql
from tests.waiting import wait_until
from tests.worker.sample import make_app
from tests.workers import WorkerProcess, starting

Start = Callable[..., WorkerProcess]


@pytest.fixture
def start_worker() -> Iterator[Start]:
    with starting() as start:
        yield start


@pytest.fixture
def app(database_url: str) -> Iterator[DBQueue]:
    with make_app(database_url) as app:
        yield app


class Monitor:
    """A receiver in a thread of its own."""

    def __init__(self, app: DBQueue) -> None:
        self.seen: list[dict[str, Any]] = []
        self.state = app.events.State()

    def take(self, event: dict[str, Any]) -> None:
        self.state.event(event)
        self.seen.append(event)

    def of(self, uuid: str) -> list[str]:
        return [event["type"] for event in self.seen if event.get("uuid") == uuid]

    def wait_for(self, uuid: str, type: str) -> dict[str, Any]:
        def found() -> list[dict[str, Any]]:
            return [event for event in self.seen if event.get("uuid") == uuid and event["type"] == type]

        return wait_until(found, what=f"{type} of {uuid}")[-1]


@contextmanager
def monitoring(app: DBQueue) -> Iterator[Monitor]:
    monitor, begun = Monitor(app), threading.Event()
    with app.connection() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": monitor.take, "test-begin": lambda e: begun.set()})
        thread = threading.Thread(target=receiver.capture)
        thread.start()
        try:
            with app.events.default_dispatcher() as dispatcher:

                def is_reading() -> bool:
                    dispatcher.send("test-begin")
                    return begun.wait(0.2)

                wait_until(is_reading)
            yield monitor
        finally:
            receiver.should_stop = True
            thread.join()


def test_real_time_processing(app: DBQueue, database_url: str, start_worker: Start) -> None:
    """The guide's program, and the events of each kind of end."""
    failed = []
    with monitoring(app) as monitor:
        start_worker(database_url, task_events=True, hostname="one@host")
        wait_until(lambda: "one@host" in monitor.state.workers)
        worker = monitor.state.workers["one@host"]
        wait_until(lambda: worker.processed is not None)
        assert (worker.alive, worker.sw_ident, worker.freq) == (True, "dbqueue", 2.0)
        tasks = app.tasks
        added = tasks["sample.add"].delay(2, 3)
        monitor.wait_for(added.id, "task-succeeded")
        bad = tasks["sample.fail"].delay("value")
        event = monitor.wait_for(bad.id, "task-failed")
        retried = tasks["sample.flaky"].delay(os.devnull)
        monitor.wait_for(retried.id, "task-failed")
        held = tasks["sample.hold"].delay(os.devnull, os.devnull + "-none")
        monitor.wait_for(held.id, "task-started")
        held.revoke(terminate=True)
        revoked = monitor.wait_for(held.id, "task-revoked")
        late = tasks["sample.add"].apply_async((1, 1), expires=-1)
        assert monitor.wait_for(late.id, "task-revoked")["expired"] is True
        for each in monitor.seen:
            if each["type"] == "task-failed":
                task = monitor.state.tasks.get(each["uuid"])
                assert task is not None
                failed.append(f"TASK FAILED: {task.name}[{task.uuid}] {task.info()}")
    assert monitor.of(added.id) == ["task-received", "task-started", "task-succeeded"]
    assert monitor.of(retried.id) == [*["task-received", "task-started", "task-retried"] * 2, "task-received",
                                      "task-started", "task-failed"]  # fmt: skip
    task = monitor.state.tasks[added.id]
    assert (task.name, task.args, task.kwargs, task.result, task.state) == (
        "sample.add",
        "(2, 3)",
        "{}",
        "5",
        "SUCCESS",
    )
    assert task.worker is not None
    assert (task.ready, task.worker.hostname, task.runtime < 30) == (True, "one@host", True)
    assert task.info(["args"], extra=["uuid"]) == {"args": "(2, 3)", "uuid": added.id}
    received = next(each for each in monitor.seen if each["type"] == "task-received")
    assert received.keys() == {
        "type", "hostname", "utcoffset", "pid", "clock", "timestamp", "uuid", "name", "args", "kwargs", "retries",
        "eta", "expires", "root_id", "parent_id", "local_received",
    }  # fmt: skip
    assert (event["exception"], "ValueError" in event["traceback"]) == ("ValueError('bad ü', 3)", True)
    assert (revoked["terminated"], revoked["signum"], revoked["expired"]) == (True, 15, False)
    assert failed[0].startswith(f"TASK FAILED: sample.fail[{bad.id}] {{'args': ")
    assert len(failed) == 2


@pytest.mark.parametrize(("pool", "signal"), [("threads", "SIGTERM"), ("asyncio", "SIGTERM"), ("prefork", "SIGUSR1")])
def test_a_run_that_was_terminated_has_one_end(
    app: DBQueue, database_url: str, start_worker: Start, tmp_path: Path, pool: str, signal: str
) -> None:
    """The exception in it makes it fail later, which its row does not take, and is no news to monitors."""
    name = "sample.ahold_softly" if pool == "asyncio" else "sample.hold"
    with monitoring(app) as monitor:
        start_worker(database_url, task_events=True, pool=pool, hostname="one@host")
        held = app.tasks[name].delay(str(tmp_path / "started"), str(tmp_path / "never"))
        monitor.wait_for(held.id, "task-started")
        held.revoke(terminate=True, signal=signal)
        monitor.wait_for(held.id, "task-revoked")
        wait_until(lambda: not app.control.inspect(timeout=30).active()["one@host"])  # type: ignore[index]
        later = app.tasks["sample.add"].delay(1, 1)
        monitor.wait_for(later.id, "task-succeeded")
    assert monitor.of(held.id) == ["task-received", "task-started", "task-revoked"]
    assert monitor.state.tasks[held.id].state == held.state == "REVOKED"


def test_off_until_it_is_told(app: DBQueue, database_url: str, start_worker: Start) -> None:
    add = app.tasks["sample.add"]
    with monitoring(app) as monitor:
        start_worker(database_url, hostname="one@host", concurrency=1)
        quiet = add.delay(1, 1)
        quiet.get(timeout=30)
        assert app.control.inspect(timeout=30).stats()["one@host"]["task_events"] is False  # type: ignore[index]
        assert app.control.enable_events(reply=True, timeout=30) == [{"one@host": {"ok": "task events enabled"}}]
        told = add.delay(1, 1)
        monitor.wait_for(told.id, "task-succeeded")
        assert app.control.inspect(timeout=30).stats()["one@host"]["task_events"] is True  # type: ignore[index]
        assert app.control.disable_events(reply=True, timeout=30) == [{"one@host": {"ok": "task events disabled"}}]
        wait_until(lambda: [e["type"] for e in monitor.seen if "worker" in e["type"]][-1] == "worker-offline")
        quiet_again = add.delay(1, 1)
        quiet_again.get(timeout=30)
    assert monitor.of(quiet.id) == monitor.of(quiet_again.id) == []


def test_a_worker_says_goodbye(app: DBQueue, database_url: str, start_worker: Start) -> None:
    with monitoring(app) as monitor:
        worker = start_worker(database_url, settings={"worker_send_task_events": True})
        result = app.tasks["sample.add"].delay(1, 1)
        monitor.wait_for(result.id, "task-succeeded")
        assert worker.stop() == 0
        wait_until(lambda: monitor.seen[-1]["type"] == "worker-offline")
        assert monitor.seen[-1]["processed"] == 1
    assert [worker.status_string for worker in monitor.state.workers.values()] == ["OFFLINE"]


def test_sent(database_url: str) -> None:
    """`task_send_sent_event`: in the caller's transaction, and so never of a call that is undone."""
    with make_app(database_url, task_send_sent_event=True) as app, monitoring(app) as monitor:
        add = app.tasks["sample.add"]
        engine = sa.create_engine(database_url)
        with engine.connect() as connection:
            undone = add.apply_async((1, 2), connection=connection)
            connection.rollback()
            done = add.apply_async((1, {"card": [[["secret"]]]}), connection=connection)
            connection.commit()
        engine.dispose()
        hidden = add.apply_async((1, "secret"), argsrepr="(1, '***')", queue="mail")
        event = monitor.wait_for(hidden.id, "task-sent")
        assert (event["args"], event["queue"], event["name"]) == ("(1, '***')", "mail", "sample.add")
        assert monitor.wait_for(done.id, "task-sent")["args"] == "(1, {'card': [[...]]})"
        assert monitor.of(undone.id) == []
        task = monitor.state.tasks[hidden.id]
        assert (task.state, task.client, task.worker) == ("PENDING", event["hostname"], None)


def test_a_call_is_there_though_nobody_can_be_told_of_it(app: DBQueue, caplog: pytest.LogCaptureFixture) -> None:
    """It is committed before: who heard of an error would call again."""
    app.conf.task_send_sent_event = True
    run_sql(app.database.store, "ALTER TABLE dbqueue_events RENAME TO elsewhere")
    result = app.tasks["sample.add"].delay(1, 2)
    assert result.exists()
    assert "Monitors are not told of 1 jobs" in caplog.text


DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg"}


async def _sent_async(app: DBQueue, url: str) -> str:
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    engine = create_async_engine(re.sub("^(sqlite|postgresql):", lambda m: DRIVERS[m[1]] + ":", url))
    async with AsyncSession(engine) as session:
        result = await app.tasks["sample.add"].aapply_async((1, 2), connection=session)
        await session.commit()
    await engine.dispose()
    return result.id


def test_sent_from_asynchronous_code(database_url: str) -> None:
    import asyncio

    with make_app(database_url, task_send_sent_event=True) as app, monitoring(app) as monitor:
        monitor.wait_for(asyncio.run(_sent_async(app, database_url)), "task-sent")


def test_an_event_of_a_task_s_own(app: DBQueue, database_url: str) -> None:
    from dbqueue.contrib.testing.worker import start_worker

    @app.task(bind=True, name="own")
    def own(self: Any) -> None:
        self.send_event("task-progress", step=3)

    with monitoring(app) as monitor, start_worker(app, ping_task_timeout=60, shutdown_timeout=60) as worker:
        result = own.delay()
        event = monitor.wait_for(result.id, "task-progress")
        assert (event["step"], event["hostname"]) == (3, worker.config.name)


def test_capture_ends(app: DBQueue) -> None:
    receiver = app.events.Receiver(app.connection())
    with pytest.raises(TimeoutError, match="no event came"):
        receiver.capture(timeout=0.05)
    assert run_sql(app.database.store, "DELETE FROM dbqueue_control WHERE method = 'heartbeat'") == 1
    taken: list[Any] = []

    def stop(event: Any) -> None:
        taken.append(event)
        receiver.should_stop = True

    receiver.handlers["test-now"] = stop
    thread = threading.Thread(target=receiver.capture)
    thread.start()

    def stopped() -> bool:
        app.events.Dispatcher().send("test-now")
        thread.join(0.2)
        return not thread.is_alive()

    wait_until(stopped)
    assert len(taken) == 1


def test_a_dispatcher_is_heard_while_it_is_enabled(app: DBQueue) -> None:
    """And what it sends has the fields that are given, and Celery's name of a process that is no worker."""
    reader = events.Reader(app.database.store)
    reader.start()
    with app.events.default_dispatcher("me@here", enabled=False) as dispatcher:
        dispatcher.send("shop-before")
        dispatcher.enable()
        dispatcher.send("shop-open", since="08:00", retry=True, retry_policy={}, utcoffset=0)
        dispatcher.disable()
        dispatcher.send("shop-after")
    app.events.Dispatcher().send("shop-closed", timestamp=7.0)
    opened, closed = reader.read()
    assert (opened["type"], opened["hostname"], opened["since"]) == ("shop-open", "me@here", "08:00")
    assert not {"retry", "retry_policy"} & opened.keys()
    assert (closed["timestamp"], closed["hostname"].split("@")[0]) == (7.0, f"gen{os.getpid()}")


def test_an_event_keeps_the_time_that_it_is_given() -> None:
    assert Event("shop-open", {"timestamp": 7.0, "type": "other"}, since=8) == {
        "timestamp": 7.0,
        "type": "shop-open",
        "since": 8,
    }


def test_capture_takes_so_many_events(app: DBQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(seconds: float) -> None:
        dispatcher = app.events.Dispatcher(groups=["test"])
        for kind in ("test-a", "other-b", "test-c", "test-d"):
            dispatcher.send(kind)

    monkeypatch.setattr("dbqueue.events.time", SimpleNamespace(time=time.time, monotonic=lambda: 0.0, sleep=sleep))
    taken: list[str] = []
    receiver = app.events.Receiver(app, handlers={"*": lambda event: taken.append(event["type"])})
    receiver.capture(limit=2, wakeup=False)
    assert taken == ["test-a", "test-c"]


def test_the_timeout_counts_from_the_last_event(app: DBQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    now, sent = 0.0, list[float]()

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        if len(sent) < 3 and now >= 0.8 * (len(sent) + 1):
            sent.append(now)
            app.events.Dispatcher().send("test-some")

    monkeypatch.setattr("dbqueue.events.time", SimpleNamespace(time=time.time, monotonic=lambda: now, sleep=sleep))
    with pytest.raises(TimeoutError):
        app.events.Receiver(app.connection()).capture(timeout=1.0, wakeup=False)
    assert len(sent) == 3
    assert now == pytest.approx(sent[-1] + 1.0)


def test_late_commits_are_read(app: DBQueue) -> None:
    """Numbers are given out before transactions commit: one that is smaller may come later."""
    if app.database.store.dialect != "postgresql":
        pytest.skip("SQLite writes one at a time")
    store = app.database.store
    reader = events.Reader(store)
    reader.start()
    with store.connect() as slow:
        slow.execute(sa.text(store.text(events.WRITE)), {"batch": '[{"type": "test-slow"}]'})
        events.send(store, [Event("test-quick")])
        assert [event["type"] for event in reader.read()] == ["test-quick"]
    assert [event["type"] for event in reader.read()] == ["test-slow"]
    assert reader.read() == []


def test_the_table_is_bounded(app: DBQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    store = app.database.store
    events.send(store, [Event("test-one", number=number) for number in range(2500)])
    session = store.watch_session("test")
    try:
        monkeypatch.setattr(events, "KEPT_ROWS", 100)
        events.prune(session)
        assert run_sql(store, "DELETE FROM dbqueue_events WHERE seq < 0") == 0
        assert run_sql(store, "UPDATE dbqueue_events SET created_at = '2001-01-01 00:00:00.000'") == 100
        events.send(store, [Event("test-new")])
        events.prune(session)
        assert run_sql(store, "DELETE FROM dbqueue_events") == 1
        reader = events.Reader(store)
        reader.start()
        events.send(store, [Event("test-next")])  # an empty table does not begin to count anew
        assert [event["type"] for event in reader.read()] == ["test-next"]
    finally:
        session.close()


class TestState:
    def test_events_out_of_order(self) -> None:
        state = State()
        for kind, fields in (
            ("task-succeeded", {"result": "3", "runtime": 0.1, "timestamp": 3.0}),
            ("task-started", {"timestamp": 2.0}),
            ("task-received", {"name": "add", "args": "(1, 2)", "timestamp": 1.0}),
        ):
            state.event(Event(kind, uuid="u", hostname="h", **fields))
        task = state.tasks["u"]
        assert (task.state, task.name, task.args, task.timestamp) == ("SUCCESS", "add", "(1, 2)", 3.0)
        assert (task.received, task.started, task.succeeded) == (1.0, 2.0, 3.0)
        assert repr(task).startswith("<Task: add(u) SUCCESS clock:")
        assert (state.event_count, state.task_count, state.task_types()) == (3, 1, ["add"])
        assert task.nothing is None if hasattr(task, "nothing") else True

    def test_a_retry_goes_on(self) -> None:
        state = State()
        for number, kind in enumerate(("received", "started", "retried", "received", "started")):
            state.event(Event(f"task-{kind}", uuid="u", hostname="h", timestamp=float(number)))
        assert state.tasks["u"].state == "STARTED"

    def test_what_is_late_takes_nothing_back(self) -> None:
        state = State()
        told: list[tuple[str, float, dict[str, Any]]] = [
            ("retried", 3.0, {}),
            ("received", 4.0, {"name": "add", "retries": 1}),
            ("retried", 6.0, {}),
            ("started", 5.0, {}),
            ("received", 1.0, {"name": "old", "retries": 0, "args": "()"}),
        ]
        for kind, moment, fields in told:
            state.event(Event(f"task-{kind}", uuid="u", hostname="h", timestamp=moment, **fields))
        task = state.tasks["u"]
        assert (task.state, task.name, task.retries, task.args) == ("RETRY", "add", 1, "()")

    def test_a_monitor_may_run_for_weeks(self) -> None:
        """And on a machine whose clock is not that of the workers."""
        state = State(max_workers_in_memory=2, max_tasks_in_memory=2)
        joined: list[str] = []
        state.on_node_join = lambda worker: joined.append(worker.hostname)
        for number in range(20):
            for host in ("a", "b"):
                state.event(Event("worker-heartbeat", hostname=host, timestamp=1.0, local_received=time.time()))
                state.event(Event("task-started", uuid=f"u{number}", hostname=host))
                state.event(Event("task-started", uuid="child", parent_id=f"u{number}", hostname=host))
        assert {len(worker.heartbeats) for worker in state.workers.values()} == {MAX_HEARTBEATS}
        for _ in range(MAX_HEARTBEATS):
            state.event(Event("worker-heartbeat", hostname="b", timestamp=1.0, local_received=time.time()))
        assert joined == ["a", "b"]
        assert [worker.alive for worker in state.workers.values()] == [True, True]
        assert {len(worker.heartbeats) for worker in state.workers.values()} == {MAX_HEARTBEATS}
        assert len(state.tasks) == 2
        state.event(Event("worker-online", hostname="c"))
        assert list(state.workers) == ["b", "c"]

    def test_a_task_s_event_is_a_sign_of_life(self) -> None:
        state = State()
        state.event(Event("worker-heartbeat", hostname="h", freq=2.0, local_received=time.time() - 60))
        assert not state.workers["h"].alive
        state.event(Event("task-sent", uuid="u", hostname="client"))
        state.event(Event("task-sent", uuid="other", hostname="client", parent_id="u"))
        assert (state.tasks["u"].origin, state.workers["h"].alive) == ("client", False)
        for kind in ("received", "started"):
            state.event(Event(f"task-{kind}", uuid="other", hostname="h", parent_id="u"))
        assert (state.tasks["other"].origin, state.workers["h"].alive) == ("h.None", True)
        assert [task.uuid for task in state.tasks["u"].children] == ["other"]

    def test_nothing_is_taken_in_while_it_is_frozen(self) -> None:
        state = State()
        thread = threading.Thread(target=state.event, args=(Event("task-sent", uuid="u"),))

        def look() -> int:
            thread.start()
            thread.join(0.1)
            return state.event_count

        assert state.freeze_while(look) == 0
        thread.join()
        assert state.event_count == 1

    def test_what_was_rejected_goes_on(self) -> None:
        state = State()
        for number, kind in enumerate(("received", "started", "rejected", "received", "started")):
            state.event(Event(f"task-{kind}", uuid="u", hostname="h", timestamp=float(number)))
        assert state.tasks["u"].state == "STARTED"

    def test_an_event_of_ones_own_changes_nothing_that_a_task_keeps(self) -> None:
        """Whatever its fields and its type are called: it had been an error in the monitor."""
        state = State()
        state.event(Event("task-started", uuid="u", hostname="h", name="add"))
        for name in ("state", "worker", "client", "uuid", "timestamp", "hostname", "type"):
            state.event(
                Event("task-progress", uuid="u", hostname="h", **({name: {}} if name == "state" else {}), step=3)
            )
            state.event(Event(f"task-{name}", uuid="u", hostname="h", worker="x", client=5))
        task = state.tasks["u"]
        assert (task.uuid, task.name, task.step, task.client, task.origin) == ("u", "add", 3, None, "h.None")
        assert [uuid for uuid, _ in state.tasks_by_worker("h")] == ["u"]
        state.event(Event("task-succeeded", uuid="u", hostname="h"))
        assert task.state == "SUCCESS"

    def test_who_is_called_before_each_event(self) -> None:
        told: list[tuple[int, str]] = []
        state = State(lambda state, event: told.append((state.event_count, event["type"])))
        for kind in ("worker-online", "shop-open"):
            state.event(Event(kind, hostname="h"))
        assert told == [(0, "worker-online"), (1, "shop-open")]

    def test_what_is_forgotten(self) -> None:
        state = State()
        for kind in ("received", "succeeded"):
            state.event(Event(f"task-{kind}", uuid=kind, hostname="h"))
        state.clear_tasks(ready=False)
        assert (list(state.tasks), state.event_count) == (["received"], 2)
        assert state.freeze_while(len, state.tasks) == 1
        assert list(state.tasks) == ["received"]
        state.clear()
        assert (len(state.tasks), len(state.workers), state.event_count, state.task_count) == (0, 0, 0, 0)

    def test_workers_come_and_go(self) -> None:
        told: list[tuple[str, str]] = []
        state = State(
            on_node_join=lambda worker: told.append(("join", worker.hostname)),
            on_node_leave=lambda worker: told.append(("leave", worker.hostname)),
        )
        state.event(Event("worker-online", hostname="h", freq=2.0, pid=7))
        (worker,) = state.alive_workers()
        assert (worker.id, worker.status_string) == ("h.7", "ONLINE")
        worker.heartbeats = [time.time() - 60]
        assert list(state.alive_workers()) == []
        state.event(Event("worker-offline", hostname="h"))
        assert told == [("join", "h"), ("leave", "h")]
        assert not state.workers

    def test_a_worker_that_went_stays_where_nobody_is_told(self) -> None:
        """Monitors list it as OFFLINE."""
        state = State()
        for kind in ("online", "offline"):
            state.event(Event(f"worker-{kind}", hostname="h", freq=2.0))
        state.event(Event("worker-offline", hostname="never seen"))
        assert [(name, worker.status_string) for name, worker in state.workers.items()] == [("h", "OFFLINE")]
        assert list(state.alive_workers()) == []
        assert {name: getattr(state.workers["h"], name) for name in state.workers["h"]._fields}["freq"] == 2.0

    def test_questions(self) -> None:
        state = State(max_tasks_in_memory=3)
        for number in range(4):
            fields: dict[str, Any] = {
                "name": f"task{number % 2}",
                "timestamp": float(number),
                "root_id": "1",
                "parent_id": "1",
            }
            state.event(Event("task-received", uuid=str(number), hostname="h", **fields))
        assert [uuid for uuid, _ in state.tasks_by_time()] == ["3", "2", "1"]
        assert [uuid for uuid, _ in state.tasks_by_type("task1", limit=1)] == ["3"]
        assert [uuid for uuid, _ in state.tasks_by_worker("h")] == ["3", "2", "1"]
        assert [uuid for uuid, _ in state.itertasks(2)] == ["1", "2"]
        assert state.tasks["3"].parent is state.tasks["3"].root is state.tasks["1"]
        assert state.tasks["1"].children == [state.tasks["1"], state.tasks["2"], state.tasks["3"]]
        shown = state.tasks["1"].as_dict()
        assert (shown["root"], shown["parent"], shown["children"]) == ("1", "1", ["1", "2", "3"])
        assert state.freeze_while(len, state.tasks, clear_after=True) == 3
        assert not state.tasks


def test_a_receiver_of_an_application(app: DBQueue) -> None:
    assert EventReceiver(app).app is app
    assert app.connection().as_uri() == app.database.url
    assert app.connection().ensure_connection(max_retries=3).connected
