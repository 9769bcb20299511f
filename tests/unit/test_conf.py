"""`app.conf`: the mapping, its sources and their order."""

from __future__ import annotations

import sys
import threading
import types
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

from dbqueue.conf import Settings
from dbqueue.errors import ImproperlyConfigured
from dbqueue.settings import SETTINGS

if TYPE_CHECKING:
    from pathlib import Path


def make(initial: Mapping[str, Any] | None = None, **environ: str) -> Settings:
    return Settings(initial, environ=environ)


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Write a module into the current folder, which is not on Python's path; its name is returned."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    before = set(sys.modules)

    def write(source: str, name: str = "conf_for_test") -> str:
        tmp_path.joinpath(*name.split(".")).with_suffix(".py").write_text(source)
        return name

    yield write
    for name in set(sys.modules) - before:
        if name.startswith("conf_for_test"):
            del sys.modules[name]


# -- the mapping


def test_attributes_and_items_are_the_same() -> None:
    conf = make({"task_default_queue": "a"})
    assert conf.task_default_queue == conf["task_default_queue"] == conf.get("task_default_queue") == "a"
    conf.task_default_queue = "b"
    assert conf["task_default_queue"] == "b"
    conf["task_default_queue"] = "c"
    assert conf.task_default_queue == "c"
    conf.update({"task_default_queue": "d"}, enable_utc=False)
    assert (conf.task_default_queue, conf.enable_utc) == ("d", False)


def test_defaults_are_there() -> None:
    conf = make()
    assert dict(conf) == {name: setting.default for name, setting in SETTINGS.items()}
    assert len(conf) == len(SETTINGS)
    assert conf.setdefault("task_default_queue", "x") == "celery"
    assert "task_serializer" in conf
    assert conf.changes == {}


def test_deleting_returns_to_the_default() -> None:
    conf = make({"task_default_queue": "a"})
    del conf.task_default_queue
    assert conf.task_default_queue == "celery"
    with pytest.raises(AttributeError):
        del conf.task_default_queue
    with pytest.raises(KeyError):
        del conf["task_default_queue"]
    conf.update(task_default_queue="b", enable_utc=False)
    assert conf.pop("task_default_queue") == "b"
    conf.clear()
    assert conf.changes == {}
    assert conf.enable_utc is True


def test_lists_and_dicts_can_be_changed_in_place_and_belong_to_one_configuration() -> None:
    conf, other = make(), make()
    conf.accept_content.append("yaml")
    conf.beat_schedule["a"] = {"task": "t"}
    assert conf.accept_content == ["json", "yaml"]
    assert conf.changes == {"accept_content": ["json", "yaml"], "beat_schedule": {"a": {"task": "t"}}}
    assert other.accept_content == ["json"]
    assert other.beat_schedule == {}


def test_old_names_are_understood_everywhere() -> None:
    conf = make({"CELERYD_CONCURRENCY": 3})
    assert conf.worker_concurrency == conf.CELERYD_CONCURRENCY == conf["CELERYD_CONCURRENCY"] == 3
    conf.CELERY_TASK_RESULT_EXPIRES = 5
    conf["BROKER_URL"] = "sqlite:///jobs.db"
    assert (conf.result_expires, conf.broker_url) == (5, "sqlite:///jobs.db")
    del conf["BROKER_URL"]
    assert conf.broker_url is None


def test_wrong_values_are_refused_and_change_nothing() -> None:
    conf = make()
    with pytest.raises(ImproperlyConfigured, match="worker_concurrency"):
        conf.worker_concurrency = -1
    with pytest.raises(ImproperlyConfigured, match="redis"):
        conf.update(broker_url="redis://h")
    with pytest.raises(ImproperlyConfigured, match="underscore"):
        conf["_layers"] = 1
    assert conf.changes == {}
    assert conf.worker_concurrency is None


