"""Beats and a worker that are killed at random: no firing is lost, none comes twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import sqlalchemy as sa

from dbqueue.jobs import NewJob
from dbqueue.store import schedules
from dbqueue.store.base import Store
from dbqueue.worker.beat import Beat
from dbqueue.worker.beat.steps import Steps, job_id
from tests.servers import PostgresServer
from tests.stores import count, opened
from tests.waiting import wait_until

CHECKOUT = Path(__file__).resolve().parents[2]
KILLS = 14
BEATS = 2
INTERVALS = {"fast": 0.1, "slow": 0.7}

APPLICATION = f"""
import os

from dbqueue import DBQueue

app = DBQueue("pulse", broker=os.environ["PULSE_URL"], worker_lease_seconds=2, result_expires=None)


@app.task
def tick():
    pass


app.conf.beat_schedule = {{
    name: {{"task": "pulse.tick", "schedule": seconds, "misfire": "all"}} for name, seconds in {INTERVALS}.items()
}}
"""


STOPPED_AT_EACH_LINE = """
import itertools, signal, sys

from dbqueue.worker.beat import Beat


class Idle(Beat):
    def turn(self):
        return 0.001


def stopped_at_line(number):
    \"""Whether it had so many lines to run in two turns and the waits after them.\"""
    beat, lines, turns = Idle(None, None), itertools.count(), 0
    signal.signal(signal.SIGTERM, lambda *_: beat.stop())

    def trace(frame, event, argument):
        nonlocal turns
        turns += event == "call" and frame.f_code.co_name == "turn"
        if event == "line" and (next(lines) == number or turns > 2):
            sys.settrace(None)
            signal.raise_signal(signal.SIGTERM)
        return trace

    sys.settrace(trace)
    beat.run()
    return turns <= 2


last = next(number for number in itertools.count() if not stopped_at_line(number))
assert last > 10, last
"""
"""Each line of `Beat.run` and of what it calls to wait is once the one before which the signal comes."""


class Processes:
    """The beats and the worker, by name; one that is killed is started again."""

    def __init__(self, folder: Path, url: str) -> None:
        (folder / "pulse.py").write_text(APPLICATION)
        self._folder = folder
        self._environment = os.environ | {"PULSE_URL": url, "PYTHONPATH": str(CHECKOUT)}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._commands = {f"beat{number}": ["beat", "--max-interval", "0.2"] for number in range(BEATS)}
        self._commands["worker"] = ["worker", "-c", "1"]
        for name in self._commands:
            self.start(name)

    def start(self, name: str) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, "-m", "dbqueue.cli", "-A", "pulse", *self._commands[name], "-l", "info"],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        process = self._running.pop(name)
        assert process.poll() is None, f"{name} ended by itself with {process.returncode}:\n{self.log(name)[-3000:]}"
        process.kill()
        process.wait()

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()

    def __iter__(self) -> Iterator[str]:
        return iter(self._commands)

    def close(self) -> None:
        for process in self._running.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def running(folder: Path, url: str) -> Iterator[Processes]:
    processes = Processes(folder, url)
    try:
        yield processes
    finally:
        processes.close()


def total(store: Store) -> int:
    return sum(row.total_run_count for row in schedules.read(store)[1])


def due_times(store: Store) -> dict[str, list[datetime]]:
    """The due times of all jobs, by entry; the ids must be theirs."""
    found: dict[str, list[datetime]] = {name: [] for name in INTERVALS}
    with store.connect() as connection:
        for found_id, headers in connection.execute(sa.text("SELECT id, CAST(headers AS TEXT) FROM dbqueue_jobs")):
            told = json.loads(headers)
            name, due = told["periodic_task_name"], datetime.fromisoformat(told["due_at"])
            assert found_id == job_id(name, due)
            found[name].append(due)
    return {name: sorted(times) for name, times in found.items()}


def test_no_firing_is_lost_or_doubled(database_url: str, tmp_path: Path) -> None:
    with opened(database_url) as store, running(tmp_path, database_url) as processes:
        wait_until(lambda: total(store) > 3, what="the first firings")
        for _ in range(KILLS):
            name = random.choice(list(processes))
            processes.kill(name)
            # Sometimes at once, sometimes when the others have gone on for a while; with both beats dead nothing does.
            if random.random() < 0.5 and name == "worker":
                seen = total(store)
                wait_until(lambda seen=seen: total(store) > seen, what="a firing by another beat")  # type: ignore[misc]
            processes.start(name)
            target = total(store) + random.randint(1, 15)
            wait_until(lambda target=target: total(store) >= target, what="firings after a kill")  # type: ignore[misc]
        for beat in [name for name in processes if name != "worker"]:
            processes.kill(beat)
        wait_until(lambda: count(store, "status <> 'SUCCESS'") == 0, timeout=60, what="the end of every job")

        fired = due_times(store)
        rows = {row.name: row for row in schedules.read(store)[1]}
        for name, times in fired.items():
            gaps = Counter(later - earlier for earlier, later in pairwise(times))
            assert set(gaps) == {timedelta(seconds=INTERVALS[name])}, f"{name}: {gaps}"
            assert (len(times), times[-1]) == (rows[name].total_run_count, rows[name].last_due_at)


def test_a_beat_outlives_its_database(postgres_server: PostgresServer, postgres_url: str) -> None:
    with opened(postgres_url) as store:
        with store.connect() as connection:
            values = "('tick', 'pulse.tick', 'every 0.1 seconds', 'all')"
            connection.execute(
                sa.text(f"INSERT INTO dbqueue_schedules (name, task, schedule, misfire) VALUES {values}")
            )
        beat = Beat(lambda: store, Steps(lambda row, due, job: NewJob(job, row.task, "celery")))

        def firings() -> int:
            with opened(postgres_url) as fresh:  # this test must not stumble over its own dead connections
                return total(fresh)

        beat.start()
        try:
            for mode in ("kill", "fast", None):
                seen = firings()
                wait_until(lambda seen=seen: firings() > seen + 3, what="firings")  # type: ignore[misc]
                if mode:
                    postgres_server.restart(mode)
        finally:
            beat.stop()
        assert "beat" not in [thread.name for thread in threading.enumerate()]  # what it was at is over
        (row,) = schedules.read(store)[1]
        assert row.last_due_at is not None
        assert count(store) == row.total_run_count
        assert row.next_due_at == row.last_due_at + timedelta(seconds=0.1)


def test_a_signal_ends_a_beat_wherever_it_meets_it() -> None:
    """In the midst of its wait, too: its handler waits for nothing that the thread has which it has interrupted."""
    command = [sys.executable, "-c", STOPPED_AT_EACH_LINE]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": str(CHECKOUT)}, timeout=60, check=True)
