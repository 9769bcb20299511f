"""Named points in the engine at which a test makes a process fail: random kills miss the narrow windows.

The environment variable DBQUEUE_FAILPOINTS says what is to happen where, once for a process and all that it starts:

    DBQUEUE_FAILPOINTS='complete.after=cut%10;start.before=kill@3;claim.after=pause:/tmp/go'

Each is NAME=ACTION, then `@N` (at the N-th time alone, counted in each process) or `%P` (in P of a hundred times, at
random). The names are those of `POINTS`. The actions:

    kill        SIGKILL to this process
    stop        SIGSTOP to this process
    raise       OperationalError, as if the database had not answered
    cut         shut down the socket that the point is about; where there is none (SQLite), nothing
    pause:PATH  wait until the file is there

Each that happens is noted as a line in the file that DBQUEUE_FAILPOINTS_LOG names: the boot clock, pid, name, action.
Without the variable `hit` is a function that does nothing, and a job passes it four times.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
from dataclasses import dataclass
from typing import Final, Protocol

from dbqueue.errors import ImproperlyConfigured, OperationalError

VARIABLE: Final = "DBQUEUE_FAILPOINTS"
LOG_VARIABLE: Final = "DBQUEUE_FAILPOINTS_LOG"

POINTS: Final = {
    "enqueue.before": "before an enqueue's statements",
    "enqueue.after": "after an enqueue's commit, before its caller hears of it",
    "claim.after": "jobs are claimed and committed; the supervisor does not know of them yet",
    "start.before": "a pool process is about to call the task",
    "run.after": "the task has returned or raised; nobody knows yet",
    "commit.before": "a task's own transaction holds its writes and its SUCCESS, and is about to be committed",
    "commit.after": "it is committed; the pool process has told nobody",
    "complete.before": "outcomes are about to be written",
    "complete.between": "jobs have ended in this transaction, what waits for them has not been moved",
    "complete.after": "outcomes are written and committed; the worker has not taken note",
    "release.between": "in the transaction that moves what waits for a job which has ended",
    "rescue.between": "a dead worker's jobs are taken back in this transaction, its row is not closed",
    "heartbeat.before": "a heartbeat is about to be sent",
    "heartbeat.after": "a heartbeat is written; the worker has not taken note",
    "beat.between": "a due job or workflow is enqueued in this transaction, its schedule has not moved on",
}
"""Every point and what holds there."""

ACTIONS: Final = ("kill", "stop", "raise", "cut", "pause")

LOOK_SECONDS: Final = 0.005


class Connected(Protocol):
    """What `cut` shuts down: a socket, or a driver's connection."""

    def fileno(self) -> int: ...


@dataclass(slots=True)
class _Trap:
    name: str
    action: str
    argument: str
    only: int | None
    chance: float
    seen: int = 0

    def springs(self) -> bool:
        self.seen += 1
        if self.only is not None:
            return self.seen == self.only
        return self.chance >= 1.0 or random.random() < self.chance


class _Traps:
    """The points that are set, each with what is to happen there."""

    def __init__(self, text: str, log: str | None) -> None:
        self._log = log
        traps = [_parse(part) for part in text.split(";") if part.strip()]
        self._traps = {trap.name: trap for trap in traps}
        # A forked process must not draw its parent's numbers.
        os.register_at_fork(after_in_child=random.seed)

    def hit(self, name: str, connection: Connected | None = None, *, when: bool = True) -> None:
        trap = self._traps.get(name) if when else None
        if trap is None or not trap.springs() or (trap.action == "cut" and not hasattr(connection, "fileno")):
            return
        self._note(trap)
        match trap.action:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stop":
                # To this thread: one that is sent to the process stops another first, and this one goes past the point.
                signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
            case "raise":
                raise OperationalError(f"the failpoint {name} was set to raise")
            case "pause":
                while not os.path.exists(trap.argument):
                    time.sleep(LOOK_SECONDS)
            case _:
                assert connection is not None
                _cut(connection)

    def _note(self, trap: _Trap) -> None:
        if self._log:
            clock = time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
            line = f"{clock:.6f} {os.getpid()} {trap.name} {trap.action}\n"
            descriptor = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)


def _parse(text: str) -> _Trap:
    name, _, what = text.strip().partition("=")
    what, at, only = what.partition("@")
    what, percent, chance = what.partition("%")
    action, _, argument = what.partition(":")
    if name not in POINTS:
        raise ImproperlyConfigured(f"{VARIABLE}: there is no point {name!r}; there are {', '.join(POINTS)}")
    if action not in ACTIONS or (action == "pause") != bool(argument):
        known = ", ".join(ACTIONS).replace("pause", "pause:PATH")
        raise ImproperlyConfigured(f"{VARIABLE}: {what!r} is none of {known}")
    try:
        return _Trap(name, action, argument, int(only) if at else None, float(chance) / 100 if percent else 1.0)
    except ValueError:
        raise ImproperlyConfigured(f"{VARIABLE}: {text!r} has no number behind @ or %") from None


def _cut(connection: Connected) -> None:
    # A copy of the descriptor: its owner keeps it, and finds the connection at its end.
    try:
        copy = socket.socket(fileno=os.dup(connection.fileno()))
    except (OSError, ValueError):
        return  # closed already
    except Exception as error:
        if type(error).__module__.partition(".")[0] == "psycopg":
            return  # closed already, in the driver's words
        raise
    with copy:
        copy.shutdown(socket.SHUT_RDWR)


def _nothing(name: str, connection: Connected | None = None, *, when: bool = True) -> None:
    """No point is set."""


hit = _Traps(os.environ[VARIABLE], os.environ.get(LOG_VARIABLE)).hit if os.environ.get(VARIABLE) else _nothing
"""Called where a point is: `hit("claim.after", connection)`; not there unless `when`."""
