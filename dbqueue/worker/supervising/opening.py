"""A worker's two connections and its row: all of them, or none.

The database has answered a moment ago. Where it is restarted just now, or has no connection left, a worker that ended
for that would be missing for as long as it takes its process manager to notice, or for good.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from dbqueue.errors import OperationalError
from dbqueue.retry import backoff_seconds
from dbqueue.store.base import Store
from dbqueue.store.limits import declare
from dbqueue.store.sessions import WatchSession, WorkSession
from dbqueue.worker import log
from dbqueue.worker.config import WorkerConfig
from dbqueue.worker.watch import boot_clock

TRIES: Final = 12
"""Half a minute of them: what does not go away meanwhile is to be seen, and not waited for."""
FIRST_RETRY_SECONDS: Final = 0.1
LAST_RETRY_SECONDS: Final = 5.0


class Opened(NamedTuple):
    """`registered_at` is when the registration was sent, on `boot_clock`."""

    watch: WatchSession
    work: WorkSession
    worker_id: str
    registered_at: float

    def close(self) -> None:
        self.work.close()
        self.watch.close()


def open_worker(store: Store, config: WorkerConfig, *, stopping: Callable[[], bool]) -> Opened:
    """Open the connections and register, with tries while the database is in trouble; raises OperationalError.

    A worker inside another program has one try, and so has one that is `stopping`.
    """
    for tried in range(TRIES):
        try:
            return _open(store, config)
        except OperationalError as error:
            if tried == TRIES - 1 or config.embedded or stopping():
                raise
            log.logger.warning("The worker cannot be registered: %s. Trying again.", error)
        pause = backoff_seconds(tried, factor=FIRST_RETRY_SECONDS, maximum=LAST_RETRY_SECONDS, jitter=None)
        until = time.monotonic() + pause * random.uniform(0.5, 1.0)
        while not stopping() and (rest := until - time.monotonic()) > 0:
            time.sleep(min(rest, 0.1))
    raise AssertionError("the last try returns or raises")


def _open(store: Store, config: WorkerConfig) -> Opened:
    if config.policies:
        declare(store, config.policies)
    info = config.new_info()
    with contextlib.ExitStack() as opened:
        watch = store.watch_session(config.name)  # listens before the first claim looks
        opened.callback(watch.close)
        work = store.work_session(config.name)
        opened.callback(work.close)
        registered_at = boot_clock()
        work.register(info)
        opened.pop_all()
    return Opened(watch, work, info.id, registered_at)
