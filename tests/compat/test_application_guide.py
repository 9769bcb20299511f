"""Celery's page "Application", and the names around it that programs import; examples as the page has them."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

import dbqueue
from dbqueue import Celery, DBQueue, signals
from dbqueue._state import get_current_app, get_current_task
from dbqueue.app.base import Celery as BaseCelery
from dbqueue.app.control import Inspect
from dbqueue.app.log import TaskFormatter
from dbqueue.app.task import Context, Task
from dbqueue.contrib.abortable import AbortableAsyncResult, AbortableTask
from dbqueue.contrib.testing.worker import start_worker
from dbqueue.exceptions import AlreadyRegistered, ImproperlyConfigured, Retry
from dbqueue.result import AsyncResult, GroupResult
from dbqueue.states import FAILURE, PENDING, SUCCESS, precedence, state
from tests.stores import TestWorker
from tests.waiting import wait_until


@pytest.fixture
def app(tmp_path: Path) -> Iterator[DBQueue]:
    with Celery("tasks", broker=f"sqlite:///{tmp_path / 'jobs.db'}", set_as_current=False) as app:
        yield app


class DatabaseTask(Task[Any, Any]):
    queue = "hipri"


def test_names_that_are_only_renamed() -> None:
    assert Celery is BaseCelery is DBQueue
    assert Task is dbqueue.Task
    assert Context().called_directly
    assert Inspect.__name__ == "Inspect"
    assert TaskFormatter.__name__ == "TaskFormatter"
    assert len(dbqueue.uuid()) == 36
    assert isinstance(get_current_app(), DBQueue)
    assert get_current_task() is None


class TestAbstractTasks:
    def test_by_the_application(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "own_tasks.py").write_text("from dbqueue import Task\nclass Own(Task):\n    queue = 'own'\n")
        monkeypatch.syspath_prepend(tmp_path)
        for path in ("own_tasks:Own", "own_tasks.Own"):
            app = DBQueue("tasks", task_cls=path, set_as_current=False)
            assert app.task(name="add")(lambda: None).queue == "own"
            assert app.Task.mro()[1] is Task
        app = DBQueue("tasks", task_cls="own_tasks:Absent", set_as_current=False)
        with pytest.raises(ImproperlyConfigured, match="own_tasks:Absent"):
            app.task(name="add")(lambda: None)

    def test_by_a_subclass_and_by_assignment(self) -> None:
        class MyCelery(Celery):
            task_cls = DatabaseTask

            def gen_task_name(self, name: str, module: str) -> str:
                return super().gen_task_name(name, module.removesuffix(".tasks"))

        app = MyCelery("main", set_as_current=False)
        assert app.gen_task_name("add", "proj.tasks") == "proj.add"
        assert app.task(name="add")(lambda: None).queue == "hipri"
        other = DBQueue("other", set_as_current=False)
        other.Task = DatabaseTask
        assert other.task(name="add")(lambda: None).queue == "hipri"

    def test_on_bound(self, app: DBQueue) -> None:
        bound: list[Any] = []

        class Telling(Task[Any, Any]):
            def on_bound(self, app: DBQueue) -> None:
                bound.append((self.name, app))

        app.task(name="add", base=Telling)(lambda: None)
        assert bound == [("add", app)]

    def test_a_task_has_its_function_s_name(self, app: DBQueue) -> None:
        @app.task(name="sum-of-two-numbers")
        def add(x: int, y: int) -> int:
            """Adds."""
            return x + y

        assert (add.__name__, add.__doc__) == ("add", "Adds.")  # type: ignore[attr-defined]


def test_add_defaults(app: DBQueue) -> None:
    app.conf.task_default_queue = "mine"
    app.add_defaults({"task_default_queue": "theirs", "result_expires": 60})
    assert (app.conf.task_default_queue, app.conf.result_expires) == ("mine", 60)
    app.add_defaults(lambda: {"task_default_queue": "theirs", "result_max_kept": 9})
    assert (app.conf.task_default_queue, app.conf.result_max_kept) == ("mine", 9)


def test_on_configure_is_a_signal(app: DBQueue) -> None:
    """Sent before `on_after_configure`; in a subclass it may be a method (see test_names)."""
    told: list[str] = []
    for name in ("on_configure", "on_after_configure", "on_after_finalize"):
        getattr(app, name).connect(lambda sender, name=name, **_: told.append(name), weak=False)
    app.finalize()
    assert told == ["on_configure", "on_after_configure", "on_after_finalize"]


def test_connections_of_celery_s_kind_are_the_application_s(app: DBQueue) -> None:
    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    with add.app.pool.acquire(block=True) as connection:
        assert add.apply_async((1, 2), connection=connection).state == PENDING
    with app.producer_or_acquire() as producer, app.producer_pool.acquire() as other:
        assert add.apply_async((1, 2), producer=producer).state == PENDING
        assert other.connected
    assert issubclass(add.OperationalError, Exception)


def test_embedding_takes_celery_s_options(app: DBQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "more_tasks.py").write_text("LOADED = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    worker = app.Worker(include=["more_tasks"], pool="solo", loglevel="INFO", without_gossip=True, optimization="fair")
    assert "more_tasks" in sys.modules
    assert worker.config.pool == "solo"
    with pytest.raises(TypeError, match="'nonsense'"):
        app.Worker(nonsense=1)


def test_import_modules_is_sent(app: DBQueue) -> None:
    sent: list[Any] = []

    def receive(sender: Any, **kwargs: Any) -> None:
        sent.append(sender)

    signals.import_modules.connect(receive)
    app.import_tasks()
    assert sent == [app]


class TestClassTasks:
    """The guide "Tasks", "Custom task classes"; Celery's `app.register_task`."""

    def test_registering_a_class_again_replaces_it(self, app: DBQueue) -> None:
        class Ping(Task[Any, Any]):
            name = "ping"

            def run(self) -> str:
                return "pong"

        first, second = app.register_task(Ping()), app.register_task(Ping())
        assert app.tasks["ping"] is second is not first

    def test_the_name_of_another_class_is_refused(self, app: DBQueue) -> None:
        class Ping(Task[Any, Any]):
            name = "ping"

        class Pong(Task[Any, Any]):
            name = "ping"

        app.register_task(Ping())
        with pytest.raises(AlreadyRegistered, match="'ping'"):
            app.register_task(Pong())


