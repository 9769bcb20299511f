"""Tasks that look whether they are to end: Celery's `celery.contrib.abortable`.

    @app.task(bind=True, base=AbortableTask)
    def count(self):
        for number in range(1000):
            if self.is_aborted():
                return
            work(number)

    result = count.delay()
    result.abort()

The state ABORTED is in the job's row until the job ends, or shows another state of its own.
"""

from __future__ import annotations

from typing import Any, ParamSpec, TypeVar
from uuid import UUID

from dbqueue.result import AsyncResult
from dbqueue.task import Task

__all__ = ["ABORTED", "AbortableAsyncResult", "AbortableTask"]

ABORTED = "ABORTED"

P = ParamSpec("P")
R = TypeVar("R")


class AbortableAsyncResult(AsyncResult[R]):
    """The result of a call of an abortable task."""

    def is_aborted(self) -> bool:
        """Whether it was asked to end, and has not ended yet."""
        return self.state == ABORTED

    def abort(self) -> None:
        """Ask the job to end. One that waits is revoked; one that has ended stays as it is."""
        if not self.app.database.set_state(self.id, ABORTED, None):
            self.revoke()
            self.app.database.set_state(self.id, ABORTED, None)  # it may have begun between the two

    def __reduce__(self) -> tuple[Any, ...]:
        return _by_id, (self.id, self.parent)


def _by_id(task_id: str, parent: Any) -> AbortableAsyncResult[Any]:
    """As its base is unpickled: in the current application."""
    return AbortableAsyncResult(task_id, parent=parent)


class AbortableTask(Task[P, R]):
    """A base class for tasks whose calls can be aborted; `is_aborted` asks the database each time."""

    abstract = True

    def AsyncResult(self, task_id: str | UUID) -> AbortableAsyncResult[R]:  # noqa: N802 - Celery's name
        """The result of the call with this id."""
        return AbortableAsyncResult(task_id, app=self.app)

    def apply_async(self, *args: Any, **options: Any) -> Any:
        """As `Task.apply_async`; the result can abort the call."""
        return self._abortable(super().apply_async(*args, **options))

    async def aapply_async(self, *args: Any, **options: Any) -> Any:
        """As `Task.aapply_async`; the result can abort the call."""
        return self._abortable(await super().aapply_async(*args, **options))

    def _abortable(self, result: Any) -> Any:
        if type(result) is not AsyncResult:
            return result
        own = self.AsyncResult(result.id)
        own.ignored, own.parent, own.sent_at = result.ignored, result.parent, result.sent_at
        return own

    def is_aborted(self, **kwargs: Any) -> bool:
        """Whether the job that runs here was asked to end. `kwargs` are Celery's, for a `task_id`."""
        task_id = kwargs.get("task_id") or self.request.id
        return bool(task_id) and self.AsyncResult(str(task_id)).is_aborted()
