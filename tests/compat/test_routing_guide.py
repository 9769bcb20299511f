"""Celery's guide "Routing Tasks": its examples, with the words replaced, through the database."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from dbqueue import DBQueue, testing
from dbqueue.calls.routes import Exchange, Queue
from dbqueue.store import queues


@pytest.fixture
def app(database_url: str) -> Iterator[DBQueue]:
    with DBQueue("proj", broker=database_url, set_as_current=False) as app:
        yield app


def sent(app: DBQueue, name: str, *args: Any, **options: Any) -> testing.EnqueuedJob:
    """The row of a call."""
    result = app.send_task(name, args, **options)
    return next(job for job in testing.all_enqueued(app) if job.id == result.id)


def test_automatic_routing(app: DBQueue) -> None:
    app.conf.task_routes = {"feed.tasks.import_feed": {"queue": "feeds"}}
    assert [sent(app, name).queue for name in ("feed.tasks.import_feed", "video.tasks.compress")] == ["feeds", "celery"]
    app.conf.task_routes = {"feed.tasks.*": {"queue": "feeds"}}
    assert sent(app, "feed.tasks.anything").queue == "feeds"
    app.conf.task_routes = (
        [
            ("feed.tasks.*", {"queue": "feeds"}),
            ("web.tasks.*", {"queue": "web"}),
            (re.compile(r"(video|image)\.tasks\..*"), {"queue": "media"}),
        ],
    )
    names = ("feed.tasks.a", "web.tasks.a", "video.tasks.a", "image.tasks.a", "other.tasks.a")
    assert [sent(app, name).queue for name in names] == ["feeds", "web", "media", "media", "celery"]


def test_the_name_of_the_default_queue(app: DBQueue) -> None:
    app.conf.task_default_queue = "default"
    assert sent(app, "a").queue == "default"
    assert app.Worker(pool="solo").config.queues == ("default",)


def test_manual_routing(app: DBQueue) -> None:
    app.conf.task_default_queue = "default"
    app.conf.task_queues = (
        Queue("default", routing_key="task.#"),
        Queue("feed_tasks", routing_key="feed.#"),
        Queue("regular_tasks", exchange=Exchange("media", type="direct"), routing_key="media.regular"),
    )
    app.conf.task_routes = {"feeds.tasks.import_feed": {"queue": "feed_tasks", "routing_key": "feed.import"}}
    assert sent(app, "feeds.tasks.import_feed").queue == "feed_tasks"
    assert sent(app, "feeds.tasks.import_feed", queue="feed_tasks", routing_key="feed.import").queue == "feed_tasks"
    assert sent(app, "x", routing_key="feed.import").queue == "feed_tasks"
    assert sent(app, "x", exchange="media", routing_key="media.regular").queue == "regular_tasks"
    assert app.Worker(pool="solo").config.queues == ("default", "feed_tasks", "regular_tasks")
    assert app.Worker(pool="solo", queues="feed_tasks").config.queues == ("feed_tasks",)


def test_routers(app: DBQueue) -> None:
    def route_task(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **kw: Any) -> Any:
        if name == "myapp.tasks.compress_video":
            return {"exchange": "video", "exchange_type": "topic", "routing_key": "video.compress", "queue": "video"}
        return None

    app.conf.task_routes = (route_task, {"celery.ping": "default"})
    assert sent(app, "myapp.tasks.compress_video").queue == "video"
    assert sent(app, "celery.ping").queue == "default"
    assert sent(app, "other").queue == "celery"


def test_routes_with_priorities_and_what_the_call_says_last(app: DBQueue) -> None:
    """The guide: "specify the priority in task_routes" and "options in apply_async take precedence"."""
    app.conf.task_routes = {"tasks.add": {"queue": "hipri", "priority": 10}}

    @app.task(name="tasks.add", queue="own")
    def add(x: int, y: int) -> int:
        return x + y

    assert (sent(app, "tasks.add", 1, 1).queue, sent(app, "tasks.add", 1, 1).priority) == ("own", 10)
    assert sent(app, "tasks.add", 1, 1, queue="asked", priority=0).priority == 0


def test_higher_priorities_run_first(app: DBQueue) -> None:
    """Different on purpose: Celery's order depends on the broker."""

    @app.task(name="note")
    def note(value: int) -> int:
        return value

    app.conf.task_default_priority = 5
    note.delay(5)
    for priority in (0, 9, 3):
        note.apply_async((priority,), priority=priority)
    assert [run.result for run in testing.drain(app)] == [9, 5, 3, 0]


def test_annotations(app: DBQueue) -> None:
    """ "Configuration", task_annotations: change attributes of tasks without touching them."""
    app.conf.task_annotations = {"tasks.add": {"rate_limit": "10/s", "queue": "slow"}, "*": {"priority": 2}}

    @app.task(name="tasks.add")
    def add(x: int, y: int) -> int:
        return x + y

    job = sent(app, "tasks.add", 1, 2)
    assert (job.queue, job.priority, add.rate_limit) == ("slow", 2, "10/s")


def test_pausing_a_queue_stops_its_jobs_only(app: DBQueue) -> None:
    """Not in Celery."""
    app.send_task("unknown.task", queue="mail")
    queues.pause(app.database.store, ["mail"])
    assert len(testing.drain(app)) == 0
    queues.resume(app.database.store, ["mail"])
    assert testing.drain(app).counts == {"FAILURE": 1}