def test_an_unknown_name_is_kept_with_one_warning() -> None:
    conf = make()
    with pytest.warns(UserWarning, match="'task_serialiser': did you mean 'task_serializer'"):
        conf.task_serialiser = "json"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        conf.task_serialiser = "yaml"
    assert conf["task_serialiser"] == "yaml"
    assert "task_serialiser" in conf
    del conf.task_serialiser
    assert "task_serialiser" not in conf


def test_reading_an_unknown_name() -> None:
    conf = make()
    with pytest.raises(AttributeError, match="did you mean 'task_serializer'"):
        _ = conf.task_serialiser
    with pytest.raises(KeyError):
        conf["nonsense"]
    with pytest.raises(KeyError):
        conf["_layers"]
    assert conf.get("nonsense", 5) == 5
    assert not hasattr(conf, "__deepcopy__")


def test_settings_without_meaning_warn_and_are_kept() -> None:
    conf = make()
    assert conf.broker_transport_options is None
    assert "broker_transport_options" not in conf
    with pytest.warns(UserWarning, match="broker_transport_options has no effect in dbqueue: the database"):
        conf.broker_transport_options = {"visibility_timeout": 5}
    assert conf.broker_transport_options == {"visibility_timeout": 5}


# -- the order of sources


def test_flags_are_over_the_environment_over_code() -> None:
    conf = make({"task_default_queue": "code"}, DBQUEUE_TASK_DEFAULT_QUEUE="environment")
    assert (conf.task_default_queue, conf.origin("task_default_queue")) == ("environment", "environment")
    conf.task_default_queue = "later code"
    assert conf.task_default_queue == "environment"
    conf.override({"task_default_queue": "flag"})
    assert (conf.task_default_queue, conf.origin("task_default_queue")) == ("flag", "flag")
    assert conf.origin("enable_utc") == "default"
    conf.enable_utc = False
    assert conf.origin("enable_utc") == "code"
    conf.clear()
    assert conf.task_default_queue == "flag"


def test_the_environment_is_that_of_the_process_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBQUEUE_WORKER_CONCURRENCY", "7")
    assert Settings().worker_concurrency == 7
    monkeypatch.setenv("DBQUEUE_WORKER_CONCURRENCY", "seven")
    with pytest.raises(ImproperlyConfigured, match="DBQUEUE_WORKER_CONCURRENCY"):
        Settings()


# -- objects


def test_a_dict_a_class_and_an_instance() -> None:
    class Config:
        task_default_queue = "a"
        CELERYD_CONCURRENCY = 2
        OTHER = "its own business"
        helper_name = "too"

        def method(self) -> None: ...

    for source in (Config, Config(), {"task_default_queue": "a", "CELERYD_CONCURRENCY": 2}):
        conf = make()
        conf.config_from_object(source)
        assert conf.changes == {"task_default_queue": "a", "worker_concurrency": 2}


def test_an_unknown_key_of_a_dict_warns() -> None:
    conf = make()
    with pytest.warns(UserWarning, match="'colour'"):
        conf.config_from_object({"colour": "red"})


def test_the_names_of_a_dict_are_text() -> None:
    with pytest.raises(ImproperlyConfigured, match="not int"):
        make().config_from_object({5: 1})


@pytest.mark.parametrize("namespace", ["CELERY", "celery", "CELERY_"])
def test_a_namespace(namespace: str) -> None:
    class Django:
        CELERY_TASK_DEFAULT_QUEUE = "a"
        celery_worker_concurrency = 3
        CELERY_ALWAYS_EAGER = False
        task_serializer = "not looked at"
        TIMEZONE = "nor this"

        @property
        def EXPENSIVE(self) -> int:  # noqa: N802 - Django's names of settings
            raise AssertionError("read")

    conf = make()
    conf.config_from_object(Django(), namespace=namespace)
    assert conf.changes == {"task_default_queue": "a", "worker_concurrency": 3, "task_always_eager": False}


