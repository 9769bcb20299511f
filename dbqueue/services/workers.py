"""A worker for an application: what the command line runs, and what a program may embed."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from dbqueue import codec, signals
from dbqueue.bootsteps import Steps
from dbqueue.calls import routes
from dbqueue.errors import ImproperlyConfigured
from dbqueue.jobs import A_NAME, is_name
from dbqueue.limits import Policies, Rate, parse_rate
from dbqueue.pools.child import import_modules
from dbqueue.queue_patterns import matches
from dbqueue.services import django_connections
from dbqueue.services.timer import Timer
from dbqueue.settings.kinds import MAX_CONCURRENCY
from dbqueue.task import transactions
from dbqueue.version import __version__
from dbqueue.worker.claiming.rates import TaskRates
from dbqueue.worker.config import MAX_PROCESSES, OWN_SHARE, POOLS, WorkerConfig
from dbqueue.worker.running.executor import Executor, ExecutorOptions
from dbqueue.worker.running.runnable import Runnable
from dbqueue.worker.running.transacting import Transactions, Unit
from dbqueue.worker.supervising.autoscale import Autoscaler
from dbqueue.worker.supervising.crew import Crew
from dbqueue.worker.supervising.limits import Limits, TimeLimits
from dbqueue.worker.supervising.shutdown import requests_by_signal
from dbqueue.worker.supervising.supervisor import Supervisor

if TYPE_CHECKING:
    from dbqueue.app import DBQueue

WITHOUT_EFFECT: Final = frozenset(
    {
        "loglevel", "logfile", "pidfile", "statedb", "schedule_filename", "scheduler", "optimization", "no_color",
        "prefetch_multiplier", "disable_prefetch", "without_gossip", "without_mingle", "without_heartbeat",
        "heartbeat_interval", "redirect_stdouts", "redirect_stdouts_level", "quiet", "uid", "gid", "umask",
    }
)  # fmt: skip
"""Options of Celery's worker that a program may give: its log and its process are its own."""
POOL_ALIASES = {"processes": "prefork", "aio": "asyncio"}


