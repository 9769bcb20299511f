"""Custom states and progress: from a running task to every process that asks, on both databases and each pool."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dbqueue import DBQueue
from tests.waiting import wait_until
from tests.worker.reporting import make_app
from tests.workers import WorkerProcess, starting

TIMEOUT = 60.0


@pytest.fixture
def app(database_url: str) -> Iterator[DBQueue]:
    with make_app(database_url) as app:
        app.database.store.ensure_schema()
        yield app


@pytest.fixture
def start(app: DBQueue, database_url: str) -> Iterator[Callable[..., WorkerProcess]]:
    with starting() as start:
        yield lambda **options: start(database_url, module="tests.worker.reporting", **options)


def call(app: DBQueue, name: str, *args: Any) -> Any:
    return app.tasks[f"reporting.{name}"].delay(*args)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return tmp_path / "release"


@pytest.mark.parametrize("pool", ["prefork", "threads", "asyncio", "solo"])
def test_a_custom_state_is_seen_until_the_end(app: DBQueue, start: Any, release: Path, pool: str) -> None:
    worker = start(pool=pool)
    result = call(app, "show", "COUNTING", {"done": 3}, str(release))
    wait_until(lambda: result.state == "COUNTING", what="the state")
    assert result.info == {"done": 3}
    assert not result.ready()
    assert app.AsyncResult(result.id).state == "COUNTING"
    release.touch()
    assert result.get(timeout=TIMEOUT) == "shown"
    assert result.state == "SUCCESS"
    record = app.database.record(result.id)
    assert record is not None
    assert (record.state, record.meta) == (None, None)
    assert worker.stop() == 0


def test_only_the_last_of_many_is_kept_and_the_worker_is_not_flooded(app: DBQueue, start: Any, release: Path) -> None:
    start()
    result = call(app, "flood", 20_000, str(release))
    wait_until(lambda: result.info == {"number": 19_999}, what="the last report")
    release.touch()
    assert result.get(timeout=TIMEOUT) == "flooded"


def test_another_thread_reports_by_the_task_id(app: DBQueue, start: Any, release: Path) -> None:
    start()
    result = call(app, "show_from_thread", str(release))
    wait_until(lambda: result.state == "THREADED", what="the state")
    release.touch()
    result.get(timeout=TIMEOUT)


def test_a_job_that_does_not_run_is_left_alone(app: DBQueue) -> None:
    result = call(app, "show", "X", None, "unused")
    app.tasks["reporting.show"].update_state(task_id=result.id, state="EARLY", meta={})
    assert result.state == "PENDING"
    app.tasks["reporting.show"].update_state(task_id="unknown", state="EARLY")


def test_a_retry_clears_it(app: DBQueue, start: Any, release: Path) -> None:
    start()
    result = call(app, "show_and_retry", str(release))
    wait_until(lambda: result.state == "RETRY", what="the retry")
    record = app.database.record(result.id)
    assert record is not None
    assert (record.state, record.meta) == (None, None)


def test_what_cannot_be_shown_is_refused(app: DBQueue, start: Any) -> None:
    start()
    refused = call(app, "refused").get(timeout=TIMEOUT)
    # Those of an end count where the task then raises Ignore, and are not shown before.
    assert refused["ends"] == ["STARTED", "STARTED", "STARTED"]
    assert refused[""].startswith("ValueError")
    assert refused["new\n"].startswith("ValueError")
    assert refused["meta"].startswith("EncodeError")


def test_track(app: DBQueue, start: Any, release: Path) -> None:
    start()
    result = call(app, "tracked", 4, str(release))
    wait_until(lambda: result.info == {"current": 4, "total": 4}, what="the progress")
    assert result.state == "PROGRESS"
    release.touch()
    assert result.get(timeout=TIMEOUT) == [0, 1, 2, 3]


def test_track_of_a_generator_has_no_total(app: DBQueue, start: Any, release: Path) -> None:
    start()
    result = call(app, "tracked_generator", str(release))
    wait_until(lambda: result.info == {"current": 2, "total": None}, what="the progress")
    release.touch()
    result.get(timeout=TIMEOUT)


def test_in_eager_mode_and_outside_nothing_happens(app: DBQueue, release: Path) -> None:
    release.touch()
    show, tracked = app.tasks["reporting.show"], app.tasks["reporting.tracked"]
    assert show.apply(("X", {"a": 1}, str(release))).get() == "shown"
    assert show("X", {"a": 1}, str(release)) == "shown"
    assert tracked(3, str(release)) == [0, 1, 2]
    assert show("SUCCESS", None, str(release)) == "shown"
    with pytest.raises(ValueError, match="SUCCESS is the end of a job"):
        show.update_state(task_id="another", state="SUCCESS")


def test_the_meta_is_json_in_the_row(app: DBQueue, start: Any, release: Path) -> None:
    from tests.stores import row

    start()
    result = call(app, "show", "STEP", {"naïve": [1, None]}, str(release))
    wait_until(lambda: result.state == "STEP", what="the state")
    meta = row(app.database.store, result.id)["meta"]
    assert (json.loads(meta) if isinstance(meta, str) else meta) == {"naïve": [1, None]}
    release.touch()
    result.get(timeout=TIMEOUT)
