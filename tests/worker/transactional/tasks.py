"""The application of the tests of transactional tasks: each run adds to a table `effects` of the same database."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

import dbqueue
from dbqueue import DBQueue
from dbqueue.errors import Ignore
from tests.waiting import wait_until
from tests.worker.sample import note

ADD = sa.text("INSERT INTO effects (name) VALUES (:name)")
COUNTER = "CREATE TABLE counter (n int NOT NULL)"
EFFECTS = "CREATE TABLE effects (name text NOT NULL)"
DEFERRED = "CREATE TABLE promises (name text, UNIQUE (name) DEFERRABLE INITIALLY DEFERRED)"


def write(self: Any, name: str) -> str:
    self.session.execute(ADD, {"name": name})
    return f"wrote {name}"


def write_by_connection(self: Any, name: str) -> str:
    self.connection.execute(ADD, {"name": name})
    return f"wrote {name}"


def write_by_driver(self: Any, name: str) -> str:
    self.connection.connection.driver_connection.execute("INSERT INTO effects (name) VALUES (%s)", [name])
    return f"wrote {name}"


async def awrite(self: Any, name: str) -> str:
    await self.session.execute(ADD, {"name": name})
    await asyncio.sleep(0)
    return f"wrote {name}"


async def awrite_by_connection(self: Any, name: str) -> str:
    await self.connection.execute(ADD, {"name": name})
    return f"wrote {name}"


def write_and_fail(self: Any, name: str) -> None:
    self.session.execute(ADD, {"name": name})
    raise ValueError("after the write")


async def awrite_and_fail(self: Any, name: str) -> None:
    await self.session.execute(ADD, {"name": name})
    raise ValueError("after the write")


def write_and_retry(self: Any, name: str) -> int:
    self.session.execute(ADD, {"name": name})
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    return int(self.request.retries)


def write_and_ignore(self: Any, name: str) -> None:
    self.session.execute(ADD, {"name": name})
    raise Ignore


def write_unstorable(self: Any, name: str) -> object:
    self.session.execute(ADD, {"name": name})
    return object()


def follow(self: Any, name: str, *, fails: bool = False) -> list[str]:
    """Write, and enqueue others: one not in the transaction, one by itself, two as a group."""
    tasks = self.app.tasks
    with dbqueue.using(None):  # first: SQLite has one writer, which is this task from its first statement on
        ids = [tasks["t.write"].delay(f"{name}-apart").id]
    self.session.execute(ADD, {"name": name})
    ids.append(tasks["t.write"].delay(f"{name}-1").id)
    ids += [child.id for child in dbqueue.group(tasks["t.write"].s(f"{name}-{n}") for n in (2, 3)).apply_async()]
    if fails:
        raise ValueError("after the enqueues")
    return ids


async def afollow(self: Any, name: str) -> str:
    await self.session.execute(ADD, {"name": name})
    result = await self.app.tasks["t.write"].adelay(f"{name}-1")
    return str(result.id)


def only_follow(self: Any, name: str) -> str:
    return str(self.app.tasks["t.write"].delay(name).id)


def only_follow_many(self: Any, *names: str) -> int:
    return len(self.app.tasks["t.write"].enqueue_many([[name] for name in names]))


def undo_a_part(self: Any, name: str) -> None:
    self.session.execute(ADD, {"name": f"{name}-kept"})
    self.session.commit()
    self.session.execute(ADD, {"name": f"{name}-undone"})
    self.session.rollback()
    self.session.execute(ADD, {"name": f"{name}-last"})


def begin_anew(self: Any, name: str) -> None:
    """After a rollback of all that there was."""
    self.session.execute(ADD, {"name": f"{name}-undone"})
    self.session.commit()
    self.connection.rollback()
    self.session.execute(ADD, {"name": f"{name}-kept"})
    self.session.commit()


async def abegin_anew(self: Any, name: str) -> None:
    await self.session.execute(ADD, {"name": f"{name}-undone"})
    await self.session.commit()
    await self.connection.rollback()
    await self.session.execute(ADD, {"name": f"{name}-kept"})
    await self.session.commit()


def commit_it_oneself(self: Any, name: str) -> None:
    self.connection.execute(ADD, {"name": name})
    self.connection.commit()


def break_a_promise(self: Any, name: str) -> None:
    for _ in range(2):
        self.connection.execute(sa.text("INSERT INTO promises VALUES (:name)"), {"name": name})


def take_no_notice(self: Any, name: str) -> str:
    """Of an error of the database, which on PostgreSQL ends the transaction."""
    self.connection.execute(ADD, {"name": name})
    with contextlib.suppress(sa.exc.DBAPIError):
        self.connection.execute(sa.text("SELECT * FROM no_such_table"))
    return "written"


def touch_nothing(self: Any) -> str:
    return "nothing"


def replace_by_another(self: Any, name: str) -> None:
    self.session.execute(ADD, {"name": name})
    self.replace(self.app.tasks["t.write"].s(f"{name}-replaced"))


def hold_and_write(self: Any, name: str, started: str, release: str, *, first: bool = False) -> str:
    """Write before or after a wait for the file `release`."""
    if first:
        self.session.execute(ADD, {"name": name})
    note(started, os.getpid())
    wait_until(Path(release).exists)
    if not first:
        self.session.execute(ADD, {"name": name})
    return "released"


async def ahold_and_write(self: Any, name: str, started: str, release: str, *, first: bool = False) -> str:
    if first:
        await self.session.execute(ADD, {"name": name})
    note(started, os.getpid())
    await asyncio.to_thread(wait_until, Path(release).exists)
    if not first:
        await self.session.execute(ADD, {"name": name})
    return "released"


def wait_in_the_database(self: Any, name: str) -> None:
    """In a statement that takes a minute, with a lock."""
    self.session.execute(ADD, {"name": name})
    self.connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7), pg_sleep(60)")


async def await_the_database(self: Any, name: str) -> None:
    await self.session.execute(ADD, {"name": name})
    await self.connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7), pg_sleep(60)")


def count_up(self: Any, seconds: float = 0.0) -> int:
    """One more in the only row of `counter`, and a line in `effects` for each run that stands."""
    n: int = self.session.execute(sa.text("UPDATE counter SET n = n + 1 RETURNING n")).scalar_one()
    self.session.execute(ADD, {"name": self.request.id})
    if seconds:
        time.sleep(seconds)
    return n


async def acount_up(self: Any, seconds: float = 0.0) -> int:
    n: int = (await self.session.execute(sa.text("UPDATE counter SET n = n + 1 RETURNING n"))).scalar_one()
    await self.session.execute(ADD, {"name": self.request.id})
    if seconds:
        await asyncio.sleep(seconds)
    return n


def count_by_hand(self: Any, seconds: float = 0.0) -> None:
    """`count_up` in a session of the task's own."""
    with orm.Session(self.app.extra["engine"]) as session, session.begin():
        n = session.execute(sa.text("UPDATE counter SET n = n + 1 RETURNING n")).scalar_one()
        session.execute(ADD, {"name": self.request.id})
        time.sleep(seconds)
        dbqueue.complete(session, n)


