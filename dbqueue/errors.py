"""Every exception that dbqueue raises, as one tree.

    DBQueueError
    ├── ImproperlyConfigured            a setting, URL or argument that cannot work
    │   ├── AccessDenied                the database user has no right to this
    │   ├── SchemaError                 the database has no tables, or those of another version
    │   ├── QueueNotFound (KeyError)    a queue that `task_queues` does not name
    │   └── ForeignConnection           a caller's connection of a wrong type or to another database
    ├── OperationalError                the database cannot be reached or does not answer
    │   ├── LockTimeout                 a row or a table was not free in time: somebody's transaction has locked it
    │   └── NotCommitted                a task's own transaction was not committed, as far as anybody can tell
    │       └── NotBegun                ... for the task got no connection, and has not run
    ├── SerializationError
    │   ├── EncodeError                 arguments or a result that JSON cannot carry
    │   │   └── PayloadTooLarge         ... or that are longer than `max_payload_bytes`
    │   ├── DecodeError                 a row whose data cannot be read
    │   └── ContentDisallowed           a row in a content type that `accept_content` refuses
    ├── TaskPredicate                   raised by a task to steer its worker, not a failure
    │   ├── Ignore
    │   │   └── ReplaceTask
    │   ├── Reject
    │   └── Retry
    └── TaskError
        ├── NotRegistered (KeyError)
        ├── AlreadyRegistered
        ├── DuplicateTaskId             the id is in use by a job with other content
        ├── InvalidTaskError            a row that is no valid call
        │   └── BadSignature            ... or that `task_signing_keys` refuse
        ├── TimeoutError                `get(timeout=...)` ran out
        ├── MaxRetriesExceededError
        ├── TaskRevokedError
        ├── ChordError                  a job whose result a chord's body waits for has failed
        ├── WorkerLostError             the process that ran the job died
        ├── LeaseLost                   the job is another run's by now: what this one writes must be undone
        ├── TimeLimitExceeded, SoftTimeLimitExceeded
        ├── RemoteTraceback             the cause of a failure that is raised again: where it happened
        └── RemoteError                 a failure whose own exception class is not at hand

`AlwaysEagerIgnored` is a warning; `WorkerShutdown` and `WorkerTerminate` are SystemExit's.

The names are Celery's where Celery has one; `dbqueue.exceptions` offers them to ported programs.
"""

from __future__ import annotations

import builtins
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dbqueue.workflows import Workflow


class DBQueueError(Exception):
    """The root: `except DBQueueError` catches all that dbqueue raises by itself."""


class ImproperlyConfigured(DBQueueError):
    """A setting, URL or argument cannot work as it stands; the text says what to change."""


class SchemaError(ImproperlyConfigured):
    """The database's tables are missing, too old or too new for this version of dbqueue."""


class AccessDenied(ImproperlyConfigured):
    """The database user lacks a grant; the text names what for, and where the grants are shown."""


class ForeignConnection(ImproperlyConfigured):
    """The connection handed in cannot carry an enqueue: a wrong type, or another database."""


class OperationalError(DBQueueError):
    """The database could not be reached, or the connection broke; nothing was enqueued for certain."""


class LockTimeout(OperationalError):
    """A row or a table was not free in time, for somebody's transaction has locked it: nothing was written."""


class NotCommitted(OperationalError):
    """The transaction of a transactional task was not committed, as far as anybody can tell: the job runs again."""


class NotBegun(NotCommitted):
    """A transactional coroutine got no connection, and so has not run: its job runs again, and that is no loss."""


class SerializationError(DBQueueError):
    """Data could not be turned into a row, or a row into data."""


class EncodeError(SerializationError):
    """The value cannot be stored; the text names the reason."""


class PayloadTooLarge(EncodeError):
    """The encoded value is longer than the setting `max_payload_bytes`.

    `size` and `limit` are in bytes.
    """

    def __init__(self, what: str, size: int, limit: int) -> None:
        super().__init__(what, size, limit)
        self.what, self.size, self.limit = what, size, limit

    def __str__(self) -> str:
        return (
            f"{self.what}: {self.size} bytes are more than max_payload_bytes={self.limit}: "
            "store the data elsewhere and send its key, or raise the setting"
        )


class DecodeError(SerializationError):
    """The row's data is not valid in its content type."""


class ContentDisallowed(SerializationError):
    """The row's content type is not in the setting `accept_content`."""


class TaskPredicate(DBQueueError):
    """Raised by a task to tell the worker what to do with it; not a failure."""


class Ignore(TaskPredicate):
    """The task asks that its outcome be ignored."""


class Reject(TaskPredicate):
    """The task refuses its job; with `requeue` it is delivered again."""

    def __init__(self, reason: Any = None, requeue: bool = False) -> None:
        super().__init__(reason, requeue)
        self.reason, self.requeue = reason, requeue

    def __repr__(self) -> str:
        return f"reject requeue={self.requeue}: {self.reason}"


class ReplaceTask(Ignore):
    """The task puts a workflow in its place: raised by `Task.replace()`. An Ignore, as in Celery."""

    def __init__(self, workflow: Workflow) -> None:
        super().__init__("the task is replaced by a workflow")
        self.workflow = workflow


