"""Promise I9 under faults: a transactional task's effects happen once per SUCCESS and never otherwise.

Each run of a counting task adds one to a counter and a line with its job's id. In the end the sum must be the number
of jobs that are SUCCESS, with one line for each. tests/crash runs these scenarios in short, tests/chaos all of them.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from dbqueue.failpoints import LOG_VARIABLE, VARIABLE
from tests.chaos.proxy import Proxy, Weather
from tests.stores import run_sql
from tests.waiting import wait_until
from tests.worker.transactional.tasks import COUNTER, EFFECTS, App, make_app
from tests.workers import WorkerProcess

Start = Callable[..., WorkerProcess]
MODULE = "tests.worker.transactional.tasks"
TASKS = {"prefork": "t.count_up", "threads": "t.count_up", "asyncio": "t.acount_up"}
LEASE: dict[str, Any] = {
    "worker_lease_seconds": 2.5,
    "worker_heartbeat_interval": 0.4,
    "task_max_losses": 100,
    "task_transaction_idle_timeout": 1.0,
}


@contextlib.contextmanager
def counting(url: str) -> Iterator[App]:
    with make_app(url) as app:
        for statement in (EFFECTS, COUNTER, "INSERT INTO counter VALUES (0)"):
            run_sql(app.database.store, statement)
        yield app
        app.extra["engine"].dispose()


def start(start_worker: Start, url: str, pool: str, **options: Any) -> WorkerProcess:
    return start_worker(url, pool=pool, module=MODULE, settings=LEASE | options.pop("settings", {}), **options)


def scalar(app: App, query: str) -> int:
    with app.database.store.connect() as connection:
        return int(connection.execute(sa.text(query)).scalar_one())


def ended(app: App) -> int:
    return scalar(app, "SELECT count(*) FROM dbqueue_jobs WHERE finished_at IS NOT NULL")


def check(app: App, jobs: int) -> None:
    """Wait for the end of all jobs; all have succeeded, each has its effect once, and the sum is theirs."""
    wait_until(lambda: ended(app) >= jobs, timeout=240, what=f"the end of {jobs} jobs")
    with app.database.store.connect() as connection:
        done = set(connection.execute(sa.text("SELECT id FROM dbqueue_jobs WHERE status = 'SUCCESS'")).scalars())
        effects = Counter(connection.execute(sa.text("SELECT name FROM effects")).scalars())
        results = connection.execute(sa.text("SELECT CAST(result AS text) FROM dbqueue_jobs")).scalars().all()
    assert len(done) == jobs
    assert effects == Counter(done)
    assert scalar(app, "SELECT n FROM counter") == jobs
    # What each has returned is what it has counted: no two have the same.
    assert sorted(int(each) for each in results) == list(range(1, jobs + 1))


# -- the scenarios; each returns how many faults there were


def kill_at_commits(url: str, start_worker: Start, pool: str, jobs: int, folder: Path) -> int:
    """Processes are killed just before and just after the commit of what they have done."""
    with counting(url) as app:
        log = folder / "kills"
        points = {VARIABLE: "commit.before=kill%15;commit.after=kill%15", LOG_VARIABLE: str(log)}
        for _ in range(jobs):
            app.tasks[TASKS[pool]].delay()
        worker = start(start_worker, url, pool, environment=points)
        wait_until(lambda: ended(app) >= jobs // 2 and log.exists(), timeout=240, what="half of the jobs, and a fault")
        heir = start(start_worker, url, pool)
        check(app, jobs)
        worker.end()
        heir.end()  # in a long run there are hundreds
        return len(log.read_text().splitlines())


def kill_workers(url: str, start_worker: Start, name: str, jobs: int) -> int:
    """All processes of a worker are killed under load, twice."""
    with counting(url) as app:
        for _ in range(jobs):
            app.tasks[name].delay(0.005)
        for share in (0.2, 0.5):
            worker = start(start_worker, url, "prefork")
            wait_until(lambda share=share: ended(app) >= jobs * share, what="a part of the jobs")  # type: ignore[misc]
            worker.end()
        heir = start(start_worker, url, "prefork")
        check(app, jobs)
        heir.end()
        return 2


def stop_past_lease(url: str, start_worker: Start, pool: str, at: str, folder: Path) -> int:
    """A child is stopped, and its supervisor; a rival does the work, and then both go on."""
    with counting(url) as app:
        log = folder / f"stops-{at}"
        environment = {VARIABLE: f"{at}=stop@1", LOG_VARIABLE: str(log)}
        # Long, lest it fences itself off before it is stopped: then its child would be gone.
        lease = {"worker_lease_seconds": 5.0}
        zombie = start(
            start_worker, url, pool, concurrency=1, environment=environment, settings=lease, loglevel="DEBUG"
        )
        result = app.tasks[TASKS[pool]].delay()
        wait_until(log.exists, what="the stop")
        os.kill(zombie.pid, signal.SIGSTOP)
        rival = start(start_worker, url, pool, concurrency=1)
        assert result.get(timeout=120) == 1
        # The child first: its supervisor would end it before it has tried.
        os.kill(int(log.read_text().split()[1]), signal.SIGCONT)
        zombie.says(f"Job {result.id}: its transaction is rolled back")
        os.kill(zombie.pid, signal.SIGCONT)
        zombie.says("registers anew")
        zombie.says("lost its lease while it ran here")
        check(app, 1)
        assert zombie.log.count("lost its lease while it ran here") == 1
        zombie.end()
        rival.end()
        return 1


def lose_replies(url: str, start_worker: Start, pool: str, jobs: int, weather: Weather) -> int:
    """Connections are cut after a request was sent, so that nobody knows whether the server has done it."""
    with counting(url) as app, Proxy(url) as proxy:
        for _ in range(jobs):
            app.tasks[TASKS[pool]].delay()
        worker = start(start_worker, proxy.url, pool, settings={"worker_lease_seconds": 20.0})
        proxy.weather = weather
        proxy.wait_faults(max(3, jobs // 10))
        proxy.calm()
        check(app, jobs)
        worker.end()
        return proxy.faults