def test_an_unknown_name_in_a_namespace_warns() -> None:
    conf = make()
    with pytest.warns(UserWarning, match="did you mean 'task_default_queue'"):
        conf.config_from_object({"CELERY_TASK_DEFUALT_QUEUE": "a", "OTHER": 1}, namespace="CELERY")


def test_a_later_source_wins_and_keeps_the_rest() -> None:
    conf = make({"task_default_queue": "a", "enable_utc": False})
    conf.config_from_object({"task_default_queue": "b"})
    assert (conf.task_default_queue, conf.enable_utc) == ("b", False)


# -- modules


def test_a_module_by_name_is_read_at_the_first_read(write_module: Any) -> None:
    name = write_module(
        "import os, sys\n"
        "from datetime import timedelta\n"
        "def helper(): pass\n"
        "class Task: pass\n"
        "task_default_queue = 'mail'\n"
        "result_expires = timedelta(minutes=1)\n"
        "CELERYD_CONCURRENCY = 2\n"
        "TIMEZONE = 'ignored'\n"
        "some_other_thing = 1\n"
    )
    conf = make()
    conf.config_from_object(name)
    assert name not in sys.modules
    assert conf.task_default_queue == "mail"
    assert conf.changes == {"task_default_queue": "mail", "result_expires": 60, "worker_concurrency": 2}


def test_a_misspelt_name_in_a_module_warns(write_module: Any) -> None:
    name = write_module("task_serialiser = 'json'\ndef task_tracks_started(): pass\n")
    conf = make()
    with pytest.warns(UserWarning, match="did you mean 'task_serializer'") as caught:
        conf.config_from_object(name, force=True)
    assert len(caught) == 1


def test_changes_on_top_of_an_unread_module_keep_their_order(write_module: Any) -> None:
    conf = make({"task_default_queue": "before", "enable_utc": False})
    conf.config_from_object(write_module("task_default_queue = 'module'\nworker_concurrency = 1\n"))
    conf.worker_concurrency = 2
    conf.override({"database_pool_size": 9})
    assert "conf_for_test" not in sys.modules
    assert conf["worker_concurrency"] == 2
    assert (conf.task_default_queue, conf.enable_utc, conf.database_pool_size) == ("module", False, 9)
    conf.worker_concurrency = 3
    assert conf.worker_concurrency == 3


def test_values_are_checked_at_once_also_over_an_unread_module(write_module: Any) -> None:
    conf = make()
    conf.config_from_object(write_module(""))
    with pytest.raises(ImproperlyConfigured):
        conf.worker_concurrency = -1
    assert conf.worker_concurrency is None


@pytest.mark.parametrize("name", ["conf_for_test:Config.Inner", "conf_for_test.Config"])
def test_an_attribute_of_a_module(write_module: Any, name: str) -> None:
    write_module(
        "class Config:\n    task_default_queue = 'a'\n    class Inner:\n        task_default_queue = 'a'\n",
    )
    conf = make()
    conf.config_from_object(name)
    assert conf.task_default_queue == "a"


def test_a_missing_module_says_where_it_was_looked_for_at_each_read(write_module: Any, tmp_path: Path) -> None:
    conf = make()
    conf.config_from_object("conf_for_test_missing")
    for _ in range(2):
        with pytest.raises(ImproperlyConfigured, match="'conf_for_test_missing' was not found") as caught:
            _ = conf.task_serializer
        assert str(tmp_path) in str(caught.value)
    write_module("task_default_queue = 'found'\n", "conf_for_test_missing")
    assert conf.task_default_queue == "found"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no_such_package.settings", "was not found"),
        ("conf_for_test.py", "without .py"),
        ("conf_for_test:Missing", "has no 'Missing'"),
        ("conf_for_test.Missing", "was not found"),
        ("", "no module's name"),
        (".relative", "no module's name"),
    ],
)
def test_names_that_lead_nowhere(write_module: Any, name: str, reason: str) -> None:
    write_module("")
    with pytest.raises(ImproperlyConfigured, match=reason):
        make().config_from_object(name, force=True)


