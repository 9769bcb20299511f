"""What each name, setting and option of Celery is here: the judgements behind `dbqueue port-check`.

What is there is asked of dbqueue itself wherever that is possible (its modules, its table of
settings, its classes), so that the answers cannot fall behind the code. The tables below hold only
what cannot be asked: names that have another home or another name, and what to do without the rest.
"""

from __future__ import annotations

import enum
import importlib
from dataclasses import dataclass
from typing import Any, Final

from dbqueue import urls
from dbqueue.app import DBQueue
from dbqueue.control import Control
from dbqueue.errors import ImproperlyConfigured
from dbqueue.inspection import Inspect
from dbqueue.result import AsyncResult
from dbqueue.settings import KNOWN, SETTINGS, URL_SETTINGS
from dbqueue.settings.celery import WITHOUT_MEANING, new_name
from dbqueue.task import Task
from dbqueue.task.factory import PYDANTIC_OPTIONS
from dbqueue.task.types import CallOptions


class Kind(enum.Enum):
    """What a finding means for the one who ports."""

    WORKS = "works"
    """As it is, once `celery` reads `dbqueue` in the imports."""
    CHANGES = "changes"
    """Edit it, or know that it does something else or nothing here."""
    MISSING = "missing"
    """Not in this version of dbqueue."""


@dataclass(frozen=True, slots=True)
class Verdict:
    kind: Kind
    text: str


def works(text: str) -> Verdict:
    return Verdict(Kind.WORKS, text)


def changes(text: str) -> Verdict:
    return Verdict(Kind.CHANGES, text)


def missing(text: str) -> Verdict:
    return Verdict(Kind.MISSING, text)


OTHER_NAMES: Final = {"kombu.serialization.register": ("dbqueue.codec", "register_serializer")}
"""Where a name lives here that is not `dbqueue` in the place of `celery`."""

ADVICE: Final = {
    "celery.task": "gone from Celery 5 too: use `shared_task` and `Task` from dbqueue",
    "celery.task.control": "gone from Celery 5 too: use `app.control`",
    "celery.messaging": "gone from Celery 5 too: jobs are rows",
    "celery.decorators": "gone from Celery 5 too: use `shared_task` from dbqueue",
    "celery.worker.request": "runs are made by dbqueue.worker.running.executor, without an interface for subclasses",
    "celery.events.snapshot": "the rows of dbqueue_jobs are what a camera would write",
    "celery.bin": "the commands of `dbqueue` are click commands in dbqueue.cli, without a public interface",
    "celery.worker.components": "the parts of the worker cannot be exchanged",
    "celery.worker.consumer": "the parts of the worker cannot be exchanged",
    "celery.bootsteps": "the parts of the worker cannot be exchanged; Step and StartStopStep are there",
    "celery.bootsteps.ConsumerStep": "it reads messages of a broker: let their senders enqueue a task",
    "celery.backends": "results lie in the jobs table, and nowhere else",
    "celery.contrib.rdb": "no debugger listens on a port here: use `breakpoint()` with `-P solo`",
    "celery.concurrency": "pools are chosen with `-P`; they cannot be added to",
    "celery.worker": "the worker's parts have no public interface; `app.Worker(...)` embeds one",
    "kombu.Exchange": "there are no exchanges: leave it out",
    "kombu.Queue": "use `dbqueue.calls.routes.Queue`, or the queue's name",
    "kombu.common.Broadcast": "a queue like any other here: reach all workers by a control command of your own",
    "kombu": "there is no message transport: jobs are rows",
    "django_celery_beat": "schedules lie in dbqueue's own table, without an admin page",
    "django_celery_results": "results lie in dbqueue's own table",
    "flower": "it reads Celery's events from a broker, of which there is none",
    "redbeat": "schedules lie in the database already",
    "celery_once": "it locks through Redis: give the task unique=True instead",
    "celery_singleton": "it locks through Redis: give the task unique=True instead",
}
"""What to know of modules and names that are not here."""

GONE: Final = ("celery.task", "celery.decorators", "celery.messaging", "celery.bootsteps.ConsumerStep")
"""What dbqueue has something else by the name of, or nothing, or only an error that says so."""
VALUES: Final = ("celery.current_app", "celery.current_task", "celery._state.current_app", "celery._state.current_task")

FOREIGN: Final = (
    "kombu",
    "django_celery_beat",
    "django_celery_results",
    "flower",
    "redbeat",
    "celery_once",
    "celery_singleton",
)
"""Packages around Celery that a port must look at."""

INSTANCE_ATTRIBUTES: Final = frozenset(
    {"main", "conf", "tasks", "database", "finalized", "on_after_configure", "on_after_finalize"}
)
"""What an application has beyond its class."""
OTHER_ARGUMENTS: Final = {
    "strict_typing": "give task_cls a class with `typing = False`",
    **dict.fromkeys(("loader", "amqp", "events", "log", "control", "tasks"), "the parts cannot be exchanged"),
    **dict.fromkeys(("changes", "preload"), "give the settings themselves"),
    "autofinalize": "tasks are whole as soon as they are declared",
    "fixups": "what Django needs is always done",
    "backend_cls": "results lie in the jobs table, and nowhere else",
}
"""Arguments of Celery's application that are not here, and why, or what to do instead."""
DECORATOR_OPTIONS: Final = frozenset({"name", "base", "bind", "pydantic", *PYDANTIC_OPTIONS})
TASK_METHODS: Final = frozenset(
    {
        "delay", "apply_async", "apply", "retry", "update_state", "s", "si", "signature", "subtask", "replace",
        "add_to_chord", "chunks", "starmap", "send_event",
    }
)  # fmt: skip
"""Methods whose names tell a task, so that a call of one is judged wherever it stands."""
CONTROL_METHODS: Final = frozenset({"revoke", "terminate"})