def complete_oneself(self: Any, name: str, *, how: str = "commit", raises: bool = False) -> str:
    """A session of the task's own, `dbqueue.complete`, and what follows: commit, rollback or nothing."""
    engine = self.app.extra["engine"]
    session = orm.Session(engine)
    session.execute(ADD, {"name": name})
    dbqueue.complete(session, {"completed": name})
    if how == "commit":
        session.commit()
    elif how == "rollback":
        session.rollback()
    self.app.extra.setdefault("sessions", []).append(session)  # "leave": open when the task returns
    if raises:
        raise ValueError("after the commit")
    return "not kept"


async def acomplete_oneself(self: Any, name: str) -> None:
    engine = create_async_engine(self.app.extra["async_url"])
    async with AsyncSession(engine) as session, session.begin():
        await session.execute(ADD, {"name": name})
        await dbqueue.acomplete(session, {"completed": name})
    await engine.dispose()


def complete_twice(self: Any, name: str) -> None:
    with orm.Session(self.app.extra["engine"]) as session, session.begin():
        dbqueue.complete(session, 1)
        dbqueue.complete(session, 2)


TRANSACTIONAL: Any = (
    write, write_by_connection, write_by_driver, awrite, awrite_by_connection, write_and_fail, awrite_and_fail,
    write_and_retry, write_and_ignore, write_unstorable, follow, afollow, only_follow, only_follow_many, undo_a_part,
    commit_it_oneself, break_a_promise, take_no_notice, touch_nothing, replace_by_another, hold_and_write,
    ahold_and_write, begin_anew, abegin_anew, wait_in_the_database, await_the_database,
)  # fmt: skip


class App(DBQueue):
    extra: dict[str, Any]


def make_app(url: str, **settings: Any) -> App:
    app = App("t", broker=url, set_as_current=False, **settings)
    app.extra = {}
    for function in TRANSACTIONAL:
        app.task(name=f"t.{function.__name__}", bind=True, transactional=True)(function)
    for function in (count_up, acount_up, count_by_hand):
        app.task(
            name=f"t.{function.__name__}",
            bind=True,
            transactional=function is not count_by_hand,
            autoretry_for=(Exception,),
            max_retries=None,
            default_retry_delay=0,
        )(function)
    for function in (complete_oneself, acomplete_oneself, complete_twice):
        app.task(name=f"t.{function.__name__}", bind=True)(function)

    @app.task(name="t.write_unbound", transactional=True)
    def write_unbound(name: str) -> str:
        task: Any = app.current_task
        task.session.execute(ADD, {"name": name})
        return name

    own = sa.create_engine(url.replace("sqlite:///", "sqlite+pysqlite:///"))
    app.extra["engine"] = own
    app.extra["async_url"] = url.replace("sqlite:", "sqlite+aiosqlite:")
    return app
