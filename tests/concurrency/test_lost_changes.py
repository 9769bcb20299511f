"""The server has made a change, and its reply is lost: it is made again, or its caller is told where that might harm.

As in `test_lost_replies`: every request of every change in its turn.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import psycopg
import pytest
import sqlalchemy as sa

from dbqueue.errors import OperationalError
from dbqueue.jobs import NewJob
from dbqueue.limits import Limit
from dbqueue.store import changes, control, groups, limits, queues, revoking, schedules
from dbqueue.store.base import Store
from dbqueue.store.reading import reading
from dbqueue.workflows import ERRBACK, Edge, Workflow
from tests.chaos.proxy import Proxy
from tests.servers import libpq_url
from tests.stores import TestWorker, count, enqueued, new_job, opened, row, run_sql

Prepare = Callable[[Store], object]
Change = Callable[[Store], object]
ID = "the job"
MOST_REQUESTS = 60
"""More than any of these has."""
ENTRY = schedules.NewSchedule("tick", "shop.tick", "every 60 seconds", "UTC")
OTHER = schedules.NewSchedule("tock", "shop.tock", "every 60 seconds", "UTC")
ROW = "SELECT status, revoked_at IS NOT NULL, options::text, state FROM dbqueue_jobs"


def waiting(store: Store) -> None:
    enqueued(store, ID)


def running(store: Store) -> None:
    waiting(store)
    worker = TestWorker(store)
    assert worker.claim_one().id == ID
    worker.close()


def ended(store: Store) -> None:
    waiting(store)
    run_sql(store, "UPDATE dbqueue_jobs SET status = 'FAILURE', ready_at = NULL, finished_at = now()")


def saved(store: Store) -> None:
    groups.save(store, "group", "[1]")


def paused(store: Store) -> None:
    queues.pause(store, ["celery"])


def limited(store: Store) -> None:
    limits.set_limit(store, "key", Limit(running=1))


def planned(store: Store) -> None:
    schedules.put(store, ENTRY, enabled=True)


def nothing(store: Store) -> None:
    pass


def recorded(store: Store) -> None:
    job = NewJob(ID, "shop.pack", "celery")
    changes.record(store, job, status="SUCCESS", result="1", traceback=None, retries=0, worker="here")


REPEATABLE: dict[str, tuple[Prepare, Change, str, object]] = {
    "revoke": (waiting, lambda store: revoking.revoke(store, [ID]), ROW, ("REVOKED", True, None, None)),
    "revoke one that runs": (running, lambda store: revoking.revoke(store, [ID]), ROW, ("STARTED", True, None, None)),
    "revoke one that is to come": (
        nothing,
        lambda store: revoking.revoke(store, [ID]),
        ROW,
        ("REVOKED", True, None, None),
    ),
    "cancel": (waiting, lambda store: changes.cancel(store, [ID]), ROW, ("REVOKED", False, None, None)),
    "set_state": (
        running,
        lambda store: changes.set_state(store, ID, state="PACKING", meta=None),
        ROW,
        ("STARTED", False, None, "PACKING"),
    ),
    "record": (nothing, recorded, ROW, ("SUCCESS", False, None, None)),
    "save a group": (nothing, saved, "SELECT result::text FROM dbqueue_groups", ("[1]",)),
    "delete a group": (saved, lambda store: groups.delete(store, "group"), "SELECT 1 FROM dbqueue_groups", None),
    "pause": (nothing, paused, "SELECT queue FROM dbqueue_paused_queues", ("celery",)),
    "resume": (paused, lambda store: queues.resume(store, ["celery"]), "SELECT 1 FROM dbqueue_paused_queues", None),
    "set a limit": (nothing, limited, "SELECT key, max_running FROM dbqueue_limits", ("key", 1)),
    "clear a limit": (limited, lambda store: limits.clear_limit(store, "key"), "SELECT 1 FROM dbqueue_limits", None),
    "send a command": (
        nothing,
        lambda store: control.send(store, "ping", "{}"),
        "SELECT method, count(*) FROM dbqueue_control GROUP BY method",
        ("ping", 1),
    ),
    "put a schedule": (nothing, planned, "SELECT name FROM dbqueue_schedules", ("tick",)),
    "remove a schedule": (
        planned,
        lambda store: schedules.remove(store, "tick"),
        "SELECT 1 FROM dbqueue_schedules",
        None,
    ),
    "disable a schedule": (
        planned,
        lambda store: schedules.set_enabled(store, ["tick"], enabled=False),
        "SELECT enabled FROM dbqueue_schedules",
        (False,),
    ),
    "follow the settings": (
        lambda store: schedules.synchronise(store, "app", [ENTRY]),
        lambda store: schedules.synchronise(store, "app", [OTHER]),
        "SELECT name FROM dbqueue_schedules",
        ("tock",),
    ),
}
"""What there is before, the change, and what there is to be after it."""


@pytest.fixture
def proxy(postgres_url: str) -> Iterator[Proxy]:
    with Proxy(postgres_url) as proxy:
        yield proxy


def each_lost(
    postgres_url: str, proxy: Proxy, prepare: Prepare, change: Change, check: Callable[[Store], None]
) -> list[str]:
    """Make the change with one request's reply lost, for each of its requests; what it raised."""
    refused: list[str] = []
    with opened(proxy.url) as store, opened(postgres_url) as direct:
        for number in range(MOST_REQUESTS):
            _empty(direct)
            prepare(direct)
            with reading(store) as connection:  # it stands: the next request is the change's
                connection.scalar(sa.text("SELECT 1"))
            faults = proxy.faults
            proxy.lose_reply(number + 1)
            try:
                change(store)
            except OperationalError as error:
                refused.append(str(error))
            check(direct)
            if proxy.faults == faults:
                break
        assert 0 < number < MOST_REQUESTS - 1
    return refused


