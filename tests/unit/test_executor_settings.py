"""The executor as the application's settings shape it: how results are written, which are read, and in which zone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dbqueue import DBQueue
from dbqueue.codec import payloads
from dbqueue.jobs import Failed, NewJob, Outcome, Retried, Succeeded
from dbqueue.services.workers import make_executor
from dbqueue.task.eager import claimed

RunWith = Callable[..., Outcome]


@pytest.fixture
def run_with() -> Iterator[RunWith]:
    with DBQueue("shop", broker="sqlite://", set_as_current=False, timezone="Asia/Tokyo") as app:
        app.task(name="echo")(lambda value: value)
        app.task(name="fail")(lambda text: {}[text])
        app.task(name="again", bind=True)(lambda self, **changes: self.retry(countdown=0, **changes))
        app.task(name="times", bind=True)(lambda self: [self.request.eta, self.request.expires])

        def run_with(settings: dict[str, Any], task: str, args: str = "[]", **fields: Any) -> Outcome:
            app.conf.update(settings)
            job = claimed(NewJob("a", task, "celery", args))._replace(**fields)
            return make_executor(app, hostname="w@test").run(job)

        yield run_with


def test_results_in_another_serializer(run_with: RunWith) -> None:
    written = run_with({"result_serializer": "yaml", "result_compression": "zlib"}, "echo", '[{"a": 1}]')
    assert isinstance(written, Succeeded)
    assert json.loads(written.result or "") == {"content_type": "application/x-yaml; compression=zlib"}
    assert payloads.read_result(written.result, written.content, ["yaml"]) == {"a": 1}
    # What the job's own arguments may be says nothing of those that are other jobs' results.
    inputs = (("predecessor", "[]", written.result, written.content),)
    settings = {"result_serializer": "json", "accept_content": ["json"], "result_accept_content": ["yaml"]}
    read = run_with(settings, "echo", inputs=inputs)
    assert isinstance(read, Succeeded)
    assert read.result == '{"a":1}'
    refused = run_with({"accept_content": ["json", "yaml"], "result_accept_content": ["json"]}, "echo", inputs=inputs)
    assert isinstance(refused, Failed)
    assert "ContentDisallowed" in refused.error
    assert isinstance(run_with({"result_accept_content": None}, "echo", inputs=inputs), Succeeded)


def test_nothing_is_larger_than_the_settings_allow(run_with: RunWith) -> None:
    """Neither a result, nor the error of a task that has put much into it."""
    settings = {"max_payload_bytes": 4096}
    assert isinstance(run_with(settings, "echo", json.dumps(["x" * 4000])), Succeeded)
    refused = run_with(settings, "echo", json.dumps(["x" * 5000]))
    assert isinstance(refused, Failed)
    assert json.loads(refused.error)["exc_type"] == "PayloadTooLarge"
    failed = run_with(settings, "fail", json.dumps(["x" * 5000]))
    assert isinstance(failed, Failed)
    assert "xxxx" in failed.error
    assert len(failed.error) <= 4096


@pytest.mark.parametrize("changed", [{"args": ["x" * 5000]}, {"headers": {"tray": "x" * 5000}}])
def test_nothing_that_a_retry_changes_is_larger(run_with: RunWith, changed: dict[str, Any]) -> None:
    kwargs = json.dumps(changed)
    assert isinstance(run_with({}, "again", kwargs=kwargs), Retried)
    refused = run_with({"max_payload_bytes": 4096}, "again", kwargs=kwargs)
    assert isinstance(refused, Failed)
    assert json.loads(refused.error)["exc_type"] == "PayloadTooLarge"


@pytest.mark.parametrize(
    ("enable_utc", "eta", "expires"),
    [
        (True, "2030-07-01T03:00:00+00:00", "2030-07-02T00:00:00+02:00"),
        (False, "2030-07-01T12:00:00+09:00", "2030-07-02T07:00:00+09:00"),
    ],
)
def test_times_of_the_call_are_shown_in_the_zone_of_the_settings(
    run_with: RunWith, enable_utc: bool, eta: str, expires: str
) -> None:
    times = {"eta": "2030-07-01T03:00:00+00:00", "expires_at": "2030-07-02T00:00:00+02:00"}
    shown = run_with({"enable_utc": enable_utc}, "times", **times)
    assert isinstance(shown, Succeeded)
    assert json.loads(shown.result or "") == [eta, expires]


@pytest.mark.parametrize("times", [{"eta": "2030-07-01T03:00:00+00:00"}, {"expires_at": "2030-07-02T00:00:00+00:00"}])
def test_a_call_may_have_one_of_the_times(run_with: RunWith, times: dict[str, str]) -> None:
    shown = run_with({}, "times", **times)
    assert isinstance(shown, Succeeded)
    assert json.loads(shown.result or "") == [times.get("eta"), times.get("expires_at")]


def test_a_time_that_is_none_in_that_zone_is_shown_as_it_is(run_with: RunWith) -> None:
    """`datetime.max`, say, in UTC: some hours later is a year that Python does not have."""
    never = "9999-12-31T23:59:59.999999+00:00"
    shown = run_with({"enable_utc": False}, "times", eta="2030-07-01T03:00:00+00:00", expires_at=never)
    assert isinstance(shown, Succeeded)
    assert json.loads(shown.result or "") == ["2030-07-01T12:00:00+09:00", never]