class Worker:
    """One worker; Celery's `app.Worker(...)`.

    `queues` and `exclude_queues` are names (or texts of names with commas), in which a star stands
    for any text; by default the queues are those of `task_queues`, or the default queue; `hostname` is the
    worker's name, with `%h` for the host, `%n` for the part of its name before the first dot and
    `%d` for the rest; `beat` enqueues periodic tasks, too; `embedded` is for a worker in a thread of
    another program, whose process it never ends; `include` are modules to import, too; others default
    to settings. Celery's further options (`loglevel`, `without_gossip`, ...) have no effect. Raises
    ImproperlyConfigured.
    """

    def __init__(
        self,
        app: DBQueue,
        *,
        hostname: str | None = None,
        pool: str | None = None,
        concurrency: int | None = None,
        include: Sequence[str] | str | None = None,
        queues: Sequence[str] | str | None = None,
        exclude_queues: Sequence[str] | str | None = None,
        time_limit: float | None = None,
        soft_time_limit: float | None = None,
        max_tasks_per_child: int | None = None,
        max_memory_per_child: int | None = None,
        autoscale: tuple[int, int] | None = None,
        beat: bool = False,
        task_events: bool | None = None,
        embedded: bool = False,
        start_child: Callable[[str], None] = lambda name: None,
        on_ready: Callable[[], None] = lambda: None,
        at_exit: Callable[[], None] = lambda: None,
        **unused: Any,
    ) -> None:
        own_options = {str(option.name) for option in app.user_options["worker"]}
        unknown = sorted(unused.keys() - WITHOUT_EFFECT - own_options)
        if unknown:
            raise TypeError(f"Worker() got an unexpected keyword argument {unknown[0]!r}")
        self.app = app
        self.hostname = expanded_name(hostname)
        """The worker's name."""
        conf = app.conf
        if include:
            conf.include = [*conf.include, *_names(include)]
        given = {
            "hostname": hostname, "pool": pool, "concurrency": concurrency, "include": include, "queues": queues,
            "exclude_queues": exclude_queues, "time_limit": time_limit, "soft_time_limit": soft_time_limit,
            "max_tasks_per_child": max_tasks_per_child, "max_memory_per_child": max_memory_per_child,
            "autoscale": autoscale, "beat": beat, "task_events": task_events, **unused,
        }  # fmt: skip
        signals.celeryd_init.send(self.hostname, instance=self, conf=conf, options=given)
        django_connections.prepare()
        app.import_tasks()
        pool = pool or conf.worker_pool
        pool = POOL_ALIASES.get(pool, pool)
        if pool not in POOLS:
            raise ImproperlyConfigured(f"there is no pool {pool!r}: choose one of {', '.join(POOLS)}")
        concurrency = concurrency or conf.worker_concurrency or os.cpu_count() or 1
        self._autoscaler = _autoscaler(autoscale, pool)
        if self._autoscaler is not None:
            concurrency = self._autoscaler.minimum
        most = MAX_PROCESSES if pool == "prefork" else MAX_CONCURRENCY
        if not 1 <= concurrency <= most:
            raise ImproperlyConfigured(f"concurrency must be from 1 to {most} in the pool {pool}, not {concurrency}")
        self.config = WorkerConfig(
            name=self.hostname,
            queues=_queues(conf, queues, exclude_queues),
            excluded=tuple(_names(exclude_queues)),
            queue_weights=_weights(conf),
            strict_order=conf.worker_queue_order == "strict",
            pool=pool,
            concurrency=concurrency,
            lease_seconds=conf.worker_lease_seconds,
            heartbeat_seconds=_heartbeat_seconds(conf),
            poll_seconds=conf.worker_poll_interval,
            min_poll_seconds=min(conf.worker_min_poll_interval, conf.worker_poll_interval),
            max_losses=conf.task_max_losses,
            result_expires_seconds=conf.result_expires,
            result_max_kept=conf.result_max_kept,
            max_input_bytes=conf.max_input_bytes,
            max_tasks_per_child=max_tasks_per_child or conf.worker_max_tasks_per_child,
            max_memory_per_child=max_memory_per_child or conf.worker_max_memory_per_child,
            once=tuple(name for name, task in app.tasks.items() if not _may_run_again(app, task)),
            version=__version__,
            embedded=embedded,
            remote_control=conf.worker_enable_remote_control,
            pool_restarts=conf.worker_pool_restarts,
            task_events=conf.worker_send_task_events if task_events is None else task_events,
            repr_levels=conf.task_repr_maxlevels,
            shutdown_seconds=conf.worker_shutdown_timeout,
            soft_shutdown_seconds=conf.worker_soft_shutdown_timeout,
            soft_shutdown_on_idle=conf.worker_enable_soft_shutdown_on_idle,
            at_exit=at_exit,
            policies=Policies({name: task.limit for name, task in app.tasks.items() if task.limit is not None}),
        )
        self._rates = TaskRates({} if conf.worker_disable_rate_limits else _rates(app))
        self._limits = TimeLimits(
            {name: Limits(task.soft_time_limit, task.time_limit) for name, task in app.tasks.items()},
            Limits(soft_time_limit or conf.task_soft_time_limit, time_limit or conf.task_time_limit),
        )
        self._beat = None
        if beat:
            from dbqueue.services.beats import make_beat

            self._beat = make_beat(app)
        self._on_ready = on_ready
        self._start_child = start_child
        self.executor = make_executor(app, hostname=self.config.name)
        self._crew = Crew(self.config, self.executor, self._enter_child)
        self.timer = Timer(self.stop)
        options = {name: value for name, value in unused.items() if name in own_options}
        self._steps = Steps(app.steps["worker"], self, options)
        self._consumer_steps = Steps(app.steps["consumer"], self, options)
        signals.celeryd_after_setup.send(self.config.name, instance=self, conf=conf)
        self._supervisor: Supervisor | None = None
        self._stop_requested: str | None = None

    @property
    def controller(self) -> Worker:
        """The worker, as steps of `app.steps["consumer"]` ask for it; and they get it in Celery's consumer's place."""
        return self

    consumer = controller

    def prepare(self, before_fork: Callable[[], None] = lambda: None) -> None:
        """Fork the process that children come from; before this process has threads or lasting connections.

        `before_fork` may use the database: the pages that are written meanwhile are shared afterwards.
        """
        signals.worker_init.send(self)
        before_fork()
        if self.config.pool != "solo":
            self.app.database.before_fork()
            django_connections.before_fork()
        self._crew.fork_nursery()

    def run(self, *, handle_signals: bool = True) -> int:
        """Work until stopped; the exit code: 0 after a warm shutdown, 1 after any other.

        Raises OperationalError where the database cannot be reached, SchemaError where it has no
        tables. With `handle_signals`, which needs the main thread, TERM and INT ask for a shutdown.
        """
        supervisor = Supervisor(
            self.app.database.store,
            self.config,
            self._crew,
            limits=self._limits,
            rates=self._rates,
            app=self.app,
            autoscaler=self._autoscaler,
            on_ready=self._ready,
        )
        if handle_signals:
            supervisor.handle_signals()
        self._supervisor = supervisor
        if self._stop_requested:
            supervisor.request_stop(self._stop_requested)
        if self._beat is not None:
            from dbqueue.services.beats import announce

            announce(self._beat, embedded=True)
            self._beat.start()
        how = "terminate"
        try:
            self._steps.start()
            code = supervisor.run() if self.config.pool != "solo" else self._run_solo(supervisor)
            how = "terminate" if code else "stop"
            return code
        finally:
            self._consumer_steps.stop(how=how)
            self._consumer_steps.stop(how="shutdown")
            self._steps.stop(how=how)
            self.timer.stop()
            supervisor.close()
            if self._beat is not None:
                self._beat.stop()
            signals.worker_shutdown.send(self)

    def _enter_child(self, name: str) -> None:
        self.app.database.in_child = True
        self._start_child(name)
        self.app.on_after_fork.send(self.app)
        signals.worker_process_init.send(self.hostname)

    def _ready(self) -> None:
        self._consumer_steps.start()
        signals.worker_ready.send(self)
        self._on_ready()

    def _run_solo(self, supervisor: Supervisor) -> int:
        """The loop moves to a thread, and tasks have this one to themselves."""
        codes: list[int] = []
        errors: list[BaseException] = []

        def serve() -> None:
            try:
                codes.append(supervisor.run())
            except BaseException as error:  # noqa: BLE001 - raised again where the caller is
                errors.append(error)

        loop = threading.Thread(target=serve, name="supervisor")
        self._crew.start()
        loop.start()
        try:
            self._crew.run_in_place()
        finally:
            self.executor.close()
            loop.join()
        if errors:
            raise errors[0]
        return codes[0]

    def start(self) -> int:
        """`prepare` and `run`: what an embedding program calls, on its main thread."""
        self.prepare()
        if threading.current_thread() is not threading.main_thread():
            return self.run(handle_signals=False)
        before = {number: signal.getsignal(number) for number in requests_by_signal()}
        try:
            return self.run()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def stop(self, how: str = "warm") -> None:
        """Ask for a shutdown, from any thread."""
        self._stop_requested = how
        if self._supervisor is not None:
            self._supervisor.request_stop(how)

    def reload(self, modules: Iterable[str] | None = None, reload: bool = False, reloader: Any = None) -> None:
        """Import modules, those of `imports` and `include` by default, with `reload` anew; Celery's of the same name.

        Tasks that this process registers meanwhile run without it, with the pool solo. Processes of another pool keep
        what they have: `app.control.pool_restart()` replaces them. A module that cannot be imported is logged.
        `reloader` is not used.
        """
        names = (*self.app.conf.imports, *self.app.conf.include) if modules is None else tuple(modules)
        import_modules(dict.fromkeys(names), reload=reload)

    def __repr__(self) -> str:
        return f"<Worker: {self.hostname}>"

    def close(self) -> None:
        """End what `prepare` started, where `run` was never reached. May be called twice."""
        self._crew.close()


