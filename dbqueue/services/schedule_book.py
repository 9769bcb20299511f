"""`app.schedules`: the table of periodic tasks from Python, while beats run.

    app.schedules.set("report of shop 7", report, crontab(hour=7), args=(7,))
    app.schedules.pause("report of shop 7")
    app.schedules.remove("report of shop 7")

A beat sees each change within its `max_interval`. What the settings of an application name
(`beat_schedule`, `add_periodic_task`) can be paused here; to change or remove it, change the settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from dbqueue.canvas.sending import Plan
from dbqueue.codec.plain import json_object, json_value
from dbqueue.errors import ImproperlyConfigured
from dbqueue.schedules import BaseSchedule, from_text
from dbqueue.services.beats import new_row, plan_of
from dbqueue.store import schedules
from dbqueue.store.schedules import ScheduleRow

if TYPE_CHECKING:
    from dbqueue.app import DBQueue


@dataclass(frozen=True, slots=True)
class Schedule:
    """One entry as it was when it was read. Times are in UTC."""

    name: str
    task: str
    schedule: BaseSchedule | None
    """When it is due; None where its text cannot be read, which `problem` tells, or not in this process."""
    args: list[Any]
    kwargs: dict[str, Any]
    options: dict[str, Any]
    timezone: str | None
    enabled: bool
    misfire: str
    from_settings: bool
    """Whether an application's settings name it, rather than a user."""
    next_due_at: datetime | None
    last_due_at: datetime | None
    total_run_count: int
    problem: str | None


class ScheduleBook:
    """All of these raise OperationalError where the database cannot be reached."""

    def __init__(self, app: DBQueue) -> None:
        self.app = app

    def set(
        self,
        name: str,
        task: Any,
        schedule: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        timezone: str | None = None,
        misfire: str = "once",
        relative: bool = False,
        enabled: bool = True,
    ) -> Schedule:
        """Make the entry, or change the one of this name to be so; as it is then.

        `task` is a task, its name or a signature, `schedule` what `beat_schedule` takes: seconds, a timedelta,
        `crontab(...)`, or the text of a row. `options` are those of `apply_async`. An entry whose schedule stays the
        same keeps its next due time. Raises ValueError or TypeError for what cannot work, and for an entry of the
        settings.
        """
        entry = {
            "task": task, "schedule": schedule, "args": args, "kwargs": kwargs, "options": options,
            "timezone": timezone, "misfire": misfire, "relative": relative,
        }  # fmt: skip
        row = new_row(self.app, name, {key: value for key, value in entry.items() if value is not None})
        if not schedules.put(self._store, row, enabled=enabled):
            raise ValueError(_OF_SETTINGS.format(name))
        found = self.get(name)
        if found is None:
            raise KeyError(f"the schedule {name!r} was removed at the same moment")
        return found

    def get(self, name: str) -> Schedule | None:
        """The entry of this name; None where there is none."""
        row = schedules.find(self._store, name)
        return None if row is None else _shown(row)

    def __iter__(self) -> Iterator[Schedule]:
        """All entries, by name."""
        return iter([_shown(row) for row in schedules.read(self._store)[1]])

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and schedules.find(self._store, name) is not None

    def remove(self, name: str) -> bool:
        """Delete the entry; False where there is none. Raises ValueError for one of the settings."""
        if schedules.remove(self._store, name):
            return True
        if name in self:
            raise ValueError(_OF_SETTINGS.format(name))
        return False

    def pause(self, *names: str) -> frozenset[str]:
        """Do not fire these until they are resumed; which of them there are."""
        return self._set_enabled(names, enabled=False)

    def resume(self, *names: str) -> frozenset[str]:
        """Fire these again; what was due meanwhile is not made up for."""
        return self._set_enabled(names, enabled=True)

    def run(self, name: str) -> Any:
        """Enqueue the entry's call now; its due times stay as they are. Returns its result, a group's of a group.

        Each run has an id of its own, as each firing does, whatever `task_id` the options name. Raises KeyError where
        there is no such entry.
        """
        row = schedules.find(self._store, name)
        if row is None:
            raise KeyError(f"there is no schedule {name!r}")
        made = plan_of(self.app, row)
        if isinstance(made, Plan):
            self.app.database.enqueue_workflow(made.workflow)
            return made.result
        (job_id,) = self.app.database.enqueue([made])
        return self.app.AsyncResult(job_id)

    def _set_enabled(self, names: tuple[str, ...], *, enabled: bool) -> frozenset[str]:
        for name in names:
            if not isinstance(name, str):
                raise TypeError(f"names of schedules are given one by one, as text, not {name!r}")
        return frozenset(schedules.set_enabled(self._store, names, enabled=enabled))

    @property
    def _store(self) -> Any:
        return self.app.database.store


_OF_SETTINGS = "the schedule {!r} belongs to the settings of an application: change it there, or pause it here"


def _shown(row: ScheduleRow) -> Schedule:
    try:
        schedule = from_text(row.schedule)
    except (ValueError, ImproperlyConfigured):  # the latter: a package is missing here
        schedule = None
    return Schedule(
        name=row.name,
        task=row.task,
        schedule=schedule,
        # Empty where the row holds something else, of which `problem` tells.
        args=json_value(row.args, list),
        kwargs=json_object(row.kwargs),
        options=json_object(row.options),
        timezone=row.timezone,
        enabled=row.enabled,
        misfire=row.misfire,
        from_settings=row.source == schedules.SETTINGS,
        next_due_at=row.next_due_at,
        last_due_at=row.last_due_at,
        total_run_count=row.total_run_count,
        problem=row.problem,
    )
