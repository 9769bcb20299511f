"""Celery's guide "Testing with Celery", and the settings `task_always_eager` and its kin ("Configuration")."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from dbqueue import DBQueue
from dbqueue.exceptions import Ignore, Reject, Retry

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def app() -> Iterator[DBQueue]:
    with DBQueue("eager", broker="sqlite://", set_as_current=False, task_always_eager=True) as app:
        yield app


@pytest.fixture
def tasks(app: DBQueue) -> dict[str, Any]:
    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="once", bind=True)
    def once(self: Any) -> tuple[int, bool, bool]:
        if not self.request.retries:
            raise self.retry(countdown=3600)
        return self.request.retries, self.request.is_eager, self.request.called_directly

    @app.task(name="thrice", bind=True, max_retries=2)
    def thrice(self: Any) -> None:
        raise self.retry(exc=ValueError(self.request.retries), countdown=3600)

    @app.task(name="fail")
    def fail() -> None:
        raise KeyError("k")

    @app.task(name="ignore")
    def ignore() -> None:
        raise Ignore("x")

    @app.task(name="reject")
    def reject() -> None:
        raise Reject("why", requeue=True)

    @app.task(name="nested")
    def nested() -> int:
        return int(add.delay(1, 2).get())

    @app.task(name="nested_allowed")
    def nested_allowed() -> int:
        return int(add.delay(1, 2).get(disable_sync_subtasks=False))

    return dict(app.tasks)


# -- tasks and unit tests


def test_the_guides_unit_test_of_a_task_that_retries(app: DBQueue) -> None:
    """The guide's `send_order`: the task is called directly, and its `retry` is patched."""

    class Product:
        def order(self, quantity: int) -> None: ...

    @app.task(bind=True, name="send_order")
    def send_order(self: Any, quantity: int) -> None:
        try:
            Product().order(quantity)
        except OSError as error:
            raise self.retry(exc=error) from error

    with patch.object(Product, "order") as order:
        send_order(3)
        order.assert_called_with(3)
    with patch.object(Product, "order", side_effect=OSError()), patch.object(type(send_order), "retry") as retry:
        retry.side_effect = Retry()
        with pytest.raises(Retry):
            send_order(3)


# -- eager mode


@pytest.mark.parametrize(
    ("name", "state", "result", "got"),
    [
        ("once", "SUCCESS", "(1, True, False)", (1, True, False)),
        ("thrice", "FAILURE", "ValueError(2)", "ValueError(2)"),
        ("fail", "FAILURE", "KeyError('k')", "KeyError('k')"),
        ("ignore", "IGNORED", "Ignore('x')", None),
        ("reject", "REJECTED", "reject requeue=True: why", None),
        ("nested_allowed", "SUCCESS", "3", 3),
    ],
)
def test_what_an_eager_call_comes_to(tasks: dict[str, Any], name: str, state: str, result: str, got: Any) -> None:
    eager = tasks[name].delay()
    assert (eager.state, repr(eager.result), eager.ready()) == (state, result, True)
    assert (eager.successful(), eager.failed()) == (state == "SUCCESS", state == "FAILURE")
    value = eager.get(propagate=False)
    assert (repr(value) if isinstance(value, BaseException) else value) == got
    assert (eager.traceback is not None) == (state == "FAILURE")


def test_get_raises_the_exception_itself(tasks: dict[str, Any]) -> None:
    with pytest.raises(KeyError):
        tasks["fail"].delay().get()
    with pytest.raises(ValueError, match="2"):
        tasks["thrice"].apply().get()


def test_propagation(app: DBQueue, tasks: dict[str, Any]) -> None:
    with pytest.raises(KeyError):
        tasks["fail"].apply(throw=True)
    app.conf.task_eager_propagates = True
    with pytest.raises(KeyError):
        tasks["fail"].delay()
    assert tasks["fail"].apply(throw=False).state == "FAILURE"
    with pytest.raises(Retry):  # Celery's behaviour: a retry is an exception too
        tasks["once"].delay()
    assert tasks["ignore"].delay().state == "IGNORED"


