"""Changes that people make to jobs: each in a transaction of its own, on a connection of the pool."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from typing import TypeAlias, TypeVar

import sqlalchemy as sa

from dbqueue.errors import OperationalError
from dbqueue.store.base import Store
from dbqueue.store.reading import in_schema
from dbqueue.store.statements import Statement
from dbqueue.store.steps import Reply
from dbqueue.store.transactions.joining import JoinedConnection
from dbqueue.store.trouble import Tries, trouble_of

T = TypeVar("T")
Ask: TypeAlias = Callable[[Statement], Reply]
"""Runs the steps of `workflows` on the connection of a change."""


@contextlib.contextmanager
def changing(store: Store) -> Iterator[sa.Connection]:
    with store.connect() as connection:
        yield in_schema(connection, store)


def changed(store: Store, change: Callable[[sa.Connection, Ask], T]) -> T:
    """Run it in a transaction of its own; again from its start where the locks of others were in its way."""
    tries = Tries(connections=0)
    while True:
        try:
            with changing(store) as connection:
                return change(connection, JoinedConnection(connection).reply)
        except OperationalError as error:
            if not tries.again(trouble_of(error.__cause__)):
                raise


def among(store: Store, job_ids: Collection[str]) -> sa.TextClause:
    """Whether a row's id is one of these, of which there may be more than a statement takes parameters."""
    return sa.text(store.text("id {among}")).bindparams(ids=store.listed(job_ids))
