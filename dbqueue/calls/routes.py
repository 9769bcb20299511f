"""Which queue a call goes to, by the settings `task_routes` and `task_queues`; and what `task_annotations` changes.

Celery's guide "Routing Tasks" gives the order, the strongest first: the options of the call, the
attributes of the task, `task_routes`, and `task_default_queue`. A route may give any option of
`apply_async`, such as `priority`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from dbqueue.errors import ImproperlyConfigured, QueueNotFound
from dbqueue.queue_patterns import is_pattern, star_pattern

if TYPE_CHECKING:
    from dbqueue.conf import Settings
    from dbqueue.task import Task

HOOKS: Final = frozenset({"before_start", "on_success", "on_retry", "on_failure", "after_return"})


@dataclass(frozen=True, slots=True)
class Exchange:
    """In the place of kombu's `Exchange`, for ported settings: there are no exchanges here, and nothing is read."""

    name: str = ""
    type: str = "direct"


class Queue:
    """In the place of kombu's `Queue`, in `task_queues`: a name, and the routing key that leads to it.

    `routing_key` may hold `*` for one word and `#` for any number of them, as of a topic exchange.
    kombu's other arguments are taken and mean nothing.
    """

    def __init__(self, name: str, exchange: Any = None, routing_key: str | None = None, **options: Any) -> None:
        self.name, self.exchange, self.routing_key, self.options = name, exchange, routing_key, options

    def __repr__(self) -> str:
        return f"<Queue {self.name} {self.routing_key or ''}>"


def queue_names(conf: Settings) -> list[str]:
    """The queues that `task_queues` names, in its order; none where it is not set.

    It may be a list of names or of objects with a `name`, or a dict with the names for keys.
    """
    return list(dict.fromkeys(name for name, _ in _queues(conf)))


