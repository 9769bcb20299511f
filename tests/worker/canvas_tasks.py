"""The tasks of the canvas tests, and a place where they leave notes: a file beside the worker's database.

`python -m tests.workers` makes a worker of them, with the setting `notes` in the environment.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from dbqueue import DBQueue, chain, chord, group, signature

NOTES = "DBQUEUE_TEST_NOTES"


def note(*what: Any) -> None:
    """Leave a note; one write of one line, so that processes do not mix theirs."""
    with open(os.environ[NOTES], "a") as notes:
        notes.write(json.dumps(what) + "\n")


def notes(path: Path) -> list[list[Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def make_app(url: str | None, **settings: Any) -> DBQueue:  # noqa: C901 - a list of tasks
    app = DBQueue("tasks", database=url, set_as_current=False, **settings)

    @app.task(name="tasks.add")
    def add(x: Any, y: Any) -> Any:
        return x + y

    @app.task(name="tasks.mul")
    def mul(x: Any, y: Any) -> Any:
        return x * y

    @app.task(name="tasks.tsum")
    def tsum(numbers: list[Any]) -> Any:
        return sum(numbers)

    @app.task(name="tasks.ident")
    def ident(x: Any) -> Any:
        return x

    @app.task(name="tasks.const")
    def const() -> int:
        return 7

    @app.task(name="tasks.kw")
    def kw(*args: Any, **kwargs: Any) -> Any:
        return [list(args), kwargs]

    @app.task(name="tasks.fail")
    def fail(*args: Any) -> None:
        raise ValueError("bad")

    @app.task(name="tasks.rep", bind=True)
    def rep(self: Any, *args: Any) -> Any:
        return self.replace(signature(args[-1], app=app))

    @app.task(name="tasks.rep_with", bind=True)
    def rep_with(self: Any, x: Any, sig: Any) -> Any:
        return self.replace(signature(sig, app=app).clone((x,)))

    @app.task(name="tasks.atc", bind=True)
    def atc(self: Any, x: Any) -> Any:
        self.add_to_chord(add.s(x, 100))
        return x

    @app.task(name="tasks.grow", bind=True)
    def grow(self: Any, sig: Any) -> int:
        self.add_to_chord(signature(sig, app=app))
        return 0

    @app.task(name="tasks.sends")
    def sends(sig: Any) -> Any:
        return signature(sig, app=app).delay()

    @app.task(name="tasks.second_order", bind=True)
    def second_order(self: Any, again: bool = False) -> Any:
        note("in" if not again else "out")
        if not again:
            raise self.replace(chain(record.si("within"), second_order.si(again=True)))
        return "done"

    @app.task(name="tasks.ign", ignore_result=True)
    def ign(x: Any) -> Any:
        return x

    @app.task(name="tasks.flaky", bind=True, max_retries=2)
    def flaky(self: Any, x: Any) -> Any:
        if self.request.retries < 1:
            raise self.retry(countdown=0)
        return x

    @app.task(name="tasks.retried", bind=True)
    def retried(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.request.retries < 1:
            raise self.retry(countdown=0)
        return [list(args), kwargs]

    @app.task(name="tasks.spawn", bind=True)
    def spawn(self: Any, n: int) -> Any:
        members = group(add.s(i, i) for i in range(n))()
        return [members.id, add.delay(1, 1).id]

    @app.task(name="tasks.info", bind=True)
    def info(self: Any, *args: Any) -> dict[str, Any]:
        names = ("id", "root_id", "parent_id", "group", "group_index", "stamps", "stamped_headers", "headers")
        found = {name: getattr(self.request, name) for name in names}
        return {**found, "priority": self.request.delivery_info["priority"], "eta": bool(self.request.eta)}

    @app.task(name="tasks.record")
    def record(*args: Any) -> list[Any]:
        note(*args)
        return list(args)

    @app.task(
        name="tasks.kept",
        bind=True,
        transactional=True,
        autoretry_for=(sa.exc.OperationalError,),
        max_retries=None,
        default_retry_delay=0.1,
    )
    def kept(self: Any, *args: Any) -> Any:
        self.connection.execute(sa.text("INSERT INTO effects (name) VALUES (:name)"), {"name": self.request.id})
        return list(args)

    @app.task(name="tasks.old_errback")
    def old_errback(task_id: str) -> None:
        note("old", task_id)

    @app.task(name="tasks.new_errback")
    def new_errback(request: Any, exc: Any, traceback: Any) -> None:
        note("new", request.id, request.task, type(exc).__name__, str(exc), type(traceback).__name__)

    return app


def namespace(app: DBQueue) -> dict[str, Any]:
    """What a canvas expression is evaluated in."""
    import functools
    import operator

    tasks = {name.rpartition(".")[2]: task for name, task in app.tasks.items() if name.startswith("tasks.")}
    helpers = {"reduce": functools.reduce, "or_": operator.or_, "json": json}
    return {**tasks, **helpers, "chain": chain, "chord": chord, "group": group, "signature": signature}
