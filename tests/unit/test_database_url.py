"""The one database that the settings name together."""

from __future__ import annotations

from pathlib import Path

import pytest

from dbqueue import DBQueue
from dbqueue.errors import ImproperlyConfigured

ONE, OTHER = "postgresql://me:secret@db/one", "postgresql://me:secret@db/other"


def test_settings_that_name_different_databases() -> None:
    app = DBQueue("shop", broker=ONE, set_as_current=False)
    app.conf.result_backend = OTHER
    with pytest.raises(
        ImproperlyConfigured, match=r"broker_url .* and result_backend .* different databases"
    ) as caught:
        _ = app.database.url
    assert "secret" not in str(caught.value)


def test_the_same_database_twice() -> None:
    app = DBQueue("shop", broker=ONE, set_as_current=False)
    app.conf.result_backend = "db+postgresql+psycopg2://me:secret@DB:5432/one"
    assert app.database.url == "postgresql://me:********@db/one"


def test_the_environment_names_it_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the code says is of another place then, whichever settings it says it with."""
    monkeypatch.setenv("DBQUEUE_DATABASE_URL", OTHER)
    app = DBQueue("shop", broker=ONE, backend=ONE, set_as_current=False)
    assert app.database.url == "postgresql://me:********@db/other"


def test_a_flag_names_it_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever settings each of them names it with."""
    monkeypatch.setenv("DBQUEUE_BROKER_URL", OTHER)
    app = DBQueue("shop", set_as_current=False)
    app.conf.override({"database_url": ONE})
    assert app.database.url == "postgresql://me:********@db/one"


def test_none_is_a_file_here() -> None:
    assert DBQueue("shop", set_as_current=False).database.url == "sqlite:///dbqueue.sqlite3"


def test_an_option_that_would_be_passed_over_is_refused(tmp_path: Path) -> None:
    """A file that is meant to be read alone, and is written."""
    file = tmp_path / "queue.db"
    for refused in (
        f"sqlite:///{file}?mode=ro",
        f"sqlite:///{file}?mode=ro&uri=true",
        f"sqlite:///file:{file}?mode=ro",
    ):
        with pytest.raises(ImproperlyConfigured, match="'mode' is no option of a SQLite file"):
            DBQueue("shop", broker=refused, set_as_current=False).database.store.engine.connect()
    assert list(tmp_path.iterdir()) == []
    for allowed in (f"sqlite:///{file}?timeout=3", f"sqlite:///file:{file}?mode=rwc&uri=true"):
        with DBQueue("shop", broker=allowed, set_as_current=False) as app:
            app.database.store.engine.connect().close()
