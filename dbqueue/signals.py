"""Signals: functions that are called when something happens, under Celery's names and arguments.

    from dbqueue.signals import task_failure

    @task_failure.connect
    def tell(sender=None, task_id=None, exception=None, **kwargs):
        ...

Receivers take keyword arguments only and should end in `**kwargs`: later versions may pass more. A
receiver is held weakly unless `weak=False`, so a nested function must be kept by its owner. One that
raises is logged, and neither the sender nor the other receivers notice. Each signal is sent in the
process where Celery sends it; the comments say which.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final

logger: Final = logging.getLogger("dbqueue.signals")

Receiver = Callable[..., Any]


class Signal:
    """One kind of event. `provides` names the keyword arguments that receivers get, beside `sender`."""

    def __init__(self, name: str, *provides: str) -> None:
        self.name, self.provides = name, provides
        self._lock = threading.Lock()
        self._receivers: dict[object, tuple[Callable[[], Receiver | None], Any]] = {}

    def connect(
        self, *args: Receiver, sender: Any = None, weak: bool = True, dispatch_uid: object = None, **_: Any
    ) -> Any:
        """Call a receiver at each event, or only at those of `sender`; also a decorator, with or without options.

        The same receiver, or the same `dispatch_uid`, is connected once.
        """

        def add(receiver: Receiver) -> Receiver:
            if not callable(receiver):
                raise TypeError(f"a receiver of {self.name} must be callable, not {receiver!r}")
            key = dispatch_uid if dispatch_uid is not None else _identity(receiver)
            with self._lock:
                self._receivers[key, id(sender)] = (_reference(receiver, weak), sender)
            return receiver

        return add(args[0]) if args else add

    def disconnect(self, receiver: Receiver | None = None, sender: Any = None, dispatch_uid: object = None) -> bool:
        """No longer call this receiver; whether it was connected."""
        key = dispatch_uid if dispatch_uid is not None else _identity(receiver)
        with self._lock:
            return self._receivers.pop((key, id(sender)), None) is not None

    @property
    def providing_args(self) -> set[str]:
        """The names of the keyword arguments that receivers get, beside `sender`."""
        return set(self.provides)

    @property
    def receivers(self) -> list[Receiver]:
        """Those that are connected and still exist."""
        return [receiver for reference, _ in list(self._receivers.values()) if (receiver := reference())]

    def has_listeners(self, sender: Any = None) -> bool:
        return bool(self._receivers)

    def send(self, sender: Any = None, **named: Any) -> list[tuple[Receiver, Any]]:
        """Call all receivers in the order in which they were connected; their answers, or what they raised."""
        if not self._receivers:
            return []
        answers: list[tuple[Receiver, Any]] = []
        for key, (reference, wanted) in list(self._receivers.items()):
            receiver = reference()
            if receiver is None:
                self._receivers.pop(key, None)
            elif wanted is None or wanted is sender or wanted == sender:
                answers.append((receiver, self._call(receiver, sender, named)))
        return answers

    send_robust = send
    """Celery's name for the same."""

    def _call(self, receiver: Receiver, sender: Any, named: dict[str, Any]) -> Any:
        try:
            return receiver(signal=self, sender=sender, **named)
        except Exception as error:
            logger.exception("Signal handler %r for %s raised: %r", receiver, self.name, error)  # noqa: TRY401
            return error

    def __repr__(self) -> str:
        return f"<Signal: {self.name} providing_args={set(self.provides)!r}>"


def _identity(receiver: Any) -> object:
    owner = getattr(receiver, "__self__", None)
    return (id(owner), id(receiver.__func__)) if owner is not None and hasattr(receiver, "__func__") else id(receiver)


def _reference(receiver: Receiver, weak: bool) -> Callable[[], Receiver | None]:
    if not weak:
        return lambda: receiver
    if getattr(receiver, "__self__", None) is not None and hasattr(receiver, "__func__"):
        return weakref.WeakMethod(receiver)
    try:
        return weakref.ref(receiver)
    except TypeError:  # a builtin: it lives as long as the process
        return lambda: receiver


# In the process that enqueues. Sender: the task's name.
before_task_publish: Final = Signal(
    "before_task_publish", "body", "exchange", "routing_key", "headers", "properties", "declare", "retry_policy"
)
after_task_publish: Final = Signal("after_task_publish", "body", "exchange", "routing_key", "headers")

# In the process that runs the task. Sender: the task.
task_prerun: Final = Signal("task_prerun", "task_id", "task", "args", "kwargs")
task_postrun: Final = Signal("task_postrun", "task_id", "task", "args", "kwargs", "retval", "state")
task_success: Final = Signal("task_success", "result", "runtime")
task_failure: Final = Signal("task_failure", "task_id", "exception", "args", "kwargs", "traceback", "einfo")
task_retry: Final = Signal("task_retry", "request", "reason", "einfo")
task_internal_error: Final = Signal(
    "task_internal_error", "task_id", "args", "kwargs", "request", "exception", "traceback", "einfo"
)
task_unknown: Final = Signal("task_unknown", "name", "id", "message", "exc")
task_rejected: Final = Signal("task_rejected", "message", "exc")

# In the worker's main process. Sender of task_received: the worker's name; of task_revoked: the task.
task_received: Final = Signal("task_received", "request")
task_revoked: Final = Signal("task_revoked", "request", "terminated", "signum", "expired")

# In the worker's main process. Sender: the worker, or its name (celeryd_*).
celeryd_init: Final = Signal("celeryd_init", "instance", "conf", "options")
celeryd_after_setup: Final = Signal("celeryd_after_setup", "instance", "conf")
worker_init: Final = Signal("worker_init")
worker_before_create_process: Final = Signal("worker_before_create_process")
worker_ready: Final = Signal("worker_ready")
worker_shutting_down: Final = Signal("worker_shutting_down", "sig", "how", "exitcode")
worker_shutdown: Final = Signal("worker_shutdown")
heartbeat_sent: Final = Signal("heartbeat_sent")

# In each pool process. Sender: None.
worker_process_init: Final = Signal("worker_process_init")
worker_process_shutdown: Final = Signal("worker_process_shutdown", "pid", "exitcode")

# In the process of beat. Sender: the beat service.
beat_init: Final = Signal("beat_init")
beat_embedded_init: Final = Signal("beat_embedded_init")

# Where the application is loaded, and where logging is set up.
import_modules: Final = Signal("import_modules")
setup_logging: Final = Signal("setup_logging", "loglevel", "logfile", "format", "colorize")
after_setup_logger: Final = Signal("after_setup_logger", "logger", "loglevel", "logfile", "format", "colorize")
after_setup_task_logger: Final = Signal(
    "after_setup_task_logger", "logger", "loglevel", "logfile", "format", "colorize"
)
user_preload_options: Final = Signal("user_preload_options", "app", "options")

dbqueued_init: Final = celeryd_init
dbqueued_after_setup: Final = celeryd_after_setup
"""What `celery` in their names becomes where it is replaced everywhere."""
