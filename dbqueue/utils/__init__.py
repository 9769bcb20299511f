"""Modules under the names by which Celery's users import them."""

from __future__ import annotations

from functools import cached_property

from dbqueue.jobs import new_job_id
from dbqueue.utils.functional import chunks, memoize, noop
from dbqueue.utils.imports import gen_task_name, import_from_cwd, instantiate
from dbqueue.utils.nodenames import nodename, nodesplit

__all__ = [
    "cached_property",
    "chunks",
    "gen_task_name",
    "gen_unique_id",
    "import_from_cwd",
    "instantiate",
    "memoize",
    "nodename",
    "nodesplit",
    "noop",
    "uuid",
]


def uuid() -> str:
    """A new id for a task, as text."""
    return new_job_id()


gen_unique_id = uuid
