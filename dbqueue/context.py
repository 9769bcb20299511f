"""The request of the job that is running: `self.request` of a bound task.

Each run of a job, in whatever thread or event loop, sets the current request in a context
variable; nested direct calls of other tasks do not change it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dbqueue.codec.plain import json_object

if TYPE_CHECKING:
    from dbqueue.jobs import ClaimedJob, Progress


class Context:
    """One call of a task, with Celery's attribute names. Unset attributes have the defaults below.

    A task may add attributes of its own; they live as long as the run. The call's own headers are
    attributes too, where no other one has the name.
    """

    id: str | None = None
    task: str | None = None
    args: Any = None
    kwargs: Any = None
    retries: int = 0
    root_id: str | None = None
    parent_id: str | None = None
    group: str | None = None
    group_index: int | None = None
    headers: dict[str, Any] | None = None
    delivery_info: dict[str, Any] | None = None
    hostname: str | None = None
    eta: str | None = None
    expires: str | None = None
    ignore_result: bool = False
    called_directly: bool = True
    is_eager: bool = False
    stamps: dict[str, Any] | None = None
    stamped_headers: list[str] | None = None
    shadow: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    origin: str | None = None
    utc: bool = True
    lang: str = "py"
    logfile: str | None = None
    loglevel: int | None = None
    callbacks: Any = None
    errbacks: Any = None
    chain: Any = None
    chord: Any = None
    replaced_task_nesting: int = 0

    _outlet: tuple[Callable[[Progress], None], str] | None = None
    """Where a worker's job reports its progress, and under which lease."""
    _own_end: tuple[str, Any] | None = None
    """The state and the meta with which the task wants to end, if it raises Ignore."""
    _job: ClaimedJob | None = None
    """The job itself, while it runs; with its task, and when the run began on the monotonic clock."""
    _task: Any = None
    _started: float = 0.0
    _retry: Any = None
    """The Retry that the task has asked for with `retry(throw=False)`."""
    _unit: Any = None
    """The transaction that the job ends in, where that is not the worker's: a `worker.running.transacting.Unit`."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__ = attributes

    @classmethod
    def of(cls, attributes: dict[str, Any]) -> Context:
        """One with these attributes, in this very dict: made once for each job, where keywords take twice as long."""
        context = cls()
        context.__dict__ = attributes
        return context

    def __getattr__(self, name: str) -> Any:
        headers = self.__dict__.get("headers")
        if isinstance(headers, Mapping) and name in headers and not name.startswith("_"):
            return headers[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @cached_property
    def timelimit(self) -> list[float | None]:
        """Seconds: the hard limit and the soft one, of the call or else of the task; None: by the worker's."""
        call = self._call_options
        return [call.get(name) or getattr(self._task, name, None) for name in ("time_limit", "soft_time_limit")]

    @cached_property
    def argsrepr(self) -> str:
        """The arguments as text: that of the call, where it gave one."""
        return self._call_options.get("argsrepr") or repr(tuple(self.args or ()))

    @cached_property
    def kwargsrepr(self) -> str:
        """As `argsrepr`, of the keyword arguments."""
        return self._call_options.get("kwargsrepr") or repr(self.kwargs or {})

    @property
    def _call_options(self) -> dict[str, Any]:
        return json_object(self._job.options) if self._job is not None else {}

    @property
    def properties(self) -> dict[str, Any]:
        """What Celery's request has of a message's properties."""
        info = self.delivery_info or {}
        return {
            "correlation_id": self.correlation_id,
            "reply_to": self.reply_to,
            "priority": info.get("priority"),
            "delivery_info": info,
        }

    def update(self, **attributes: Any) -> None:
        """Set many attributes at once."""
        self.__dict__.update(attributes)

    def get(self, name: str, default: Any = None) -> Any:
        """The attribute, or the default where it has neither a value nor a class default."""
        return getattr(self, name, default)

    def __repr__(self) -> str:
        shown = {name: value for name, value in self.__dict__.items() if not name.startswith("_")}
        return f"<Context: {shown!r}>"


current_request: ContextVar[Context | None] = ContextVar("dbqueue_current_request", default=None)
"""The request of the job that runs in this thread or asyncio task; None outside of jobs."""
