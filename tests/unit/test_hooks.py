"""What is told of a run, by hooks and by signals: all of it, once, and in Celery's order."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dbqueue import DBQueue, Task, signals
from dbqueue.errors import Ignore, Reject
from tests.unit.test_executor import Run, app, run

__all__ = ["app", "run"]

SIGNALS = (
    signals.task_prerun, signals.task_success, signals.task_failure, signals.task_retry, signals.task_postrun,
    signals.task_internal_error,
)  # fmt: skip
HOOKS = ("before_start", "on_success", "on_failure", "on_retry", "after_return")


@pytest.fixture
def told() -> Iterator[list[str]]:
    """The names of the hooks and signals that a run comes to; with the state where they tell it."""
    told: list[str] = []

    def tell(signal: signals.Signal, **named: Any) -> None:
        told.append(" ".join(filter(None, (signal.name, named.get("state")))))

    with contextlib.ExitStack() as connected:
        for signal in SIGNALS:
            signal.connect(tell)
            connected.callback(signal.disconnect, tell)
        yield told


def telling(told: list[str], name: str) -> Callable[..., None]:
    def hook(self: Any, *args: Any) -> None:
        told.append(f"after_return {args[0]}" if name == "after_return" else name)

    return hook


@pytest.mark.parametrize(
    ("kind", "ends"),
    [
        ("value", ["on_success", "task_success", "after_return SUCCESS", "task_postrun SUCCESS"]),
        ("object", ["on_failure", "task_failure", "after_return FAILURE", "task_postrun FAILURE"]),
        ("error", ["on_failure", "task_failure", "after_return FAILURE", "task_postrun FAILURE"]),
        ("retry", ["on_retry", "task_retry", "task_postrun RETRY"]),
        ("ignore", ["task_postrun IGNORED"]),
        ("reject", ["task_failure", "task_postrun REJECTED"]),
        ("requeue", ["task_postrun REJECTED"]),
    ],
)
def test_the_order(app: DBQueue, run: Run, told: list[str], kind: str, ends: list[str]) -> None:
    errors = {"error": ValueError(), "ignore": Ignore(), "reject": Reject(), "requeue": Reject(requeue=True)}

    def body(self: Any) -> Any:
        told.append("body")
        if kind == "retry":
            self.retry(countdown=0)
        if kind in errors:
            raise errors[kind]
        return object() if kind == "object" else 1

    base = type("Telling", (Task,), {name: telling(told, name) for name in HOOKS})
    app.task(name="sample.telling", base=base, bind=True)(body)
    run("telling")
    assert told == ["task_prerun", "before_start", "body", *ends]
