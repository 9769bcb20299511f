"""`dbqueue.testing`, eager mode, and the database in memory, as an application's tests use them."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from dbqueue import DBQueue, testing
from dbqueue.contrib.testing.worker import start_worker
from dbqueue.errors import EncodeError, ImproperlyConfigured, Reject
from dbqueue.services.workers import Worker
from dbqueue.store import changes, queues


@pytest.fixture
def app() -> Iterator[DBQueue]:
    with DBQueue("shop", broker="sqlite://", set_as_current=False) as app:
        yield app


@pytest.fixture
def real_app(database_url: str) -> Iterator[DBQueue]:
    with DBQueue("shop", broker=database_url, set_as_current=False) as app:
        yield app


# -- drain


def test_drain_runs_what_is_due_and_what_that_enqueues(real_app: DBQueue) -> None:
    packed: list[int] = []

    @real_app.task(name="pack")
    def pack(order: int) -> int:
        packed.append(order)
        return order

    @real_app.task(name="order")
    def order(number: int) -> None:
        pack.delay(number)
        pack.apply_async((number + 1,), queue="other")

    result = order.delay(1)
    pack.apply_async((9,), countdown=3600)
    drained = testing.drain(real_app)
    assert (packed, drained.counts) == ([1, 2], {"SUCCESS": 3})
    assert [run.result for run in drained.of(pack)] == [1, 2]
    assert result.get(timeout=0) is None
    assert [job.args for job in testing.assert_enqueued(real_app, task=pack, count=1)] == [[9]]
    assert len(testing.drain(real_app)) == 0


def test_drain_runs_what_follows(app: DBQueue) -> None:
    add = app.task(name="add")(lambda x, y: x + y)
    result = (add.s(1, 1) | add.s(2)).delay()
    assert testing.drain(app).counts == {"SUCCESS": 2}
    assert result.get(timeout=0) == 4


def test_drain_by_queues_and_pauses(app: DBQueue) -> None:
    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    for queue in ("reports.a", "reports.b", "mail"):
        add.apply_async((1, 2), queue=queue)
    queues.pause(app.database.store, ["reports.b"])
    assert [run.queue for run in testing.drain(app, queues="reports.*")] == ["reports.a"]
    assert [run.queue for run in testing.drain(app, queues=["mail", "absent"])] == ["mail"]
    queues.resume(app.database.store, ["reports.b"])
    assert [run.queue for run in testing.drain(app)] == ["reports.b"]


def test_drain_raises_what_a_task_raises_if_asked(app: DBQueue) -> None:
    @app.task(name="fail")
    def fail() -> None:
        raise LookupError("nothing there")

    result = fail.delay()
    with pytest.raises(LookupError, match="nothing there"):
        testing.drain(app, propagate=True)
    assert result.state == "FAILURE"
    fail.delay()
    (run,) = testing.drain(app)
    assert (run.state, repr(run.result)) == ("FAILURE", "LookupError('nothing there')")


def test_drain_ends_where_a_job_is_given_back_and_where_tasks_never_end(
    app: DBQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.task(name="back")
    def back() -> None:
        raise Reject("not now", requeue=True)

    back.delay()
    assert testing.drain(app).counts == {"PENDING": 1}
    testing.assert_enqueued(app, task="back", count=1)
    changes.purge(app.database.store)

    @app.task(name="again")
    def again() -> None:
        again.delay()

    monkeypatch.setattr(testing, "MAX_JOBS", 5)
    again.delay()
    with pytest.raises(RuntimeError, match="enqueue itself"):
        testing.drain(app)


def test_adrain_runs_asynchronous_tasks(app: DBQueue) -> None:
    @app.task(name="double")
    async def double(x: int) -> int:
        await asyncio.sleep(0)
        return 2 * x

    async def scenario() -> Any:
        result = await double.adelay(4)
        await testing.adrain(app)
        return await result

    assert asyncio.run(scenario()) == 8


# -- the clock


def test_the_clock_moves_countdowns_retries_and_expiries(real_app: DBQueue) -> None:
    app = real_app

    @app.task(name="flaky", bind=True, default_retry_delay=60)
    def flaky(self: Any) -> int:
        if self.request.retries < 2:
            raise self.retry()
        return int(self.request.retries)

    @app.task(name="late")
    def late() -> None: ...

    with testing.clock(app) as clock:
        clock.advance(days=1)
        result = flaky.apply_async(countdown=600)
        expiring = late.apply_async(countdown=1200, expires=900)
        assert testing.drain(app).counts == {}
        clock.advance(timedelta(minutes=10))
        assert testing.drain(app).counts == {"RETRY": 1}
        assert result.state == "RETRY"
        clock.advance(seconds=59)
        assert len(testing.drain(app)) == 0
        clock.advance(seconds=2)
        assert testing.drain(app).counts == {"RETRY": 1}
        clock.move_to(clock.now() + timedelta(minutes=20))
        assert testing.drain(app).counts == {"SUCCESS": 1, "REVOKED": 1}
        assert (result.get(timeout=0), expiring.state) == (2, "REVOKED")
        with pytest.raises(ValueError, match="ahead only"):
            clock.advance(seconds=-1)
    assert app.database.test_clock is None


def test_a_time_of_its_own_goes_before_that_of_the_clock(app: DBQueue) -> None:
    app.task(name="later")(lambda: None).apply_async(countdown=3600)
    with testing.clock(app):
        assert len(testing.drain(app)) == 0
        assert len(testing.drain(app, now=datetime.now(UTC) + timedelta(hours=2))) == 1


def test_after_a_clock_within_another_that_one_goes_on(app: DBQueue) -> None:
    with testing.clock(app) as outer:
        with testing.clock(app):
            assert app.database.test_clock is not outer
        assert app.database.test_clock is outer


def test_a_retry_at_a_time_has_no_pause() -> None:
    with DBQueue("shop", broker="sqlite://", set_as_current=False) as app:

        @app.task(name="again", bind=True)
        def again(self: Any) -> None:
            raise self.retry(eta=datetime(2100, 1, 1, tzinfo=UTC))

        performed = testing.perform_job(again)
    assert (performed.state, performed.retry_in) == ("RETRY", None)


def test_only_a_failure_is_raised_if_asked(app: DBQueue) -> None:
    @app.task(name="again", bind=True)
    def again(self: Any) -> None:
        raise self.retry(countdown=3600)

    again.delay()
    again.apply_async(expires=-1)
    assert testing.drain(app, propagate=True).counts == {"RETRY": 1, "REVOKED": 1}


def test_workers_beside_a_drain_do_not_take_it_for_dead(app: DBQueue) -> None:
    """It sends no heartbeats. When it has ended, nobody need look after it."""
    leases: list[Any] = []
    workers = "SELECT lease_seconds FROM dbqueue_workers WHERE closed_at IS NULL"

    def look() -> list[Any]:
        with app.database.store.engine.connect() as connection:
            return list(connection.execute(sa.text(workers)).scalars())

    app.task(name="look")(lambda: leases.extend(look())).delay()
    testing.drain(app)
    assert (leases, look()) == ([86_400.0], [])


def test_drain_by_a_time_of_its_own(app: DBQueue) -> None:
    @app.task(name="later")
    def later() -> None: ...

    later.apply_async(eta=datetime(2100, 1, 1, tzinfo=UTC))
    assert len(testing.drain(app, now=datetime(2099, 12, 31, tzinfo=UTC))) == 0
    assert len(testing.drain(app, now=datetime(2100, 1, 1, tzinfo=UTC))) == 1


def test_a_time_without_a_zone_is_in_the_applications(app: DBQueue) -> None:
    app.conf.timezone = "Asia/Tokyo"
    due = datetime(2100, 1, 1, tzinfo=UTC)
    nine = datetime.fromisoformat("2100-01-01T09:00")
    app.task(name="later")(lambda: None).apply_async(eta=due)
    assert len(testing.drain(app, now=nine - timedelta(minutes=1))) == 0
    assert len(testing.drain(app, now=nine)) == 1


def test_a_clock_is_moved_to_a_time_with_a_zone(app: DBQueue) -> None:
    with testing.clock(app) as clock, pytest.raises(TypeError, match="needs a time zone"):
        clock.move_to(datetime.fromisoformat("2100-01-01"))


# -- looking


def test_assertions_about_what_is_enqueued(app: DBQueue) -> None:
    @app.task(name="mail")
    def mail(to: str, *, urgent: bool = False) -> None: ...

    with pytest.raises(AssertionError, match="none waits at all"):
        testing.assert_enqueued(app, task=mail)
    mail.apply_async(("a",), {"urgent": True}, queue="mail", priority=3)
    mail.delay("b")
    (job,) = testing.assert_enqueued(app, task=mail, args=["a"], kwargs={"urgent": True}, queue="mail", count=1)
    assert (job.priority, job.state, job.eta) == (3, "PENDING", None)
    assert [job.args for job in testing.all_enqueued(app, task="mail")] == [["a"], ["b"]]
    testing.assert_enqueued(app, queue="m*", args=("a",))
    testing.refute_enqueued(app, task=mail, args=["c"])
    with pytest.raises(AssertionError, match=r"2 jobs wait that are task='mail', not 1"):
        testing.assert_enqueued(app, task=mail, count=1)
    with pytest.raises(AssertionError, match="args=\\['b'\\]"):
        testing.refute_enqueued(app, task=mail)


def test_what_is_enqueued_by_another_serializer(real_app: DBQueue) -> None:
    real_app.conf.accept_content = ["json", "pickle"]
    pack = real_app.task(name="pack", serializer="pickle")(lambda *_, **__: None)
    pack.delay(1, {2, 3}, when=4)
    (job,) = testing.assert_enqueued(real_app, task=pack, args=[1, {2, 3}], kwargs={"when": 4})
    assert (job.args, job.kwargs) == ([1, {2, 3}], {"when": 4})
    testing.refute_enqueued(real_app, args=[], kwargs={})


def test_perform_job_needs_no_database() -> None:
    app = DBQueue("shop", broker="postgresql://nobody@127.0.0.1:9/nothing", set_as_current=False)

    @app.task(name="echo")
    def echo(value: Any) -> Any:
        return value

    @app.task(name="retry", bind=True)
    def retry(self: Any) -> None:
        self.retry(countdown=7)

    @app.task(name="fail")
    def fail() -> None:
        raise KeyError("k")

    performed = testing.perform_job(echo, (1, 2))
    assert (performed.state, performed.result) == ("SUCCESS", [1, 2])
    again = testing.perform_job(retry)
    assert (again.state, again.retry_in) == ("RETRY", 7.0)
    failed = testing.perform_job(fail)
    assert (failed.state, repr(failed.result)) == ("FAILURE", "KeyError('k')")
    with pytest.raises(EncodeError):
        testing.perform_job(echo, object())
    with pytest.raises(TypeError):
        testing.perform_job(fail, 1)


# -- eager mode


def test_who_leaves_a_coroutine_that_it_has_called_amid_another_ends_that() -> None:
    """A time limit of the caller's, or Ctrl-C: it does not wait for what it has left."""
    app = DBQueue("shop", broker="postgresql://nobody@127.0.0.1:9/nothing", set_as_current=False)
    began, ended = threading.Event(), threading.Event()

    @app.task(name="sleep")
    async def sleep() -> None:
        began.set()
        try:
            await asyncio.sleep(600)
        finally:
            ended.set()

    class Left(BaseException):
        """As SystemExit, or a soft time limit, in the caller's thread."""

    left: list[bool] = []

    def leave(number: int, frame: Any) -> None:
        if not left:
            left.append(True)
            raise Left

    async def endpoint() -> Any:
        return sleep.apply().result

    def interrupt() -> None:
        began.wait(60)
        while not left:  # a thread that is about to wait notices none
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            ended.wait(0.01)

    before = signal.signal(signal.SIGUSR1, leave)
    other = threading.Thread(target=interrupt)
    other.start()
    try:
        assert isinstance(asyncio.run(endpoint()), Left)
    finally:
        left.append(True)
        other.join()
        signal.signal(signal.SIGUSR1, before)
    assert ended.is_set()


