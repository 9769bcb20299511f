"""`app.backend`: what Celery's programs ask of its result backend. Results lie in the jobs table.

Each method is one of `AsyncResult` under the name that it has in Celery; programs that can use
`app.AsyncResult(id)` should.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from dbqueue.states import READY_STATES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dbqueue.app import DBQueue
    from dbqueue.result import AsyncResult


class Backend:
    """`app.backend`, `task.backend` and `result.backend`."""

    READY_STATES = READY_STATES
    supports_native_join = True
    persistent = True

    def __init__(self, app: DBQueue) -> None:
        self.app = app

    def _result(self, task_id: str) -> AsyncResult[Any]:
        return self.app.AsyncResult(task_id)

    def as_uri(self, include_password: bool = False) -> str:
        """The database's URL with its password masked, whatever is asked for."""
        return self.app.database.url

    @property
    def url(self) -> str:
        return self.as_uri()

    def get_state(self, task_id: str) -> str:
        """`AsyncResult.state`."""
        return self._result(task_id).state

    get_status = get_state

    def get_result(self, task_id: str) -> Any:
        """`AsyncResult.result`: the value, or the exception of a failure."""
        return self._result(task_id).result

    def get_traceback(self, task_id: str) -> str | None:
        """`AsyncResult.traceback`."""
        return self._result(task_id).traceback

    def get_children(self, task_id: str) -> Any:
        """`AsyncResult.children`."""
        return self._result(task_id).children

    def get_task_meta(self, task_id: str, cache: bool = True) -> dict[str, Any]:
        """What Celery's backends keep of a task: its `status`, `result`, `traceback`, `children`, `date_done`, ..."""
        return self._meta(self._result(task_id).seen())

    def _meta(self, result: AsyncResult[Any]) -> dict[str, Any]:
        return {
            "task_id": result.id,
            "status": result.state,
            "result": result.result,
            "traceback": result.traceback,
            "children": result.children or [],
            "date_done": result.date_done,
            "name": result.name,
            "args": result.args,
            "kwargs": result.kwargs,
            "worker": result.worker,
            "retries": result.retries,
            "queue": result.queue,
        }

    get_task_meta_for = get_task_meta

    def wait_for(self, task_id: str, timeout: float | None = None, interval: float = 0.5, **options: Any) -> Any:
        """Wait for the end of a task and return its meta. Raises TimeoutError."""
        result = self._result(task_id)
        result.get(timeout=timeout, interval=interval, propagate=False, disable_sync_subtasks=False)
        return self._meta(result)

    wait_for_pending = wait_for

    def get_many(self, task_ids: Iterable[str], timeout: float | None = None, **options: Any) -> Any:
        """Each id with its meta, in the order in which they are given; `timeout` is for all of them together."""
        deadline = None if timeout is None else time.monotonic() + timeout
        return [
            (task_id, self.wait_for(task_id, None if deadline is None else max(0.0, deadline - time.monotonic())))
            for task_id in task_ids
        ]

    def store_result(self, task_id: str, result: Any, state: str, traceback: Any = None, **options: Any) -> Any:
        """Show a state of a running task's own: `update_state`. Raises ValueError for SUCCESS, FAILURE, REVOKED."""
        from dbqueue import codec, progress

        shown = progress.checked_state(state)
        meta = codec.dumps(result, what=f"the meta of {task_id}", max_bytes=self.app.conf.max_payload_bytes)
        self.app.database.set_state(task_id, shown, meta)
        return result

    def forget(self, task_id: str) -> None:
        """`AsyncResult.forget`."""
        self._result(task_id).forget()

    def reload_task_result(self, task_id: str) -> None:
        """Nothing to do: each result reads its row."""

    def cleanup(self) -> None:
        """Nothing to do: the workers delete what has expired (`result_expires`)."""
