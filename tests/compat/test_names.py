"""Names that Celery's programs import, beside the documented ones: proxies, modules, warnings (reference, "API")."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

import dbqueue
from dbqueue import DBQueue, Task, app_registry, current_app, current_task, shared_task
from dbqueue.app import app_or_default, default_app
from dbqueue.app import shared_task as shared_task_of_app
from dbqueue.app.registry import TaskRegistry
from dbqueue.apps.beat import Beat
from dbqueue.apps.worker import Worker
from dbqueue.exceptions import (
    BackendError,
    CDeprecationWarning,
    CPendingDeprecationWarning,
    DBQueueWarning,
    OperationalError,
    reraise,
)
from dbqueue.local import Proxy
from dbqueue.signals import celeryd_init, dbqueued_init, task_prerun
from dbqueue.utils import functional, imports, nodenames, serialization, text
from dbqueue.utils import time as times
from dbqueue.utils.log import LOG_LEVELS, ColorFormatter, mlevel, task_logger


@pytest.fixture(autouse=True)
def no_application() -> Iterator[None]:
    """No application of another test is the current one."""
    before = app_registry.current(), list(app_registry.defaults), list(app_registry.fallback)
    app_registry.set_current(None)
    app_registry.defaults.clear()
    yield
    app_registry.set_current(before[0])
    app_registry.defaults[:], app_registry.fallback[:] = before[1], before[2]


@shared_task(bind=True)
def who(self: Any, x: int = 0) -> tuple[Any, ...]:
    """Tells who it is."""
    assert current_task == self
    assert current_task
    return current_task.request.id, current_task.name, current_app.main, self.request.id


FACTORY = """
from dbqueue import DBQueue, current_app, current_task, shared_task

@shared_task(ignore_result=False)
def add(x, y):
    return x + y

def create_app():
    app = DBQueue("flask", broker="sqlite:///factory.db")
    app.set_default()
    return app

