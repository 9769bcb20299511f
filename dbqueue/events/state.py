"""What monitors know: workers and tasks, as their events have told; Celery's `app.events.State()`.

    state = app.events.State()
    receiver = app.events.Receiver(connection, handlers={"*": state.event})
    ...
    state.tasks[uuid].state      # 'STARTED'
    state.workers["celery@host"].alive

Events may come in another order than they were made: what is late fills in what is not known yet,
and never takes a task back from a later state.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Final

from dbqueue.states import FAILURE, PENDING, READY_STATES, RECEIVED, REJECTED, RETRY, REVOKED, STARTED, SUCCESS

HEARTBEAT_EXPIRE_WINDOW: Final = 200
"""A worker is offline when no heartbeat has come for twice its pace: in percent, as Celery has it."""
MAX_HEARTBEATS: Final = 4

TASK_EVENT_TO_STATE: Final = {
    "sent": PENDING,
    "received": RECEIVED,
    "started": STARTED,
    "failed": FAILURE,
    "retried": RETRY,
    "succeeded": SUCCESS,
    "revoked": REVOKED,
    "rejected": REJECTED,
}
_RANK: Final = {PENDING: 0, RECEIVED: 1, STARTED: 2, REJECTED: 3, RETRY: 3, SUCCESS: 4, FAILURE: 4, REVOKED: 4}
_OWN_RANK: Final = 3
"""That of a state of a program's own: whoever runs the task has sent it, so it had started."""
_EARLY: Final = frozenset({"name", "args", "kwargs", "eta", "expires", "retries", "root_id", "parent_id"})
"""What only the events `sent` and `received` know; taken from them even when they are late."""

_OWN: Final = frozenset({"type", "timestamp", "hostname", "uuid", "state", "worker", "client"})
"""What a task is told in other ways than by a field of this name."""


def _is_pace(value: Any) -> bool:
    """Whether heartbeats may come every so many seconds: up to once a year."""
    return isinstance(value, int | float) and 0 < value <= 365 * 86_400


class Worker:
    """One worker, by its events."""

    _fields: Final = (
        "hostname", "pid", "freq", "heartbeats", "clock", "active", "processed", "loadavg", "sw_ident", "sw_ver",
        "sw_sys",
    )  # fmt: skip

    def __init__(self, hostname: str) -> None:
        self.hostname = hostname
        self.pid: int | None = None
        self.freq: float = 60.0
        self.clock = 0
        self.active: int | None = None
        self.processed: int | None = None
        self.loadavg: list[float] | None = None
        self.sw_ident: str | None = None
        self.sw_ver: str | None = None
        self.sw_sys: str | None = None
        self.heartbeats: list[float] = []
        """When the last heartbeats came, by this process's clock."""
        self.online = False

    def update(self, type: str, event: dict[str, Any]) -> None:
        """Take in an event of this worker."""
        for name in ("pid", "freq", "clock", "active", "processed", "loadavg", "sw_ident", "sw_ver", "sw_sys"):
            value = event.get(name)
            if value is not None and (name != "freq" or _is_pace(value)):
                setattr(self, name, value)
        if type == "offline":
            self.heartbeats.clear()
            self.online = False
        else:
            self.online = True
            self.heartbeats = [*self.heartbeats, event.get("local_received") or time.time()][-MAX_HEARTBEATS:]

    @property
    def id(self) -> str:
        return f"{self.hostname}.{self.pid}"

    @property
    def heartbeat_expires(self) -> float:
        """When it will count as offline, unless another heartbeat comes; in seconds since 1970."""
        return self.heartbeats[-1] + self.freq * HEARTBEAT_EXPIRE_WINDOW / 100 if self.heartbeats else 0.0

    @property
    def alive(self) -> bool:
        return bool(self.heartbeats) and time.time() < self.heartbeat_expires

    @property
    def status_string(self) -> str:
        return "ONLINE" if self.alive else "OFFLINE"

    def __repr__(self) -> str:
        return f"<Worker: {self.hostname} ({self.status_string})>"


