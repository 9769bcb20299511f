"""`dbqueue port-check` on small projects, written here as their authors would have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dbqueue.cli.run import run
from dbqueue.porting import Report, check_project
from dbqueue.porting import rules as porting_rules
from dbqueue.porting.rules import Kind


def project(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def found(report: Report, kind: Kind) -> list[tuple[str, int, str]]:
    return [(each.path, each.line, each.text) for each in report.of(kind)]


DJANGO = {
    "shop__celery": """\
import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
app = Celery("shop")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@app.task(bind=True, ignore_result=True)
def debug_task(self):
    print(f"Request: {self.request!r}")
""",
    "shop__settings": """\
DEBUG = True
TIME_ZONE = "Europe/Oslo"
CELERY_BROKER_URL = "redis://localhost:6379/0"
CELERY_RESULT_BACKEND = "django-db"
CELERY_TASK_TRACK_STARTED = True
CELERY_TASK_TIME_LIMIT = 30 * 60
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_BEATS_SHEDULE = {}
""",
    "shop__tasks": """\
from celery import shared_task


@shared_task(autoretry_for=(OSError,), retry_backoff=True, max_retries=5)
def charge(order):
    return order


def enqueue(order):
    charge.delay(order)
    charge.apply_async((order,), countdown=10, routing_key="shop")
""",
}


def test_a_django_project(tmp_path: Path) -> None:
    report = check_project(project(tmp_path, **DJANGO))
    assert found(report, Kind.MISSING) == []
    changes = found(report, Kind.CHANGES)
    assert [(path, line) for path, line, _ in changes] == [
        ("shop/settings.py", 3),
        ("shop/settings.py", 4),
        ("shop/settings.py", 7),
        ("shop/settings.py", 8),
    ]
    texts = [text for *_, text in changes]
    assert "redis:// is no database" in texts[0]
    assert "result_backend" in texts[1]
    assert "worker_prefetch_multiplier (as CELERY_WORKER_PREFETCH_MULTIPLIER) has no effect" in texts[2]
    assert "CELERY_BEATS_SHEDULE is unknown" in texts[3]
    works = found(report, Kind.WORKS)
    assert ("shop/settings.py", 5, "the setting task_track_started (as CELERY_TASK_TRACK_STARTED)") in works
    assert ("shop/tasks.py", 1, "celery.shared_task is dbqueue.shared_task") in works
    assert ("shop/tasks.py", 4, "the task option retry_backoff") in works
    assert ("shop/tasks.py", 11, "the call option countdown") in works
    assert not any("TIME_ZONE" in text or "DEBUG" in text for *_, text in works + changes)


def test_configuration_modules(tmp_path: Path) -> None:
    report = check_project(
        project(
            tmp_path,
            app="import celery\napp = celery.Celery('a')\napp.config_from_object('conf.queue')\n",
            conf__queue="import os\nbroker_url = os.environ['X']\ntask_serializer = 'jason'\nworker_concurrency = 4\n",
            celeryconfig="CELERYD_POOL = 'eventlet'\nBROKER_URL = 'amqp://guest@localhost//'\n",
            other="broker_url = 'redis://not-a-setting'\n",
        )
    )
    changes = {(path, line): text for path, line, text in found(report, Kind.CHANGES)}
    assert set(changes) == {("conf/queue.py", 3), ("celeryconfig.py", 1), ("celeryconfig.py", 2)}
    assert "no serializer 'jason'" in changes["conf/queue.py", 3]
    assert "use threads or asyncio" in changes["celeryconfig.py", 1]
    works = {(path, line) for path, line, _ in found(report, Kind.WORKS)}
    assert {("conf/queue.py", 2), ("conf/queue.py", 4)} <= works


def test_settings_of_an_application(tmp_path: Path) -> None:
    text = """\
from celery import Celery as C
app = C("a", "redis://localhost", backend="rpc://", task_serializer="json")
app.conf.timezone = "Nowhere/City"
app.conf["worker_autoscaler"] = "x"
app.conf.update({"task_acks_late": True}, result_expires=60, accept_content=["sealed"])
"""
    report = check_project(project(tmp_path, a=text))
    changes = {text for *_, text in found(report, Kind.CHANGES)}
    assert {each.split(":")[0] for each in changes} == {
        "the value of broker_url",
        "the value of result_backend",
        "the value of timezone",
        "the setting worker_autoscaler has no effect",
        "the value of accept_content",
    }
    works = {text for *_, text in found(report, Kind.WORKS)}
    assert {"the setting task_serializer", "the setting task_acks_late", "the setting result_expires"} <= works


def test_names_that_are_not_here(tmp_path: Path) -> None:
    text = """\