def make_executor(
    app: DBQueue,
    *,
    hostname: str,
    eager: bool = False,
    keep_results: bool = True,
    observe: Callable[[Any], None] | None = None,
) -> Executor:
    """What runs this application's jobs; see `ExecutorOptions`."""
    conf = app.conf
    options = ExecutorOptions(
        hostname=hostname,
        accept_content=tuple(conf.accept_content),
        result_accept_content=None if conf.result_accept_content is None else tuple(conf.result_accept_content),
        max_payload_bytes=conf.max_payload_bytes,
        result_serializer=codec.serializer(conf.result_serializer),
        result_compression=conf.result_compression,
        localise=lambda moment: moment if conf.enable_utc else moment.astimezone(app.timezone),
        eager=eager,
        keep_results=keep_results,
        signer=None if eager else app.database.signer,
        transactions=Transactions(
            begin=lambda job, is_async: cast("Unit", transactions.begin(app, job, is_async=is_async)),
            leave_loop=lambda: transactions.leave_loop(app),
            max_losses=conf.task_max_losses,
        ),
        observe=observe,
    )
    return Executor(cast("Callable[[str], Runnable | None]", app.tasks.get), options)


def expanded_name(given: str | None) -> str:
    """`celery@host` by default; `%h`, `%n` and `%d` stand for parts of the host's name, `%%` for `%`, as in Celery."""
    host = socket.gethostname()
    short, _, domain = host.partition(".")
    parts = {"%h": host, "%n": short, "%d": domain, "%%": "%"}
    name = re.sub("%[hnd%]", lambda found: parts[found[0]], given or "celery@%h")
    if "@" not in name:
        name = f"{name}@{host}"
    if not is_name(name):
        raise ImproperlyConfigured(f"the name of a worker, with its host, is {A_NAME}, not {(given or name)[:100]!a}")
    return name


