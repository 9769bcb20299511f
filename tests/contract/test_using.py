"""`dbqueue.using`: a caller's transaction for all enqueues inside of a block, and for no others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

import dbqueue
from dbqueue import DBQueue
from tests.contract.callers import by_async_session, by_session, ids, make_app


@pytest.fixture
def app(database_url: str) -> Iterator[DBQueue]:
    with make_app(database_url) as app:
        yield app


class TestUsing:
    def test_the_innermost_counts(self, app: DBQueue, database_url: str) -> None:
        add = app.tasks["joined.add"]
        engine = sa.create_engine(database_url)
        with orm.Session(engine) as outer, dbqueue.using(outer):
            with orm.Session(engine) as inner, dbqueue.using(inner):
                add.delay(1)
                inner.commit()
            assert len(ids(database_url)) == 1
            add.delay(2)
            outer.rollback()
        assert len(ids(database_url)) == 1
        add.delay(3)  # none any more: at once
        assert len(ids(database_url)) == 2
        engine.dispose()

    def test_it_ends_with_an_exception(self, app: DBQueue, database_url: str) -> None:
        with by_session(database_url) as (session, _, _):
            with pytest.raises(ZeroDivisionError), dbqueue.using(session):  # noqa: PT012 - the block is what ends
                app.tasks["joined.add"].delay(1)
                _ = 1 / 0
            session.rollback()
        app.tasks["joined.add"].delay(2)
        assert len(ids(database_url)) == 1

    def test_another_thread_has_none(self, app: DBQueue, database_url: str) -> None:
        with by_session(database_url) as (session, _, rollback), dbqueue.using(session):
            thread = threading.Thread(target=app.tasks["joined.add"].delay, args=(1,))
            thread.start()
            thread.join()
            assert len(ids(database_url)) == 1
            rollback()

    def test_asyncio_tasks_have_their_own(self, app: DBQueue, database_url: str) -> None:
        async def run() -> None:
            opened = [by_async_session(database_url) for _ in range(2)]
            async with opened[0] as (kept, commit, _), opened[1] as (dropped, _, rollback):

                async def enqueue(session: Any, turn: asyncio.Event, other: asyncio.Event) -> None:
                    with dbqueue.using(session):
                        other.set()
                        await turn.wait()  # both are inside their `using` now
                        await app.tasks["joined.add"].adelay(1)

                first, second = asyncio.Event(), asyncio.Event()
                await asyncio.gather(enqueue(kept, first, second), enqueue(dropped, second, first))
                await rollback()
                await commit()

        if database_url.startswith("sqlite"):
            pytest.skip("SQLite has one writer at a time")
        asyncio.run(run())
        assert len(ids(database_url)) == 1

    def test_an_explicit_connection_goes_first(self, app: DBQueue, database_url: str) -> None:
        engine = sa.create_engine(database_url)
        with orm.Session(engine) as joined, orm.Session(engine) as given, dbqueue.using(joined):
            app.tasks["joined.add"].apply_async((1,), connection=given)
            given.commit()
            joined.rollback()
        assert len(ids(database_url)) == 1
        engine.dispose()
