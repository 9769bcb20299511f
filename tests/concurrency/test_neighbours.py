"""Many workers on a busy machine: one that is woken leaves the jobs to the others for a moment, and then claims."""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator

import psycopg
import pytest

from dbqueue.store import open_store
from dbqueue.store.postgres.store import PostgresStore
from dbqueue.store.records import WorkerInfo
from dbqueue.worker.claiming import neighbours
from tests.servers import libpq_url
from tests.stores import enqueued
from tests.waiting import wait_until
from tests.worker.rounds import RunningRounds, is_asleep, running_rounds


class Machine:
    """How many of its threads want a processor, and how often somebody looked; it is idle where none does."""

    def __init__(self) -> None:
        self.busy, self.asked = 1_000_000, 0

    def waiting_threads(self) -> int:
        return self.busy

    def idle_seconds(self) -> float:
        self.asked += 1
        return 0.0 if self.busy else math.inf


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(neighbours, "waiting_threads", machine.waiting_threads)
    monkeypatch.setattr(neighbours, "idle_seconds", machine.idle_seconds)
    return machine


@pytest.fixture
def store(postgres_url: str) -> Iterator[PostgresStore]:
    """With a worker that has taken all processors, as far as the others know."""
    store = open_store(postgres_url, shown_url="")
    assert isinstance(store, PostgresStore)
    session = store.work_session("first")
    host = socket.gethostname()
    session.register(WorkerInfo("first@test#1", "first@test", host, 1, "prefork", 1_000_000, ("celery",), "0", 3600.0))
    yield store
    session.close()
    store.close()


def patiently(monkeypatch: pytest.MonkeyPatch) -> None:
    """For as long as the machine is busy."""
    monkeypatch.setattr(neighbours, "JOIN_EVERY_SECONDS", 1e9)
    monkeypatch.setattr(neighbours, "LONGEST_SECONDS", 1e9)


def held_back(rounds: RunningRounds) -> bool:
    return rounds.rounds._claims._neighbours.holding_back


def idle(store: PostgresStore, postgres_url: str, rounds: RunningRounds) -> None:
    """Let them sleep until they are woken, with room for one job."""
    rounds.rounds.want(1)
    clock = rounds.rounds._claims.clock  # its last question may be from before it had room: it has yet to claim
    wait_until(lambda: clock.empty_claims > 0, what="a claim that finds nothing")
    with psycopg.connect(libpq_url(postgres_url), autocommit=True) as admin:
        wait_until(lambda: is_asleep(admin), what="idle rounds")


def test_it_claims_once_the_machine_is_free(
    postgres_url: str, store: PostgresStore, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    patiently(monkeypatch)
    with running_rounds(store) as rounds:
        idle(store, postgres_url, rounds)
        job_id = enqueued(store)
        wait_until(lambda: machine.asked >= 3, what="looks at the machine")
        assert not rounds.has_claimed
        machine.busy = 0
        assert rounds.take().id == job_id


def test_it_claims_after_some_time_on_a_machine_that_stays_busy(
    postgres_url: str, store: PostgresStore, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one may be stopped, or have a long job."""
    monkeypatch.setattr(neighbours, "LONGEST_SECONDS", 0.1)
    with running_rounds(store) as rounds:
        idle(store, postgres_url, rounds)
        job_id = enqueued(store)
        assert rounds.take().id == job_id
    assert machine.asked


def test_wake_ups_while_it_waits_change_nothing(
    postgres_url: str, store: PostgresStore, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under load there are many: it would never claim, or at once."""
    patiently(monkeypatch)
    with running_rounds(store) as rounds:
        idle(store, postgres_url, rounds)
        ids = {enqueued(store)}
        while machine.asked < 5:
            ids.add(enqueued(store))
            assert not rounds.has_claimed
        machine.busy = 0
        assert rounds.take().id in ids


def test_one_that_has_jobs_goes_on(
    postgres_url: str, store: PostgresStore, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    patiently(monkeypatch)
    machine.busy = 0
    with running_rounds(store) as rounds:
        idle(store, postgres_url, rounds)
        first = enqueued(store)
        assert rounds.take().id == first
        machine.busy, machine.asked = 1_000_000, 0
        idle(store, postgres_url, rounds)
        second = enqueued(store)
        assert rounds.take().id == second
        assert not held_back(rounds)


def test_a_job_that_comes_due_by_itself_is_claimed_at_once(
    postgres_url: str, store: PostgresStore, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who claims without having been woken has looked for it himself: so few do that at the same time."""
    patiently(monkeypatch)
    job_id = enqueued(store)
    with running_rounds(store) as rounds:
        assert rounds.take().id == job_id
        assert not held_back(rounds)
