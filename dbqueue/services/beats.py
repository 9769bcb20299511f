"""A beat for an application: its setting `beat_schedule` as rows, and rows as jobs and workflows."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from dbqueue import codec, signals
from dbqueue.calls import new_job
from dbqueue.canvas import firings
from dbqueue.canvas.flat_groups import LINKS
from dbqueue.canvas.primitives import links
from dbqueue.canvas.sending import Plan
from dbqueue.canvas.signatures import Signature
from dbqueue.errors import EncodeError, ImproperlyConfigured
from dbqueue.jobs import A_NAME, MAX_NAME_LENGTH, is_name
from dbqueue.schedules import BaseSchedule, maybe_schedule
from dbqueue.services.periodic import new_entry
from dbqueue.shown import shown
from dbqueue.store.schedules import MISFIRES, NewSchedule, ScheduleRow, reconsider, synchronise
from dbqueue.worker.beat import MAX_INTERVAL_SECONDS, Beat
from dbqueue.worker.beat.steps import Steps

if TYPE_CHECKING:
    from dbqueue.app import DBQueue
    from dbqueue.jobs import NewJob
    from dbqueue.store.base import Store
    from dbqueue.workflows import Workflow

FIELDS: Final = ("task", "schedule", "args", "kwargs", "options", "relative", "misfire", "timezone")
"""What an entry of `beat_schedule` may hold; the last two are not Celery's."""

logger: Final = logging.getLogger("dbqueue.beat")


def entries(app: DBQueue) -> list[NewSchedule]:
    """The application's `beat_schedule` as rows. Raises ImproperlyConfigured that names the entry and its fault."""
    app.finalize()
    found = []
    for name, entry in app.conf.beat_schedule.items():
        try:
            found.append(new_row(app, str(name), entry))
        except (ImproperlyConfigured, TypeError, ValueError, EncodeError) as error:
            raise ImproperlyConfigured(f"beat_schedule[{name!r}]: {error}") from error
    return found


def new_row(app: DBQueue, name: str, entry: Any) -> NewSchedule:
    """An entry as a row. Raises TypeError, ValueError, ImproperlyConfigured or EncodeError for what cannot work."""
    if not isinstance(entry, Mapping):
        raise TypeError(f"an entry is a dict, not {entry!r}")
    unknown = [key for key in entry if key not in FIELDS]
    if unknown:
        raise ValueError(f"there is no field {unknown[0]!r}: an entry has {', '.join(FIELDS)}")
    for needed in ("task", "schedule"):
        if not entry.get(needed):
            raise ValueError(f"{needed!r} is missing")
    misfire = entry.get("misfire", "once")
    if misfire not in MISFIRES:
        raise ValueError(f"misfire is one of {', '.join(MISFIRES)}, not {misfire!r}")
    args = entry.get("args") or ()
    if isinstance(args, str | Mapping):
        raise TypeError(f"args is a tuple or a list, not {args!r}: a tuple of one ends in a comma")
    limit = app.conf.max_payload_bytes
    task, kwargs, options = entry["task"], dict(entry.get("kwargs") or {}), dict(entry.get("options") or {})
    if isinstance(task, Mapping):
        _, call = new_entry(entry["schedule"], task, args, kwargs, name, options)
        task, args, kwargs, options = (call[part] for part in ("task", "args", "kwargs", "options"))
    values = {"args": list(args), "kwargs": kwargs, "options": options}
    for kind in LINKS:
        links(Signature(), options, kind)  # raises TypeError for what is none
    texts = {key: codec.dumps(value, what=key, max_bytes=limit) for key, value in values.items()}
    return NewSchedule(
        name=_entry_name(name),
        task=_task_name(task),
        schedule=_text(entry["schedule"], relative=bool(entry.get("relative"))),
        timezone=str(entry.get("timezone") or app.conf.timezone),
        misfire=misfire,
        **texts,
    )


def _entry_name(name: object) -> str:
    """The name, with which its row can be found again, and which a line of the log can carry."""
    fits = isinstance(name, str) and len(name) <= MAX_NAME_LENGTH and len(name.splitlines()) == 1
    if not (fits and all(each.isprintable() or each.isspace() for each in str(name))):
        limits = f"1 to {MAX_NAME_LENGTH} printable characters in one line"
        raise ValueError(f"the name of an entry is a text of {limits}, not {shown(name)}")
    return str(name)


