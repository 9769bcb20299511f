"""Changes of the tables: each in a transaction of its own, on a connection of the pool."""

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
from dbqueue.store.trouble import Tries, Trouble, trouble_of

T = TypeVar("T")
Ask: TypeAlias = Callable[[Statement], Reply]
"""Runs the steps of `workflows` on the connection of a change."""


@contextlib.contextmanager
def changing(store: Store) -> Iterator[sa.Connection]:
    """For what is run again by others, or not at all; else `changed`."""
    with store.connect() as connection:
        yield in_schema(connection, store)


def changed(store: Store, change: Callable[[sa.Connection, Ask], T], *, repeatable: bool = True) -> T:
    """Run it in a transaction of its own; again from its start where locks of others were in its way, or its connection
    broke.

    Where that was in the commit, nobody knows whether it stands. Then it runs again only if it is `repeatable`: one
    that does no harm where it has been done. What it returns lacks what it finds done, and so may not say that jobs may
    run now, nor does an error: workers are woken in any case.
    """
    tries, unheard = Tries(store.pool_limit), False
    try:
        while True:
            commits = False
            try:
                with changing(store) as connection:
                    result = change(connection, JoinedConnection(connection).reply)
                    commits = True
                return result
            except OperationalError as error:
                unheard |= commits
                trouble = trouble_of(error.__cause__)
                if commits and trouble is Trouble.LOST and not repeatable:
                    text = f"{error}: it broke in the commit, look whether the change was made"
                    raise OperationalError(text) from error
                if not tries.again(trouble):
                    raise
    finally:
        if unheard:
            store.wake()


def among(store: Store, job_ids: Collection[str]) -> sa.TextClause:
    """Whether a row's id is one of these, of which there may be more than a statement takes parameters."""
    return sa.text(store.text("id {among}")).bindparams(ids=store.listed(job_ids))