def concerns(module: str) -> bool:
    """Whether an import of the module is Celery's, or of a package around it."""
    return module.partition(".")[0] in ("celery", *FOREIGN)


def judge_name(path: str) -> Verdict:
    """A dotted name of Celery's, as an import or an attribute of a module reaches it: `celery.schedules.crontab`."""
    if path in OTHER_NAMES:
        module, name = OTHER_NAMES[path]
        if not _has(module, name):
            return missing(f"{path}{_advice(path)}")
        if name != path.rpartition(".")[2]:
            return changes(f"{path} is {module}.{name}: rename it")
        moved = "dbqueue" + path[len("celery") :] != f"{module}.{name}"
        return (changes if moved else works)(f"{path} is {module}.{name}" + (": import it from there" if moved else ""))
    if path in GONE or any(path.startswith(f"{each}.") for each in GONE):
        return missing(f"{path}{_advice(path)}")
    for value in VALUES:  # what lies below is an attribute of the object, not a name of a module
        if path.startswith(f"{value}."):
            attribute = path[len(value) + 1 :].partition(".")[0]
            return judge_app_attribute(attribute) if value.endswith("current_app") else works(value)
    if path.partition(".")[0] != "celery":
        return changes(f"{path}{_advice(path)}")
    own = "dbqueue" + path[len("celery") :]
    module, _, name = own.rpartition(".")
    if own == "dbqueue" or _module(own) is not None or (module and _has(module, name)):
        return works(f"{path} is {own}")
    return missing(f"{path}{_advice(path)}")


def _advice(path: str) -> str:
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        advice = ADVICE.get(".".join(parts[:length]))
        if advice is not None:
            return f": {advice}"
    return " is not in dbqueue" if path.startswith("celery") else ""


def _module(name: str) -> Any:
    """A module of dbqueue, imported to see what it has; the project's own are never."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _has(module: str, name: str) -> bool:
    found = _module(module)
    return name == "*" or (found is not None and (hasattr(found, name) or _module(f"{module}.{name}") is not None))


def judge_setting(name: str, *, namespace: str | None = None) -> tuple[str, Verdict] | None:
    """The setting that a name in a configuration is, and what it means; None for a name of something else.

    `namespace` is that of `config_from_object`, such as CELERY.
    """
    candidate = name
    if namespace and name.startswith(f"{namespace}_"):
        candidate = name[len(namespace) + 1 :].lower()
    known = candidate if candidate in KNOWN else new_name(name, KNOWN)
    if known is None:
        if namespace and name.startswith(f"{namespace}_"):
            return candidate, changes(f"the setting {name} is unknown to dbqueue and ignored with a warning")
        return None
    shown = f"the setting {known}" + ("" if known == name else f" (as {name})")
    if known in WITHOUT_MEANING:
        return known, changes(f"{shown} has no effect: {WITHOUT_MEANING[known]}")
    return known, works(shown)


def judge_value(setting: str, value: Any) -> Verdict | None:
    """What is to be changed in a setting's value; None where it can stay."""
    if setting not in SETTINGS:
        return None
    try:
        if setting in URL_SETTINGS and isinstance(value, str):
            urls.normalise_url(value)
        SETTINGS[setting].check(value)
    except ImproperlyConfigured as error:
        return changes(f"the value of {setting}: {error}")
    return None


def judge_task_option(name: str) -> Verdict:
    """An option of `@app.task(...)`: any attribute may be set, and those of Task have a meaning."""
    if name in DECORATOR_OPTIONS or hasattr(Task, name):
        return works(f"the task option {name}")
    return changes(f"the task option {name} is kept as an attribute of the task, and has no effect of its own")


def judge_call_option(name: str) -> Verdict:
    """An option of `apply_async(...)`."""
    if name in CallOptions.__annotations__ or name in ("args", "kwargs", "connection"):
        return works(f"the call option {name}")
    return changes(f"the call option {name} is ignored")


def judge_retry_option(name: str) -> Verdict:
    """A callback of `retry(...)`."""
    return missing(f"retry({name}=...) raises ValueError: give it to the call, or enqueue it in the task")


def judge_task_method(name: str) -> Verdict:
    if hasattr(Task, name):
        return works(f"task.{name}()")
    return missing(f"task.{name}(): this is not here")


def judge_result_method(name: str) -> Verdict:
    return works(f"result.{name}()") if hasattr(AsyncResult, name) else missing(f"result.{name}() is not here")


def judge_argument(name: str) -> Verdict:
    """One of `OTHER_ARGUMENTS`."""
    return changes(f"the argument {name} of the application has no effect: {OTHER_ARGUMENTS[name]}")


def judge_command(name: str, *, inspect: bool) -> Verdict:
    """What is asked of `app.control`, or of what its `inspect()` gives."""
    shown = f"app.control.inspect().{name}" if inspect else f"app.control.{name}"
    known = hasattr(Inspect if inspect else Control, name)
    return works(shown) if known else missing(f"{shown} is not in dbqueue")


def judge_app_attribute(name: str) -> Verdict:
    """`app.send_task`, `app.control`, ..."""
    if name in INSTANCE_ATTRIBUTES or hasattr(DBQueue, name):
        return works(f"app.{name}")
    return missing(f"app.{name} is not in dbqueue")