@pytest.mark.parametrize("call", ["delay", "apply", "perform_job"])
def test_a_coroutine_is_run_by_a_function_that_is_called_amid_another(call: str) -> None:
    """As `delay` is in an `async def` of a web framework, which a test runs in eager mode."""
    app = DBQueue("shop", broker="postgresql://nobody@127.0.0.1:9/nothing", set_as_current=False)
    app.conf.task_always_eager = True

    @app.task(name="echo")
    async def echo(value: int) -> int:
        await asyncio.sleep(0)
        return value

    async def endpoint() -> Any:
        run: Any = {"delay": echo.delay, "apply": lambda value: echo.apply([value])}.get(call)
        return testing.perform_job(echo, 7) if run is None else run(7)

    ended = asyncio.run(endpoint())
    assert (ended.state, ended.result) == ("SUCCESS", 7)


def test_stored_eager_results(real_app: DBQueue) -> None:
    app = real_app
    app.conf.update(task_always_eager=True, task_store_eager_result=True)

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="fail")
    def fail() -> None:
        raise LookupError("gone")

    @app.task(name="ignored", ignore_result=True)
    def ignored() -> None: ...

    stored = app.AsyncResult(add.delay(2, 3).id)
    assert (stored.state, stored.get(timeout=0), stored.name, stored.args) == ("SUCCESS", 5, "add", [2, 3])
    failed = app.AsyncResult(fail.delay().id)
    assert (failed.state, repr(failed.result)) == ("FAILURE", "LookupError('gone')")
    assert failed.traceback is not None
    assert not app.AsyncResult(ignored.delay().id).exists()
    add.apply_async((1, 1), task_id="same")
    add.apply_async((4, 4), task_id="same")
    assert app.AsyncResult("same").get(timeout=0) == 8
    assert len(testing.drain(app)) == 0


