"""Operations of several statements, written once for every kind of connection.

Such an operation is a generator: it yields statements and is sent the replies. Who runs it decides
how: on a worker's connection, on one of the pool, on a caller's, with or without an event loop.
The transaction is that of whoever runs it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

from dbqueue.store.statements import Statement

T = TypeVar("T")


class Reply(NamedTuple):
    """What a statement did: the number of rows that it changed, and those that it gave."""

    changed: int
    rows: Sequence[Sequence[Any]]


Steps: TypeAlias = Generator[Statement, Reply, T]


def run(steps: Steps[T], execute: Callable[[Statement], Reply]) -> T:
    """Run the operation to its end; what it returns."""
    try:
        statement = next(steps)
        while True:
            statement = steps.send(execute(statement))
    except StopIteration as end:
        value: T = end.value
        return value


async def arun(steps: Steps[T], execute: Callable[[Statement], Awaitable[Reply]]) -> T:
    """As `run`, over an asynchronous connection."""
    try:
        statement = next(steps)
        while True:
            statement = steps.send(await execute(statement))
    except StopIteration as end:
        value: T = end.value
        return value
