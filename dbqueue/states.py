"""The states of a job, under Celery's names; `jobs` draws how they follow each other."""

from __future__ import annotations

from typing import Final

from dbqueue.jobs import FAILURE, PENDING, RETRY, REVOKED, STARTED, SUCCESS

RECEIVED: Final = "RECEIVED"
"""Celery's; dbqueue has no such state, since claiming a job starts it."""
REJECTED: Final = "REJECTED"
IGNORED: Final = "IGNORED"

READY_STATES: Final = frozenset({SUCCESS, FAILURE, REVOKED})
UNREADY_STATES: Final = frozenset({PENDING, RECEIVED, STARTED, REJECTED, RETRY})
EXCEPTION_STATES: Final = frozenset({RETRY, FAILURE, REVOKED})
PROPAGATE_STATES: Final = frozenset({FAILURE, REVOKED})
PRECEDENCE: Final = (SUCCESS, FAILURE, None, REVOKED, STARTED, RECEIVED, REJECTED, RETRY, PENDING)
"""The states by weight, the heaviest first; None stands for states of a task's own."""


def precedence(state: str) -> int:
    """The place of a state among the others: 0 weighs most."""
    return PRECEDENCE.index(state if state in PRECEDENCE else None)


class state(str):  # noqa: N801, SLOT000 - Celery's name
    """A state that compares by its weight: `state("PROGRESS") < state(SUCCESS)`."""

    def __gt__(self, other: str) -> bool:
        return precedence(self) < precedence(other)

    def __ge__(self, other: str) -> bool:
        return precedence(self) <= precedence(other)

    def __lt__(self, other: str) -> bool:
        return precedence(self) > precedence(other)

    def __le__(self, other: str) -> bool:
        return precedence(self) >= precedence(other)


ALL_STATES: Final = frozenset({PENDING, RECEIVED, STARTED, SUCCESS, FAILURE, RETRY, REVOKED})

__all__ = [
    "ALL_STATES",
    "EXCEPTION_STATES",
    "FAILURE",
    "IGNORED",
    "PENDING",
    "PRECEDENCE",
    "PROPAGATE_STATES",
    "READY_STATES",
    "RECEIVED",
    "REJECTED",
    "RETRY",
    "REVOKED",
    "STARTED",
    "SUCCESS",
    "UNREADY_STATES",
    "precedence",
    "state",
]