def route(
    conf: Settings,
    name: str,
    task: Task[Any, Any] | None,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Mapping[str, Any]:
    """The options of a call, with what the routes add to them and always with a `queue`.

    Raises QueueNotFound for a queue that `task_queues` does not name, if `task_create_missing_queues`
    is off, and ImproperlyConfigured for routes that cannot be read.
    """
    found = _found_route(conf, name, task, args, kwargs, options) if conf.task_routes else None
    given = dict(options)
    for option, value in (found or {}).items():
        # A route says nothing where the call or the task has said it.
        if given.get(option) is None and getattr(task, option, None) is None:
            given[option] = value
    own = given.get("queue") or (task and task.queue)
    key = given.get("routing_key") or getattr(task, "routing_key", None)
    given["queue"] = own or (key and bound_to(conf, key)) or conf.task_default_queue
    if not conf.task_create_missing_queues:
        check_known(conf, queue_name(given["queue"]))
    return given


def queue_name(queue: Any) -> Any:
    """The name of a queue that is given as a text, or as an object with a name (kombu's Queue is one)."""
    # A member of an enumeration of texts has a name too, and is its text. The name of kombu's Broadcast is drawn anew
    # in each process, and the alias is what programs send to.
    if isinstance(queue, str):
        return str.__str__(queue)
    return getattr(queue, "alias", None) or getattr(queue, "name", queue)


def check_known(conf: Settings, queue: str) -> None:
    """Raise QueueNotFound unless `task_queues` (or `task_default_queue`) names the queue."""
    if queue != conf.task_default_queue and queue not in queue_names(conf):
        raise QueueNotFound(
            f"task_queues does not name the queue {queue!r}: add it there, or allow it by task_create_missing_queues"
        )


def annotate(conf: Settings, task: Task[Any, Any]) -> None:
    """Set the attributes that `task_annotations` gives this task, once for each value of the setting.

    The setting is a dict of dicts by the task's name, where '*' is every task (named ones count for
    more), an object with `annotate(task)` that returns such a dict or None, or a list of these.
    Celery's page: "Tasks", the setting `task_annotations`.
    """
    annotations = conf.task_annotations
    cls = type(task)
    if not annotations or cls.__dict__.get("annotated_by") is annotations:
        return
    cls.annotated_by = annotations
    for each in annotations if isinstance(annotations, list | tuple) else (annotations,):
        for values in _annotations_of(each, task):
            for name, value in values.items():
                # On the class, as in Celery: a function becomes a method.
                setattr(cls, name, value)
                cls.has_hooks = cls.has_hooks or name in HOOKS


def _annotations_of(annotation: Any, task: Task[Any, Any]) -> Iterator[Mapping[str, Any]]:
    if isinstance(annotation, Mapping):
        found = [annotation.get("*"), annotation.get(task.name)]
    else:
        annotation = _named(annotation)
        annotation = annotation() if isinstance(annotation, type) else annotation
        everything = getattr(annotation, "annotate_any", None)
        found = [everything and everything(), annotation.annotate(task)]
    yield from filter(None, found)


# -- routes


def _found_route(
    conf: Settings,
    name: str,
    task: Task[Any, Any] | None,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Mapping[str, Any] | None:
    """What the first router that knows the task says, as options."""
    for router in _routers(conf.task_routes):
        if isinstance(router, Mapping):
            found = _by_name(router.items(), name, router)
        elif _is_pairs(router):
            found = _by_name(router, name)
        else:
            function = _named(router)
            function = function() if isinstance(function, type) else function
            older = getattr(function, "route_for_task", None)  # Celery 3's routers
            if not (older or callable(function)):
                raise ImproperlyConfigured(
                    f"task_routes has {router!r}, which is no router: a dict, a list of pairs, a function or its name"
                )
            found = older(name, args, kwargs) if older else function(name, args, kwargs, dict(options), task=task)
        if found:
            return found if isinstance(found, Mapping) else {"queue": found}
    return None


def look_at_calls(conf: Settings) -> bool:
    """Whether a router is a function, which may tell one call of a task from another."""
    found = _routers(conf.task_routes) if conf.task_routes else ()
    return not all(isinstance(router, Mapping) or _is_pairs(router) for router in found)


def _routers(routes: Any) -> Iterable[Any]:
    return [routes] if not isinstance(routes, list | tuple) or _is_pairs(routes) else routes


def _is_pairs(value: Any) -> bool:
    """Whether it is a list of pairs of a name (or pattern) and a route, rather than a list of routers."""
    return isinstance(value, list | tuple) and all(
        isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str | re.Pattern) for pair in value
    )


def _by_name(pairs: Iterable[tuple[Any, Any]], name: str, exact: Mapping[Any, Any] | None = None) -> Any:
    """The route of this name, or else of the first pattern that fits it, in the order of the pairs."""
    pairs = list(pairs)
    exact = dict(pair for pair in pairs if isinstance(pair[0], str)) if exact is None else exact
    if name in exact:
        return exact[name]
    for key, value in pairs:
        if isinstance(key, re.Pattern):
            if key.match(name):
                return value
        elif is_pattern(key) and star_pattern(key).fullmatch(name):
            return value
    return None


def _named(value: Any) -> Any:
    """What a text such as `proj.routers.route_task` (or with a colon) names; any other value as it is."""
    if not isinstance(value, str):
        return value
    module, _, attribute = value.replace(":", ".").rpartition(".")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ImproperlyConfigured(f"task_routes or task_annotations name {value!r}, which is not found") from error


# -- queues


def _queues(conf: Settings) -> Iterator[tuple[str, str | None]]:
    """Names and routing keys."""
    queues = conf.task_queues or ()
    if isinstance(queues, Mapping):
        for name, options in queues.items():
            key = options.get("routing_key") or options.get("binding_key") if isinstance(options, Mapping) else None
            yield name, key
        return
    for queue in [queues] if isinstance(queues, str) else queues:
        for key in _keys(queue):
            yield queue_name(queue), key


def _keys(queue: Any) -> list[str | None]:
    """The routing keys that lead to a queue: kombu's Queue may have one, or bindings with one each."""
    key = getattr(queue, "routing_key", None)
    bound = [] if key else [binding.routing_key for binding in getattr(queue, "bindings", None) or ()]
    return sorted(bound) or [key]


def bound_to(conf: Settings, routing_key: str) -> str | None:
    """The first queue of `task_queues` whose routing key this one fits."""
    return next((name for name, key in _queues(conf) if key and _topic(key).fullmatch(routing_key)), None)


def _topic(pattern: str) -> re.Pattern[str]:
    """AMQP's rules for topics: `*` is one word, `#` any number of words, with dots between them."""
    words: list[str] = []
    for number, word in enumerate(pattern.split(".")):
        dot = r"\." if number else ""
        words.append(
            (rf"({dot}[^.]+)*" if number else ".*")
            if word == "#"
            else dot + (r"[^.]+" if word == "*" else re.escape(word))
        )
    return re.compile("".join(words))


Router = Callable[..., Any]
"""A function of `task_routes`: `(name, args, kwargs, options, task=None, **kw)`, to a queue's name, options or None."""