def test_retries_may_be_given(tasks: dict[str, Any]) -> None:
    assert tasks["once"].apply(retries=1).get() == (1, True, False)


def test_an_eager_task_may_not_wait_for_another(tasks: dict[str, Any]) -> None:
    assert "Never call result.get() within a task" in str(tasks["nested"].delay().result)
    assert tasks["nested"].apply().get() == 3  # by `apply`, it may


def test_arguments_go_through_the_serializer(tasks: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="object"):
        tasks["add"].delay(object(), 1)


def test_the_api_of_an_eager_result(tasks: dict[str, Any]) -> None:
    result = tasks["add"].apply((2, 2), task_id="mine")
    assert (result.id, result.task_id, result.name, result.args, result.date_done) == (
        "mine",
        "mine",
        "add",
        None,
        None,
    )
    assert repr(result) == "<EagerResult: mine>"
    assert (result.status, result.info, result.wait(), result.parent) == ("SUCCESS", 4, 4, None)
    result.forget()
    result.revoke()
    assert result.state == "REVOKED"


# -- the pytest plugin


@pytest.fixture
def plugin(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    # The plugin by its name, whether dbqueue is installed or not: an entry point would load it twice.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", ""))))
    monkeypatch.setenv("DBQUEUE_DATABASE_URL", "sqlite:///not-for-tests.db")
    pytester.makeini("[pytest]\nfilterwarnings = error\naddopts = --strict-markers -p dbqueue.contrib.pytest")
    return pytester


def run(plugin: pytest.Pytester, passed: int) -> None:
    result = plugin.runpytest_subprocess("-q")
    result.assert_outcomes(passed=passed)


def test_the_guides_fixtures(plugin: pytest.Pytester) -> None:
    """`celery_app`, `celery_worker`, the marker and the configuration fixtures, with the words replaced."""
    plugin.makeconftest(
        """
        import pytest

        @pytest.fixture(scope="session")
        def dbqueue_config():
            return {"task_default_queue": "tests"}

        @pytest.fixture(scope="session")
        def dbqueue_parameters():
            from dbqueue import Task

            class MyTask(Task):
                marked = True

            return {"task_cls": MyTask, "strict_typing": False}

        @pytest.fixture(scope="session")
        def dbqueue_enable_logging():
            return True

        @pytest.fixture(scope="session")
        def dbqueue_includes():
            return ["shop_tasks"]

        @pytest.fixture(scope="session")
        def dbqueue_worker_parameters():
            return {"queues": ("high-prio", "tests"), "shutdown_timeout": 60}
        """
    )
    plugin.makepyfile(
        shop_tasks="from dbqueue import shared_task\n@shared_task\ndef pack(x):\n    return [x]\n",
        test_guide="""
        import pytest

        def test_add(dbqueue_app, dbqueue_worker):
            @dbqueue_app.task
            def mul(x, y):
                return x * y

            dbqueue_worker.reload()
            assert mul.delay(4, 4).get(timeout=60) == 16
            assert repr(dbqueue_worker) == f"<Worker: {dbqueue_worker.hostname}>"
            assert mul.apply_async((2, 3), queue="high-prio").get(timeout=60) == 6
            assert mul.marked and not mul.typing
            assert dbqueue_app.tasks["shop_tasks.pack"].delay(1).get(timeout=60) == [1]
            assert dbqueue_app.conf.task_default_queue == "tests"

        @pytest.mark.dbqueue(task_default_queue="other", task_always_eager=True)
        def test_marker(dbqueue_app):
            assert dbqueue_app.conf.task_default_queue == "other"
            assert dbqueue_app.conf.task_always_eager

        def test_each_has_its_own(dbqueue_app):
            assert dbqueue_app.conf.task_default_queue == "tests"
            assert dbqueue_app.database.url == "sqlite://"

        def test_current(dbqueue_app, depends_on_current_app):
            from dbqueue import current_app
            assert current_app == dbqueue_app
        """,
    )
    run(plugin, 4)


def test_a_worker_that_runs_elsewhere(plugin: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """With NO_WORKER in the environment the fixtures start none."""
    monkeypatch.setenv("NO_WORKER", "1")
    plugin.makepyfile(
        """
        def test_there_is_none(dbqueue_app, dbqueue_worker, dbqueue_session_worker):
            assert dbqueue_worker is None and dbqueue_session_worker is None
        """
    )
    run(plugin, 1)


def test_a_worker_that_reloads_its_modules(app: DBQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`worker.reload()` imports what the settings name, or what it is given; with `reload=True` once more."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "reloaded_by_name.py").write_text("made = []\n")
    (tmp_path / "reloaded_by_setting.py").write_text("")
    worker = app.Worker(pool="solo")
    app.conf.imports = ["reloaded_by_setting"]
    worker.reload()
    assert "reloaded_by_setting" in sys.modules
    assert "reloaded_by_name" not in sys.modules
    worker.reload(["reloaded_by_name"])
    first = sys.modules["reloaded_by_name"].made
    worker.reload(["reloaded_by_name"])
    assert sys.modules["reloaded_by_name"].made is first
    worker.reload(["reloaded_by_name"], reload=True)
    assert sys.modules["reloaded_by_name"].made is not first


def test_the_fixtures_of_a_session(plugin: pytest.Pytester) -> None:
    plugin.makeconftest(
        """
        import pytest
        from dbqueue import Task

        class Greet(Task):
            name = "greet"

            def run(self, whom):
                return f"hello {whom}"

        @pytest.fixture(scope="session")
        def dbqueue_class_tasks():
            return [Greet]
        """
    )
    plugin.makepyfile(
        """
        import pytest

        seen = []

        @pytest.mark.parametrize("number", range(2))
        def test_one_worker(dbqueue_session_app, dbqueue_session_worker, number):
            from dbqueue import current_app, shared_task

            @shared_task(name=f"share{number}")
            def share():
                return number

            seen.append(dbqueue_session_worker)
            assert len(set(map(id, seen))) == 1
            assert current_app == dbqueue_session_app
            assert share.delay().get(timeout=60) == number
            assert dbqueue_session_app.tasks["greet"].delay("you").get(timeout=60) == "hello you"
        """
    )
    run(plugin, 2)


def test_prefork_in_a_test(plugin: pytest.Pytester) -> None:
    plugin.makepyfile(
        """
        import os
        import pytest

        @pytest.fixture(scope="session")
        def dbqueue_worker_pool():
            return "prefork"

        def test_another_process(dbqueue_app, dbqueue_worker):
            @dbqueue_app.task
            def late():
                return os.getpid()

        def test_tasks_of_modules(dbqueue_app):
            from dbqueue.contrib.testing.worker import start_worker

            @dbqueue_app.task(name="inner")
            def inner():
                return os.getpid()

            @dbqueue_app.task(name="outer")
            def outer():
                return inner.delay().id

            with start_worker(dbqueue_app, pool="prefork", shutdown_timeout=60):
                inner_id = outer.delay().get(timeout=60)
                assert dbqueue_app.AsyncResult(inner_id).get(timeout=60) != os.getpid()
        """
    )
    run(plugin, 2)


def test_the_trap(plugin: pytest.Pytester) -> None:
    plugin.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="session")
        def use_dbqueue_app_trap():
            return True

        def test_trap(dbqueue_app):
            from dbqueue import current_app
            with pytest.raises(RuntimeError, match="trap"):
                current_app.conf
        """
    )
    run(plugin, 1)


def test_the_plugin_loads_cheaply(plugin: pytest.Pytester) -> None:
    plugin.makepyfile(
        """
        import sys

        def test_nothing_is_imported():
            assert not {"sqlalchemy", "dbqueue.app", "dbqueue.conf"} & set(sys.modules)
        """
    )
    run(plugin, 1)
