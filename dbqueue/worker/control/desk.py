"""Where commands come in and replies go out: between the watch thread, which reads and writes, and the loop.

    watch thread   serve: read new commands ─► loop   work: carry them out
                   serve: write the replies ◄─

The thread waits for the loop's replies no longer than `PATIENCE_SECONDS`: heartbeats go before.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Final

import dbqueue.worker.control.commands
import dbqueue.worker.control.inspection  # noqa: F401 - they register themselves
from dbqueue.store import control
from dbqueue.store.control import Command, Reply, addressed
from dbqueue.store.sessions import WatchSession
from dbqueue.worker.control import Panel, WorkerState, carry_out

LOOK_SECONDS: Final = 1.0
"""How often to look for commands where nothing announces them."""
LISTENING_LOOK_SECONDS: Final = 10.0
"""... and where they are announced: a wake-up may be lost."""
GAP_SECONDS: Final = 0.05
"""Least time between two looks: on SQLite each commit of another process is a sign."""
PATIENCE_SECONDS: Final = 0.5
"""How long the watch thread waits for the loop to reply."""
FLUSH_SECONDS: Final = 1.0
"""How long the end of the worker waits for its last replies to be written."""


class Desk:
    """`heard`, `pause` and `serve` are the watch thread's, `work` and `flush` the loop's."""

    def __init__(self, state: WorkerState, *, wake: Callable[[], None]) -> None:
        self._state, self._wake = state, wake
        self._asked: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._said: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self._every = LISTENING_LOOK_SECONDS if state.store.supports_listen else LOOK_SECONDS
        self._heard = False
        self._looked_at = time.monotonic()
        self._seen: set[str] = set()
        self._unanswered = 0
        self._described: tuple[str, tuple[str, ...], int] | None = None
        self._replied, self._written = 0, 0
        self._progress = threading.Condition()

    # the watch thread

    @property
    def scales(self) -> bool:
        """Whether the number of the worker's processes changes by itself."""
        return self._state.autoscaler is not None

    def heard(self) -> None:
        """There may be new commands."""
        self._heard = True

    def pause(self, limit: float) -> float:
        """How long the thread may wait for other things, at most `limit` seconds."""
        if self._unanswered:
            return min(limit, GAP_SECONDS)
        if not self._state.config.remote_control:
            return limit
        wait = GAP_SECONDS if self._heard else self._every
        return max(0.0, min(limit, self._looked_at + wait - time.monotonic()))

    def serve(self, session: WatchSession, worker_id: str) -> None:
        """Take the commands that are new and write the replies that are there."""
        patience = 0.0
        now = time.monotonic()
        if self._state.config.remote_control and now >= self._looked_at + (GAP_SECONDS if self._heard else self._every):
            self._looked_at = now
            patience = PATIENCE_SECONDS if self._take(session, worker_id) else 0.0
            self._heard = False  # not where the look failed: nothing announces the same command again
        self._write_replies(session, worker_id, patience)
        self._describe(session, worker_id)

    def _take(self, session: WatchSession, worker_id: str) -> bool:
        """Give new commands to the loop; whether there were any."""
        commands = control.pending(session, worker_id)
        new = [
            each for each in commands if each.id not in self._seen and addressed(each.destination, self._state.hostname)
        ]
        self._seen = {each.id for each in commands}
        for command in new:
            self._unanswered += 1
            known = Panel.commands.get(command.method)
            if known is not None and known.reads_database:
                self._say(command, carry_out(self._state, command))
            else:
                self._asked.put(command)
        if new:
            self._wake()
        return bool(new)

    def _write_replies(self, session: WatchSession, worker_id: str, patience: float) -> None:
        deadline = time.monotonic() + patience
        while self._unanswered:
            left = deadline - time.monotonic()
            try:
                command_id, body = self._said.get(timeout=left) if left > 0 else self._said.get_nowait()
            except queue.Empty:
                return
            self._unanswered -= 1
            try:
                control.answer(session, Reply(command_id, worker_id, body))
            finally:  # a reply that cannot be written is lost: the sender's wait has an end
                with self._progress:
                    self._written += 1
                    self._progress.notify_all()

    def _describe(self, session: WatchSession, worker_id: str) -> None:
        """Let the worker's row follow what commands have changed."""
        state = self._state
        current = (worker_id, tuple(state.rounds.queues), state.dispatcher.slots)
        if self._described is None or self._described[0] != worker_id:
            self._described = (worker_id, state.config.queues, state.config.slots)
        if current != self._described:
            control.describe(session, worker_id, queues=current[1], concurrency=current[2])
            self._described = current

    # the loop

    def work(self) -> None:
        """Carry out what was asked."""
        while not self._asked.empty():
            command = self._asked.get()
            self._say(command, carry_out(self._state, command))

    def flush(self) -> None:
        """Wait for the replies that were given to be written, but not for long."""
        with self._progress:
            self._progress.wait_for(lambda: self._written >= self._replied, FLUSH_SECONDS)

    def _say(self, command: Command, body: str) -> None:
        with self._progress:
            self._replied += 1
        self._said.put((command.id, body))