def test_eager_results_that_cannot_be_stored_fail_as_in_a_worker(app: DBQueue) -> None:
    @app.task(name="opaque")
    def opaque() -> object:
        return object()

    assert isinstance(opaque.apply().get(), object)
    app.conf.task_store_eager_result = True
    result = opaque.apply()
    assert result.state == "FAILURE"
    with pytest.raises(EncodeError):
        result.get()


def test_many_calls_are_eager_too(app: DBQueue) -> None:
    app.conf.task_always_eager = True

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    assert [result.get() for result in add.enqueue_many([(1, 2), {"x": 3, "y": 4}])] == [3, 7]

    async def scenario() -> list[int]:
        results = [*await add.aenqueue_many([(1, 2)]), await add.adelay(5, 6)]
        return [await result for result in results]

    assert asyncio.run(scenario()) == [3, 11]


def test_eager_calls_send_no_signal_of_a_publication(app: DBQueue) -> None:
    from dbqueue.signals import before_task_publish

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    published: list[Any] = []

    def note(**kwargs: Any) -> None:
        published.append(kwargs)

    before_task_publish.connect(note)
    try:
        add.apply((1, 2))
        assert published == []
        add.delay(1, 2)
        assert len(published) == 1
    finally:
        before_task_publish.disconnect(note)