def _empty(store: Store) -> None:
    for name in ("jobs", "groups", "paused_queues", "limits", "control", "schedules", "edges", "unique_keys"):
        run_sql(store, f"DELETE FROM dbqueue_{name}")


@pytest.mark.parametrize("what", REPEATABLE)
def test_a_change_whose_reply_is_lost_is_made(postgres_url: str, proxy: Proxy, what: str) -> None:
    prepare, change, query, expected = REPEATABLE[what]

    def check(store: Store) -> None:
        with reading(store) as connection:
            found = connection.execute(sa.text(query)).one_or_none()
            assert (None if found is None else tuple(found)) == expected

    assert each_lost(postgres_url, proxy, prepare, change, check) == []


def behind(store: Store) -> None:
    """An errback, which runs once its job is called off."""
    jobs = [new_job(ID), new_job("errback")]
    store.enqueue_workflow(Workflow.of(jobs, [Edge(ID, "errback", "error", ERRBACK)]))


@pytest.mark.parametrize(
    ("prepare", "change", "runs", "refused"),
    [
        (behind, lambda store: changes.cancel(store, [ID]), "errback", 0),
        (ended, lambda store: changes.retry(store, [ID]), ID, 1),
    ],
    ids=["by a second try, which finds nothing to do", "though its caller is told that nobody knows"],
)
def test_workers_hear_of_what_a_change_without_an_answer_has_let_run(
    postgres_url: str, proxy: Proxy, prepare: Prepare, change: Change, runs: str, refused: int
) -> None:
    """Else it would wait until a worker looks by itself."""
    with contextlib.ExitStack() as sleepers:

        def prepare_and_sleep(store: Store) -> None:
            prepare(store)
            count(store)  # by now the wake-up of the enqueue is over: no connection is given away before
            sleeper = sleepers.enter_context(psycopg.connect(libpq_url(postgres_url), autocommit=True))
            sleeper.execute("LISTEN dbqueue")
            asleep.append(sleeper)

        def check(store: Store) -> None:
            assert row(store, runs)["ready_at"] is not None
            assert list(asleep[-1].notifies(timeout=60, stop_after=1)), "nobody was told"

        asleep: list[psycopg.Connection] = []
        assert len(each_lost(postgres_url, proxy, prepare_and_sleep, change, check)) == refused


def test_a_retry_is_made_once_and_its_caller_is_told_where_nobody_knows(postgres_url: str, proxy: Proxy) -> None:
    """The job may have run in between, and would run another time."""

    def check(store: Store) -> None:
        assert row(store, ID)["options"] == {"retried_by_operator": 1}

    (error,) = each_lost(postgres_url, proxy, ended, lambda store: changes.retry(store, [ID]), check)
    assert "look whether the change was made" in error


def test_a_purge_is_made_once_and_its_caller_is_told_where_nobody_knows(postgres_url: str, proxy: Proxy) -> None:
    """It would take what was enqueued in between."""

    def check(store: Store) -> None:
        with reading(store) as connection:
            assert connection.scalar(sa.text("SELECT count(*) FROM dbqueue_jobs")) == 0

    (error,) = each_lost(postgres_url, proxy, waiting, changes.purge, check)
    assert "look whether the change was made" in error


def test_a_retry_whose_commit_was_refused_for_another_transaction_is_made_again(postgres_url: str) -> None:
    """That says that it was not made; a trigger of the application's may have waited for the end to find out."""
    with opened(postgres_url) as store:
        ended(store)
        run_sql(store, "CREATE SEQUENCE tries")
        run_sql(
            store,
            "CREATE FUNCTION refuse_first() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN IF nextval('tries') = 1 THEN RAISE SQLSTATE '40001'; END IF; RETURN NULL; END $$",
        )
        run_sql(
            store,
            "CREATE CONSTRAINT TRIGGER refuse_first AFTER UPDATE ON dbqueue_jobs DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION refuse_first()",
        )
        assert changes.retry(store, [ID]) == {ID}
        assert row(store, ID)["options"] == {"retried_by_operator": 1}
