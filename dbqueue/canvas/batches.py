"""A group with callbacks: on success, on failure, on completion. Beyond Celery.

    batch(
        (import_row.s(row) for row in rows),
        on_success=publish.s(),       # all have succeeded: publish([result, ...])
        on_failure=alert.s(),         # the first has failed: as an errback
        on_complete=clean_up.s(),     # all have ended, well or not: clean_up(id of the batch)
    ).delay()

The callbacks are jobs of the same workflow, so none of them is lost or called twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from dbqueue.canvas.compiler import Compiler, Feed
from dbqueue.canvas.primitives import group
from dbqueue.canvas.signatures import maybe_signature
from dbqueue.result import GroupResult
from dbqueue.states import PROPAGATE_STATES

if TYPE_CHECKING:
    from dbqueue.app import DBQueue
    from dbqueue.workflows import Workflow


class batch:  # noqa: N801 - as chain, group and chord
    """Signatures side by side, and what is called when they have ended; each callback may be any canvas.

    `on_success` gets the list of results, as a chord's body, and fails with ChordError if it cannot
    be called. `on_failure` is called once, for the first that fails, in one of the forms of an errback.
    `on_complete` gets the batch's id. An immutable callback gets nothing.
    """

    def __init__(
        self,
        tasks: Iterable[Any],
        *,
        on_success: Any = None,
        on_failure: Any = None,
        on_complete: Any = None,
        app: DBQueue | None = None,
    ) -> None:
        self.group = group(tasks, app=app)
        self.on_success, self.on_failure, self.on_complete = map(maybe_signature, (on_success, on_failure, on_complete))

    @property
    def app(self) -> DBQueue:
        return self.group.app

    def delay(self, *partial_args: Any, **partial_kwargs: Any) -> BatchResult:
        """Send it, with these arguments before those of each task; see `apply_async`."""
        return self.apply_async(partial_args, partial_kwargs)

    async def adelay(self, *partial_args: Any, **partial_kwargs: Any) -> BatchResult:
        """`delay` for asynchronous code."""
        return await self.aapply_async(partial_args, partial_kwargs)

    def apply_async(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        connection: Any = None,
        **options: Any,
    ) -> BatchResult:
        """Send all of it in one transaction; `options` are those of `Task.apply_async`, for each of the tasks."""
        if self.app.conf.task_always_eager:
            return self.apply(args, kwargs)
        workflow, result = self._plan(args, kwargs, options)
        self.app.database.enqueue_workflow(workflow, connection)
        return result

    async def aapply_async(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        connection: Any = None,
        **options: Any,
    ) -> BatchResult:
        """`apply_async` for asynchronous code, and for asynchronous connections."""
        if self.app.conf.task_always_eager:
            import asyncio

            return await asyncio.to_thread(self.apply, args, kwargs)
        workflow, result = self._plan(args, kwargs, options)
        await self.app.database.aenqueue_workflow(workflow, connection)
        return result

    def apply(self, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None) -> BatchResult:
        """Run it here and now, in this process: the tasks in turn, and then the callbacks."""
        from dbqueue.canvas.eager import run_errback

        done = self.group.apply(tuple(args or ()), kwargs)
        result = BatchResult(done.id, done.results, app=self.app)
        failed = next((each for each in result._leaves() if each.last_status in PROPAGATE_STATES), None)
        if failed is None and self.on_success is not None:
            result.on_success = self.on_success.apply((result.get(disable_sync_subtasks=False),))
        if failed is not None and self.on_failure is not None:
            result.on_failure = run_errback(self.on_failure, failed)
        if self.on_complete is not None:
            result.on_complete = self.on_complete.apply((result.id,))
        return result

    def _plan(
        self, args: Iterable[Any] | None, kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]
    ) -> tuple[Workflow, BatchResult]:
        compiler = Compiler(self.app)
        failing: list[str] = []
        feed = Feed(args=tuple(args or ()), kwargs=kwargs)
        done = compiler.compile(self.group, feed, options, (failing,))
        assert isinstance(done, GroupResult)
        result = BatchResult(done.id, done.results, app=self.app)
        if self.on_success is not None:
            result.on_success = compiler.compile(self.on_success, compiler.after(done), {})
        if self.on_failure is not None:
            result.on_failure = next(iter(compiler.catch([self.on_failure], failing)), None)
        if self.on_complete is not None:
            ends = tuple((leaf.id, None) for leaf in done._leaves())
            result.on_complete = compiler.compile(self.on_complete, Feed(ends, (done.id,), on="end"), {})
        return compiler.workflow(), result

    def __len__(self) -> int:
        return len(self.group)

    def __repr__(self) -> str:
        return f"<batch of {len(self)}: {self.group!r}>"


class BatchResult(GroupResult):
    """The results of a batch's tasks, and those of its callbacks; None where there is no such callback."""

    on_success: Any = None
    on_failure: Any = None
    on_complete: Any = None
