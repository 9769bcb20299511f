"""The application: settings, tasks, and the door to the database."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Self, TypeVar, Unpack, cast, overload
from zoneinfo import ZoneInfo

from dbqueue import app_registry, signals, urls
from dbqueue.app import loading
from dbqueue.app.registry import TaskRegistry
from dbqueue.calls import follows, new_job
from dbqueue.calls.routes import annotate
from dbqueue.canvas.app_names import CanvasNames
from dbqueue.canvas.builtins import register as register_builtins
from dbqueue.conf import Settings
from dbqueue.context import current_request
from dbqueue.database import Database
from dbqueue.errors import AlreadyRegistered, AlwaysEagerIgnored, ImproperlyConfigured
from dbqueue.result import AsyncResult
from dbqueue.services import Services
from dbqueue.services.periodic import new_entry
from dbqueue.signals import Signal
from dbqueue.task import Task as BaseTask
from dbqueue.task.django_task import DjangoTask, in_django
from dbqueue.task.factory import make_task
from dbqueue.task.options import warn_of_unknown

if TYPE_CHECKING:
    from uuid import UUID

    from dbqueue.task.types import AsyncTask, BoundDecorator, CallOptions, Decorator

P = ParamSpec("P")
R = TypeVar("R")
OwnTask = TypeVar("OwnTask", bound="BaseTask[Any, Any]")


class DBQueue(Services, CanvasNames):
    """An application, in the place of `Celery`.

    `main` names tasks that are defined in the program's main module. `broker`, `backend` and
    `database` are URLs of one database, under the names that Celery has and the plain one; without
    any, jobs go to `dbqueue.sqlite3` in the current folder. `include` are modules that a worker
    imports. Other keyword arguments are settings. Raises ImproperlyConfigured where the URLs name
    different databases, or one that dbqueue does not support.
    """

    task_cls: type[BaseTask[Any, Any]] | str | None = None
    """The class of tasks that name no `base` of their own, or its path: `module:Class`. None is `dbqueue.Task`."""

    def __init__(
        self,
        main: str | None = None,
        broker: str | None = None,
        backend: str | None = None,
        *,
        database: str | None = None,
        include: Sequence[str] | str | None = None,
        config_source: Any = None,
        namespace: str | None = None,
        set_as_current: bool = True,
        task_cls: type[BaseTask[Any, Any]] | str | None = None,
        **settings: Any,
    ) -> None:
        self.main = main
        self.conf = Settings()
        self.database = Database(self.conf)
        self._autodiscover: list[Callable[[], Iterable[str]]] = []
        self.on_after_configure = Signal("on_after_configure", "source")
        self.on_after_finalize = Signal("on_after_finalize")
        self.on_after_fork = Signal("on_after_fork")
        if self.on_configure is None:
            self.on_configure = Signal("on_configure")
        self.finalized = False
        self._periodic: dict[str, dict[str, Any]] = {}
        if task_cls is not None:
            self.task_cls = task_cls
        given = {"database_url": database, "broker_url": broker, "result_backend": backend, "include": include}
        self.conf.update({name: value for name, value in (given | settings).items() if value is not None})
        if broker and backend and not urls.same_database(broker, backend):
            raise ImproperlyConfigured(
                f"broker ({urls.mask_url(broker)}) and backend ({urls.mask_url(backend)}) name different "
                "databases: jobs and results live in one table, so give one URL, or the same one twice"
            )
        if config_source is not None:
            self.config_from_object(config_source, namespace=namespace)
        if set_as_current:
            self.set_current()
        app_registry.add(self)
        self.on_init()

    def on_init(self) -> None:
        """Runs when the application is made; for subclasses."""

    on_configure: Any = None
    """A signal that is sent before `on_after_configure`; in a subclass it may be a method, which is called then."""

    # settings

    def config_from_object(
        self, obj: Any, silent: bool = False, force: bool = False, namespace: str | None = None
    ) -> None:
        """Read settings from a module, its name, an object or a mapping; see `Settings.config_from_object`."""
        self.conf.config_from_object(obj, silent=silent, force=force, namespace=namespace)

    def config_from_envvar(self, variable_name: str, silent: bool = False, force: bool = False) -> None:
        """Read settings from the module that an environment variable names."""
        self.conf.config_from_envvar(variable_name, silent=silent, force=force)

    @property
    def timezone(self) -> ZoneInfo:
        """The setting `timezone`: naive times in calls are in it."""
        return ZoneInfo(self.conf.timezone)

    def now(self) -> datetime:
        """The time now, in the application's zone."""
        return datetime.now(self.timezone)

    def add_defaults(self, defaults: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> None:
        """Set what nothing else has set; a function gives it."""
        for name, value in (defaults() if callable(defaults) else defaults).items():
            if self.conf.origin(name) == "default":
                self.conf[name] = value

    # tasks

    @cached_property
    def tasks(self) -> TaskRegistry:
        """The tasks by name, the shared ones and dbqueue's own among them.

        Not made with the application: their base class may lie in a module that imports it (`task_cls`).
        """
        self.__dict__["tasks"] = registry = TaskRegistry(self)
        register_builtins(self)
        for register in app_registry.shared:
            register(self)
        return registry

    @property
    def Task(self) -> type[BaseTask[Any, Any]]:  # noqa: N802 - Celery's name
        """The class of tasks that name no `base` of their own; a path is imported when it is first needed."""
        if isinstance(self.task_cls, str):
            self.task_cls = loading.import_class(self.task_cls)
        return cast("type[BaseTask[Any, Any]]", self.task_cls or (DjangoTask if in_django() else BaseTask))

    @Task.setter
    def Task(self, cls: type[BaseTask[Any, Any]]) -> None:  # noqa: N802
        self.task_cls = cls

    @overload
    def task(self, fun: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def task(self, fun: Callable[P, R], /) -> BaseTask[P, R]: ...
    @overload
    def task(self, fun: None = None, /, *, bind: Literal[True], **options: Any) -> BoundDecorator: ...
    @overload
    def task(self, fun: None = None, /, *, bind: Literal[False] = False, **options: Any) -> Decorator: ...
    def task(self, fun: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        """Make a task of a function: `@app.task`, or `@app.task(bind=True, name=..., queue=...)`.

        With `bind`, the function's first argument is the task. `base` is the class to derive from;
        any other option is an attribute of the task, see `Task`.
        """
        if fun is None:
            return lambda function: self._make_task(function, **options)
        if not callable(fun):
            raise TypeError(f"@app.task takes a function, not {fun!r}")
        return self._make_task(fun, **options)

    def _make_task(
        self,
        fun: Callable[..., Any],
        *,
        name: str | None = None,
        base: type[BaseTask[Any, Any]] | None = None,
        bind: bool = False,
        **options: Any,
    ) -> BaseTask[Any, Any]:
        name = name or self.gen_task_name(fun.__name__, fun.__module__)
        existing = self.tasks.get(name)
        if existing is not None:
            return existing  # a module that is imported twice, as `__main__` and by its name
        return self.register_task(make_task(self, fun, name=name, base=base or self.Task, bind=bind, options=options))

    def register_task(self, task: OwnTask | type[OwnTask], **options: Any) -> OwnTask:
        """Register an instance (or a class) of Task that defines `run`.

        One of a class that was registered before takes the other's place: modules are imported twice, and tests
        register a class each time. Raises AlreadyRegistered for the name of another class.
        """
        instance = task() if isinstance(task, type) else task
        if not instance.name:
            cls = type(instance)
            instance.name = self.gen_task_name(cls.__name__, cls.__module__)
        known = self.tasks.get(instance.name)
        if known is not None and type(known).__qualname__ != type(instance).__qualname__:
            raise AlreadyRegistered(f"another task is registered as {instance.name!r}: give one of them a `name`")
        instance.app = self
        self.tasks[instance.name] = instance
        instance.on_bound(self)
        return instance

    def gen_task_name(self, name: str, module: str) -> str:
        """`module.name`; for the main module the application's name stands for the module."""
        return f"{self.main or module if module == '__main__' else module}.{name}"

    def autodiscover_tasks(
        self,
        packages: Iterable[str] | Callable[[], Iterable[str]] | None = None,
        related_name: str | None = "tasks",
        force: bool = False,
    ) -> None:
        """Import `package.tasks` of each package when a worker starts, or at once with `force`."""

        def modules() -> Iterable[str]:
            names = packages() if callable(packages) else packages
            return loading.related_modules(self, names, related_name)

        if force:
            loading.import_modules(modules())
        else:
            self._autodiscover.append(modules)

    def import_tasks(self) -> None:
        """Import all modules that the application names: `include`, `imports`, autodiscovered ones."""
        signals.import_modules.send(sender=self)
        loading.import_modules([*self.conf.include, *self.conf.imports])
        for modules in self._autodiscover:
            loading.import_modules(modules())
        self.finalize()

    def finalize(self, auto: bool = False) -> None:
        """Send `on_after_configure`, then `on_after_finalize`: once, before a worker or a beat starts.

        Tasks are whole as soon as they are declared, so a program that only enqueues need not call it.
        """
        if not self.finalized:
            self.finalized = True
            if isinstance(self.on_configure, Signal):
                self.on_configure.send(sender=self)
            else:
                self.on_configure()
            self.on_after_configure.send(sender=self, source=self.conf)
            self.conf.beat_schedule.update(self._periodic)
            self.on_after_finalize.send(sender=self)
            for task in self.tasks.values():
                annotate(self.conf, task)

    def add_periodic_task(
        self, schedule: Any, sig: Any, args: Any = (), kwargs: Any = None, name: str | None = None, **opts: Any
    ) -> str:
        """Add an entry to the setting `beat_schedule`, and return its name (by default the call as text).

        `schedule` is a number of seconds, a timedelta, or a schedule of `dbqueue.schedules`; `sig` a
        task or a signature; `opts` are options of the call: `expires`, `queue`, ...
        """
        name, entry = new_entry(schedule, sig, args, kwargs, name, opts)
        # Not at once: the settings may come from a module that is not to be imported yet.
        (self.conf.beat_schedule if self.finalized else self._periodic)[name] = entry
        return name

    # calls and results

    def send_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        connection: Any = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[Any]:
        """Enqueue a call of a task by its name, which need not be registered here; see `Task.apply_async`."""
        self._warn_of_eager()
        warn_of_unknown(options)
        if follows(options):
            sig = self.signature(name, args, kwargs, dict(options))
            return cast("AsyncResult[Any]", sig.apply_async(connection=connection))
        job = new_job(self.conf, name, self.tasks.get(name), args, kwargs, options)
        (job_id,) = self.database.enqueue([job], connection)
        return self.sent(job_id, ignored=bool(options.get("ignore_result")))

    async def asend_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        connection: Any = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[Any]:
        """`send_task` for asynchronous code, and for asynchronous connections."""
        self._warn_of_eager()
        warn_of_unknown(options)
        if follows(options):
            sig = self.signature(name, args, kwargs, dict(options))
            return cast("AsyncResult[Any]", await sig.aapply_async(connection=connection))
        job = new_job(self.conf, name, self.tasks.get(name), args, kwargs, options)
        (job_id,) = await self.database.aenqueue([job], connection)
        return self.sent(job_id, ignored=bool(options.get("ignore_result")))

    def _warn_of_eager(self) -> None:
        if self.conf.task_always_eager:
            warnings.warn("task_always_eager has no effect on send_task", AlwaysEagerIgnored, stacklevel=3)

    def sent(self, task_id: str, *, ignored: bool) -> AsyncResult[Any]:
        """The result of a call that was enqueued just now."""
        result = self.AsyncResult(task_id, ignored=ignored)
        result.sent_at = time.monotonic()
        return result

    def AsyncResult(self, task_id: str | UUID, *, ignored: bool = False) -> AsyncResult[Any]:  # noqa: N802 - Celery's name
        """The result of the call with this id."""
        return AsyncResult(task_id, app=self, ignored=ignored)

    @property
    def current_worker_task(self) -> BaseTask[Any, Any] | None:
        """The task that is running here."""
        return self.current_task

    @property
    def current_task(self) -> BaseTask[Any, Any] | None:
        """The task that is running here."""
        request = current_request.get()
        return self.tasks.get(request.task) if request is not None and request.task else None

    # the current application

    def set_current(self) -> None:
        """Make this the application of `current_app` on this thread."""
        app_registry.set_current(self)

    def set_default(self) -> None:
        """Make this the application of `current_app` on threads that have none of their own."""
        app_registry.set_default(self)

    def close(self) -> None:
        """Close the database connections; they open again on the next use."""
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<DBQueue {self.main or '__main__'} at {id(self):#x}>"


Celery = DBQueue
"""For programs whose imports were changed by replacing `celery` alone."""


def app_or_default(app: DBQueue | None = None) -> DBQueue:
    """The application given, or the current one."""
    if app is not None:
        return app
    from dbqueue.shared import current_app

    return current_app()


def __getattr__(name: str) -> Any:
    """`dbqueue.app.shared_task` and `default_app`, which are made of what stands above."""
    if name == "shared_task":
        from dbqueue.shared import shared_task

        return shared_task
    if name == "default_app":
        import dbqueue

        return dbqueue.current_app
    raise AttributeError(f"module 'dbqueue.app' has no attribute {name!r}")
