"""The executor: whatever a task does, an outcome comes of it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dbqueue import DBQueue, Task, signals
from dbqueue.context import current_request
from dbqueue.errors import EncodeError, Ignore, Reject, Retry, SoftTimeLimitExceeded
from dbqueue.jobs import REJECTIONS, ClaimedJob, Failed, Outcome, Released, Retried, Succeeded
from dbqueue.pools import interrupts
from dbqueue.pools.loop_threads import threads_of
from dbqueue.services.workers import Worker
from dbqueue.worker.running.going_back import FIRST_REJECT_SECONDS, LAST_REJECT_SECONDS
from tests.worker.sample import OutOfStock, make_app

Run = Callable[..., Outcome]

FIELDS: dict[str, Any] = {
    "id": "j", "lease": "l", "queue": "q", "priority": 0, "args": "[]", "kwargs": "{}", "headers": None,
    "options": None, "content_type": None, "content": None, "parent_id": None, "root_id": None, "group_id": None,
    "eta": None, "expires_at": None, "ready_at": "2020-01-01 00:00:00.000", "retries": 0, "losses": 0,
    "redeliver": True, "expired": False,
}  # fmt: skip


@pytest.fixture
def app(tmp_path: Any) -> DBQueue:
    return make_app(f"sqlite:///{tmp_path / 'unused.db'}")


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest, app: DBQueue) -> Iterator[Run]:
    executor = Worker(app, pool="solo").executor

    def run(name: str, *args: Any, **fields: Any) -> Outcome:
        job = ClaimedJob(**(FIELDS | {"task": f"sample.{name}", "args": json.dumps(args)} | fields))
        if request.param == "sync":
            outcome = executor.run(job)
        else:

            async def main() -> Outcome:
                return await asyncio.wait_for(executor.run_async(job), 60)

            outcome = asyncio.run(main())
        assert (outcome.job_id, outcome.lease) == ("j", "l")
        return outcome

    yield run
    executor.close()


def exc_type(outcome: Outcome) -> str:
    assert isinstance(outcome, Failed), outcome
    return str(json.loads(outcome.error)["exc_type"])


@pytest.mark.parametrize("name", ["add", "aadd"])
def test_a_value(run: Run, name: str) -> None:
    outcome = run(name, 1, 2)
    assert isinstance(outcome, Succeeded)
    assert outcome.result == "3"
    assert outcome.seconds >= 0


KINDS = [
    "value", "own", "unprintable", "stubborn", "no traceback", "exit", "interrupt", "generator", "stop", "key",
    "system", "unicode", "nul", "cancelled", "timeout", "group",
]  # fmt: skip


@pytest.mark.parametrize("name", ["fail", "afail"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_exception_is_a_failure(run: Run, name: str, kind: str) -> None:
    if kind in ("exit", "interrupt") and name == "afail":
        pytest.skip("asyncio itself raises these out of its loop: seen in the pools' tests")
    outcome = run(name, kind)
    assert isinstance(outcome, Failed)
    json.loads(outcome.error)
    (outcome.traceback or "").encode()
    assert isinstance(run("add", 1, 2), Succeeded)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"args": "{}"}, "InvalidTaskError"),
        ({"args": "3"}, "InvalidTaskError"),
        ({"kwargs": "[]"}, "InvalidTaskError"),
        ({"args": "[NaN]"}, "DecodeError"),
        ({"args": "["}, "DecodeError"),
        ({"args": "[" * 100_000 + "]" * 100_000}, "DecodeError"),
        ({"kwargs": '{"self": 1}'}, "TypeError"),
        ({"options": "[1]", "args": "[1, 2]"}, "InvalidTaskError"),
        ({"options": "3", "args": "[1, 2]"}, "InvalidTaskError"),
        ({"options": "{", "args": "[1, 2]"}, "DecodeError"),
        ({"headers": "{", "args": "[1, 2]"}, "DecodeError"),
        ({"content_type": "application/x-python-serialize"}, "ContentDisallowed"),
        ({"task": "sample.absent"}, "NotRegistered"),
        ({"task": ""}, "NotRegistered"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_row_that_is_no_call(run: Run, fields: dict[str, Any], error: str) -> None:
    assert exc_type(run("add", **fields)) == error


@pytest.mark.parametrize(
    ("signal", "fields", "named"),
    [
        (signals.task_unknown, {"task": "sample.absent"}, {"name": "sample.absent", "id": "j"}),
        (signals.task_rejected, {"args": "["}, {}),
    ],
    ids=["unknown", "rejected"],
)
def test_a_row_that_is_no_call_is_told(
    run: Run, signal: signals.Signal, fields: dict[str, Any], named: dict[str, Any]
) -> None:
    told: list[tuple[Any, dict[str, Any]]] = []

    def tell(sender: Any, signal: signals.Signal, **named: Any) -> None:
        told.append((sender, named))

    signal.connect(tell)
    try:
        kind = exc_type(run("add", **fields))
    finally:
        signal.disconnect(tell)
    ((sender, heard),) = told
    assert isinstance(sender, str), "the worker's name: there is no task"
    assert (heard.pop("message").id, type(heard.pop("exc")).__name__, heard) == ("j", kind, named)


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "0044-03-15 00:00:00+00 BC", "12345-01-01 00:00:00+00"])
def test_times_that_python_does_not_have(run: Run, moment: str) -> None:
    assert isinstance(run("add", 1, 2, eta=moment, expires_at=moment), Succeeded)


@pytest.mark.parametrize("options", ["null", "{}", '{"ignore_result": null}', '{"unknown": [1]}'])
def test_options_that_say_nothing(run: Run, options: str) -> None:
    outcome = run("add", 1, 2, options=options)
    assert isinstance(outcome, Succeeded)
    assert outcome.result == "3"


def test_an_unread_row_is_told_in_the_log(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    run("add", args="[")
    assert "Task sample.add[j] cannot be run" in caplog.text


def test_a_task_that_ignores_its_results(app: DBQueue, run: Run) -> None:
    """Unless a call says otherwise."""
    app.task(name="sample.ignoring", ignore_result=True)(lambda: 3)
    outcomes = [run("ignoring", options=options) for options in (None, '{"ignore_result": false}')]
    assert [outcome.result for outcome in outcomes if isinstance(outcome, Succeeded)] == [None, "3"]


def test_a_result_that_is_ignored_need_not_be_storable(run: Run) -> None:
    outcome = run("unstorable", "object", options='{"ignore_result": true}')
    assert isinstance(outcome, Succeeded)
    assert outcome.result is None


def test_a_result_that_cannot_be_stored_is_told_as_a_failure(run: Run) -> None:
    """As in Celery: by the signals, which name the reason."""
    told: list[Any] = []

    def tell(signal: signals.Signal, **named: Any) -> None:
        told.append((signal.name, type(named.get("exception", named.get("retval"))), named.get("state")))

    for each in (signals.task_failure, signals.task_postrun, signals.task_success):
        each.connect(tell)
    try:
        assert exc_type(run("unstorable", "object")) == "EncodeError"
    finally:
        for each in (signals.task_failure, signals.task_postrun, signals.task_success):
            each.disconnect(tell)
    assert told == [("task_failure", EncodeError, None), ("task_postrun", EncodeError, "FAILURE")]


def test_ignore_and_reject(run: Run) -> None:
    assert isinstance(run("ask", "ignore"), Succeeded)
    assert exc_type(run("ask", "reject")) == "Reject"


@pytest.mark.parametrize(("kind", "told"), [("ignore", 0), ("reject", 0), ("requeue", 0), ("return", 1), ("fail", 1)])
def test_a_run_that_asks_for_no_outcome_has_no_after_return(app: DBQueue, run: Run, kind: str, told: int) -> None:
    """As in Celery, where it is called for the states of a job that is over."""
    states: list[str] = []
    hooked = type("Hooked", (Task,), {"after_return": lambda self, status, *_: states.append(status)})
    asked = {"ignore": Ignore(), "reject": Reject("no"), "requeue": Reject("no", requeue=True), "fail": ValueError()}

    def body() -> None:
        if kind in asked:
            raise asked[kind]

    app.task(name="sample.asking", base=hooked)(body)
    run("asking")
    assert len(states) == told


@pytest.mark.parametrize(("successors", "result"), [(False, None), (True, "3")])
def test_an_ignored_result_is_kept_for_those_that_wait_for_it(run: Run, successors: bool, result: str | None) -> None:
    outcome = run("add", 1, 2, options='{"ignore_result": true}', successors=successors)
    assert isinstance(outcome, Succeeded)
    assert outcome.result == result


@pytest.mark.parametrize(
    ("inputs", "why"), [(10**9, "1000000000 bytes long"), ("first", "the job first, which has none")]
)
def test_results_that_it_takes_and_that_are_not_here(run: Run, inputs: Any, why: str) -> None:
    outcome = run("add", 1, 2, inputs=inputs)
    assert exc_type(outcome) == "InvalidTaskError"
    assert isinstance(outcome, Failed)
    assert why in outcome.error


def test_a_job_that_is_rejected_again_and_again_waits_longer_each_time(app: DBQueue, run: Run) -> None:
    """As it is otherwise: its limits of time, say, are its own still."""

    def body() -> None:
        raise Reject("no", requeue=True)

    app.task(name="sample.rejecting")(body)
    pauses: list[float | None] = []
    options: str | None = '{"time_limit": 8}'
    for _ in range(12):
        outcome = run("rejecting", options=options)
        assert isinstance(outcome, Released)
        assert not outcome.lost
        assert outcome.ready_at == FIELDS["ready_at"], "its place in the queue"
        options = outcome.options
        assert json.loads(options or "")["time_limit"] == 8
        pauses.append(outcome.delay_seconds)
    assert pauses[:3] == [FIRST_REJECT_SECONDS, 2 * FIRST_REJECT_SECONDS, 4 * FIRST_REJECT_SECONDS]
    assert pauses[-2:] == [LAST_REJECT_SECONDS] * 2
    outcome = run("rejecting", options=json.dumps({REJECTIONS: 5000}))
    assert isinstance(outcome, Released), "however often: after days of it too"
    assert outcome.delay_seconds == LAST_REJECT_SECONDS


@pytest.mark.parametrize("state", ["FAILURE", "REVOKED"])
def test_an_end_of_the_task_s_own_making(app: DBQueue, run: Run, state: str) -> None:
    def body(self: Any) -> None:
        self.update_state(state=state, meta="as I say")
        raise Ignore

    app.task(name="sample.own", bind=True)(body)
    outcome = run("own")
    assert isinstance(outcome, Failed)
    assert outcome.status == state
    assert "as I say" in outcome.error


def test_a_retry_adds_to_the_headers(app: DBQueue, run: Run) -> None:
    def body(self: Any) -> None:
        raise self.retry(countdown=0, headers={"tray": 2})

    app.task(name="sample.heading", bind=True)(body)
    outcome = run("heading", headers='{"shelf": 1, "tray": 1}')
    assert isinstance(outcome, Retried)
    assert json.loads(outcome.headers or "") == {"shelf": 1, "tray": 2}


def test_a_retry(run: Run, tmp_path: Any) -> None:
    outcome = run("retry_until", str(tmp_path / "runs"), 3, 7.5)
    assert isinstance(outcome, Retried)
    assert (outcome.delay_seconds, outcome.eta) == (7.5, None)
    assert json.loads(outcome.error)["exc_type"] == "OutOfStock"
    assert exc_type(run("retry_until", str(tmp_path / "runs"), 99, retries=3)) == "OutOfStock"


def test_a_retry_at_a_time(app: DBQueue, run: Run) -> None:
    """Not at once, which is what no time means."""
    eta = datetime(2100, 1, 1, tzinfo=UTC)

    def body(self: Any) -> None:
        raise self.retry(eta=eta)

    app.task(name="sample.later", bind=True)(body)
    outcome = run("later")
    assert isinstance(outcome, Retried)
    assert (outcome.delay_seconds, outcome.eta) == (0.0, eta.isoformat())


@pytest.mark.parametrize(
    "kind",
    ["queue object", "priority", "priority text", "countdown text", "countdown infinite", "countdown nan",
     "countdown huge", "args", "queue nul", "queue surrogate"],
)  # fmt: skip
def test_a_retry_that_cannot_be(run: Run, kind: str) -> None:
    assert exc_type(run("retry_oddly", kind)) in {"ValueError", "TypeError", "EncodeError"}


@pytest.mark.parametrize(
    ("name", "args", "error"), [("hooked", [], ValueError), ("retry_oddly", ["args"], EncodeError)]
)
def test_what_fails_beside_the_task_s_own_body_is_told(
    app: DBQueue, run: Run, name: str, args: list[str], error: type[Exception]
) -> None:
    told: list[tuple[Any, ...]] = []

    def tell(sender: Any, **named: Any) -> None:
        told.append((sender.name, named["task_id"], named["request"].id, type(named["exception"])))

    def on_success(self: Any, *args: Any) -> None:
        raise ValueError("hook")

    app.task(name="sample.hooked", base=type("Hooked", (Task,), {"on_success": on_success}))(lambda: None)
    signals.task_internal_error.connect(tell)
    try:
        run(name, *args)
    finally:
        signals.task_internal_error.disconnect(tell)
    assert told == [(f"sample.{name}", "j", "j", error)]


def test_an_automatic_retry_that_cannot_be_says_why(app: DBQueue, run: Run) -> None:
    def body() -> None:
        raise KeyError("tea")

    app.task(name="sample.misconfigured", autoretry_for=(KeyError,), retry_kwargs={"countdown": "soon"})(body)
    assert exc_type(run("misconfigured")) == "ValueError"


@pytest.mark.parametrize("hook", ["before_start", "on_success", "on_failure", "on_retry", "after_return"])
@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_a_hook_that_raises(
    app: DBQueue, run: Run, hook: str, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """Before the run it is the job's failure; what is told of an end does not change it, as in Celery."""

    def raising(self: Any, *args: Any, **kwargs: Any) -> None:
        raise error(hook)

    raising.__name__ = hook
    base = type("Hooked", (Task,), {hook: raising})
    for name, body in {"good": lambda: 1, "bad": lambda: 1 / 0}.items():
        app.task(name=f"sample.{name}", base=base)(body)

    def again(self: Any) -> None:
        raise self.retry(countdown=0)

    app.task(name="sample.again", base=base, bind=True)(again)
    if hook == "before_start":
        assert {exc_type(run(name)) for name in ("good", "bad", "again")} == {error.__name__}
        return
    assert isinstance(run("good"), Succeeded)
    assert exc_type(run("bad")) == "ZeroDivisionError"
    assert isinstance(run("again"), Retried)
    assert f"its {hook} raised {error.__name__}({hook!r})" in caplog.text


