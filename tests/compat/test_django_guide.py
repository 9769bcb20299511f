"""Celery's page "First steps with Django": `delay_on_commit`, and Django's connections in a worker."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dbqueue import DBQueue, Task
from dbqueue.contrib.django.task import DjangoTask

SETTINGS = """
INSTALLED_APPS = ["shop"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "site.db"}}
CELERY_BROKER_URL = "sqlite:///jobs.db"
"""

TASKS = """
from dbqueue import shared_task
from django.db import connection

seen = []

@shared_task
def count(x):
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s", [x])
        seen.append(id(connection.connection))
        return cursor.fetchone()[0]

@shared_task
def is_open():
    return connection.connection is not None
"""

RUN = """
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "site_settings"
from dbqueue import DBQueue
from dbqueue.contrib.testing.worker import start_worker
app = DBQueue("proj")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.import_tasks()
from django.db import connection, transaction
from shop.tasks import count, is_open

with start_worker(app, perform_ping_check=False):
    print([count.delay(x).get(timeout=30) for x in (1, 2)], is_open.delay().get(timeout=30))
    connection.ensure_connection()
    print(is_open.apply().get())

import dbqueue
jobs = DBQueue("jobs", broker="sqlite:///site.db", set_as_current=False)
jobs.database.store
with transaction.atomic(), dbqueue.using(connection):
    called = jobs.send_task("elsewhere", [1])
    print(called.exists())
print(called.exists())
try:
    with transaction.atomic(), dbqueue.using(connection):
        called = jobs.send_task("elsewhere", [2])
        raise KeyError
except KeyError:
    print(called.exists())
with dbqueue.using(connection):
    print(jobs.send_task("elsewhere", [3]).exists())

results = []
original = type(count._get_current_object()).apply_async
def noted(self, *args, **kwargs):
    results.append(args or kwargs)
    return original(self, *args, **kwargs)
type(count._get_current_object()).apply_async = noted

with transaction.atomic():
    count.delay_on_commit(3)
    count.apply_async_on_commit((4,), queue="other")
    print(len(results))
print(len(results))
try:
    with transaction.atomic():
        count.delay_on_commit(5)
        raise KeyError
except KeyError:
    print(len(results))
"""


def test_calls_that_wait_for_the_commit_and_connections_that_are_closed(tmp_path: Path) -> None:
    pytest.importorskip("django")
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "tasks.py").write_text(TASKS)
    (tmp_path / "site_settings.py").write_text(SETTINGS)
    (tmp_path / "run.py").write_text(RUN)
    done = subprocess.run([sys.executable, "run.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    # A connection of an earlier task is closed, since CONN_MAX_AGE is 0; one of the eager caller is its own.
    assert done.stdout.splitlines() == [
        *("[1, 2] False", "True"),
        *("False", "True", "False", "True"),  # in Django's transaction, in one that is rolled back, and in none
        *("0", "2", "2"),
    ], done.stderr


def test_outside_of_a_project_it_is_the_plain_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)
    app = DBQueue("app", broker="sqlite://", set_as_current=False)
    assert app.Task is Task
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "anything")
    assert app.Task is DjangoTask
