"""Celery's page "Configuration and defaults": settings whose effect no other file shows."""

from __future__ import annotations

import traceback
from typing import Any

import pytest

from dbqueue import DBQueue
from dbqueue.contrib.testing.worker import start_worker
from dbqueue.errors import RemoteTraceback


def test_task_inherit_parent_priority() -> None:
    with DBQueue("priorities", broker="sqlite://", set_as_current=False) as app:

        @app.task(name="child")
        def child() -> int:
            return 0

        @app.task(name="firm", priority=2)
        def firm() -> int:
            return 0

        @app.task(name="parent")
        def parent() -> list[str]:
            return [child.delay().id, firm.delay().id, child.apply_async(priority=1).id]

        def priorities(**settings: Any) -> list[int]:
            app.conf.update(settings)
            with start_worker(app, perform_ping_check=False, shutdown_timeout=60):
                ids = parent.apply_async(priority=7).get(timeout=30)
            from dbqueue.store.queries import find_job

            return [find_job(app.database.store, job_id).priority for job_id in ids]  # type: ignore[union-attr]

        assert priorities() == [0, 2, 1]
        assert priorities(task_inherit_parent_priority=True) == [7, 2, 1]


def test_task_remote_tracebacks() -> None:
    with DBQueue("tracebacks", broker="sqlite://", set_as_current=False) as app:

        @app.task(name="fail")
        def fail() -> None:
            raise ValueError("bad")

        with start_worker(app, perform_ping_check=False, shutdown_timeout=60):
            result = fail.delay()
            with pytest.raises(ValueError, match="bad") as plain:
                result.get(timeout=30)
            assert plain.value.__cause__ is None
            app.conf.task_remote_tracebacks = True
            with pytest.raises(ValueError, match="bad") as caught:
                app.AsyncResult(result.id).get(timeout=30)
        assert isinstance(caught.value.__cause__, RemoteTraceback)
        text = "".join(traceback.format_exception(caught.value))
        assert 'raise ValueError("bad")' in text
        assert "in fail" in text


def test_result_extended_is_always_so() -> None:
    with DBQueue("extended", broker="sqlite://", set_as_current=False, result_extended=True) as app:
        result = app.send_task("some.task", args=(1,), kwargs={"a": 2})
        assert (result.name, result.args, result.kwargs) == ("some.task", [1], {"a": 2})
