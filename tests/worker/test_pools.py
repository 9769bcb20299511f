"""Each pool on each database: one worker for all of a pool's tests, which leave it as they found it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from dbqueue import DBQueue
from dbqueue.errors import (
    DecodeError,
    EncodeError,
    InvalidTaskError,
    MaxRetriesExceededError,
    NotRegistered,
    OperationalError,
    PayloadTooLarge,
    Reject,
    RemoteError,
    TaskRevokedError,
    WorkerLostError,
)
from tests.servers import PostgresServer
from tests.waiting import wait_until
from tests.worker.sample import OutOfStock, Priorities, Queues, make_app
from tests.workers import WorkerProcess, starting

POOLS = ("prefork", "threads", "asyncio", "solo")
TIMEOUT = 60.0


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def module_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('pools') / 'jobs.db'}"
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        with server.database(request.getfixturevalue("postgres_template")) as url:
            yield url


@pytest.fixture(scope="module", params=POOLS)
def pool(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def app(module_url: str) -> Iterator[DBQueue]:
    with make_app(module_url) as app:
        yield app


@pytest.fixture(scope="module")
def worker(module_url: str, pool: str, app: DBQueue) -> Iterator[WorkerProcess]:
    app.database.store.ensure_schema()
    with starting() as start:
        worker = start(module_url, pool=pool, concurrency=2, settings={"worker_poll_interval": 0.3})
        yield worker
        assert worker.stop() == 0, worker.log[-3000:]
        assert worker.family() == []


@pytest.fixture
def send(app: DBQueue, worker: WorkerProcess) -> Callable[..., Any]:
    def send(name: str, *args: Any, **options: Any) -> Any:
        return app.tasks[f"sample.{name}"].apply_async(args, **options)

    return send


@pytest.fixture
def insert(app: DBQueue, worker: WorkerProcess) -> Callable[..., Any]:
    """A row by plain SQL."""

    def insert(**columns: Any) -> Any:
        names, values = ", ".join(columns), ", ".join(f":{name}" for name in columns)
        with app.database.store.connect() as connection:
            connection.execute(sa.text(f"INSERT INTO dbqueue_jobs ({names}) VALUES ({values})"), columns)
        return app.AsyncResult(columns["id"])

    return insert


def still_works(send: Callable[..., Any]) -> None:
    assert send("add", 20, 22).get(timeout=TIMEOUT) == 42


class TestResults:
    @pytest.mark.parametrize("name", ["add", "aadd"])
    def test_a_result_comes_back(self, send: Callable[..., Any], worker: WorkerProcess, name: str) -> None:
        result = send(name, 1, 2)
        assert result.get(timeout=TIMEOUT) == 3
        assert (result.status, result.successful(), result.ready(), result.failed()) == ("SUCCESS", True, True, False)
        assert result.worker is not None
        assert abs(result.date_done - datetime.now(UTC)) < timedelta(minutes=5)

    def test_many_at_once(self, send: Callable[..., Any]) -> None:
        results = [send("aadd" if n % 2 else "add", n, n) for n in range(60)]
        assert [result.get(timeout=TIMEOUT) for result in results] == [2 * n for n in range(60)]

    def test_types_survive(self, send: Callable[..., Any]) -> None:
        value = {"at": datetime(2024, 1, 2, tzinfo=UTC), "bytes": b"\0\xff", "text": "🦊ü", "n": 1e16, "none": None}
        assert send("echo", value).get(timeout=TIMEOUT) == value

    @pytest.mark.parametrize("value", [None, "", 0, False, [], {}])
    def test_an_empty_value_is_a_value(self, send: Callable[..., Any], value: Any) -> None:
        assert send("echo", value).get(timeout=TIMEOUT) == value

    def test_the_request(self, send: Callable[..., Any]) -> None:
        result = send("request_of", priority=3, headers={"trace": "t"}, expires=600)
        request = result.get(timeout=TIMEOUT)
        assert request["id"] == result.id
        assert (request["task"], request["args"], request["kwargs"], request["retries"]) == (
            "sample.request_of",
            [],
            {},
            0,
        )
        assert (request["queue"], request["priority"], request["headers"]) == ("celery", 3, {"trace": "t"})
        assert request["called_directly"] is False
        assert datetime.fromisoformat(request["expires"]) > datetime.now(UTC)

    def test_a_job_enqueues_another(self, app: DBQueue, send: Callable[..., Any], path: Callable[[str], str]) -> None:
        result = send("spawn", path("child"))
        child = app.AsyncResult(result.get(timeout=TIMEOUT))
        assert child.get(timeout=TIMEOUT) == result.id

    def test_get_inside_a_task_is_refused(self, send: Callable[..., Any]) -> None:
        with pytest.raises(RuntimeError, match="within a task"):
            send("get_inside").get(timeout=TIMEOUT)

    def test_huge_output_is_no_obstacle(self, send: Callable[..., Any]) -> None:
        assert send("shout", 3_000_000).get(timeout=TIMEOUT) == 3_000_000


class TestIgnoredResults:
    def stored(self, app: DBQueue, job_id: str) -> Any:
        record = wait_until(lambda: app.database.store.finished([job_id]), timeout=TIMEOUT)[job_id]
        assert record.status == "SUCCESS"
        return record.result

    def test_by_the_task(self, app: DBQueue, send: Callable[..., Any], path: Callable[[str], str]) -> None:
        result = send("ignored", path("ran"))
        assert result.get() is None
        assert self.stored(app, result.id) is None
        assert Path(path("ran")).read_text() == "run\n"

    def test_by_the_call(self, app: DBQueue, send: Callable[..., Any]) -> None:
        result = send("add", 1, 2, ignore_result=True)
        assert result.get() is None
        assert self.stored(app, result.id) is None

    def test_a_call_overrides_the_task(
        self, app: DBQueue, send: Callable[..., Any], path: Callable[[str], str]
    ) -> None:
        assert send("ignored", path("ran"), ignore_result=False).get(timeout=TIMEOUT) == "value"


FAILURES = {
    "value": (ValueError, ("bad ü", 3)),
    "own": (OutOfStock, ("sku-1", 2)),
    "exit": (RemoteError, None),
    "interrupt": (RemoteError, None),
    "generator": (RemoteError, None),
    "key": (KeyError, ("absent",)),
    "system": (FileNotFoundError, (2, "No such file")),
    "cancelled": (RemoteError, None),
    "timeout": (TimeoutError, ("slow",)),
}


class TestFailures:
    @pytest.mark.parametrize("name", ["fail", "afail"])
    @pytest.mark.parametrize("kind", FAILURES)
    def test_an_exception_is_raised_again(self, send: Callable[..., Any], name: str, kind: str) -> None:
        expected, args = FAILURES[kind]
        result = send(name, kind)
        with pytest.raises(expected) as caught:
            result.get(timeout=TIMEOUT)
        if args is not None:
            assert type(caught.value) is expected
            assert caught.value.args == args
        assert (result.status, result.failed()) == ("FAILURE", True)
        assert "fail" in result.traceback
        still_works(send)

    @pytest.mark.parametrize("name", ["fail", "afail"])
    @pytest.mark.parametrize("kind", ["unprintable", "stubborn", "no traceback", "stop", "unicode", "nul", "group"])
    def test_a_hostile_exception_is_a_failure_all_the_same(
        self, send: Callable[..., Any], worker: WorkerProcess, name: str, kind: str
    ) -> None:
        result = send(name, kind)
        error = result.get(timeout=TIMEOUT, propagate=False)
        assert isinstance(error, Exception)
        assert not isinstance(error, WorkerLostError)
        assert result.status == "FAILURE"
        still_works(send)

    def test_a_class_that_is_not_at_hand_is_a_remote_error(self, send: Callable[..., Any]) -> None:
        result = send("fail_locally")
        with pytest.raises(RemoteError, match="Local: only here") as caught:
            result.get(timeout=TIMEOUT)
        assert "raise Local" in (caught.value.traceback or "")

    def test_recursion(self, send: Callable[..., Any]) -> None:
        with pytest.raises(RecursionError):
            send("recurse").get(timeout=TIMEOUT)
        still_works(send)

    def test_a_thousand_causes(self, send: Callable[..., Any]) -> None:
        with pytest.raises(ValueError, match="999"):
            send("fail_with_causes", 1000).get(timeout=TIMEOUT)

    def test_arguments_that_do_not_fit_when_the_check_was_passed_by(self, app: DBQueue, worker: WorkerProcess) -> None:
        result = app.AsyncResult(_send_unchecked(app, "sample.add", [1]))
        with pytest.raises(TypeError, match="missing"):
            result.get(timeout=TIMEOUT)

    def test_ignore_and_reject(self, send: Callable[..., Any]) -> None:
        assert send("ask", "ignore").get(timeout=TIMEOUT) is None
        with pytest.raises(Reject):
            send("ask", "reject").get(timeout=TIMEOUT)

    @pytest.mark.parametrize(
        "kind", ["nan", "infinity", "nul", "surrogate", "object", "unprintable", "large", "cyclic", "lambda"]
    )
    def test_a_result_that_cannot_be_stored(self, send: Callable[..., Any], kind: str) -> None:
        result = send("unstorable", kind)
        with pytest.raises(PayloadTooLarge if kind == "large" else EncodeError, match=r"sample\.unstorable"):
            result.get(timeout=TIMEOUT)
        still_works(send)

    def test_a_result_that_is_nested_too_deeply(self, send: Callable[..., Any]) -> None:
        assert send("nested", 399).get(timeout=TIMEOUT)
        with pytest.raises(EncodeError, match="nested too deeply"):
            send("nested", 9_000).get(timeout=TIMEOUT)
        still_works(send)


def _send_unchecked(app: DBQueue, name: str, args: list[Any]) -> str:
    from dbqueue.calls import new_job

    job = new_job(app.conf, name, None, args, {}, {})
    app.database.enqueue([job])
    return job.id


class TestBadRows:
    def test_an_unregistered_task(self, app: DBQueue, send: Callable[..., Any], worker: WorkerProcess) -> None:
        result = app.send_task("sample.nowhere")
        with pytest.raises(NotRegistered, match=r"sample\.nowhere"):
            result.get(timeout=TIMEOUT)
        assert "unregistered task 'sample.nowhere'" in worker.log
        still_works(send)

    @pytest.mark.parametrize(
        ("columns", "error"),
        [
            ({"args": '{"a": 1}'}, InvalidTaskError),
            ({"args": "3"}, InvalidTaskError),
            ({"kwargs": "[1]"}, InvalidTaskError),
            ({"kwargs": "null"}, InvalidTaskError),
            ({"args": "[1, 2]", "options": "[1]"}, Exception),
            ({"args": "[1, 2]", "options": '"text"'}, Exception),
            ({"args": "[1, 2]", "options": "3"}, Exception),
            ({"args": "[NaN]"}, DecodeError),
            ({"args": "[1" + "," * 3}, DecodeError),
            ({"args": "[" * 100_000 + "]" * 100_000}, Exception),
            ({"args": "[1, 2]", "content_type": "application/x-unknown"}, Exception),
            ({"args": "[1, 2]", "content_type": "application/x-python-serialize", "content": b"\x80"}, Exception),
        ],
        ids=lambda value: str(value)[:40] if isinstance(value, dict) else value.__name__,
    )
    def test_a_row_that_is_no_call(
        self, send: Callable[..., Any], insert: Callable[..., Any], columns: dict[str, Any], error: type[Exception]
    ) -> None:
        import uuid

        try:
            result = insert(id=uuid.uuid4().hex, task="sample.add", **columns)
        except (OperationalError, EncodeError):
            return  # PostgreSQL refuses what is no JSON
        with pytest.raises(error) as caught:
            result.get(timeout=TIMEOUT)
        assert not isinstance(caught.value, WorkerLostError)
        still_works(send)

    @pytest.mark.parametrize("options", ["null", "[]", '{"ignore_result": null, "unknown": 1}'])
    def test_options_that_say_nothing(self, send: Callable[..., Any], insert: Callable[..., Any], options: str) -> None:
        import uuid

        result = insert(id=uuid.uuid4().hex, task="sample.add", args="[1, 2]", options=options)
        value = result.get(timeout=TIMEOUT, propagate=False)
        assert not isinstance(value, WorkerLostError)
        still_works(send)

    def test_times_at_the_ends_of_time(
        self, app: DBQueue, send: Callable[..., Any], insert: Callable[..., Any]
    ) -> None:
        """`infinity` means never to PostgreSQL, and Python has no such date."""
        if app.database.store.dialect != "postgresql":
            pytest.skip("SQLite has no infinity")
        import uuid

        result = insert(id=uuid.uuid4().hex, task="sample.add", args="[1, 2]", expires_at="infinity")
        assert result.get(timeout=TIMEOUT) == 3
        result = insert(id=uuid.uuid4().hex, task="sample.add", args="[1, 2]", eta="-infinity")
        assert result.get(timeout=TIMEOUT) == 3
        still_works(send)

    def test_a_plain_insert_runs(self, app: DBQueue, worker: WorkerProcess) -> None:
        with app.database.store.connect() as connection:
            job_id = connection.execute(
                sa.text("INSERT INTO dbqueue_jobs (task, args) VALUES ('sample.add', '[1, 2]') RETURNING id")
            ).scalar_one()
        assert app.AsyncResult(job_id).get(timeout=TIMEOUT) == 3


class TestRetries:
    def test_a_retry_is_the_same_job(self, send: Callable[..., Any], path: Callable[[str], str]) -> None:
        result = send("retry_until", path("runs"), 2)
        assert result.get(timeout=TIMEOUT) == 2
        assert Path(path("runs")).read_text().split() == ["0", "1", "2"]
        assert result.retries == 2

    def test_it_shows_as_retry_while_it_waits(self, send: Callable[..., Any], path: Callable[[str], str]) -> None:
        result = send("retry_until", path("runs"), 1, 3600)
        wait_until(lambda: result.state == "RETRY", timeout=TIMEOUT)
        assert isinstance(result.result, OutOfStock)
        assert (result.ready(), result.retries) == (False, 1)

    def test_max_retries_is_the_end(self, send: Callable[..., Any], path: Callable[[str], str]) -> None:
        with pytest.raises(OutOfStock):
            send("retry_until", path("runs"), 99).get(timeout=TIMEOUT)
        assert Path(path("runs")).read_text().split() == ["0", "1", "2", "3"]

    @pytest.mark.parametrize(("name", "runs"), [("flaky", 3), ("backing_off", 4)])
    def test_autoretry(self, send: Callable[..., Any], path: Callable[[str], str], name: str, runs: int) -> None:
        result = send(name, path("runs"))
        with pytest.raises(OutOfStock):
            result.get(timeout=TIMEOUT)
        assert len(Path(path("runs")).read_text().split()) == runs
        assert result.retries == runs - 1

    @pytest.mark.parametrize(
        "kind",
        [
            "queue object",
            "priority",
            "priority text",
            "countdown text",
            "countdown infinite",
            "countdown nan",
            "countdown huge",
            "args",
            "queue nul",
            "queue surrogate",
        ],
    )
    def test_a_retry_that_cannot_be_is_a_failure(self, app: DBQueue, send: Callable[..., Any], kind: str) -> None:
        result = send("retry_oddly", kind)
        error = result.get(timeout=TIMEOUT, propagate=False)
        assert result.status == "FAILURE"
        assert isinstance(error, Exception)
        assert not isinstance(error, (WorkerLostError, MaxRetriesExceededError))
        still_works(send)

    def test_members_of_enumerations_are_what_they_stand_for(self, app: DBQueue, send: Callable[..., Any]) -> None:
        """As a call's options they go to the database, as a retry's through the pool's pipe before."""
        sent = app.tasks["sample.add"].apply_async((1, 2), queue=Queues.MAIL, priority=Priorities.HIGH)
        assert sent.queue == "mail"
        retried = send("retry_oddly", "members")
        wait_until(lambda: retried.state == "RETRY", timeout=TIMEOUT)
        with app.database.store.connect() as connection:
            query = sa.text("SELECT queue, priority FROM dbqueue_jobs WHERE id IN (:sent, :retried)")
            rows = connection.execute(query, {"sent": sent.id, "retried": retried.id}).fetchall()
        assert [tuple(each) for each in rows] == [("mail", 7)] * 2
        still_works(send)