class Task:
    """One task, by its events. Attributes that no event has told are None."""

    _fields: Final = (
        "uuid", "name", "state", "received", "sent", "started", "rejected", "succeeded", "failed", "retried",
        "revoked", "args", "kwargs", "eta", "expires", "retries", "worker", "result", "exception", "timestamp",
        "runtime", "traceback", "exchange", "routing_key", "root_id", "parent_id", "client", "clock",
    )  # fmt: skip
    _info_fields: Final = (
        "args", "kwargs", "retries", "result", "eta", "runtime", "expires", "exception", "exchange", "routing_key",
        "root_id", "parent_id",
    )  # fmt: skip

    uuid: str
    name: str | None = None
    state: str = PENDING
    worker: Worker | None = None
    client: str | None = None
    timestamp: float | None = None
    clock: int = 0

    def __init__(self, uuid: str, cluster_state: State | None = None, **fields: Any) -> None:
        self.uuid, self._cluster = uuid, cluster_state
        self._children: list[str] = []
        self.__dict__.update(fields)

    def __getattr__(self, name: str) -> Any:
        if name in self._fields or name == "terminated":
            return None
        raise AttributeError(f"a task has no attribute {name!r}")

    def event(self, type: str, timestamp: float, fields: dict[str, Any]) -> None:
        """Take in an event of this task."""
        state = TASK_EVENT_TO_STATE.get(type, type.upper())
        if _is_free(type):
            setattr(self, type, timestamp)
        retried = (
            self.state in (RETRY, REJECTED) and state in (RECEIVED, STARTED) and timestamp >= (self.timestamp or 0)
        )
        late = not retried and _RANK.get(state, _OWN_RANK) < _RANK.get(self.state, _OWN_RANK)
        known = {name: value for name, value in fields.items() if _is_free(name)}
        if late:
            known = {name: value for name, value in known.items() if name in _EARLY and getattr(self, name) is None}
        else:
            self.state, self.timestamp = state, timestamp
        self.__dict__.update(known)

    def info(self, fields: tuple[str, ...] | list[str] | None = None, extra: tuple[str, ...] | list[str] = ()) -> Any:
        """What is known of the call and its outcome, as a dict."""
        names = self._info_fields if fields is None else fields
        return {name: value for name in (*names, *extra) if (value := getattr(self, name, None)) is not None}

    def as_dict(self) -> dict[str, Any]:
        """What is known of it, with the ids of `root`, `parent` and `children`."""
        ids = {"root": self.root_id, "parent": self.parent_id, "children": list(self._children)}
        return {name: getattr(self, name) for name in self._fields} | ids

    @property
    def ready(self) -> bool:
        return self.state in READY_STATES

    @property
    def id(self) -> str:
        return self.uuid

    @property
    def origin(self) -> str | None:
        """Who told of it: the client for one that was only sent, else the worker's process."""
        return self.client if self.worker is None else self.worker.id

    @property
    def parent(self) -> Task | None:
        return self._other(self.parent_id)

    @property
    def root(self) -> Task | None:
        return self._other(self.root_id)

    @property
    def children(self) -> list[Task]:
        found = (self._other(uuid) for uuid in self._children)
        return [task for task in found if task is not None]

    def _other(self, uuid: str | None) -> Task | None:
        return None if self._cluster is None or uuid is None else self._cluster.tasks.get(uuid)

    def __repr__(self) -> str:
        return f"<Task: {self.name}({self.uuid}) {self.state} clock:{self.clock}>"


def _is_free(name: str) -> bool:
    """Whether a task takes this from an event as it is: not in place of its methods, and of what it keeps itself."""
    return name not in _OWN and not name.startswith("_") and (name in Task._fields or getattr(Task, name, None) is None)