@pytest.mark.parametrize("then", ["return", "raise"])
@pytest.mark.parametrize("is_async", [False, True])
def test_a_retry_that_is_not_thrown(app: DBQueue, run: Run, then: str, is_async: bool) -> None:
    """Celery's `throw=False`: the run goes on, and the job runs again all the same."""

    def body(self: Any) -> str:
        self.retry(exc=OutOfStock("tea", 1), countdown=7, throw=False)
        if then == "raise":
            raise KeyError("tea")
        return "for now"

    async def abody(self: Any) -> str:
        return body(self)

    app.task(name="sample.quietly", bind=True)(abody if is_async else body)
    outcome = run("quietly")
    assert isinstance(outcome, Retried)
    assert outcome.delay_seconds == 7
    assert json.loads(outcome.error)["exc_type"] == "OutOfStock"


def test_a_retry_for_an_exception_that_was_raised_nowhere_has_a_traceback(app: DBQueue, run: Run) -> None:
    told = []

    class Told(Task[Any, Any]):
        def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
            told.append(str(einfo))

    def body(self: Any) -> None:
        raise self.retry(exc=KeyError("tea"), countdown=1)

    app.task(name="sample.unraised", bind=True, base=Told)(body)
    outcome = run("unraised")
    assert isinstance(outcome, Retried)
    assert told == [outcome.traceback]
    assert told[0].endswith("Retry: Retry in 1s: KeyError('tea')\n")


