"""The exceptions under the module name that Celery programs import; `errors` draws their tree."""

from __future__ import annotations

from typing import Any, NoReturn

from dbqueue.errors import (
    AlreadyRegistered,
    AlwaysEagerIgnored,
    CDeprecationWarning,
    CeleryWarning,
    ChordError,
    ContentDisallowed,
    CPendingDeprecationWarning,
    DBQueueError,
    DecodeError,
    DuplicateNodenameWarning,
    DuplicateTaskId,
    EncodeError,
    FixupWarning,
    ForeignConnection,
    Ignore,
    ImproperlyConfigured,
    InvalidTaskError,
    MaxRetriesExceededError,
    NotConfigured,
    NotRegistered,
    OperationalError,
    PayloadTooLarge,
    QueueNotFound,
    Reject,
    RemoteError,
    RemoteTraceback,
    Retry,
    SchemaError,
    SerializationError,
    SoftTimeLimitExceeded,
    TaskError,
    TaskPredicate,
    TaskRevokedError,
    TimeLimitExceeded,
    TimeoutError,  # noqa: A004 - Celery's name
    WorkerLostError,
    WorkerShutdown,
    WorkerTerminate,
)

CeleryError = DBQueueError
"""Celery's name for the root of the tree."""
DBQueueWarning = CeleryWarning
"""What `Celery` in its name becomes where it is replaced."""
BackendError = BackendGetMetaError = BackendStoreError = OperationalError
"""Celery's names of what the result store raises: here it is the database."""


def reraise(kind: type[BaseException], value: BaseException, tb: Any = None) -> NoReturn:
    """Raise an exception again, with the traceback given."""
    raise value if tb is None else value.with_traceback(tb)


__all__ = [
    "AlreadyRegistered",
    "AlwaysEagerIgnored",
    "BackendError",
    "BackendGetMetaError",
    "BackendStoreError",
    "CDeprecationWarning",
    "CPendingDeprecationWarning",
    "CeleryError",
    "CeleryWarning",
    "ChordError",
    "ContentDisallowed",
    "DBQueueError",
    "DBQueueWarning",
    "DecodeError",
    "DuplicateNodenameWarning",
    "DuplicateTaskId",
    "EncodeError",
    "FixupWarning",
    "ForeignConnection",
    "Ignore",
    "ImproperlyConfigured",
    "InvalidTaskError",
    "MaxRetriesExceededError",
    "NotConfigured",
    "NotRegistered",
    "OperationalError",
    "PayloadTooLarge",
    "QueueNotFound",
    "Reject",
    "RemoteError",
    "RemoteTraceback",
    "Retry",
    "SchemaError",
    "SerializationError",
    "SoftTimeLimitExceeded",
    "TaskError",
    "TaskPredicate",
    "TaskRevokedError",
    "TimeLimitExceeded",
    "TimeoutError",
    "WorkerLostError",
    "WorkerShutdown",
    "WorkerTerminate",
    "reraise",
]
