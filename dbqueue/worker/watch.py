"""The thread that beats and listens: the worker's second connection.

It says that the worker lives, and it hears of commands; of new jobs only where the database does
not notify (SQLite), for elsewhere the thread of rounds listens itself. Neither may wait for a round
that is stuck in a COMMIT, so the two share no connection and no thread with it.

The lease counts from the moment a heartbeat was *sent*, on a clock that runs through suspend: the
database's row is never older than that, so a worker which stops by `deadline` has stopped before
any other may take its jobs.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Final

from dbqueue import signals
from dbqueue.errors import OperationalError
from dbqueue.store.base import Store
from dbqueue.store.sessions import Sign, WatchSession
from dbqueue.worker import log
from dbqueue.worker.config import WorkerConfig
from dbqueue.worker.control.desk import Desk
from dbqueue.worker.events import EventSender

LAST_RETRY_SECONDS: Final = 5.0
WAIT_SECONDS: Final = 10.0
SCALING_WAIT_SECONDS: Final = 1.0
"""Where the number of processes changes by itself, which the worker's row is to show."""
EMBEDDED_WAIT_SECONDS: Final = 0.05
"""A test that starts and stops a worker waits for its threads."""


def boot_clock() -> float:
    """Seconds on a clock that never jumps and does not stop while the machine is suspended."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Watch:
    """Runs on a thread of its own between `start` and `stop`."""

    def __init__(
        self,
        store: Store,
        config: WorkerConfig,
        *,
        desk: Desk,
        events: EventSender,
        woken: Callable[[], None],
        declared_dead: Callable[[], None],
    ) -> None:
        self._store, self._config = store, config
        self._desk, self._events = desk, events
        self._woken, self._declared_dead = woken, declared_dead
        self._stopping = threading.Event()
        self._session: WatchSession | None = None
        self._worker_id = ""
        self._dead_id: str | None = None
        self._beat_at = 0.0
        self._lease_began_at = 0.0
        self.thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self, session: WatchSession, worker_id: str, registered_at: float) -> None:
        """`registered_at` is when the registration was sent, on `boot_clock`."""
        self._session = session
        self.beat_for(worker_id, registered_at)
        self.thread.start()

    def beat_for(self, worker_id: str, registered_at: float) -> None:
        # In this order: the former identity's lease is none of the new one's, in the eyes of the loop.
        self._lease_began_at = registered_at
        self._worker_id = worker_id
        self._beat_at = registered_at + self._config.heartbeat_seconds

    @property
    def declared_dead(self) -> bool:
        """Whether the database has closed this worker's row; until it is registered anew."""
        return self._dead_id == self._worker_id

    @property
    def deadline(self) -> float:
        """When the lease may end for others, on `boot_clock`; a part of it early, to be sure."""
        return self._lease_began_at + self._config.own_seconds

    def stop(self) -> None:
        self._stopping.set()
        if self._config.embedded and self.thread.ident is not None:
            self.thread.join()  # the program goes on, and may close the database

    def _run(self) -> None:
        pause = 0.1
        while not self._stopping.is_set():
            try:
                if self._session is None:
                    self._session = self._store.watch_session(self._config.name)
                    self._woken()  # what was announced while nobody listened
                    self._desk.heard()
                self._watch(self._session)
                pause = 0.1
            except Exception as error:  # noqa: BLE001 - whatever it is: without this thread the worker is deaf, and soon dead
                survives = isinstance(error, OperationalError) and self._session and self._session.survives(error)
                if pause == 0.1:
                    what = "A heartbeat or a command has to wait" if survives else "The connection for heartbeats broke"
                    log.logger.warning("%s: %s. Trying again.", what, error)
                if not survives:
                    self._close()
                self._stopping.wait(pause * random.uniform(0.5, 1.0))
                pause = min(pause * 2, LAST_RETRY_SECONDS)
        self._close()

    def _watch(self, session: WatchSession) -> None:
        if boot_clock() < self._beat_at:
            self._desk.serve(session, self._worker_id)
            self._events.write(session)
            longest = self._events.pause(min(self._longest_wait, self._beat_at - boot_clock()))
            sign = session.wait(max(0.0, self._desk.pause(longest)))
            if Sign.JOBS in sign:
                self._woken()
            if Sign.COMMANDS in sign:
                self._desk.heard()
            return
        worker_id, sent_at = self._worker_id, boot_clock()
        alive = session.heartbeat(worker_id)
        if worker_id != self._worker_id:
            return
        self._beat_at = sent_at + self._config.heartbeat_seconds
        if alive:
            self._lease_began_at = sent_at
            signals.heartbeat_sent.send(self)
        else:
            self._dead_id = worker_id
            self._declared_dead()

    @property
    def _longest_wait(self) -> float:
        if self._config.embedded:  # `stop` cannot interrupt one
            return EMBEDDED_WAIT_SECONDS
        return SCALING_WAIT_SECONDS if self._desk.scales else WAIT_SECONDS

    def _close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None
