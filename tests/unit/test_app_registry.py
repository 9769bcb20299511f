"""Which applications a process knows."""

from __future__ import annotations

import gc
import weakref

import pytest

from dbqueue import DBQueue, app_registry, shared_task
from dbqueue.exceptions import AlwaysEagerIgnored


def test_an_application_is_not_kept_alive() -> None:
    app = DBQueue("short", broker="sqlite://", set_as_current=False)
    app.task(name="short.add")(lambda x, y: x + y)
    assert app in app_registry.alive()
    gone = weakref.ref(app)
    del app
    gc.collect()
    assert gone() is None
    assert all(app.main != "short" for app in app_registry.alive())


def test_a_shared_task_is_every_application_s() -> None:
    first = DBQueue("first", set_as_current=False)

    @shared_task(name="shared.add")
    def add(x: int, y: int) -> int:
        return x + y

    try:
        second = DBQueue("second", set_as_current=False)
        assert first.tasks["shared.add"].app is first
        assert second.tasks["shared.add"].app is second
    finally:
        app_registry.shared.pop()


def test_send_task_enqueues_even_in_eager_mode() -> None:
    """As Celery's: `send_task` knows a task by its name only."""
    with DBQueue("eager", broker="sqlite://", set_as_current=False, task_always_eager=True) as app:
        with pytest.warns(AlwaysEagerIgnored, match="no effect on send_task"):
            result = app.send_task("elsewhere.add", (1, 2))
        assert result.state == "PENDING"
