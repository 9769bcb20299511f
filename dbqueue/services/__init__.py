"""What an application runs and asks, beside its tasks: workers, beats, control, events, the command line.

`DBQueue` has all of it; each part is imported when it is first used.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from dbqueue.app import DBQueue
    from dbqueue.app.loading import Loader
    from dbqueue.app.log import Logging
    from dbqueue.control import Control
    from dbqueue.events import Events
    from dbqueue.services.backend import Backend
    from dbqueue.services.beats import BeatService
    from dbqueue.services.connection import Connection, Pool
    from dbqueue.services.schedule_book import ScheduleBook
    from dbqueue.services.workers import Worker


class Services:
    """The part of `DBQueue` that needs a database or a process of its own."""

    @property
    def _app(self) -> DBQueue:
        return cast("DBQueue", self)

    @cached_property
    def control(self) -> Control:
        """Commands and questions to the workers that run; see `dbqueue.control`."""
        from dbqueue.control import Control

        return Control(self._app)

    @cached_property
    def events(self) -> Events:
        """Events for monitors: `Receiver`, `State`, `Dispatcher`; see `dbqueue.events`."""
        from dbqueue.events import Events

        return Events(self._app)

    @cached_property
    def steps(self) -> dict[str, set[Any]]:
        """Steps of the program's own in the life of a worker: `app.steps["worker"].add(Class)`; see `bootsteps`."""
        return {"worker": set(), "consumer": set()}

    @cached_property
    def user_options(self) -> defaultdict[str, set[Any]]:
        """Options of the program's own, as `click.Option`: of `worker`, `beat` and `events`, or of all (`preload`)."""
        return defaultdict(set)

    @cached_property
    def log(self) -> Logging:
        """The log of a worker, for programs that set it up themselves; see `dbqueue.app.log`."""
        from dbqueue.app.log import Logging

        return Logging(self._app)

    @cached_property
    def loader(self) -> Loader:
        """Imports the modules of tasks; see `dbqueue.app.loading.Loader`."""
        from dbqueue.app.loading import Loader

        return Loader(self._app)

    @cached_property
    def backend(self) -> Backend:
        """Results, under the names of Celery's result backends; see `dbqueue.services.backend`."""
        from dbqueue.services.backend import Backend

        return Backend(self._app)

    def connection(self, *args: Any, **kwargs: Any) -> Connection:
        """What Celery's programs hand to `events.Receiver`; see `services.connection`. Takes nothing of Celery's."""
        from dbqueue.services.connection import Connection

        return Connection(self._app)

    connection_for_read = connection_for_write = connection_or_acquire = broker_connection = connection

    @property
    def pool(self) -> Pool:
        """What Celery's programs take connections and producers from; see `dbqueue.services.connection`."""
        from dbqueue.services.connection import Pool

        return Pool(self._app)

    producer_pool = pool

    def producer_or_acquire(self, producer: Any = None) -> Connection:
        """What `apply_async(producer=...)` takes, without effect."""
        return self.connection()

    def bugreport(self) -> str:
        """Versions and settings as text, for bug reports."""
        from dbqueue.services.bugreport import bugreport

        return bugreport(self._app)

    def Worker(self, **options: Any) -> Worker:  # noqa: N802 - Celery's name
        """A worker for this application, in this process; see `dbqueue.services.workers.Worker`."""
        from dbqueue.services.workers import Worker

        return Worker(self._app, **options)

    def Beat(self, **options: Any) -> BeatService:  # noqa: N802 - Celery's name
        """A beat for this application, in this process; see `dbqueue.services.beats.BeatService`."""
        from dbqueue.services.beats import BeatService

        return BeatService(self._app, **options)

    @cached_property
    def schedules(self) -> ScheduleBook:
        """The table of periodic tasks: made, changed and removed while beats run; see `services.schedule_book`."""
        from dbqueue.services.schedule_book import ScheduleBook

        return ScheduleBook(self._app)

    def worker_main(self, argv: Sequence[str] | None = None) -> int:
        """Run the command line's `worker` for this application; `argv` defaults to the program's arguments.

        Returns the exit code. Global options may stand before the word `worker`, which may be left out.
        """
        arguments = list(sys.argv[1:] if argv is None else argv)
        return self.start(arguments if "worker" in arguments else ["worker", *arguments])

    def start(self, argv: Sequence[str] | None = None) -> int:
        """Run the command line for this application and return its exit code.

        `argv` defaults to the program's arguments. What goes wrong has been printed when this returns.
        """
        from dbqueue.cli.run import run  # the one import upwards: Celery's own door to its command line

        return run(self._app, argv)