app = create_app()
result = add.delay(1, 2)
print(add.name, add.app.main, current_app.main, bool(current_task), result.app is app)
"""


class TestProxies:
    """The page "Application" ("Breaking the chain"), and Flask's factories: the module comes before its application."""

    def test_a_shared_task_is_the_current_application_s(self) -> None:
        first = DBQueue("first", broker="sqlite://")
        assert who.app is first
        second = DBQueue("second", broker="sqlite://")
        assert (who.app, who.name) == (second, f"{__name__}.who")
        assert who == second.tasks[who.name] != first.tasks[who.name]
        task_id, name, main, request_id = who.apply().get()
        assert (task_id, name, main) == (request_id, who.name, "second")

    def test_one_that_is_declared_before_its_application(self, tmp_path: Path) -> None:
        (tmp_path / "run.py").write_text(FACTORY)
        done = subprocess.run([sys.executable, "run.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.stdout.split() == ["flask.add", "flask", "flask", "False", "True"], done.stderr
        assert (tmp_path / "factory.db").exists()
        assert not (tmp_path / "dbqueue.sqlite3").exists()

    def test_an_application_of_the_program_s_own_comes_before_one_that_stood_in(self) -> None:
        app_registry.set_current(None)
        standing_in = current_app._get_current_object()  # type: ignore[attr-defined]
        app = DBQueue("own", set_as_current=False)
        seen: list[Any] = []
        thread = threading.Thread(target=lambda: seen.append(current_app._get_current_object()))  # type: ignore[attr-defined]
        thread.start()
        thread.join()
        assert seen == [app] or standing_in not in seen

    def test_it_looks_like_the_task(self) -> None:
        app = DBQueue("app", broker="sqlite://")
        assert isinstance(who, Task)
        assert callable(who)
        assert (getattr(who, "__name__", None), who.__doc__, who.__module__) == ("who", "Tells who it is.", __name__)
        assert repr(who) == repr(app.tasks[who.name])
        assert {who: 1}[app.tasks[who.name]] == 1
        who.note = "kept"  # type: ignore[attr-defined]
        assert app.tasks[who.name].note == "kept"  # type: ignore[attr-defined]
        del who.note  # type: ignore[attr-defined]
        assert not hasattr(who, "note")
        assert str(who.s(1) | who.s()) == f"{who.name}(1) | who()"
        assert pickle.loads(pickle.dumps(who)) is app.tasks[who.name]
        assert app.add_periodic_task(10, who) == f"{who.name}()"

    def test_the_current_task_outside_of_a_job(self) -> None:
        assert not current_task
        assert isinstance(current_app, DBQueue)
        with pytest.raises(AttributeError):
            assert current_task.request  # type: ignore[union-attr]

    def test_a_proxy_of_a_program_s_own(self) -> None:
        values = iter((1, 2))
        proxy = Proxy(lambda start: start + next(values), (10,), name="counter", doc="Counts.")
        assert (proxy.__name__, proxy.__doc__, str(proxy), hash(proxy)) == ("counter", "Counts.", "11", 12)
        assert pickle.loads(pickle.dumps(Proxy(dict))) == {}


class TestModules:
    def test_of_applications(self) -> None:
        app = DBQueue("app", broker="sqlite://")
        assert app_or_default() is app
        assert app_or_default(app) is app
        assert default_app == app
        assert shared_task_of_app is shared_task
        assert isinstance(app.tasks, TaskRegistry)
        assert type(app.Beat()).__name__ == Beat.__name__
        assert Worker(app, pool="solo").config.pool == "solo"
        with pytest.raises(AttributeError):
            assert dbqueue.app.nonsense

    def test_hooks_of_a_subclass(self) -> None:
        called = []

        class Own(DBQueue):
            def on_init(self) -> None:
                called.append("init")

            def on_configure(self) -> None:
                called.append("configure")

        app = Own("own")
        assert called == ["init"]
        app.finalize()
        assert called == ["init", "configure"]

    def test_errors_warnings_and_signals(self) -> None:
        assert BackendError is OperationalError
        assert issubclass(DBQueueWarning, UserWarning)
        assert issubclass(CDeprecationWarning, DeprecationWarning)
        assert issubclass(CPendingDeprecationWarning, PendingDeprecationWarning)
        assert dbqueued_init is celeryd_init
        assert task_prerun.providing_args == {"task_id", "task", "args", "kwargs"}
        with pytest.raises(KeyError):
            reraise(KeyError, KeyError("k"), None)

    def test_python_m(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "dbqueue", "--version"], capture_output=True, text=True, check=False
        )
        assert done.stdout == f"dbqueue {dbqueue.__version__}\n"


class TestUtilities:
    """`celery.utils.*`, what programs import of it."""

    def test_names_of_workers(self) -> None:
        host = nodenames.gethostname()
        assert nodenames.nodename("w1", "example.com") == "w1@example.com"
        assert nodenames.nodesplit("w1@example.com") == ("w1", "example.com")
        assert nodenames.nodesplit("example.com") == (None, "example.com")
        assert nodenames.default_nodename(None) == f"celery@{host}"
        assert nodenames.anon_nodename().startswith("gen")
        assert nodenames.host_format("%n.%h%%", "a.example.com", "w1") == "w1.a.example.com%"
        assert nodenames.node_format("%p-%n@%d", "w1@a.example.com") == "w1@a.example.com-w1@example.com"

    def test_times(self) -> None:
        assert times.get_exponential_backoff_interval(2, 3, 100) == 16
        assert times.get_exponential_backoff_interval(2, 10, 100) == 100
        assert 0 <= times.get_exponential_backoff_interval(2, 3, 100, full_jitter=True) <= 16
        assert times.rate("30/m") == 0.5
        naive = datetime(2026, 1, 1, 12)  # noqa: DTZ001 - Celery's functions are about these
        berlin = ZoneInfo("Europe/Berlin")
        assert times.is_naive(naive)
        assert times.make_aware(naive, berlin) == datetime(2026, 1, 1, 11, tzinfo=UTC)
        assert times.maybe_make_aware(naive, berlin) == datetime(2026, 1, 1, 12, tzinfo=UTC)
        assert times.maybe_make_aware(naive, berlin, naive_as_utc=False) == datetime(2026, 1, 1, 11, tzinfo=UTC)
        assert times.localize(times.to_utc(naive), "Europe/Berlin").hour == 13
        assert times.maybe_timedelta(90) == timedelta(seconds=90)
        assert times.maybe_iso8601("2026-01-01T12:00:00") == naive
        assert times.humanize_seconds(90) == "1.50 minutes"
        assert times.humanize_seconds(0) == "now"

    def test_functions(self) -> None:
        assert list(functional.chunks(iter(range(5)), 2)) == [[0, 1], [2, 3], [4]]
        assert functional.first(None, [None, 0]) == 0
        assert functional.first(lambda x: x > 1, [1, 2, 3]) == 2
        assert list(functional.uniq([1, 2, 1])) == [1, 2]
        assert functional.padlist([1], 3) == [1, None, None]
        assert functional.padlist([1, 2, 3], 2) == [1, 2]
        assert list(functional.lookahead([1, 2])) == [(1, 2), (2, None)]
        assert functional.maybe_list("a") == ["a"]
        assert functional.maybe_list((1, 2)) == (1, 2)
        assert functional.maybe_list(None) is None
        assert functional.dictfilter({"a": None}, b=1) == {"b": 1}
        assert functional.fun_accepts_kwargs(lambda **kw: None)
        functional.noop(1)
        assert functional.memoize(10)(lambda: 1)() == 1

    def test_imports(self) -> None:
        assert imports.symbol_by_name("datetime.timedelta") is timedelta
        assert imports.symbol_by_name("datetime:timedelta") is timedelta
        assert imports.symbol_by_name("td", {"td": "datetime.timedelta"}) is timedelta
        assert imports.symbol_by_name("nowhere.thing", default=1) == 1
        assert imports.symbol_by_name(timedelta) is timedelta
        with pytest.raises(ImportError):
            imports.symbol_by_name("nowhere.thing")
        assert imports.instantiate("datetime.timedelta", 1) == timedelta(1)
        assert imports.qualname(timedelta()) == "datetime.timedelta"

    def test_values_and_texts(self) -> None:
        assert serialization.strtobool("Yes") is True
        assert serialization.strtobool("off") is False
        with pytest.raises(TypeError):
            serialization.strtobool("perhaps")
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        assert serialization.jsonify({"a": (1, moment)}) == {"a": [1, "2026-01-01T00:00:00+00:00"]}
        assert serialization.jsonify({1, 2}, unknown_type_filter=sorted) == [1, 2]
        with pytest.raises(ValueError, match="set"):
            serialization.jsonify({"k": {1}})
        assert text.truncate("one two three", 8) == "one two..."
        assert text.abbr("abcdef", 5) == "ab..."
        assert text.pluralize(2, "task") == "tasks"
        assert text.indent("a\nb", 2) == "  a\n  b"
        assert text.str_to_list("a, b") == ["a", "b"]

    def test_logging(self) -> None:
        assert mlevel("info") == logging.INFO == LOG_LEVELS["INFO"]
        assert LOG_LEVELS[logging.INFO] == "INFO"
        assert task_logger.name == "dbqueue.task"
        assert issubclass(ColorFormatter, logging.Formatter)
