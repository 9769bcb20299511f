"""The end that a task has written itself, before it raises Ignore: what its meta comes to in the row."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import Any

import pytest

from dbqueue import DBQueue
from dbqueue.errors import Ignore
from dbqueue.jobs import Failed, NewJob, Outcome, Succeeded
from dbqueue.services.workers import make_executor
from dbqueue.task.eager import claimed


def outcome_of(state: str | None, meta: Any, **settings: Any) -> Outcome:
    def body(self: Any) -> None:
        if state is not None:
            self.update_state(state=state, meta=meta)
        raise Ignore

    with DBQueue("shop", broker="sqlite://", set_as_current=False, **settings) as app:
        app.task(name="own", bind=True)(body)
        executor = make_executor(app, hostname="w@test")
        outcome = executor.run(claimed(NewJob("a", "own", "celery", "[]")))
        executor.close()
    return outcome


@pytest.mark.parametrize(
    ("meta", "error"),
    [
        (KeyError("tea"), {"exc_type": "KeyError", "exc_message": ["tea"], "exc_module": "builtins"}),
        ({"exc_type": 5}, {"exc_type": "Exception", "exc_message": [{"exc_type": 5}], "exc_module": "builtins"}),
        (None, {"exc_type": "Exception", "exc_message": [], "exc_module": "builtins"}),
    ],
    ids=["an exception", "what describes none", "nothing"],
)
def test_a_meta_that_is_no_description_of_an_exception(meta: Any, error: dict[str, Any]) -> None:
    outcome = outcome_of("FAILURE", meta)
    assert isinstance(outcome, Failed)
    assert json.loads(outcome.error) == error


@pytest.mark.parametrize(
    ("state", "meta", "kind"),
    [
        ("SUCCESS", "x" * 5000, "PayloadTooLarge"),
        ("FAILURE", {"exc_type": "ValueError", "exc_message": ["x" * 5000]}, "PayloadTooLarge"),
        ("REVOKED", {"exc_type": "ValueError", "exc_message": [object()]}, "EncodeError"),
    ],
)
def test_an_end_that_cannot_be_stored_is_a_failure_that_says_so(state: str, meta: Any, kind: str) -> None:
    """Whatever it was to be: nobody has revoked that job."""
    outcome = outcome_of(state, meta, max_payload_bytes=4096)
    assert isinstance(outcome, Failed)
    assert (outcome.status, json.loads(outcome.error)["exc_type"]) == ("FAILURE", kind)


@pytest.mark.parametrize("state", [None, "SUCCESS", "FAILURE"])
def test_it_tells_how_long_the_run_took(monkeypatch: pytest.MonkeyPatch, state: str | None) -> None:
    """The row's `started_at` is reckoned back from the end by it."""
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + 60.0)
    monkeypatch.setattr("dbqueue.worker.running.own_end.time", later)
    outcome = outcome_of(state, None)
    assert isinstance(outcome, Succeeded if state != "FAILURE" else Failed)
    assert outcome.seconds >= 60.0
