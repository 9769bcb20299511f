"""Celery's guide "Tasks": the examples that no other file of this folder types in."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from dbqueue import DBQueue, Task, states
from dbqueue.app.registry import TaskRegistry
from dbqueue.calls.routes import Queue
from dbqueue.contrib.testing.worker import start_worker
from dbqueue.errors import EncodeError, QueueNotFound, ReplaceTask
from dbqueue.exceptions import Ignore, ImproperlyConfigured, NotRegistered, TaskRevokedError
from dbqueue.schedules import crontab, crontab_parser
from dbqueue.testing import drain

TIMEOUT = 30


@pytest.fixture
def app(database_url: str) -> Iterator[DBQueue]:
    with DBQueue("tasks", broker=database_url, set_as_current=False) as app:
        app.conf.task_max_losses = 1
        yield app


class TestIgnore:
    """Section "Ignore": a task that sets its own end, and leaves with Ignore."""

    @pytest.fixture
    def own_end(self, app: DBQueue) -> Iterator[Any]:
        @app.task(name="own", bind=True)
        def own(self: Any, state: str, meta: Any, leave: bool = True) -> str:
            self.update_state(state=state, meta=meta)
            if leave:
                raise Ignore
            return "returned"

        with start_worker(app, perform_ping_check=False):
            yield own

    def test_a_success(self, own_end: Any) -> None:
        result = own_end.delay(states.SUCCESS, {"tweets": 2})
        assert result.get(timeout=TIMEOUT) == {"tweets": 2}
        assert result.state == states.SUCCESS

    @pytest.mark.parametrize(
        ("meta", "expected"),
        [
            ({"exc_type": "ValueError", "exc_module": "builtins", "exc_message": ["bad"], "custom": 1}, ValueError),
            ("plain", Exception),
        ],
    )
    def test_a_failure(self, own_end: Any, meta: Any, expected: type[Exception]) -> None:
        result = own_end.delay(states.FAILURE, meta)
        with pytest.raises(expected) as caught:
            result.get(timeout=TIMEOUT)
        assert (type(caught.value), caught.value.args) == (expected, ("bad" if expected is ValueError else "plain",))
        assert result.failed()

    def test_a_revoke(self, own_end: Any) -> None:
        result = own_end.delay(states.REVOKED, None)
        with pytest.raises(TaskRevokedError):
            result.get(timeout=TIMEOUT)
        assert result.state == states.REVOKED

    def test_without_ignore_what_the_task_returns_counts(self, own_end: Any) -> None:
        assert own_end.delay(states.FAILURE, None, leave=False).get(timeout=TIMEOUT) == "returned"

    def test_a_meta_that_cannot_be_stored(self, app: DBQueue) -> None:
        @app.task(name="unstorable", bind=True)
        def unstorable(self: Any) -> None:
            self.update_state(state=states.SUCCESS, meta=object())
            raise Ignore

        with start_worker(app, perform_ping_check=False), pytest.raises(Exception, match="object"):
            unstorable.delay().get(timeout=TIMEOUT)

    def test_of_another_job(self, app: DBQueue) -> None:
        task = app.task(name="other")(lambda: None)
        with pytest.raises(ValueError, match="SUCCESS is the end of a job"):
            task.update_state(task_id="another", state=states.SUCCESS)


def test_the_exception_in_the_place_of_the_arguments(app: DBQueue) -> None:
    """Section "Reject": `self.retry(exc, countdown=10)`."""

    @app.task(name="retrying", bind=True, max_retries=1)
    def retrying(self: Any) -> None:
        try:
            raise OSError("away")
        except OSError as exc:
            raise self.retry(exc, countdown=0) from exc

    with start_worker(app, perform_ping_check=False):
        result = retrying.delay()
        with pytest.raises(OSError, match="away"):
            result.get(timeout=TIMEOUT)
        assert result.retries == 1


class TestInstances:
    """Section "Instantiation": a task is made once, and keeps what it has."""

    def test_state_of_the_instance(self, app: DBQueue) -> None:
        class NaiveAuthenticateServer(Task[Any, Any]):
            def __init__(self) -> None:
                self.users = {"george": "password"}

            def run(self, username: str, password: str) -> bool:
                return self.users.get(username) == password

        class DatabaseTask(Task[Any, Any]):
            made = 0
            _db: Any = None

            @property
            def db(self) -> Any:
                if self._db is None:
                    self._db, type(self).made = object(), type(self).made + 1
                return self._db

        authenticate = app.register_task(NaiveAuthenticateServer())

        @app.task(name="process_rows", base=DatabaseTask, bind=True)
        def process_rows(self: Any) -> int:
            assert self.db is self.db
            return int(self.made)

        with start_worker(app, perform_ping_check=False):
            assert authenticate.delay("george", "password").get(timeout=TIMEOUT) is True
            assert [process_rows.delay().get(timeout=TIMEOUT) for _ in range(2)] == [1, 1]


class TestWhatCelerysOwnTestsAsk:
    """`t/unit/tasks/test_tasks.py` and `t/unit/app/test_schedules.py` of Celery."""

    def test_the_registry(self, app: DBQueue) -> None:
        class Ping(Task[Any, Any]):
            name = "ping"

        app.tasks.register(Ping)
        assert isinstance(app.tasks["ping"], Ping)
        app.tasks.unregister("ping")
        assert "ping" not in app.tasks
        with pytest.raises(NotRegistered):
            app.tasks.unregister("ping")
        with pytest.raises(ImproperlyConfigured, match="no application"):
            TaskRegistry().register(Ping)

    def test_a_pushed_request_forbids_no_waiting(self, app: DBQueue) -> None:
        task = app.task(name="add")(lambda x, y: x + y)
        task.push_request(id="x", called_directly=False)
        try:
            assert task.apply((1, 2)).get() == 3
        finally:
            task.pop_request()

    def test_replace_is_an_ignore(self) -> None:
        assert issubclass(ReplaceTask, Ignore)

    def test_the_signature_of_a_request_has_its_headers(self, app: DBQueue) -> None:
        task = app.task(name="add")(lambda x, y: x + y)
        task.push_request(1, 2, id="x", headers={"trace": "t"}, shadow="plus")
        try:
            options = task.signature_from_request().options
        finally:
            task.pop_request()
        assert (options["task_id"], options["headers"], options["shadow"]) == ("x", {"trace": "t"}, "plus")

    def test_schedules_are_pickled_without_their_application(self, app: DBQueue) -> None:
        each = crontab(minute="*/5", app=app)
        assert pickle.loads(pickle.dumps(each)) == each
        with pytest.raises(crontab_parser.ParseException):
            crontab_parser(60).parse("70")


def test_modules_that_are_reached_without_an_import() -> None:
    """Section "Logging": `import celery; @celery.signals.after_setup_logger.connect`."""
    script = (
        "import dbqueue; dbqueue.signals.setup_logging.connect(print); "
        "print(dbqueue.exceptions.TimeoutError.__name__, dbqueue.states.SUCCESS, dbqueue.utils.uuid)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("TimeoutError SUCCESS <function"), done.stderr


class TestRequest:
    """Section "Task Request": what the call says, and what it leaves to the task."""

    def test_limits_arguments_and_headers(self, app: DBQueue) -> None:
        @app.task(name="seen", bind=True, time_limit=50, soft_time_limit=40)
        def seen(self: Any, *args: Any, **kwargs: Any) -> list[Any]:
            request = self.request
            own = [request.tenant, request.get("tenant")] if request.headers else [hasattr(request, "tenant")]
            return [request.timelimit, request.argsrepr, request.kwargsrepr, *own]

        with start_worker(app, perform_ping_check=False):
            assert seen.delay(1, x=2).get(timeout=TIMEOUT) == [[50, 40], "(1,)", "{'x': 2}", False]
            result = seen.apply_async(time_limit=20, argsrepr="(...)", headers={"tenant": "tea", "id": "none of this"})
            assert result.get(timeout=TIMEOUT) == [[20, 40], "(...)", "{}", "tea", "tea"]

    def test_a_retry_with_other_options(self, app: DBQueue) -> None:
        @app.task(name="again", bind=True)
        def again(self: Any) -> list[Any]:
            if not self.request.retries:
                self.retry(countdown=0, expires=600, time_limit=30, soft_time_limit=20)
            return [self.request.timelimit, self.request.expires is not None]

        with start_worker(app, perform_ping_check=False):
            assert again.delay().get(timeout=TIMEOUT) == [[30, 20], True]

    def test_a_retry_with_headers_stamps_and_a_routing_key(self, app: DBQueue) -> None:
        """Headers of the call stay, where Celery's are replaced: tracing and beats have put some of them there."""
        app.conf.task_queues = [Queue("celery", routing_key="celery"), Queue("slow", routing_key="slow.#")]

        @app.task(name="again", bind=True)
        def again(self: Any) -> list[Any]:
            request = self.request
            if not request.retries:
                own = {"tenant": "tea", "attempt": [1]}
                stamps = {"stamped_headers": ["colour"], "colour": "red"}
                self.retry(
                    countdown=0, headers=own, shadow="other", routing_key="slow.one", task_id=request.id, **stamps
                )
            return [request.headers, request.stamps, request.shadow, request.delivery_info["routing_key"]]

        headers = {
            "tenant": "tea", "attempt": [1], "kept": True, "stamped_headers": ["colour"], "stamps": {"colour": "red"},
        }  # fmt: skip
        expected = [headers, {"colour": "red"}, "other", "slow"]
        result = again.apply_async(headers={"tenant": "none", "kept": True})
        drain(app)
        assert result.get(timeout=TIMEOUT) == expected
        assert again.apply(headers={"tenant": "none", "kept": True}).get() == expected

    @pytest.mark.parametrize(
        "option",
        [
            {"task_id": "other"}, {"root_id": "other"}, {"parent_id": "other"}, {"group_id": "other"}, {"retries": 0},
            {"unique": True}, {"unique_for": 5}, {"limit_key": "x"}, {"serializer": "pickle"}, {"compression": "gzip"},
        ],
    )  # fmt: skip
    def test_a_retry_keeps_what_makes_the_job(self, app: DBQueue, option: dict[str, Any]) -> None:
        """Different on purpose: in Celery a retry is another message."""

        @app.task(name="again", bind=True)
        def again(self: Any) -> None:
            self.retry(countdown=0, **option)

        (name,) = option
        with pytest.raises(ValueError, match=f"a retry is the same job and keeps its {name}: give it to the call"):
            again.apply().get()

    def test_a_retry_may_say_that_a_job_without_a_key_is_not_unique(self, app: DBQueue) -> None:
        @app.task(name="again", bind=True, max_retries=1)
        def again(self: Any) -> int:
            if not self.request.retries:
                self.retry(countdown=0, unique=False)
            return 1

        assert again.apply().get() == 1
        results = [again.delay(), again.apply_async(unique="key")]
        drain(app)
        assert results[0].get(timeout=TIMEOUT) == 1
        with pytest.raises(ValueError, match="a retry is the same job and keeps its unique"):
            results[1].get(timeout=TIMEOUT)

    @pytest.mark.parametrize(
        ("option", "error"),
        [
            ({"headers": "text"}, TypeError),
            ({"headers": {"x": object()}}, EncodeError),
            ({"queue": "new"}, QueueNotFound),
            ({"priority": 40_000}, ValueError),
        ],
    )
    def test_a_retry_with_options_that_cannot_be(
        self, app: DBQueue, option: dict[str, Any], error: type[Exception]
    ) -> None:
        app.conf.task_create_missing_queues = False

        @app.task(name="again", bind=True, max_retries=1)
        def again(self: Any) -> None:
            self.retry(countdown=0, **option)

        result = again.delay()
        drain(app)
        with pytest.raises(error):
            result.get(timeout=TIMEOUT)

    @pytest.mark.parametrize("given", [{"link": 1}, {"link_error": 1}, {"link": []}, {"link": None}], ids=repr)
    def test_a_retry_with_other_callbacks_fails(self, app: DBQueue, given: dict[str, Any]) -> None:
        """Different on purpose: in Celery they take the place of what is linked to the call. None is not given."""
        noted: list[str] = []
        note = app.task(name="note")(noted.append)

        @app.task(name="again", bind=True, max_retries=1)
        def again(self: Any, given: dict[str, Any]) -> str:
            if not self.request.retries:
                self.retry(countdown=0, **{name: value and note.si("new") for name, value in given.items()})
            return "done"

        result = again.apply_async((given,), link=note.si("link"), link_error=note.si("link_error"))
        drain(app)
        refused = given != {"link": None}
        assert noted == (["link_error"] if refused else ["link"])
        if refused:
            with pytest.raises(ValueError, match="a retry cannot change what follows the job"):
                result.get(timeout=TIMEOUT)
            with pytest.raises(ValueError, match="give it to the call"):
                again.apply((given,)).get()