def test_limits_of_a_task_that_contradict_each_other(app: DBQueue) -> None:
    """Celery's `apply_async`: ValueError if `soft_time_limit` is greater than `time_limit`."""
    task = app.task(name="limited", soft_time_limit=2, time_limit=1)(lambda: None)
    with pytest.raises(ValueError, match="soft_time_limit must be less than or equal to time_limit"):
        task.apply_async()


class TestAutodiscovery:
    """Celery's `app.autodiscover_tasks`."""

    def test_a_package_that_is_not_there(self, app: DBQueue) -> None:
        with pytest.raises(ModuleNotFoundError, match="nowhere"):
            app.autodiscover_tasks(["nowhere.at.all"], force=True)

    def test_a_thing_in_a_package(self, app: DBQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As Django's INSTALLED_APPS names them."""
        (tmp_path / "stock").mkdir()
        (tmp_path / "stock" / "__init__.py").write_text("class Config: pass\n")
        (tmp_path / "stock" / "tasks.py").write_text("LOADED = True\n")
        monkeypatch.syspath_prepend(tmp_path)
        app.autodiscover_tasks(["stock.Config", "json"], force=True)
        assert "stock.tasks" in sys.modules
        app.autodiscover_tasks(["stock"], related_name=None, force=True)

    def test_a_package_that_cannot_be_imported(
        self, app: DBQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "broken_stock.py").write_text("import nowhere_at_all\n")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(ModuleNotFoundError, match="nowhere_at_all"):
            app.autodiscover_tasks(["broken_stock"], force=True)

    def test_by_the_loader(self, app: DBQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "loaded_tasks.py").write_text("LOADED = True\n")
        monkeypatch.syspath_prepend(tmp_path)
        app.conf.include = ["loaded_tasks"]
        app.loader.import_default_modules()
        assert app.loader.import_task_module("loaded_tasks") is sys.modules["loaded_tasks"]
        assert app.loader.import_from_cwd("loaded_tasks").LOADED
        assert app.loader.conf is app.conf


def test_results_of_a_group_have_the_backend(app: DBQueue) -> None:
    assert GroupResult("g", [], app=app).backend.app is app


def test_the_result_backend_s_names(app: DBQueue) -> None:
    """`task.backend`, `app.backend`, `result.backend`: what programs ask of Celery's result backends."""

    @app.task(name="add", bind=True)
    def add(self: Any, x: int, y: int) -> int:
        assert self.backend is app.backend
        return x + y

    waiting = add.delay(1, 2)
    backend = app.backend
    assert backend.get_state(waiting.id) == PENDING
    assert waiting.backend.get_task_meta(waiting.id)["status"] == PENDING
    with start_worker(app, perform_ping_check=False):
        assert waiting.get(timeout=30) == 3
        assert backend.wait_for(waiting.id, timeout=30)["result"] == 3
        assert backend.wait_for(add.apply_async((1, None)).id, timeout=30)["status"] == FAILURE
    meta = backend.get_task_meta(waiting.id)
    assert (meta["status"], meta["result"], meta["traceback"], meta["children"]) == (SUCCESS, 3, None, [])
    assert backend.get_result(waiting.id) == 3
    assert backend.get_traceback(waiting.id) is None
    assert backend.get_children(waiting.id) in (None, [])
    assert backend.get_many([waiting.id]) == [(waiting.id, meta)]
    assert AsyncResult(waiting.id, backend).app is app
    with pytest.raises(ValueError, match="SUCCESS"):
        backend.store_result(waiting.id, 4, SUCCESS)
    assert backend.store_result("nobody", {"step": 1}, "PROGRESS") == {"step": 1}
    backend.cleanup()
    backend.forget(waiting.id)
    assert not AsyncResult(waiting.id, app=app).exists()
    assert backend.as_uri() == backend.url == app.database.url
    with pytest.raises(waiting.TimeoutError):
        add.delay(1, 2).get(timeout=0.01)


def test_a_timeout_is_for_many_results_together(app: DBQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([100.0, 103.0, 109.0, 120.0])
    monkeypatch.setattr("dbqueue.services.backend.time", SimpleNamespace(monotonic=lambda: next(now)))
    given: list[float | None] = []
    monkeypatch.setattr(app.backend, "wait_for", lambda task_id, timeout: given.append(timeout))
    app.backend.get_many(["a", "b", "c"], timeout=10.0)
    app.backend.get_many(["d"])
    assert given == [7.0, 1.0, 0.0, None]


def test_properties_of_the_request(app: DBQueue) -> None:
    @app.task(name="properties", bind=True)
    def properties(self: Any) -> Any:
        return self.request.properties

    assert properties.apply(task_id="x").get()["correlation_id"] == "x"


DJANGO = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "site_settings"
from dbqueue import DBQueue
app = DBQueue("proj", broker="sqlite://")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.import_tasks()
print([name for name in app.tasks if "shop" in name], app.conf.task_default_queue)
"""


def test_autodiscovery_in_a_django_project(tmp_path: Path) -> None:
    """Celery's page "First steps with Django": `app.autodiscover_tasks()` finds the tasks of all INSTALLED_APPS."""
    pytest.importorskip("django")
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "tasks.py").write_text(
        "from dbqueue import shared_task\n@shared_task\ndef add(x, y):\n    return x + y\n"
    )
    (tmp_path / "site_settings.py").write_text("INSTALLED_APPS = ['shop']\nCELERY_TASK_DEFAULT_QUEUE = 'site'\n")
    (tmp_path / "run.py").write_text(DJANGO)
    done = subprocess.run([sys.executable, "run.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("['shop.tasks.add'] site\n", 0), done.stderr


class TestUnitTests:
    """The page "Testing with Celery"."""

    def test_a_retry_that_is_patched(self, app: DBQueue) -> None:
        @app.task(name="send_order", bind=True)
        def send_order(self: Any, price: float) -> None:
            try:
                raise OSError("away")
            except OSError as exc:
                raise self.retry(exc=exc) from exc

        with patch.object(send_order, "retry") as retry:
            retry.side_effect = Retry()
            with pytest.raises(Retry):
                send_order(30.6)

    def test_a_request_that_is_pushed(self, app: DBQueue) -> None:
        @app.task(name="tries", bind=True)
        def tries(self: Any) -> int:
            retries: int = self.request.retries
            return retries

        tries.push_request(id="x", retries=3)
        assert (tries.request.id, tries()) == ("x", 3)
        tries.pop_request()
        assert (tries.request.id, tries()) == (None, 0)


class TestAbortable:
    """`celery.contrib.abortable`."""

    def test_a_task_looks_and_ends(self, app: DBQueue) -> None:
        @app.task(name="count", bind=True, base=AbortableTask)
        def count(self: Any) -> str:
            wait_until(self.is_aborted)
            return "aborted"

        with start_worker(app, perform_ping_check=False, shutdown_timeout=60):
            result = count.delay()
            assert isinstance(result, AbortableAsyncResult)
            wait_until(lambda: result.state == "STARTED")
            result.abort()
            assert result.get(timeout=30) == "aborted"
            assert not result.is_aborted()

    def test_a_pickled_result_can_abort(self, app: DBQueue) -> None:
        result = app.task(name="count", base=AbortableTask)(lambda: None).delay()
        app.set_current()
        again = pickle.loads(pickle.dumps(result))
        assert isinstance(again, AbortableAsyncResult)
        again.abort()
        assert result.state == "REVOKED"

    def test_one_that_begins_as_it_is_aborted(self, app: DBQueue, monkeypatch: pytest.MonkeyPatch) -> None:
        """It did not run when it was asked for the first time, and was no job that waits when it was to be revoked."""
        result: Any = app.task(name="count", base=AbortableTask)(lambda: None).delay()
        worker, set_state = TestWorker(app.database.store), app.database.set_state
        claimed: list[Any] = []

        def and_then_it_begins(*arguments: Any) -> bool:
            found = set_state(*arguments)
            if not claimed:
                claimed.append(worker.claim_one())
            return found

        monkeypatch.setattr(app.database, "set_state", and_then_it_begins)
        result.abort()
        assert result.is_aborted()
        worker.close()

    def test_each_way_of_a_call(self, app: DBQueue) -> None:
        task = app.task(name="count", base=AbortableTask)(lambda: None)
        for result in (task.delay(), asyncio.run(task.adelay()), task.s().delay()):
            assert isinstance(result, AbortableAsyncResult)
            assert result.sent_at is not None
        ignored = app.task(name="ignored", base=AbortableTask, ignore_result=True)(lambda: None).delay()
        assert ignored.get(timeout=0) is None

    def test_a_task_asks_for_another_call_or_is_none(self, app: DBQueue) -> None:
        task: Any = app.task(name="count", base=AbortableTask)(lambda: None)
        assert not task.is_aborted(), "who calls it as a function has no job"
        worker, result = TestWorker(app.database.store), task.delay()
        worker.claim_one()
        result.abort()
        assert task.is_aborted(task_id=result.id)
        assert not task.is_aborted(task_id="another")
        worker.close()

    def test_a_pickled_result_knows_what_went_before_it(self, app: DBQueue) -> None:
        task = app.task(name="count", base=AbortableTask)(lambda: None)
        app.set_current()
        result = task.delay()
        result.parent = task.delay()
        again = pickle.loads(pickle.dumps(result))
        assert (again.id, again.parent.id) == (result.id, result.parent.id)

    def test_one_that_waits_is_revoked(self, app: DBQueue) -> None:
        result = app.task(name="count", base=AbortableTask)(lambda: None).delay()
        assert isinstance(result, AbortableAsyncResult)
        result.abort()
        assert result.state == "REVOKED"


def test_states_are_compared_by_their_weight() -> None:
    assert precedence(SUCCESS) < precedence("PROGRESS") < precedence(PENDING)
    assert state("PROGRESS") < state(SUCCESS)
    assert state(PENDING) < state("PROGRESS") <= state("OTHER")
    assert state(SUCCESS) > state("PROGRESS") >= state(PENDING)


class TestExceptionInfo:
    """`einfo` of hooks and signals: real programs read `einfo.traceback` and `str(einfo)`."""

    def test_of_a_failure_and_a_retry(self, app: DBQueue) -> None:
        seen: dict[str, Any] = {}

        class Telling(Task[Any, Any]):
            def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
                seen["failure"] = einfo

            def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
                seen["retry"] = einfo

            def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
                seen[status] = einfo

        @app.task(name="fail", base=Telling, bind=True, autoretry_for=(KeyError,), max_retries=1)
        def fail(self: Any, kind: str) -> None:
            if kind == "none":
                return
            raise KeyError("k") if kind == "key" else ValueError("bad")

        def tell(einfo: Any = None, **kwargs: Any) -> None:
            seen["signal"] = einfo

        signals.task_failure.connect(tell)
        fail.apply(("value",))
        for einfo in (seen["failure"], seen["FAILURE"], seen["signal"]):
            assert (einfo.type, str(einfo.exception)) == (ValueError, "bad")
            assert einfo.traceback == str(einfo)
            assert str(einfo).startswith("Traceback (most recent call last):\n")
            assert str(einfo).endswith("ValueError: bad\n")
            assert einfo.tb is not None
            assert repr(einfo) == "<ExceptionInfo: ValueError('bad')>"
        fail.apply(("key",))
        assert seen["retry"].type is Retry
        assert "KeyError" in seen["retry"].traceback
        fail.apply(("none",))
        assert seen["SUCCESS"] is None
