"""Which queue a call goes to: `task_routes`, `task_queues`, priorities and annotations; no database."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from dbqueue import DBQueue, Task
from dbqueue.calls import new_job
from dbqueue.calls.routes import Exchange, Queue
from dbqueue.errors import ImproperlyConfigured
from dbqueue.exceptions import QueueNotFound
from dbqueue.queue_patterns import matches, resolve


def route_by_amount(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **kw: Any) -> Any:
    return {"queue": "large", "priority": 9} if args and args[0] > 100 else None


class OldRouter:
    def route_for_task(self, task: str, args: Any = None, kwargs: Any = None) -> Any:
        return {"queue": "old"} if task.startswith("old.") else None


old_router = OldRouter()


def make_app(**settings: Any) -> DBQueue:
    return DBQueue("shop", set_as_current=False, **settings)


def job(app: DBQueue, name: str, *args: Any, **options: Any) -> Any:
    return new_job(app.conf, name, app.tasks.get(name), args, {}, options)


def queue(app: DBQueue, name: str, *args: Any, **options: Any) -> str:
    return str(job(app, name, *args, **options).queue)


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        ({"video.encode": "media"}, ["media", "celery", "celery"]),
        ({"video.encode": {"queue": "media"}, "web.*": {"queue": "web"}}, ["media", "celery", "web"]),
        ({"*.encode": "x", "video.encode": "exact"}, ["exact", "celery", "celery"]),
        ([("video.*", {"queue": "a"}), (re.compile(r"(video|web)\..*"), {"queue": "b"})], ["a", "a", "b"]),
        (([("video.*", {"queue": "a"}), ("web.*", "b")],), ["a", "a", "b"]),
        ([{"web.*": "web"}, {"*": "rest"}], ["rest", "rest", "web"]),
        (lambda name, args, kwargs, options, task=None, **kw: "f" if "v" in name else None, ["f", "f", "celery"]),
        ([OldRouter(), {"web.*": "web"}], ["celery", "celery", "web"]),
        ([{"video.cut": {}}, {"video.*": "next"}], ["next", "next", "celery"]),  # what is empty says nothing
        ([(re.compile("video"), "begins")], ["begins", "begins", "celery"]),
        (f"{__name__}.route_by_amount", ["celery", "celery", "celery"]),
        ({"video.encode": Queue("object")}, ["object", "celery", "celery"]),
        ({}, ["celery", "celery", "celery"]),
        (None, ["celery", "celery", "celery"]),
    ],
)
def test_the_forms_of_task_routes(routes: Any, expected: list[str]) -> None:
    app = make_app(task_routes=routes)
    assert [queue(app, name) for name in ("video.encode", "video.cut", "web.page")] == expected


def test_functions_see_the_call_and_may_give_any_option() -> None:
    app = make_app(task_routes=[f"{__name__}:route_by_amount", {"pay": {"queue": "small", "expires": 60}}])
    large, small = job(app, "pay", 500), job(app, "pay", 5)
    assert (large.queue, large.priority, large.expires_seconds) == ("large", 9, None)
    assert (small.queue, small.priority, small.expires_seconds) == ("small", 0, 60.0)
    app.conf.task_routes = lambda name, args, kwargs, options, **kw: options.pop("countdown") and "later"
    assert (job(app, "pay", countdown=5).queue, job(app, "pay", countdown=5).delay_seconds) == ("later", 5.0)
    for path in ("old_router", "OldRouter"):  # an object, or the class of one, as in Celery's guide
        old = make_app(task_routes=(f"{__name__}.{path}",))
        assert [queue(old, "old.x"), queue(old, "new.x")] == ["old", "celery"]


def test_the_call_counts_for_most_then_the_task_then_the_routes() -> None:
    app = make_app(task_routes={"*": {"queue": "routed", "priority": 1}}, task_default_priority=7)

    @app.task(name="plain")
    def plain() -> None: ...

    @app.task(name="own", queue="own", priority=2)
    def own() -> None: ...

    assert queue(app, "plain") == "routed"
    assert queue(app, "plain", queue="asked") == "asked"
    assert queue(app, "own") == "own"
    assert [job(app, name).priority for name in ("plain", "own")] == [1, 2]
    assert job(app, "plain", priority=0).priority == 0
    app.conf.task_routes = None
    assert [job(app, name).priority for name in ("plain", "own")] == [7, 2]


def test_changes_of_the_setting_are_seen() -> None:
    app = make_app(task_routes={"a": "one"})
    app.conf.task_routes["b"] = "two"
    assert [queue(app, "a"), queue(app, "b")] == ["one", "two"]


def test_routing_keys_lead_to_the_queue_that_is_bound_to_them() -> None:
    feeds = Exchange("feeds", type="topic")
    app = make_app(
        task_queues=(
            Queue("default", routing_key="task.#"),
            Queue("feeds", feeds, routing_key="feed.*.import"),
            SimpleNamespace(name="video", routing_key="video"),
            SimpleNamespace(name="bound", routing_key="bound", bindings=[SimpleNamespace(routing_key="other")]),
            Queue("logs", routing_key="log.#"),
            Queue("dots", routing_key="a.b"),
        ),
        task_default_queue="default",
        task_routes={"feeds.tasks.*": {"queue": None, "routing_key": "feed.news.import"}},
    )
    assert queue(app, "feeds.tasks.load") == "feeds"
    assert [queue(app, "x", routing_key=key) for key in ("task.a.b", "task", "video", "nobody", "feed.a.b.import")] == [
        "default",
        "default",
        "video",
        "default",
        "default",
    ]
    assert [queue(app, "x", routing_key=key) for key in ("log", "log.a.b", "logs", "a.b", "aXb", "bound", "other")] == [
        "logs",
        "logs",
        "default",
        "dots",
        "default",
        "bound",
        "default",  # where a queue has a key of its own, its bindings are kombu's affair
    ]
    app.task(name="keyed", routing_key="video")(lambda: None)
    assert [queue(app, "keyed"), queue(app, "keyed", queue="asked")] == ["video", "asked"]
    app.conf.task_queues = {"a": {"binding_key": "x"}, "b": {"routing_key": "y", "binding_key": "x"}}
    assert [queue(app, "x", routing_key=key) for key in "xy"] == ["a", "b"]


@pytest.mark.parametrize("queues", [["a", "b"], (Queue("a"), Queue("b")), {"a": {"routing_key": "x"}, "b": {}}])
def test_a_worker_takes_jobs_from_task_queues(queues: Any) -> None:
    app = make_app(task_queues=queues)
    assert app.Worker(pool="solo").config.queues == ("a", "b")
    assert app.Worker(pool="solo", exclude_queues="b").config.queues == ("a",)
    assert app.Worker(pool="solo", queues="c,reports.*", exclude_queues="c").config.queues == ("reports.*",)
    with pytest.raises(ImproperlyConfigured, match="no queue is left"):
        app.Worker(pool="solo", exclude_queues="*")


def test_unknown_queues_may_be_refused() -> None:
    app = make_app(task_queues=["a"], task_create_missing_queues=False)
    assert [queue(app, "t"), queue(app, "t", queue="a"), queue(app, "t", queue=Queue("a"))] == ["celery", "a", "a"]
    with pytest.raises(QueueNotFound, match="does not name the queue 'b'"):
        queue(app, "t", queue="b")
    with pytest.raises(QueueNotFound):
        app.Worker(pool="solo", queues="a,b")


def test_routes_that_are_not_found() -> None:
    for routes in ("nothing.here", "os.nothing", "word"):
        with pytest.raises(ImproperlyConfigured, match="not found"):
            queue(make_app(task_routes=routes), "t")


@pytest.mark.parametrize("routes", [5, [{"other": "q"}, 5], object()])
def test_routes_that_are_none_are_refused(routes: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="which is no router"):
        queue(make_app(task_routes=routes), "t")


def test_annotations_change_tasks() -> None:
    def tell(self: Any, exc: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any) -> None:
        told.append((self.name, repr(exc)))

    told: list[Any] = []
    app = make_app(task_annotations={"*": {"max_retries": 9, "on_failure": tell}, "special": {"queue": "q"}})

    @app.task(name="special")
    def special() -> None:
        raise ValueError(1)

    @app.task(name="other")
    def other() -> None: ...

    assert (queue(app, "special"), queue(app, "other")) == ("q", "celery")
    assert (special.max_retries, other.max_retries, Task.max_retries) == (9, 9, 3)
    special.apply()
    assert told == [("special", "ValueError(1)")]


def test_annotations_by_objects_and_lists() -> None:
    class Slow:
        def annotate(self, task: Any) -> Any:
            return {"time_limit": 5} if task.name.startswith("slow.") else None

        def annotate_any(self) -> Any:
            return {"time_limit": 3, "max_retries": 8}

    app = make_app(task_annotations=(Slow, {"*": {"priority": 4}}))

    @app.task(name="slow.one")
    def one() -> None: ...

    app.finalize()
    assert (one.time_limit, one.max_retries, one.priority) == (5, 8, 4)


def test_annotations_of_a_task_whose_class_extends_another_tasks() -> None:
    app = make_app(task_annotations={"first": {"queue": "a"}, "second": {"queue": "b"}})

    class First(Task[Any, Any]):
        name = "first"

        def run(self) -> None: ...

    class Second(First):
        name = "second"

    app.register_task(First())
    app.register_task(Second())
    assert (queue(app, "first"), queue(app, "second")) == ("a", "b")


def test_patterns_of_queue_names() -> None:
    present = ["reports.b", "reports.a", "mail", "reports"]
    assert resolve(["mail", "reports.*", "absent"], present) == ["mail", "reports.a", "reports.b", "absent"]
    assert resolve(["*"], present, ["reports.*"]) == ["mail", "reports"]
    assert resolve(["a", "a"], []) == ["a"]
    assert matches("a.b", ["a.*"])
    assert not matches("aXb", ["a.*"])