def _task_name(task: object) -> str:
    """The name by which a worker finds the task."""
    name = getattr(task, "name", task)
    if not is_name(name):
        raise ValueError(f"the name of a task is {A_NAME}, not {shown(name)}")
    return name


def _text(given: Any, *, relative: bool) -> str:
    schedule = maybe_schedule(given, relative)
    if not isinstance(schedule, BaseSchedule):
        raise TypeError(
            f"schedule is a number of seconds, a timedelta, a schedule, crontab or solar, or a text, not {given!r}"
        )
    cls = type(schedule)
    if cls.is_due is not BaseSchedule.is_due or cls.remaining_estimate is not BaseSchedule.remaining_estimate:
        raise TypeError(
            f"{cls.__name__} has its own is_due or remaining_estimate, which no row can hold: a schedule is kept "
            "as text in the database, where any beat reads it"
        )
    return schedule.text


def make_beat(app: DBQueue, *, max_interval: float | None = None) -> Beat:
    """A beat for the application. Its entries are checked now, and put into the table once the database answers.

    `max_interval`, in seconds, is by default the setting `beat_max_loop_interval`, and two where that is 0.
    """
    rows = entries(app)
    owner = app.main or "__main__"

    def prepare(store: Store) -> None:
        for name in synchronise(store, owner, rows):
            logger.error(
                "The entry %r of this application's settings is not in effect: a user, or another application, has a "
                "schedule of that name. Rename one of them.",
                name,
            )
        reconsider(store)

    steps = Steps(
        make_job=lambda row, due, job_id: job_of(app, row, due=due, job_id=job_id),
        zone=app.conf.timezone,
        deadline_seconds=app.conf.beat_cron_starting_deadline,
    )
    interval = max_interval or app.conf.beat_max_loop_interval or MAX_INTERVAL_SECONDS
    return Beat(
        lambda: app.database.store,
        steps,
        prepare=prepare,
        published=app.database.announce,
        max_interval=interval,
    )


class BeatService:
    """`app.Beat()`: a beat in this process, as a program starts one; `run` serves until it is stopped.

    `max_interval` is in seconds; see `make_beat`. Celery's other options have no effect.
    """

    def __init__(self, app: DBQueue, *, max_interval: float | None = None, **options: Any) -> None:
        self.app = app
        app.import_tasks()
        self._beat = make_beat(app, max_interval=max_interval)

    def run(self) -> None:
        """Enqueue what is due, until `stop`. On the main thread TERM and INT end it, too."""
        handlers: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for name in (signal.SIGTERM, signal.SIGINT):
                handlers[name] = signal.signal(name, lambda *_: self._beat.stop())
        try:
            announce(self._beat, embedded=False)
            self._beat.run()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def stop(self) -> None:
        """End `run`, from any thread."""
        self._beat.stop()


def announce(beat: Beat, *, embedded: bool) -> None:
    """Send the signals of a beat that is about to run."""
    signals.beat_init.send(sender=beat)
    if embedded:
        signals.beat_embedded_init.send(sender=beat)


def job_of(
    app: DBQueue, row: ScheduleRow, *, due: datetime | None = None, job_id: str | None = None
) -> NewJob | Workflow:
    """What a row stands for, signed if there are keys: a job, or the workflow of a call with more than one.

    The headers name the entry and, where it is a firing, the due time. `job_id` is the job's, or that of the first one.
    """
    made = plan_of(app, row, due=due, job_id=job_id)
    return app.database.signed_workflow(made.workflow) if isinstance(made, Plan) else app.database.signed(made)


def plan_of(app: DBQueue, row: ScheduleRow, *, due: datetime | None = None, job_id: str | None = None) -> NewJob | Plan:
    """As `job_of`, before it is signed; of a workflow with its result."""
    args, kwargs, options = codec.loads(row.args), codec.loads(row.kwargs), codec.loads(row.options)
    if not isinstance(args, list) or not isinstance(kwargs, dict) or not isinstance(options, dict):
        raise TypeError("args must be a JSON list, kwargs and options JSON objects")
    headers = {"periodic_task_name": row.name}
    if due is not None:
        headers["due_at"] = due.isoformat()
    sig = firings.call(app, row.task, args, kwargs, options)
    if sig is not None:
        return firings.firing(app, sig, headers, job_id=job_id)
    # An id among the options is of no run: each is a job of its own, and a second one of that id would be the first.
    changes = {"headers": {**(options.get("headers") or {}), **headers}, "task_id": job_id}
    return new_job(app.conf, row.task, app.tasks.get(row.task), args, kwargs, {**options, **changes})