def test_a_retry_of_the_tasks_own_making_counts_as_one(app: DBQueue, run: Run) -> None:
    def body(self: Any, when: float | None, exc: bool) -> None:
        raise Retry("not yet", KeyError("tea") if exc else None, when)

    app.task(name="sample.own_retry", bind=True, max_retries=2, default_retry_delay=9)(body)
    for when, expected in ((None, 9), (4, 4)):
        outcome = run("own_retry", when, False, retries=1)
        assert isinstance(outcome, Retried)
        assert outcome.delay_seconds == expected
    assert exc_type(run("own_retry", 0, False, retries=2)) == "MaxRetriesExceededError"
    assert exc_type(run("own_retry", 0, True, retries=2)) == "KeyError"


@pytest.mark.parametrize(
    ("changes", "args", "kwargs"),
    [
        ({}, None, None),
        ({"args": [5]}, [5], {"b": 2}),
        ({"kwargs": {"b": 6}}, [1], {"b": 6}),
        ({"args": [5], "kwargs": {}}, [5], {}),
    ],
)
def test_a_retry_keeps_the_arguments_that_it_does_not_change(
    app: DBQueue, run: Run, changes: dict[str, Any], args: list[int] | None, kwargs: dict[str, int] | None
) -> None:
    def body(self: Any, a: int, b: int = 0) -> None:
        raise self.retry(countdown=0, **changes)

    app.task(name="sample.keeping", bind=True)(body)
    outcome = run("keeping", 1, kwargs='{"b": 2}')
    assert isinstance(outcome, Retried)
    assert outcome.delay_seconds == 0, "none at all is not the task's own"
    assert [outcome.args and json.loads(outcome.args), outcome.kwargs and json.loads(outcome.kwargs)] == [args, kwargs]