def _heartbeat_seconds(conf: Any) -> float:
    beat: float = conf.worker_heartbeat_interval or conf.worker_lease_seconds / 3
    if beat >= OWN_SHARE * conf.worker_lease_seconds:
        raise ImproperlyConfigured(
            f"worker_heartbeat_interval ({beat:g} s) is too long for worker_lease_seconds "
            f"({conf.worker_lease_seconds:g} s): the worker would be taken for dead between two heartbeats; set it to "
            "a third of the lease, or leave it out"
        )
    return beat


def _autoscaler(bounds: tuple[int, int] | None, pool: str) -> Autoscaler | None:
    if bounds is None:
        return None
    if pool != "prefork":
        raise ImproperlyConfigured(f"autoscale is for the pool prefork: the pool {pool} is one process")
    try:
        return Autoscaler(*bounds)
    except ValueError as error:
        raise ImproperlyConfigured(str(error)) from error


def _queues(conf: Any, chosen: Sequence[str] | str | None, excluded: Sequence[str] | str | None) -> tuple[str, ...]:
    names = _names(chosen) or routes.queue_names(conf) or [conf.task_default_queue]
    if not conf.task_create_missing_queues:
        for name in names:
            routes.check_known(conf, name)
    left = tuple(name for name in dict.fromkeys(names) if not matches(name, _names(excluded)))
    if not left:
        raise ImproperlyConfigured("no queue is left to consume from: -X excludes all that -Q or the settings name")
    return left


def _weights(conf: Any) -> dict[str, int]:
    for name, weight in conf.worker_queue_weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int) or weight < 1:
            raise ImproperlyConfigured(f"worker_queue_weights: {name!r} must be a whole number from 1, not {weight!r}")
    if conf.worker_queue_weights and conf.worker_queue_order == "strict":
        raise ImproperlyConfigured("worker_queue_weights have no meaning with worker_queue_order='strict'")
    return {str(name): weight for name, weight in conf.worker_queue_weights.items()}


def _names(queues: Sequence[str] | str | None) -> list[str]:
    if isinstance(queues, str):
        queues = queues.split(",")
    return [name.strip() for name in queues or () if name.strip()]


def _rates(app: DBQueue) -> dict[str, Rate]:
    """The tasks that have a rate limit of their own, or by `task_default_rate_limit`."""
    rates: dict[str, Rate] = {}
    for name, task in app.tasks.items():
        value = app.conf.task_default_rate_limit if task.rate_limit is None else task.rate_limit
        try:
            rate = parse_rate(value)
        except (TypeError, ValueError) as error:
            raise ImproperlyConfigured(f"the rate limit of the task {name} cannot be {value!r}: {error}") from error
        if rate is not None:
            rates[name] = rate
    return rates


def _may_run_again(app: DBQueue, task: Any) -> bool:
    """Whether a run of this task that died is run again."""
    acks_late = app.conf.task_acks_late if task.acks_late is None else task.acks_late
    reject = app.conf.task_reject_on_worker_lost if task.reject_on_worker_lost is None else task.reject_on_worker_lost
    return bool(acks_late) and reject is not False