class State:
    """Workers by name and tasks by id. The oldest are forgotten beyond these numbers.

    `callback(state, event)` is called before each event is taken in; `on_node_join(worker)` and
    `on_node_leave(worker)` when a worker comes and goes.
    """

    def __init__(
        self,
        callback: Callable[[State, dict[str, Any]], Any] | None = None,
        *,
        max_workers_in_memory: int = 5000,
        max_tasks_in_memory: int = 10_000,
        on_node_join: Callable[[Worker], Any] | None = None,
        on_node_leave: Callable[[Worker], Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.event_callback = callback
        self.on_node_join, self.on_node_leave = on_node_join, on_node_leave
        self.max_workers_in_memory, self.max_tasks_in_memory = max_workers_in_memory, max_tasks_in_memory
        self.workers: OrderedDict[str, Worker] = OrderedDict()
        self.tasks: OrderedDict[str, Task] = OrderedDict()
        self.event_count = self.task_count = 0
        self._lock = threading.RLock()

    def event(self, event: dict[str, Any]) -> Any:
        """Take in an event; the worker or the task that it is about, and whether that is new."""
        with self._lock:
            if self.event_callback is not None:
                self.event_callback(self, event)
            self.event_count += 1
            group, _, subject = event["type"].partition("-")
            if group == "worker" and "hostname" in event:
                return self._worker_event(subject, event)
            if group == "task" and "uuid" in event:
                return self._task_event(subject, event)
        return None

    def get_or_create_worker(self, hostname: str, **fields: Any) -> tuple[Worker, bool]:
        """The worker of this name, with these attributes; and whether it is new."""
        worker = self.workers.get(hostname)
        new = worker is None
        if worker is None:
            worker = self.workers[hostname] = Worker(hostname)
            while len(self.workers) > self.max_workers_in_memory:
                self.workers.popitem(last=False)
        for name, value in fields.items():
            setattr(worker, name, value)
        return worker, new

    def get_or_create_task(self, uuid: str) -> tuple[Task, bool]:
        """The task of this id; and whether it is new."""
        task = self.tasks.get(uuid)
        if task is not None:
            return task, False
        task = self.tasks[uuid] = Task(uuid, cluster_state=self)
        while len(self.tasks) > self.max_tasks_in_memory:
            self.tasks.popitem(last=False)
        return task, True

    def _worker_event(self, type: str, event: dict[str, Any]) -> tuple[tuple[Worker, bool], str]:
        worker, new = self.get_or_create_worker(event["hostname"])
        was = worker.online
        worker.update(type, event)
        if worker.online and not was and self.on_node_join is not None:
            self.on_node_join(worker)
        if type == "offline" and (new or self.on_node_leave is not None):
            self.workers.pop(worker.hostname, None)  # one that was known, and of which nobody is told, stays: OFFLINE
        if type == "offline" and self.on_node_leave is not None:
            self.on_node_leave(worker)
        return (worker, new), type

    def _task_event(self, type: str, event: dict[str, Any]) -> tuple[tuple[Task, bool], str]:
        task, new = self.get_or_create_task(event["uuid"])
        if type == "sent":
            task.client = event.get("hostname")
        elif "hostname" in event:
            task.worker, _ = self.get_or_create_worker(event["hostname"])
            # A task's event is a sign of life, too.
            task.worker.heartbeats = [*task.worker.heartbeats, time.time()][-MAX_HEARTBEATS:]
        if type == "received":
            self.task_count += 1
        task.event(type, event.get("timestamp") or time.time(), event)
        parent = self.tasks.get(event.get("parent_id") or "")
        if parent is not None and task.uuid not in parent._children:
            parent._children.append(task.uuid)
        return (task, new), type

    def alive_workers(self) -> Iterator[Worker]:
        """The workers that have sent a heartbeat lately."""
        return (worker for worker in list(self.workers.values()) if worker.alive)

    def tasks_by_time(self, limit: int | None = None, reverse: bool = True) -> Iterator[tuple[str, Task]]:
        """Ids and tasks, those with the latest event first."""
        ordered = sorted(self.tasks.items(), key=lambda item: item[1].timestamp or 0.0, reverse=reverse)
        return iter(ordered[:limit])

    tasks_by_timestamp = tasks_by_time

    def tasks_by_type(self, name: str, limit: int | None = None, reverse: bool = True) -> Iterator[tuple[str, Task]]:
        """The tasks of this name, as `tasks_by_time`."""
        found = [(uuid, task) for uuid, task in self.tasks_by_time(reverse=reverse) if task.name == name]
        return iter(found[:limit])

    def tasks_by_worker(
        self, hostname: str, limit: int | None = None, reverse: bool = True
    ) -> Iterator[tuple[str, Task]]:
        """The tasks of this worker, as `tasks_by_time`."""
        found = [
            (uuid, task)
            for uuid, task in self.tasks_by_time(reverse=reverse)
            if task.worker is not None and task.worker.hostname == hostname
        ]
        return iter(found[:limit])

    def itertasks(self, limit: int | None = None) -> Iterator[tuple[str, Task]]:
        """Ids and tasks, in the order in which they were first heard of."""
        return iter(list(self.tasks.items())[:limit])

    def task_types(self) -> list[str]:
        """The names of all tasks that were heard of, sorted."""
        return sorted({task.name for task in list(self.tasks.values()) if task.name is not None})

    def freeze_while(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function while no event is taken in; with `clear_after=True` forget all afterwards."""
        clear_after = kwargs.pop("clear_after", False)
        with self._lock:
            try:
                return fun(*args, **kwargs)
            finally:
                if clear_after:
                    self.clear()

    def clear_tasks(self, ready: bool = True) -> None:
        """Forget the tasks; with `ready=False` those that have not ended are kept."""
        with self._lock:
            kept = [] if ready else [(uuid, task) for uuid, task in self.tasks.items() if not task.ready]
            self.tasks = OrderedDict(kept)

    def clear(self, ready: bool = True) -> None:
        """Forget all."""
        with self._lock:
            self.workers.clear()
            self.clear_tasks(ready)
            self.event_count = self.task_count = 0

    def __repr__(self) -> str:
        return f"<State: events={self.event_count} tasks={self.task_count}>"
