"""Which tasks are run again after a run that died with its process: by the task, or else by the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dbqueue import DBQueue
from dbqueue.services.workers import Worker

UNSET: dict[str, Any] = {}


def runs_once(tmp_path: Path, settings: dict[str, Any], options: dict[str, Any]) -> bool:
    with DBQueue("shop", broker=f"sqlite:///{tmp_path / 'unused.db'}", set_as_current=False, **settings) as app:
        app.task(name="pack", **options)(lambda: None)
        return "pack" in Worker(app, pool="solo").config.once


@pytest.mark.parametrize(
    ("acks_late", "reject", "once"),
    [
        (None, None, False),
        (True, None, False),
        (True, True, False),
        (True, False, True),
        (None, False, True),
        (False, None, True),
        (False, True, True),
        (False, False, True),
    ],
)
def test_by_the_task_or_by_the_settings(tmp_path: Path, acks_late: Any, reject: Any, once: bool) -> None:
    given = {"acks_late": acks_late, "reject_on_worker_lost": reject}
    own = {name: value for name, value in given.items() if value is not None}
    of_all = {f"task_{name}": value for name, value in own.items()}
    assert runs_once(tmp_path, UNSET, own) is once
    assert runs_once(tmp_path, of_all, UNSET) is once


@pytest.mark.parametrize(("setting", "own"), [(True, False), (False, True)])
def test_the_task_goes_before_the_settings(tmp_path: Path, setting: bool, own: bool) -> None:
    for name in ("acks_late", "reject_on_worker_lost"):
        assert runs_once(tmp_path, {f"task_{name}": setting}, {name: own}) is not own