def test_a_retry_may_change_more_of_the_call(app: DBQueue, run: Run) -> None:
    def body(self: Any, /, **options: Any) -> None:
        self.retry(countdown=0, **options)

    app.task(name="sample.changing", bind=True)(body)
    outcome = run(
        "changing", kwargs='{"time_limit": 8, "soft_time_limit": 4, "expires": 60}', options='{"shadow": "x"}'
    )
    assert isinstance(outcome, Retried)
    assert json.loads(outcome.options or "") == {"shadow": "x", "time_limit": 8, "soft_time_limit": 4}
    left = datetime.fromisoformat(outcome.expires_at or "") - datetime.now(UTC)
    assert timedelta() < left <= timedelta(seconds=60)
    assert exc_type(run("changing", kwargs='{"time_limit": 1, "soft_time_limit": 4}')) == "ValueError"
    with pytest.warns(UserWarning, match="call option contdown is unknown .* did you mean countdown"):
        run("changing", kwargs='{"contdown": 5}')


@pytest.mark.parametrize(
    ("error", "again"), [(IndexError("tea"), True), (KeyError("tea"), False), (ValueError("tea"), False)]
)
def test_errors_that_are_to_be_retried_by_themselves(app: DBQueue, run: Run, error: Exception, again: bool) -> None:
    def body() -> None:
        raise error

    app.task(name="sample.choosy", autoretry_for=(LookupError,), dont_autoretry_for=(KeyError,))(body)
    outcome = run("choosy")
    assert type(outcome) is (Retried if again else Failed)
    assert json.loads(outcome.error)["exc_type"] == type(error).__name__