def test_silent_passes_over_a_missing_module() -> None:
    conf = make()
    conf.config_from_object("conf_for_test_missing", silent=True)
    assert conf.changes == {}


def test_an_import_error_inside_a_module_is_shown_as_it_is(write_module: Any) -> None:
    name = write_module("import no_such_module_at_all\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        make().config_from_object(name, silent=True, force=True)


def test_the_current_folder_does_not_stay_on_the_path(write_module: Any, tmp_path: Path) -> None:
    make().config_from_object(write_module(""), force=True)
    assert str(tmp_path) not in sys.path


def test_a_module_that_reads_the_configuration_while_it_is_imported(
    write_module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = make({"task_default_queue": "before"})
    project = types.ModuleType("conf_for_test_project")
    project.conf = conf  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, project.__name__, project)
    name = write_module(
        "from conf_for_test_project import conf\n"
        "task_default_queue = conf.task_default_queue + ' and after'\n"
        "assert conf['enable_utc'] and len(conf) and conf.changes\n"
        "conf.worker_concurrency = 5\n"
    )
    conf.config_from_object(name)
    assert conf.task_default_queue == "before and after"
    assert conf.worker_concurrency == 5


def test_no_thread_sees_a_configuration_that_is_half_read(write_module: Any) -> None:
    module = types.ModuleType("conf_for_test_signals")
    reading, proceed = threading.Event(), threading.Event()
    module.reading, module.proceed = reading, proceed  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module  # taken out by the fixture
    conf = make()
    conf.config_from_object(
        write_module(
            "from conf_for_test_signals import reading, proceed\n"
            "reading.set()\n"
            "assert proceed.wait(10)\n"
            "task_default_queue = 'read'\n"
        )
    )
    seen: list[str] = []
    threads = [threading.Thread(target=lambda: seen.append(conf.task_default_queue)) for _ in range(2)]
    threads[0].start()
    assert reading.wait(10)
    threads[1].start()
    proceed.set()
    for thread in threads:
        thread.join(10)
    assert seen == ["read", "read"]


def test_config_from_envvar(write_module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROJECT_SETTINGS", write_module("task_default_queue = 'a'\n"))
    conf = make()
    conf.config_from_envvar("PROJECT_SETTINGS")
    assert conf.task_default_queue == "a"
    monkeypatch.setenv("PROJECT_SETTINGS", "")
    conf.config_from_envvar("PROJECT_SETTINGS", silent=True)
    with pytest.raises(ImproperlyConfigured, match="PROJECT_SETTINGS is not set"):
        conf.config_from_envvar("PROJECT_SETTINGS")


# -- displays


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_displays_mask_passwords() -> None:
    conf = make(
        {
            "broker_url": "postgresql://u:hunter2@h/d",
            "redis_password": "hunter2",
            "my_api_key": "hunter2",
            "smtp_pass": "hunter2",
            "SMTP_PWD": "hunter2",
            "stripe_key": "hunter2",
            "aws": {"access_key_id": "hunter2", "more": [{"PASS": "hunter2"}]},
            "broker_transport_options": {"password": "hunter2", "urls": ["redis://:hunter2@h"], "size": 5},
            "task_default_queue": "a",
            "task_routes": {"b": {"routing_key": "c"}},
        }
    )
    for shown in (conf.humanize(), conf.humanize(with_defaults=True), repr(conf), str(conf.table())):
        assert "hunter2" not in shown
    assert "broker_url: 'postgresql://u:********@h/d'" in conf.humanize().splitlines()
    assert "task_default_queue: 'a'" in conf.humanize().splitlines()
    assert "task_serializer" not in conf.humanize()
    assert "task_serializer: 'json'" in conf.humanize(with_defaults=True).splitlines()
    assert "'size': 5" in conf.humanize()
    assert "'routing_key': 'c'" in conf.humanize()
    assert "hunter2" in str(conf.table(censored=False))
