"""Results under the module name that Celery programs import: of one call, of many, and of groups."""

from __future__ import annotations

from dbqueue.result.family import ResultBase
from dbqueue.result.sets import GroupResult, ResultSet
from dbqueue.result.single import DEFAULT_INTERVAL_SECONDS, AsyncResult
from dbqueue.result.tree import DependencyGraph, IncompleteStream, result_from_tuple
from dbqueue.result.waiting_rules import NEVER_IN_TASK, allow_join_result, denied_join_result, refuse_to_wait

__all__ = [
    "DEFAULT_INTERVAL_SECONDS",
    "NEVER_IN_TASK",
    "AsyncResult",
    "DependencyGraph",
    "EagerResult",
    "GroupResult",
    "IncompleteStream",
    "ResultBase",
    "ResultSet",
    "allow_join_result",
    "denied_join_result",
    "refuse_to_wait",
    "result_from_tuple",
]


def __getattr__(name: str) -> object:
    if name == "EagerResult":
        from dbqueue.task.eager import EagerResult

        return EagerResult
    raise AttributeError(f"module 'dbqueue.result' has no attribute {name!r}")
