"""What a running task tells of itself: its states, and its events."""

from __future__ import annotations

from typing import Any

from dbqueue import codec, progress
from dbqueue.jobs import TERMINAL
from dbqueue.task.canvas import CanvasTask


class ReportingTask(CanvasTask):
    """The part of Task that reports."""

    def update_state(
        self, task_id: str | None = None, state: str | None = None, meta: Any = None, **options: Any
    ) -> None:
        """Show a state of the task's own, such as PROGRESS, and `meta` as what AsyncResult.info returns.

        For the job that runs here, or the running job `task_id`. The row has both until the next call
        or the job's end, written by the worker a few times a second; None is STARTED. Nothing happens
        in eager mode, where the function is called directly, or where `task_id` does not run. `options`
        are Celery's and have no effect.

        SUCCESS, FAILURE and REVOKED are the end that the job gets if the task then raises Ignore: `meta` is the
        result, or the exception, which may be described as `{"exc_type": ..., "exc_message": ...}`. They are not
        shown before. Raises ValueError for them where another job is meant, EncodeError where JSON cannot carry
        `meta`.
        """
        request = self.request
        own = task_id is None or task_id == request.id
        if own and state in TERMINAL:
            if not request.called_directly:
                request._own_end = (str(state), meta)
            return
        state = progress.checked_state(state)
        if meta is not None:
            meta = codec.dumps(meta, what=f"the meta of {self.name}", max_bytes=self.app.conf.max_payload_bytes)
        if own:
            progress.report(request, state, meta)
        elif task_id is not None:
            self.app.database.set_state(task_id, state, meta)

    def send_event(self, type_: str, retry: bool = True, retry_policy: Any = None, **fields: Any) -> None:
        """Send an event of the task's own to monitors: `self.send_event("task-progress", step=3)`.

        It names the job that runs here. `retry` and `retry_policy` are Celery's and have no effect. Raises
        OperationalError where the database cannot be reached.
        """
        request = self.request
        self.app.events.Dispatcher(hostname=request.hostname).send(type_, uuid=request.id, **fields)