# -- the database in memory


def test_a_worker_for_tests_of_an_application_that_keeps_no_results(app: DBQueue) -> None:
    """What it is tried with before is asked for its result all the same."""
    app.conf.task_ignore_result = True
    with start_worker(app, ping_task_timeout=60, shutdown_timeout=60) as worker:
        assert worker.app is app


def test_threads_share_a_database_in_memory(app: DBQueue) -> None:
    """Without the store's lock a BEGIN meets another thread's, or an enqueue is lost with its roll-back."""

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    errors: list[BaseException] = []
    start = threading.Barrier(5)

    def enqueue() -> None:
        start.wait()
        try:
            for number in range(50):
                add.apply_async((number, 1), task_id=f"{threading.get_ident()}-{number}")
                add.enqueue_many([(number, 2), (number, 3)])
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    def fail_and_look() -> None:
        from dbqueue.store.queries import queue_counts

        start.wait()
        for _ in range(50):
            with pytest.raises(ZeroDivisionError), app.database.store.connect():
                raise ZeroDivisionError
            queue_counts(app.database.store)

    threads = [threading.Thread(target=enqueue) for _ in range(4)]
    for thread in threads:
        thread.start()
    fail_and_look()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(testing.all_enqueued(app)) == 4 * 50 * 3
    assert testing.drain(app).counts == {"SUCCESS": 600}


def test_a_pool_process_refuses_a_database_in_memory(app: DBQueue) -> None:
    app.database.in_child = True
    with pytest.raises(ImproperlyConfigured, match="memory of another process"):
        app.database.store  # noqa: B018
    app.database.in_child = False


def test_a_worker_may_be_made_on_any_database(app: DBQueue) -> None:
    assert isinstance(app.Worker(pool="solo"), Worker)
