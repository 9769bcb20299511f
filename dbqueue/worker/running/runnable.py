"""A task as the worker sees it, what runs and what is called before and after; and one call of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from dbqueue.context import Context
from dbqueue.jobs import ClaimedJob


class Runnable(Protocol):
    """A task as the executor sees it."""

    name: str
    throws: tuple[type[BaseException], ...]
    ignores_result: bool
    has_hooks: bool
    is_async: bool
    """Whether the task's function is a coroutine function."""
    transactional: bool
    """Whether it runs in a transaction of its own, in which its job ends."""

    def invoke(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the task's function; what it returns may be awaitable."""

    def translate(self, error: Exception) -> BaseException:
        """What the error means by the task's options: itself, or a Retry (`autoretry_for`)."""

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None: ...
    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None: ...
    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None: ...
    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None: ...
    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None: ...


@dataclass(slots=True)
class Call:
    """A job that is being run."""

    job: ClaimedJob
    task: Runnable
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    request: Context
    started: float
