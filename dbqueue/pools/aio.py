"""Many jobs at a time on one event loop: for `async def` tasks by the hundred.

A plain `def` task runs in a thread beside it, so that it cannot stop the loop.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from dbqueue.jobs import ClaimedJob
from dbqueue.pools.child import Execute, Link, end_by_error
from dbqueue.pools.loop_threads import threads_of


class OfTasks(ThreadPoolExecutor):
    """For `asyncio.to_thread` in tasks."""

    def __init__(self, most: int) -> None:
        super().__init__(most, thread_name_prefix="to_thread")
        self._pending: set[Future[Any]] = set()

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        future = super().submit(*args, **kwargs)
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        return future

    async def ended(self) -> None:
        """Wait for what tasks have left here, which may need the loop to come to its end.

        The loop's own way starts one thread more, which may never begin.
        """
        while self._pending:
            done, _ = await asyncio.wait([asyncio.wrap_future(each) for each in tuple(self._pending)])
            for each in done:
                _ = each.cancelled() or each.exception()  # nobody is to be told of it


def run_slots(link: Link, execute: Execute, slots: int) -> None:
    """Run jobs on one loop, at most `slots` at a time, until told to stop."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    threads, of_tasks = threads_of(loop, slots), OfTasks(slots)
    loop.set_default_executor(of_tasks)
    try:
        loop.run_until_complete(_serve(link, execute, slots))
    except BaseException:  # noqa: BLE001 - SystemExit in a task's own sub-task stops the loop
        # At once, before anything is cancelled: a cancelled neighbour would look like a failed one.
        end_by_error()
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(of_tasks.ended())
    of_tasks.shutdown()
    threads.end()
    loop.close()


async def _serve(link: Link, execute: Execute, slots: int) -> None:
    loop = asyncio.get_running_loop()
    inbox = ThreadPoolExecutor(1, thread_name_prefix="inbox")
    free = asyncio.Semaphore(slots)
    running: set[asyncio.Task[None]] = set()

    async def run(job: ClaimedJob) -> None:
        try:
            link.begins(job)
            link.report(await execute.run_async(job))
        except BaseException:  # noqa: BLE001 - the loop would go on, and this job never be answered
            end_by_error()
        finally:
            free.release()

    await loop.run_in_executor(inbox, threading.get_ident)  # which has its thread from then on
    link.is_ready()
    while True:
        await free.acquire()
        job = await loop.run_in_executor(inbox, link.inbox.take)
        if job is None:
            break
        task = loop.create_task(run(job))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    inbox.shutdown()