import celery.worker.components as steps
from celery.task import periodic_task
from celery.utils import LOG_LEVELS
from django_celery_beat.models import PeriodicTask
from kombu import Exchange, Queue
from kombu.serialization import register
from proj.celery import app

@app.task(queue="slow", nonsense=True, serializer="dill")
def add(x, y): ...

add.apply_async((1, 2), countdown=1, weird=2)
app.amqp
steps.Step
"""
    report = check_project(project(tmp_path, a=text))
    missing = {(line, text.split(":")[0]) for _, line, text in found(report, Kind.MISSING)}
    assert missing == {
        (1, "celery.worker.components"),
        (2, "celery.task.periodic_task"),
        (3, "celery.utils.LOG_LEVELS is not in dbqueue"),
        (13, "app.amqp is not in dbqueue"),
        (14, "celery.worker.components.Step"),
    }
    changes = {(line, text) for _, line, text in found(report, Kind.CHANGES)}
    assert {line for line, _ in changes} == {4, 5, 6, 9, 12}
    assert (12, "the call option weird is ignored") in changes
    assert any(line == 9 and "no serializer 'dill'" in text for line, text in changes)
    assert (6, "kombu.serialization.register is dbqueue.codec.register_serializer: rename it") in changes


def test_callbacks_of_a_retry_are_missing(tmp_path: Path) -> None:
    text = """\
from celery import shared_task

@shared_task(bind=True)
def add(self, x, y):
    raise self.retry(countdown=1, link=add.s(1), link_error=add.s(2))
"""
    report = check_project(project(tmp_path, a=text))
    refused = "=...) raises ValueError: give it to the call, or enqueue it in the task"
    assert found(report, Kind.MISSING) == [("a.py", 5, f"retry({name}{refused}") for name in ("link", "link_error")]


def test_other_libraries_are_left_alone(tmp_path: Path) -> None:
    text = """\
from flask import Flask
from app import app

@app.route("/")
def index():
    app.control.nothing()
    text.replace("a", "b")
    frame.chunks(3)
"""
    report = check_project(project(tmp_path, a=text))
    assert report.findings == []


def test_workflows_are_judged_by_what_dbqueue_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = check_project(
        project(tmp_path, a="from celery.result import NoSuchThing\nimport celery\ncelery.no_such\n")
    )
    assert {(line, text) for _, line, text in found(report, Kind.MISSING)} == {
        (1, "celery.result.NoSuchThing is not in dbqueue"),
        (3, "celery.no_such is not in dbqueue"),
    }
    import dbqueue.result

    monkeypatch.setattr(dbqueue.result, "NoSuchThing", object(), raising=False)
    assert porting_rules.judge_name("celery.result.NoSuchThing").kind is Kind.WORKS


def test_nothing_is_imported_or_run_and_bad_files_are_told(tmp_path: Path) -> None:
    folder = project(
        tmp_path,
        evil="import celery\nraise SystemExit(99)\n",
        broken="def (:\n",
        venv__lib__celery="from celery import bootsteps\n",
    )
    (folder / "binary.py").write_bytes(b"\0\xff")
    report = check_project(folder)
    assert set(report.unread) == {"broken.py", "binary.py"}
    assert {each.path for each in report.findings} == {"evil.py"}


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = project(tmp_path, **DJANGO)
    assert run(argv=["port-check", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "shop/settings.py:3: the value of broker_url: redis:// is no database" in out
    assert "3 files: 0 missing, 4 to change" in out
    assert run(argv=["port-check", str(folder / "shop" / "tasks.py"), "--json"]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert report["files"] == 1
    assert {"path": "tasks.py", "line": 10, "kind": "works", "text": "task.delay()"} in report["findings"]
    (folder / "more.py").write_text("from celery.bootsteps import ConsumerStep\n")
    assert run(argv=["port-check", str(folder)]) == 1
    assert "more.py:1: celery.bootsteps.ConsumerStep: it reads messages of a broker" in capsys.readouterr().out
    assert run(argv=["port-check", str(folder / "absent")]) == 2


def test_what_real_projects_taught(tmp_path: Path) -> None:
    """Findings that were wrong when it was tried on projects that people have."""
    text = """\
import os
import celery
from celery import Celery, Task, task
from celery.app.task import Context
from celery.task.control import revoke