def test_what_a_task_asks_for_is_no_error_to_retry(app: DBQueue, run: Run) -> None:
    def body(kind: str) -> None:
        raise Ignore if kind == "ignore" else Reject("no", requeue=False)

    app.task(name="sample.asking", autoretry_for=(Exception,))(body)
    assert isinstance(run("asking", "ignore"), Succeeded)
    assert exc_type(run("asking", "reject")) == "Reject"


@pytest.mark.parametrize(
    ("error", "level"), [(KeyError("tea"), "INFO"), (LookupError("tea"), "INFO"), (ValueError("tea"), "ERROR")]
)
def test_errors_that_are_part_of_the_work_are_told_without_a_traceback(
    app: DBQueue, run: Run, caplog: pytest.LogCaptureFixture, error: Exception, level: str
) -> None:
    def body() -> None:
        raise error

    app.task(name="sample.throwing", throws=(LookupError,))(body)
    with caplog.at_level("INFO", logger="dbqueue"):
        assert exc_type(run("throwing")) == type(error).__name__
    (record,) = [each for each in caplog.records if "raised" in each.message]
    assert (record.levelname, bool(record.exc_info)) == (level, level == "ERROR")


@pytest.mark.parametrize("is_async", [False, True], ids=["a function", "a coroutine"])
def test_a_traceback_begins_in_the_task(app: DBQueue, run: Run, is_async: bool) -> None:
    def body() -> None:
        raise KeyError("tea")

    async def abody() -> None:
        raise KeyError("tea")

    app.task(name="sample.raising")(abody if is_async else body)
    outcome = run("raising")
    assert isinstance(outcome, Failed)
    _, first, *_ = (outcome.traceback or "").splitlines()
    assert __file__ in first


def test_what_was_raised_before_the_task_began_has_its_traceback(run: Run) -> None:
    outcome = run("add", 1)
    assert isinstance(outcome, Failed)
    assert (outcome.traceback or "").startswith("Traceback")


