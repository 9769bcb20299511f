"""What a call gave or raised, as a value that can pass through a future and an event loop, and as a task's own."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from dbqueue.jobs import ClaimedJob
from dbqueue.pools.interrupts import on_this_thread
from dbqueue.worker import log
from dbqueue.worker.running.runnable import Runnable

_OWN_MODULES: Final = frozenset(
    {
        __name__,
        "dbqueue.worker.running.executor",
        "dbqueue.task",
        "dbqueue.pools.interrupts",
        "asyncio.runners",
        "asyncio.base_events",
    }
)


@dataclass(frozen=True, slots=True, repr=False)
class Ended:
    """What a call gave, out of asyncio's sight.

    A future takes no StopIteration: who waits for it waits for ever. A loop stops at SystemExit. A
    runner looks at its handler of SIGINT, and so at the `repr` of what its task gave, which may raise.
    """

    value: Any
    error: BaseException | None = None

    def get(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


_copies = 0
"""How often this process was made by a fork, itself or one that it is a copy of."""


def _note_copy() -> None:
    global _copies  # noqa: PLW0603 - of the process
    _copies += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_copy)


class OneAnswer:
    """Around a run: ends a process that the task made with `os.fork` and let come back.

    It shares the socket to the supervisor, and a transactional task's connection, with the process that it is a copy
    of: neither its answer nor its COMMIT or ROLLBACK may be sent. In eager mode the process is the caller's own.
    (The interpreter tells of forks: to ask the kernel who this is, twice for each job, takes as long as its JSON.)
    """

    __slots__ = ("_copies", "_eager", "_job")

    def __init__(self, job: ClaimedJob, eager: bool) -> None:
        self._job, self._eager, self._copies = job, eager, _copies

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        if self._copies == _copies or self._eager:
            return
        log.copy_ends(self._job)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(0)


def invoked(task: Runnable, args: tuple[Any, ...], kwargs: dict[str, Any], once: OneAnswer, job_id: str) -> Ended:
    """Call a job's function, in a thread of its event loop's."""
    try:
        with once, on_this_thread(job_id):
            return Ended(task.invoke(args, kwargs))
    except BaseException as error:  # noqa: BLE001 - a task may raise anything at all
        return Ended(None, error)


def called(function: Callable[[], Any]) -> Ended:
    """Call a function of dbqueue's own, in a thread of an event loop's."""
    try:
        return Ended(function())
    except BaseException as error:  # noqa: BLE001 - as above
        return Ended(None, error)


async def awaited(value: Any) -> Ended:
    """Await a value, in an event loop."""
    try:
        return Ended(await value)
    except BaseException as error:  # noqa: BLE001 - as above
        return Ended(None, error)


def hide_own_frames(error: BaseException) -> None:
    """Let the traceback begin in the task: the frames that lead there are the same for every job."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_globals.get("__name__") in _OWN_MODULES:
        traceback = traceback.tb_next
    if traceback is not None:
        error.__traceback__ = traceback