REDIS = os.getenv("REDIS_URL", "redis://localhost:6379/0")
HOST = os.environ.get("HOST", "localhost")
app = Celery("a", broker=REDIS)
other = Celery("b", broker=f"amqp://{HOST}/")
third = Celery("c", broker=os.environ.get("DB", "postgresql://localhost/shop"))
celery.current_app.tasks.keys()
"""
    report = check_project(project(tmp_path, a=text))
    missing = {(line, text.split(":")[0]) for _, line, text in found(report, Kind.MISSING)}
    assert missing == {(3, "celery.task"), (5, "celery.task.control.revoke")}
    changes = {(line, text.split(":")[0]) for _, line, text in found(report, Kind.CHANGES)}
    assert changes == {(9, "the value of broker_url"), (10, "the value of broker_url")}


def test_what_further_projects_taught(tmp_path: Path) -> None:
    """An application in a registry, its constructor's other arguments, and what is asked of workers."""
    text = """\
import celery

def includeme(config):
    config.registry["celery.app"] = celery.Celery("shop", autofinalize=False, set_as_current=False, fixups=[])
    config.registry["celery.app"].conf.update(task_default_queue="default", broker_use_ssl=True)

app = celery.Celery()
app.control.revoke("id")
app.control.election("id", "topic")
app.control.inspect(["a@b"]).active()
app.control.inspect().memdump()
"""
    report = check_project(project(tmp_path, a=text))
    assert found(report, Kind.MISSING) == [
        ("a.py", 9, "app.control.election is not in dbqueue"),
        ("a.py", 11, "app.control.inspect().memdump is not in dbqueue"),
    ]
    changes = {(line, text.split(":")[0]) for _, line, text in found(report, Kind.CHANGES)}
    assert changes == {
        (4, "the argument autofinalize of the application has no effect"),
        (4, "the argument fixups of the application has no effect"),
        (5, "the setting broker_use_ssl has no effect"),
    }
    works = {(line, text) for _, line, text in found(report, Kind.WORKS)}
    assert {(5, "the setting task_default_queue"), (8, "app.control.revoke")} <= works
    assert (10, "app.control.inspect().active") in works


def test_files_without_celery_have_no_settings(tmp_path: Path) -> None:
    text = "import other\nthing.conf.update(include=['a'], imports=[])\n"
    report = check_project(project(tmp_path, a=text))
    assert [found(report, kind) for kind in Kind] == [[], [], []]


def test_the_queue_celery_keeps_its_name(tmp_path: Path) -> None:
    """A search and replace over whole files would make another queue of it."""
    shop = {
        "shop__tasks": """\
from celery import Celery, shared_task

app = Celery("celery", broker="postgresql://localhost/shop")
app.conf.task_default_queue = "celery"
app.conf.task_routes = {"shop.mail.*": {"queue": "celery"}}


@shared_task(queue="mail")
def charge(order):
    charge.apply_async((order,), queue="celery")


app.worker_main(["worker", "-Q", "mail,celery"])
""",
        "shop__settings": 'CELERY_TASK_DEFAULT_QUEUE = "celery"\n',
    }
    folder = project(tmp_path, **shop)
    (folder / "Procfile").write_text("web: serve\nworker: celery -A shop worker -Q mail,celery -c 2\n")
    (folder / "compose.yml").write_text('command: ["celery", "-A", "shop", "worker", "--queues=celery"]\n')
    (folder / "README.md").write_text("celery worker -Q celery\n")
    told = {(path, line) for path, line, text in found(check_project(folder), Kind.CHANGES) if "queue 'celery'" in text}
    assert told == {
        ("Procfile", 2),
        ("compose.yml", 1),
        ("shop/settings.py", 1),
        ("shop/tasks.py", 4),
        ("shop/tasks.py", 5),
        ("shop/tasks.py", 10),
        ("shop/tasks.py", 13),
    }


def test_settings_in_the_configuration_of_flask(tmp_path: Path) -> None:
    flask = {
        "shop__old": """\
from flask import Flask

app = Flask(__name__)
app.config["CELERY_BROKER_URL"] = "redis://localhost:6379/0"
app.config["SECRET_KEY"] = "redis://"
app.config.update(CELERY_RESULT_BACKEND="redis://localhost:6379/0", DEBUG=True)
""",
        "shop__new": """\
from flask import Flask

app = Flask(__name__)
app.config.from_mapping(
    CELERY=dict(
        broker_url="redis://localhost",
        task_ignore_result=True,
    ),
)
app.config["CELERY"] = {"result_backend": "redis://localhost"}
""",
        "shop__config": 'class Config:\n    CELERY_BROKER_URL: str = "redis://localhost"\n    REDIS = "redis://localhost"\n',
    }
    changes = found(check_project(project(tmp_path, **flask)), Kind.CHANGES)
    assert [(path, line) for path, line, _ in changes] == [
        ("shop/config.py", 2),
        ("shop/new.py", 6),
        ("shop/new.py", 10),
        ("shop/old.py", 4),
        ("shop/old.py", 6),
    ]
