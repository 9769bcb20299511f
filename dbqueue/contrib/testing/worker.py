"""A worker in a thread of the test's process."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from dbqueue.signals import Signal
from dbqueue.utils.nodenames import anon_nodename

if TYPE_CHECKING:
    from dbqueue.app import DBQueue
    from dbqueue.services.workers import Worker

test_worker_starting: Final = Signal("test_worker_starting")
test_worker_started: Final = Signal("test_worker_started", "worker")
test_worker_stopped: Final = Signal("test_worker_stopped", "worker")

READY_SECONDS: Final = 60.0
"""How long a worker may take to start: an upper limit for a slow machine."""
_MEANINGLESS: Final = frozenset(
    {"without_heartbeat", "without_mingle", "without_gossip", "ready_callback", "WorkController", "optimization"}
)


@contextmanager
def start_worker(
    app: DBQueue,
    concurrency: int = 1,
    pool: str = "solo",
    loglevel: str | int | None = None,
    logfile: str | None = None,
    perform_ping_check: bool = True,
    ping_task_timeout: float = 10.0,
    shutdown_timeout: float = 10.0,
    **options: Any,
) -> Iterator[Worker]:
    """Run a worker in a thread of this process for the length of the block; Celery's function of the same name.

    `options` are those of `app.Worker`. With `pool="solo"` tasks run in that thread, and see what
    the test sees; the other pools fork this process and need a database that is not in memory.
    Start them on the thread that ends last (the main one): Linux ends the pool's processes with
    the thread that started them. `perform_ping_check` runs a task through the worker first, for at
    most `ping_task_timeout` seconds. Logging is the test's own: `loglevel` and `logfile` are not read.

    Raises what keeps the worker from starting, and RuntimeError if tasks run on for more than
    `shutdown_timeout` seconds after the block.
    """
    test_worker_starting.send(sender=app)
    app.set_current()
    ping = app.task(name="dbqueue.ping", ignore_result=False)(_ping)
    thread = _WorkerThread(app, concurrency=concurrency, pool=pool, **options)
    worker = thread.worker
    try:
        thread.start()
        test_worker_started.send(sender=app, worker=worker)
        if perform_ping_check:
            queue = worker.config.queues[0].replace("*", "ping")
            assert ping.apply_async(queue=queue).get(timeout=ping_task_timeout) == "pong"
        yield worker
    finally:
        thread.stop(shutdown_timeout)
        test_worker_stopped.send(sender=app, worker=worker)


def _ping() -> str:
    return "pong"


class _WorkerThread:
    def __init__(self, app: DBQueue, **options: Any) -> None:
        self._app = app
        self._ready = threading.Event()
        self._took_jobs = False
        self._failure: list[BaseException] = []
        known = {name: value for name, value in options.items() if name not in _MEANINGLESS}
        known.setdefault("hostname", anon_nodename())
        self.worker = app.Worker(embedded=True, on_ready=self._on_ready, **known)
        self._thread = threading.Thread(target=self._run, name="test-worker", daemon=True)

    def start(self) -> None:
        """Return when the worker takes jobs."""
        with warnings.catch_warnings():
            # Python 3.12 warns of a fork beside other threads. The pool's processes use none of their locks: the
            # application's database and its logging are made anew in them.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.worker.prepare()
        self._thread.start()
        if not self._ready.wait(READY_SECONDS):
            raise RuntimeError(f"the test's worker was not ready within {READY_SECONDS:g} s")
        if self._failure:
            raise self._failure[0]
        if not self._took_jobs:
            raise RuntimeError("the test's worker ended before it was ready: its log says why")

    def _on_ready(self) -> None:
        self._took_jobs = True
        self._ready.set()

    def _run(self) -> None:
        self._app.set_current()
        try:
            self.worker.run(handle_signals=False)
        except BaseException as error:  # noqa: BLE001 - raised again in the test's thread
            self._failure.append(error)
        finally:
            self._ready.set()

    def stop(self, timeout: float) -> None:
        """A warm shutdown; returns when it is done."""
        if self._thread.ident is not None:
            self.worker.stop()
            self._thread.join(timeout)
            if self._thread.is_alive():
                raise RuntimeError(
                    f"the test's worker did not end within {timeout:g} s, because tasks still run: "
                    "raise shutdown_timeout if they take longer"
                )
        self.worker.close()