class Retry(TaskPredicate):
    """The task is to run again: raised by `Task.retry()`.

    `when` is the pause in seconds, or the datetime before which it will not run. `changes` are
    the parts of the call that are to differ (`args`, `kwargs`, `queue`, `priority`, ...).
    """

    def __init__(
        self,
        message: str | None = None,
        exc: BaseException | str | None = None,
        when: float | datetime | None = None,
    ) -> None:
        super().__init__(message, exc, when)
        self.message, self.exc, self.when = message, exc, when
        self.changes: dict[str, Any] = {}
        self.is_eager = False
        self.counted = False
        """Whether `Task.retry` made it, which knows `max_retries`; what a task raises of its own does not."""

    def humanize(self) -> str:
        if isinstance(self.when, (int, float)):
            return f"in {self.when:g}s"
        return f"at {self.when}"

    def __str__(self) -> str:
        if self.message:
            return self.message
        text = f"Retry {self.humanize()}"
        return f"{text}: {self.exc!r}" if self.exc is not None else text

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.exc, self.when)


class TaskError(DBQueueError):
    """Something about one task or one job."""


class QueueNotFound(ImproperlyConfigured, KeyError):
    """A call names a queue that `task_queues` does not, and `task_create_missing_queues` is off."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class NotRegistered(TaskError, KeyError):
    """No task of that name is registered with this application."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class AlreadyRegistered(TaskError):
    """Another task has that name already."""


class DuplicateTaskId(TaskError):
    """The id given is already that of a job with another task or other arguments."""


class InvalidTaskError(TaskError):
    """The row is no valid call of a task."""


class BadSignature(InvalidTaskError):
    """The job is not signed with any of the worker's `task_signing_keys`, or its row was changed since."""


class TimeoutError(TaskError, builtins.TimeoutError):  # noqa: A001 - Celery's name
    """The result did not come in time."""

    def __init__(self, message: str = "The operation timed out.") -> None:
        super().__init__(message)


class MaxRetriesExceededError(TaskError):
    """The task asked for one more retry than `max_retries` allows."""

    def __init__(self, *args: Any, task_args: Any = (), task_kwargs: Any = None) -> None:
        super().__init__(*args)
        self.task_args, self.task_kwargs = task_args, task_kwargs or {}


class TaskRevokedError(TaskError):
    """The job was revoked, or it expired before it could start."""


class ChordError(TaskError):
    """A job of a chord's header has failed, so that its body cannot run; the text names the job and its error."""


class WorkerLostError(TaskError):
    """The process that ran the job ended without an answer."""


class LeaseLost(TaskError):
    """The job is not this run's any more: another worker has it, or it is over.

    Raised inside the transaction that was to complete it, which must be rolled back.
    """


class TimeLimitExceeded(TaskError):
    """The job ran longer than its hard time limit, in seconds, and was ended."""

    def __str__(self) -> str:
        return f"TimeLimitExceeded{self.args}"  # as Celery prints it


class SoftTimeLimitExceeded(TaskError):
    """Raised inside a task that runs longer than its soft time limit."""

    def __str__(self) -> str:
        return f"SoftTimeLimitExceeded{self.args}"  # as Celery prints it


class RemoteTraceback(TaskError):
    """Where a job failed, as the cause of its exception: with the setting `task_remote_tracebacks`."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0] if self.args else ""}"""'


class RemoteError(TaskError):
    """A job failed with an exception that cannot be made again in this process.

    Raised by `get()` where the class is not loaded here, is no exception class, or refuses its
    arguments. `type_name` is the dotted name of the class, `message` its text, `traceback` the
    text of the traceback as the worker saw it, or None.
    """

    def __init__(self, type_name: str, message: str, traceback: str | None = None) -> None:
        super().__init__(type_name, message, traceback)
        self.type_name, self.message, self.traceback = type_name, message, traceback

    def __str__(self) -> str:
        return f"{self.type_name}: {self.message}" if self.message else self.type_name


class WorkerShutdown(SystemExit):
    """Raised in a receiver of a worker's signal: the worker ends."""


class WorkerTerminate(SystemExit):
    """As WorkerShutdown."""


class CeleryWarning(UserWarning):
    """The root of the warnings, under Celery's name."""


class AlwaysEagerIgnored(CeleryWarning):
    """`send_task` enqueues although `task_always_eager` is set: it knows a task by its name only."""


class NotConfigured(CeleryWarning):
    """An application has no configuration; dbqueue needs none, and never warns of it."""


class DuplicateNodenameWarning(CeleryWarning):
    """Two workers have one name; here each has an id beside it, and nobody warns."""


class FixupWarning(CeleryWarning):
    """Something about a framework's integration."""


class CDeprecationWarning(DeprecationWarning):
    """What Celery deprecates: for programs that name it in their filters of warnings."""


class CPendingDeprecationWarning(PendingDeprecationWarning):
    """What Celery is about to deprecate: for programs that name it in their filters of warnings."""
