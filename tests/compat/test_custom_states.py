"""Celery's user guide, "Tasks", section "Custom states" (`update_state`); "Calling Tasks", section "Serializers"."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any

import pytest

from dbqueue import DBQueue
from dbqueue.errors import ImproperlyConfigured
from dbqueue.jobs import Failed, Progress, Retried, Succeeded
from dbqueue.result import ResultSet
from tests.stores import TestWorker


@pytest.fixture
def app(database_url: str) -> Iterator[DBQueue]:
    with DBQueue("compat", broker=database_url, set_as_current=False) as app:
        yield app


def test_a_custom_state_and_its_meta(app: DBQueue) -> None:
    """`self.update_state(state='PROGRESS', meta={'current': i, 'total': len(filenames)})`, seen by the caller."""

    @app.task(bind=True)
    def upload_files(self: Any, filenames: list[str]) -> None:
        for number, _ in enumerate(filenames):
            if not self.request.called_directly:
                self.update_state(state="PROGRESS", meta={"current": number, "total": len(filenames)})

    upload_files(["a", "b"])
    result = upload_files.delay(["a", "b"])
    worker = TestWorker(app.database.store)
    job = worker.claim_one()
    assert (result.state, result.info) == ("STARTED", {"pid": None, "hostname": "worker@test"})
    worker.session.report([Progress(job.id, job.lease, "PROGRESS", '{"current": 1, "total": 2}')])
    assert (result.state, result.status, result.info) == ("PROGRESS", "PROGRESS", {"current": 1, "total": 2})
    assert (result.ready(), result.successful(), result.failed()) == (False, False, False)
    assert result.result == {"current": 1, "total": 2}
    worker.settle(Succeeded(job.id, job.lease, "3", 0.1))
    assert (result.state, result.info) == ("SUCCESS", 3)
    worker.close()


def test_the_error_that_a_retry_waits_after(app: DBQueue) -> None:
    """Celery's RETRY: `result` is the exception that caused it, and `traceback` where."""
    result = app.task(name="upload")(lambda: None).delay()
    worker = TestWorker(app.database.store)
    job = worker.claim_one()
    error = '{"exc_type": "ValueError", "exc_message": ["bad"], "exc_module": "builtins"}'
    worker.settle(Retried(job.id, job.lease, error, "Traceback", 60.0))
    worker.close()
    assert (result.state, repr(result.info), result.traceback) == ("RETRY", "ValueError('bad')", "Traceback")
    assert not result.ready()


def _first_message(result: Any) -> tuple[str, Any]:
    messages: list[dict[str, Any]] = []
    result.get(on_message=messages.append, propagate=False, timeout=60)
    return messages[0]["status"], messages[0]["result"]


LOOKS: dict[str, Callable[[Any], tuple[str, Any]]] = {
    "meta": lambda result: itemgetter("status", "result")(result.backend.get_task_meta(result.id)),
    "message": _first_message,
    "maybe_throw": lambda result: ("PROGRESS", result.maybe_throw()),
}


@pytest.mark.parametrize("look", LOOKS)
def test_a_state_and_its_meta_are_of_one_time(app: DBQueue, monkeypatch: pytest.MonkeyPatch, look: str) -> None:
    """The job ends just after it was looked at: its error is no meta of PROGRESS."""
    result = app.task(name="upload")(lambda: None).delay()
    worker = TestWorker(app.database.store)
    job = worker.claim_one()
    worker.session.report([Progress(job.id, job.lease, "PROGRESS", '{"current": 1}')])
    read = app.database.record

    def record(job_id: str) -> Any:
        found = read(job_id)
        worker.settle(Failed(job.id, job.lease, '{"exc_type": "ValueError", "exc_message": ["bad"]}', None, 0.0))
        return found

    monkeypatch.setattr(app.database, "record", record)
    assert LOOKS[look](result) == ("PROGRESS", {"current": 1})
    worker.close()


def test_the_serializer_of_a_call(app: DBQueue) -> None:
    """`add.apply_async((10, 10), serializer='json')`; the call's, then the task's, then `task_serializer`."""

    @app.task
    def add(x: Any, y: Any) -> Any:
        return x + y

    @app.task(serializer="msgpack")
    def packed(x: Any) -> Any:
        return x

    def content_type(result: Any) -> str | None:
        record = app.database.record(result.id)
        assert record is not None
        return record.content_type

    assert content_type(add.apply_async((10, 10), serializer="json")) is None
    assert content_type(add.apply_async((10, dt.date(2026, 1, 2)), serializer="yaml")) == "application/x-yaml"
    assert content_type(packed.delay(1)) == "application/x-msgpack"
    assert content_type(packed.apply_async((1,), serializer="json")) is None
    with pytest.raises(ImproperlyConfigured, match="no serializer 'jason'"):
        add.apply_async((1, 2), serializer="jason")


def test_compression(app: DBQueue) -> None:
    """`add.apply_async((2, 2), compression='zlib')`: taken; JSON stays text."""

    @app.task
    def add(x: Any, y: Any) -> Any:
        return x + y

    plain = app.database.record(add.apply_async((2, 2), compression="zlib").id)
    packed = app.database.record(add.apply_async((2, 2), compression="zlib", serializer="yaml").id)
    assert plain is not None
    assert packed is not None
    assert (plain.content_type, plain.args) == (None, "[2,2]")
    assert packed.content_type == "application/x-yaml; compression=zlib"


@pytest.mark.parametrize(
    ("setting", "own", "shown"), [(True, None, True), (False, None, False), (False, True, True), (True, False, False)]
)
def test_whether_a_run_shows_as_started(app: DBQueue, setting: bool, own: bool | None, shown: bool) -> None:
    """`track_started` of the task, then `task_track_started`."""
    app.conf.task_track_started = setting
    task = app.task(name="tracked", track_started=own)(lambda: None)
    result = task.delay()
    worker = TestWorker(app.database.store)
    worker.claim_one()
    assert result.state == ("STARTED" if shown else "PENDING")
    assert result.info == ({"pid": None, "hostname": "worker@test"} if shown else None)
    worker.close()


def test_states_of_a_set(app: DBQueue) -> None:
    """`ready`, `waiting`, `successful`, `failed` and `completed_count`, as its members end one by one."""
    task = app.task(name="member")(lambda: None)
    results = ResultSet([task.delay() for _ in range(3)])
    worker = TestWorker(app.database.store)

    def states() -> tuple[bool, bool, bool, bool, int]:
        return (
            results.ready(), results.waiting(), results.successful(), results.failed(), results.completed_count()
        )  # fmt: skip

    jobs = {job.id: job for job in worker.claim(3)}
    first, second, third = (jobs[result.id] for result in results)
    assert states() == (False, True, False, False, 0)
    worker.settle(Succeeded(first.id, first.lease, "1", 0.1))
    assert states() == (False, True, False, False, 1)
    worker.settle(Failed(second.id, second.lease, '{"exc_type": "ValueError"}', None, 0.1))
    assert states() == (False, True, False, True, 1)
    worker.settle(Succeeded(third.id, third.lease, "3", 0.1))
    assert states() == (True, False, False, True, 2)
    results.remove(second.id)
    assert states() == (True, False, True, False, 2)
    worker.close()
