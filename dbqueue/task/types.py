"""What type checkers know of `@app.task`, `@shared_task` and `apply_async`. Nothing here runs.

A task made of `async def` is awaited when it is called, and its result is that of the awaited
value; a bound task's first parameter is not part of its calls. tests/typing proves it with mypy and
pyright.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypedDict, TypeVar, overload

if TYPE_CHECKING:
    from dbqueue.task import Task

    P = ParamSpec("P")
    R = TypeVar("R")

    class AsyncTask(Task[P, R]):
        """A task whose function is `async def`. Only for type checkers: at run time it is a Task."""

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...  # type: ignore[override]

    class Decorator(Protocol):
        """What `@app.task(...)` is: it makes a task of a function."""

        @overload
        def __call__(self, fun: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
        @overload
        def __call__(self, fun: Callable[P, R], /) -> Task[P, R]: ...

    class BoundDecorator(Protocol):
        """What `@app.task(bind=True, ...)` is: as `Decorator`, for a function whose first argument is the task."""

        @overload
        def __call__(self, fun: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
        @overload
        def __call__(self, fun: Callable[Concatenate[Any, P], R], /) -> Task[P, R]: ...


class CallOptions(TypedDict, total=False):
    """The options of a call; `Task.apply_async` says what they mean. The last group is Celery's, without effect."""

    countdown: float | timedelta | None
    eta: datetime | str | None
    expires: float | timedelta | datetime | str | None
    queue: Any
    priority: int | None
    task_id: str | None
    headers: Mapping[str, Any] | None
    ignore_result: bool | None
    shadow: str | None
    argsrepr: str | None
    kwargsrepr: str | None
    time_limit: float | None
    soft_time_limit: float | None
    serializer: str | None
    compression: str | None
    limit_key: str | None
    unique: bool | str | None
    unique_for: float | timedelta | None
    parent_id: str | None
    root_id: str | None
    group_id: str | None
    link: Any
    link_error: Any
    chain: Any
    chord: Any
    # of `apply`
    throw: bool | None
    retries: int
    # messaging
    add_to_parent: bool
    correlation_id: str | None
    delivery_mode: Any
    exchange: Any
    group_index: int | None
    immediate: Any
    mandatory: Any
    producer: Any
    publisher: Any
    reply_to: str | None
    retry: bool | None
    retry_policy: Mapping[str, Any] | None
    router: Any
    routing_key: str | None
    stamped_headers: Any
    stamps: Any