class TestTimes:
    def test_not_before_its_eta(self, app: DBQueue, send: Callable[..., Any]) -> None:
        result = send("add", 1, 2, countdown=0.7)
        assert result.get(timeout=TIMEOUT) == 3
        record = app.database.record(result.id)
        assert record is not None
        assert record.started_at is not None
        assert record.started_at - record.created_at >= timedelta(seconds=0.69)

    def test_expired_jobs_are_revoked(self, send: Callable[..., Any], path: Callable[[str], str]) -> None:
        result = send("record", path("ran"), 1, expires=datetime(2001, 1, 1, tzinfo=UTC))
        with pytest.raises(TaskRevokedError):
            result.get(timeout=TIMEOUT)
        assert result.status == "REVOKED"
        assert not Path(path("ran")).exists()

    def test_a_job_that_is_in_time_runs(self, send: Callable[..., Any]) -> None:
        assert send("add", 1, 2, expires=600).get(timeout=TIMEOUT) == 3


@pytest.mark.parametrize("how", ["exit", "segfault", "abort", "cut off", "close"])
def test_a_task_that_ends_its_process_is_a_failure_in_the_end(
    send: Callable[..., Any], worker: WorkerProcess, pool: str, path: Callable[[str], str], how: str
) -> None:
    if pool == "solo":
        pytest.skip("solo has no process to lose but the worker's own")
    result = send("die", how, path("runs"))
    neighbours = [send("add", n, n) for n in range(5)] if pool == "prefork" else []
    with pytest.raises(WorkerLostError):
        result.get(timeout=TIMEOUT)
    assert [each.get(timeout=TIMEOUT) for each in neighbours] == [2 * n for n in range(len(neighbours))]
    still_works(send)
    assert len(Path(path("runs")).read_text().split()) == 3  # task_max_losses=2
    once = send("die_once", how, path("once"))
    with pytest.raises(WorkerLostError):
        once.get(timeout=TIMEOUT)
    assert len(Path(path("once")).read_text().split()) == 1