@pytest.mark.parametrize("is_async", [False, True], ids=["a function that gives one", "a coroutine"])
def test_a_soft_limit_that_is_caught_leaves_no_cancellation(app: DBQueue, run: Run, is_async: bool) -> None:
    """Else a time-out around it, which counts them, would take its own for somebody else's."""

    async def body() -> str:
        try:
            async with asyncio.timeout(0.05):
                try:
                    interrupts.interrupt("j")
                    await asyncio.sleep(60)
                except SoftTimeLimitExceeded:
                    await asyncio.sleep(60)
        except TimeoutError:
            return "timed out"
        return "woke up"

    def function() -> Coroutine[Any, Any, str]:
        return body()

    app.task(name="sample.timed")(body if is_async else function)
    outcome = run("timed")
    assert isinstance(outcome, Succeeded), outcome
    assert outcome.result == '"timed out"'


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a thread that has no loop
@pytest.mark.parametrize("then", [("aadd", 1, 2), None], ids=["another coroutine", "the end"])
def test_a_function_that_closes_the_event_loop_harms_no_other_job(app: DBQueue, then: Any) -> None:
    executor = Worker(app, pool="solo").executor
    app.task(name="sample.closes")(lambda: asyncio.get_event_loop().close())
    for name, *args in (("aadd", 1, 2), ("closes",), *([then] if then else [])):
        job = ClaimedJob(**(FIELDS | {"task": f"sample.{name}", "args": json.dumps(args)}))
        assert isinstance(executor.run(job), Succeeded)
    executor.close()


def test_a_function_that_waits_for_a_thread_can_be_interrupted(app: DBQueue) -> None:
    """And nothing else: the loop's own thread is that of all its jobs."""
    executor, job = Worker(app, pool="solo").executor, ClaimedJob(**(FIELDS | {"task": "sample.add", "args": "[1, 2]"}))

    async def main() -> Outcome:
        loop, free = asyncio.get_running_loop(), threading.Event()
        threads_of(loop, 1).do(free.wait)
        run = loop.create_task(executor.run_async(job))
        try:
            await asyncio.sleep(0)  # it has begun
            interrupts.interrupt("j")
            return await asyncio.wait_for(run, 60)
        finally:
            free.set()

    assert exc_type(asyncio.run(main())) == "SoftTimeLimitExceeded"


@pytest.mark.parametrize("call", [("add", 1, 2), ("fail", "value"), ("unknown",)])
def test_no_request_is_left_behind(run: Run, call: tuple[Any, ...]) -> None:
    run(*call)
    assert current_request.get() is None


@pytest.mark.parametrize(
    ("options", "pauses"),
    [
        ({}, [180.0, 180.0]),
        ({"default_retry_delay": 7}, [7.0, 7.0]),
        ({"retry_kwargs": {"countdown": 4}}, [4.0, 4.0]),
        ({"retry_backoff": True, "retry_jitter": False}, [1.0, 2.0, 4.0, 8.0]),
        ({"retry_backoff": 2, "retry_jitter": False, "retry_backoff_max": 7}, [2.0, 4.0, 7.0, 7.0]),
        ({"retry_backoff": 2}, [0.5, 1.0, 2.0]),  # spread over all of it, of which a quarter is drawn here
    ],
)
def test_pauses_of_retries_that_nobody_asked_for(
    app: DBQueue, run: Run, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], pauses: list[float]
) -> None:
    def body() -> None:
        raise OutOfStock("tea", 0)

    monkeypatch.setattr("random.random", lambda: 0.25)
    app.task(name="sample.patient", autoretry_for=(OutOfStock,), max_retries=None, **options)(body)
    outcomes = [run("patient", retries=retries) for retries in range(len(pauses))]
    assert [outcome.delay_seconds for outcome in outcomes if isinstance(outcome, Retried)] == pauses


@pytest.mark.parametrize(
    ("of_the_task", "of_the_call", "most"), [(2, None, 2), (2, 4, 4), (4, 2, 2), (2, 0, 0), (None, 3, 3)]
)
def test_how_often_a_run_may_be_retried(
    app: DBQueue, run: Run, of_the_task: int | None, of_the_call: int | None, most: int
) -> None:
    def body(self: Any) -> None:
        self.retry(countdown=0, max_retries=of_the_call)

    def failing() -> None:
        raise OutOfStock("tea", 0)

    own: dict[str, Any] = {"max_retries": of_the_task, "autoretry_for": (OutOfStock,)}
    if of_the_call is not None:
        own["retry_kwargs"] = {"max_retries": of_the_call}
    app.task(name="sample.bounded", bind=True, max_retries=of_the_task)(body)
    app.task(name="sample.failing", **own)(failing)
    for name, last in (("bounded", "MaxRetriesExceededError"), ("failing", "OutOfStock")):
        if most:
            assert isinstance(run(name, retries=most - 1), Retried)
        assert exc_type(run(name, retries=most)) == last
