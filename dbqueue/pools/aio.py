"""Many jobs at a time on one event loop: for `async def` tasks by the hundred.

A plain `def` task runs in a thread beside it, so that it cannot stop the loop.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dbqueue.jobs import ClaimedJob
from dbqueue.pools.child import Execute, Link, end_by_error
from dbqueue.pools.loop_threads import in_thread, threads_of


class OfTasks(ThreadPoolExecutor):
    """For `asyncio.to_thread` in tasks."""

    # The loop's own way to end it starts a thread, which may never begin.

    used = False

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        self.used = True
        return super().submit(*args, **kwargs)


def run_slots(link: Link, execute: Execute, slots: int) -> None:
    """Run jobs on one loop, at most `slots` at a time, until told to stop."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    threads, of_tasks = threads_of(loop, slots), OfTasks(slots, thread_name_prefix="to_thread")
    loop.set_default_executor(of_tasks)
    try:
        loop.run_until_complete(_serve(link, execute, slots))
    except BaseException:  # noqa: BLE001 - SystemExit in a task's own sub-task stops the loop
        # At once, before anything is cancelled: a cancelled neighbour would look like a failed one.
        end_by_error()
    loop.run_until_complete(loop.shutdown_asyncgens())
    if of_tasks.used:  # beside the loop, which what is left in there may need to come to its end
        loop.run_until_complete(in_thread(of_tasks.shutdown))
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