@pytest.mark.parametrize("name", ["come_back_twice", "acome_back_twice"])
def test_a_task_that_forks_is_answered_once(send: Callable[..., Any], worker: WorkerProcess, name: str) -> None:
    """The copy of the pool process ends: it neither answers, nor waits for jobs in its original's place."""
    results = [send(name, how) for how in ("return", "raise")]
    assert [each.get(timeout=TIMEOUT) for each in results] == [0, 0]
    for each in results:
        wait_until(lambda each=each: f"[{each.id}] has forked" in worker.log, what="the copy's word")  # type: ignore[misc]
    still_works(send)


def test_a_poison_jobs_neighbours_in_its_process_succeed(
    send: Callable[..., Any], pool: str, path: Callable[[str], str]
) -> None:
    """Two slots of one process: what runs beside the poison job is lost with it, but not each time."""
    if pool not in ("threads", "asyncio"):
        pytest.skip("one job at a time")
    neighbour = send("hold", path("started"), path("release"))
    wait_until(Path(path("started")).exists)
    poison = send("die", "exit", path("runs"))
    poison.get(timeout=TIMEOUT, propagate=False)
    Path(path("release")).touch()
    assert neighbour.get(timeout=TIMEOUT) == "released"


def test_a_task_that_dies_once_is_run_again(send: Callable[..., Any], pool: str, path: Callable[[str], str]) -> None:
    if pool == "solo":
        pytest.skip("solo has no process to lose but the worker's own")
    assert send("die_first", path("runs")).get(timeout=TIMEOUT) == "second"
