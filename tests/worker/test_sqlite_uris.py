"""A SQLite file by its URI (`file:jobs.db?uri=true`) is the file that a plain name is; a URI can name memory, too."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from dbqueue.contrib.testing.worker import start_worker as thread_worker
from dbqueue.errors import ImproperlyConfigured
from dbqueue.store.sqlite.store import SqliteStore
from tests.stores import enqueued, opened
from tests.worker.sample import make_app

SECONDS: dict[str, Any] = {"ping_task_timeout": 60.0, "shutdown_timeout": 60.0}


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("file:jobs.db", "jobs.db"),
        ("file:./jobs.db#part", "jobs.db"),
        ("file:{folder}/jobs.db", "jobs.db"),
        ("file://{folder}/jobs.db", "jobs.db"),
        ("file://localhost{folder}/jobs.db", "jobs.db"),
        ("file:two%20words%3F.db", "two words?.db"),
        ("file:jobs.db?mode=rwc", "jobs.db"),
        ("file:a%23b%2525.db", "a#b%25.db"),
        ("file:jobs.db?uri=false", "jobs.db"),  # the last one counts
    ],
)
def test_the_file_that_a_uri_names(name: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "with%percent"
    folder.mkdir()
    monkeypatch.chdir(folder)
    name = name.replace("{folder}", str(folder).replace("%", "%25"))
    with opened(f"sqlite:///{name}{'&' if '?' in name else '?'}uri=true") as store:
        assert isinstance(store, SqliteStore)
        monkeypatch.chdir(tmp_path)
        assert store.path == (folder / file).resolve()
        assert not store.in_memory
        store.ensure_schema()
        enqueued(store)
    assert [each.name for each in folder.iterdir() if each.suffix == ".db"] == [file]
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("url", "file"), [("a%20b.db", "a b.db"), ("a%2520b.db", "a%20b.db"), ("file:jobs.db", "file:jobs.db")]
)
def test_the_file_that_a_plain_name_is(url: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever SQLAlchemy makes of escapes, which differs between its releases."""
    monkeypatch.chdir(tmp_path)
    with opened(f"sqlite:///{url}") as store:
        store.ensure_schema()
        assert store.path == (tmp_path / file).resolve()
    assert [each.name for each in tmp_path.iterdir() if each.name.endswith(".db")] == [file]


@pytest.mark.parametrize(
    "name",
    [
        "file::memory:?uri=true",
        "file:jobs?mode=memory&uri=true",
        "file:a%23b?mode=memory&uri=true&cache=shared&timeout=3",
        "file:?uri=true",
        "%3Amemory%3A",
    ],
)
def test_a_uri_of_a_database_in_memory(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with make_app(f"sqlite:///{name}") as app, thread_worker(app, **SECONDS):
        assert app.tasks["sample.add"].delay(1, 2).get(timeout=60) == 3
    assert list(tmp_path.iterdir()) == []


def test_a_uri_of_another_host() -> None:
    with (
        pytest.raises(ImproperlyConfigured, match="another host"),
        make_app("sqlite:///file://elsewhere/jobs.db?uri=true") as app,
    ):
        app.tasks["sample.add"].delay(1, 2)


def test_processes_work_on_it(tmp_path: Path, start_worker: Any) -> None:
    url = f"sqlite:///file:{tmp_path}/jobs.db?uri=true"
    with make_app(url) as app:
        start_worker(url)
        results = [app.tasks["sample.pid"].delay() for _ in range(20)]
        assert os.getpid() not in {result.get(timeout=60) for result in results}
        assert (tmp_path / "jobs.db-workers").exists(), "each worker holds a lock there"
