"""What a worker does about leases that are void, turn by turn, and what it says of each event."""

from __future__ import annotations

import json
import os
import socket
from collections import deque
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from dbqueue.jobs import ClaimedJob, Outcome, Released
from dbqueue.pools import wire
from dbqueue.worker.config import WorkerConfig
from dbqueue.worker.supervising import fence as fencing
from dbqueue.worker.supervising.children import Child
from dbqueue.worker.supervising.dispatch import Dispatcher
from dbqueue.worker.supervising.fence import Fence
from dbqueue.worker.supervising.losses import Losses
from dbqueue.worker.supervising.shutdown import State
from tests.stores import claimed_job

PID = 2**22 + 1
"""More than any process has."""


class Worker:
    """A fence around one child, whose process is not there: what is sent to it is read, and its signals are noted."""

    def __init__(self, *, pool: str, slots: int, embedded: bool) -> None:
        ours, self.theirs = socket.socketpair()
        self.child = Child(1, slots, ours)
        self.child.ready, self.child.pid = True, os.getpid() if pool == "solo" else PID
        self.clock = 0.0
        self.claiming: list[bool] = []
        self.ended: list[Outcome] = []
        self.dispatcher = Dispatcher(slots)
        config = WorkerConfig("w@test", ("celery",), pool, slots, embedded=embedded)
        self.watch = SimpleNamespace(declared_dead=False, deadline=1.0)
        self.rounds = SimpleNamespace(
            lost_leases=deque[tuple[str, str]](),
            registering=False,
            registrations=0,
            register_anew=self._register,
            stop_claiming=lambda: self.claiming.append(False),
            resume_claiming=lambda: self.claiming.append(True),
        )
        self.ending = SimpleNamespace(
            state=State.RUNNING, claims=True, end_process=self._end_process, end=lambda: self.said_end.append(True)
        )
        self.said_end: list[bool] = []
        crew: Any = Crew(self.child, in_place=pool == "solo")
        parts: Any = (config, crew, self.dispatcher, self.rounds, self.watch, self.ending)
        self.fence = Fence(*parts)
        self.losses = Losses(config, self.dispatcher, lambda outcome, **_: self.ended.append(outcome))

    def _register(self, info: object) -> None:
        self.rounds.registering, self.rounds.registrations = True, self.rounds.registrations + 1

    def _end_process(self) -> None:
        raise SystemExit(1)

    def sent(self) -> list[Any]:
        self.theirs.setblocking(False)
        try:
            return [message[0] for message in wire.Reader(self.theirs).receive() or ()]
        except BlockingIOError:
            return []

    def turn(self) -> None:
        self.fence.keep()
        self.fence.drop_lost_leases()

    def forget(self, *jobs: ClaimedJob) -> None:
        """The server has."""
        self.rounds.lost_leases.extend((job.id, job.lease) for job in jobs)
        self.turn()

    def bury(self) -> None:
        """What the supervisor does where the child is dead."""
        self.losses.settle(self.child, "was killed by SIGKILL", own=self.child.killed)

    @property
    def waiting(self) -> list[str]:
        return [job.id for job in self.dispatcher.waiting]


class Crew(list[Child]):
    def __init__(self, child: Child, *, in_place: bool) -> None:
        super().__init__([child])
        self.place = child.socket if in_place else None

    def recall(self, child: Child) -> None:
        child.recalling = True

    def kill(self) -> None:
        for child in self:
            child.kill()


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    workers: list[Worker] = []
    monkeypatch.setattr(fencing, "boot_clock", lambda: workers[-1].clock)

    def start(pool: str = "prefork", slots: int = 1, *, embedded: bool = False) -> Worker:
        workers.append(Worker(pool=pool, slots=slots, embedded=embedded))
        return workers[-1]

    yield start
    for worker in workers:
        worker.child.close()
        worker.theirs.close()


def job(number: int, lease: str = "lease", **fields: Any) -> ClaimedJob:
    return claimed_job(f"job-{number}", lease=lease, **fields)


def test_what_waits_behind_a_run_is_recalled_and_dropped(start: Any, killed: list[int]) -> None:
    worker, jobs = start(), [job(number) for number in range(4)]
    worker.child.send_jobs(jobs)
    worker.forget(jobs[1], jobs[3])
    assert worker.child.recalling
    assert killed == []
    # They come back: as the supervisor hears it, all of them wait again.
    for each in jobs[1:]:
        del worker.child.held[each.id]
    worker.dispatcher.put_back(jobs[1:])
    worker.turn()
    assert worker.waiting == ["job-2"]
    # It was claimed anew meanwhile: that one is another's.
    worker.dispatcher.add([job(1, "another")])
    worker.turn()
    assert worker.waiting == ["job-2", "job-1"]


def test_what_has_begun_before_it_was_recalled_is_ended(start: Any, killed: list[int]) -> None:
    worker, jobs = start(), [job(number) for number in range(3)]
    worker.child.send_jobs(jobs)
    worker.forget(jobs[1])
    del worker.child.held["job-0"]  # it has answered, and the next runs
    worker.turn()
    worker.turn()
    assert killed == [PID]
    worker.bury()
    assert worker.ended == []
    assert worker.waiting == ["job-2"]


def test_a_run_under_a_later_lease_goes_on(start: Any, killed: list[int]) -> None:
    """The job was claimed anew before the loss of its first lease was heard of."""
    worker = start()
    worker.child.send_jobs([job(0, "another")])
    worker.forget(job(0))
    assert not worker.child.recalling
    assert killed == []


def test_all_that_the_server_has_forgotten_is_dropped_in_one_turn(start: Any) -> None:
    """Before any of it can be given out; and then no more is known of it."""
    worker, jobs = start(), [job(number) for number in range(3)]
    worker.dispatcher.add(jobs)
    worker.forget(jobs[0], jobs[2])
    assert worker.waiting == ["job-1"]
    assert not worker.fence._void


def test_what_waits_in_a_child_that_dies_is_dropped(start: Any, killed: list[int]) -> None:
    worker, jobs = start(), [job(number) for number in range(3)]
    worker.child.send_jobs(jobs)
    worker.forget(jobs[1])
    worker.bury()
    worker.turn()
    assert worker.waiting == ["job-2"]


def test_neighbours_of_a_run_that_is_ended_are_not_lost(start: Any, killed: list[int]) -> None:
    worker, jobs = start("threads", 3), [job(number) for number in range(5)]
    worker.child.send_jobs(jobs)
    worker.forget(jobs[1])
    assert killed == [PID]
    worker.dispatcher.add([job(9)])
    assert worker.dispatcher.assign([worker.child]) == [], "nothing is sent to the dying"
    worker.bury()
    assert worker.ended == [Released(each.id, each.lease, each.ready_at, ended=True) for each in (jobs[0], jobs[2])]
    assert worker.waiting == ["job-3", "job-4", "job-9"]


def test_a_run_that_cannot_be_ended_is_told_of_once(start: Any, killed: list[int], caplog: Any) -> None:
    worker = start("solo")
    worker.child.send_jobs([job(0)])
    for _ in range(2):
        worker.forget(job(0))
    assert killed == []
    (record,) = caplog.records
    assert record.message.endswith(": its run cannot be ended here, and its outcome will be dropped")


def test_each_event_is_told_once_and_truly(start: Any, killed: list[int], caplog: Any) -> None:
    """A partition: the heartbeat stays away, is refused when it is back, and the worker registers anew."""
    worker = start()

    def said() -> list[str]:
        found = [record.message.partition(":")[0] for record in caplog.records]
        caplog.clear()
        return found

    worker.child.send_jobs([job(0)])
    worker.clock = 2.0
    worker.turn()
    worker.turn()
    assert said() == ["No heartbeat reached the database for 27 s"]
    assert (killed, worker.ending.state) == ([PID], State.FENCED)
    worker.bury()
    worker.watch.declared_dead = True
    worker.turn()
    worker.turn()
    assert said() == ["This worker was declared dead, because its heartbeat did not come for 30 s"]
    assert (worker.ending.state, worker.rounds.registrations) == (State.REGISTERING, 1)
    worker.watch.declared_dead, worker.watch.deadline, worker.rounds.registering = False, 3.0, False
    worker.turn()
    worker.turn()
    assert said() == ["Registered anew"]
    assert worker.ending.state is State.RUNNING


def test_a_worker_whose_row_was_deleted_does_not_blame_its_heartbeat(start: Any, caplog: Any) -> None:
    worker = start()
    worker.watch.declared_dead = True
    worker.turn()
    (record,) = caplog.records
    assert record.message.startswith(
        "This worker's row was deleted or closed, though its heartbeats had come in time: "
    )
    assert worker.ending.state is State.REGISTERING


def test_what_is_said_of_a_run_that_ended_with_the_lease_and_may_not_be_repeated(start: Any, killed: list[int]) -> None:
    worker = start()
    worker.child.send_jobs([job(0, redeliver=False)])
    worker.clock = 2.0
    worker.turn()
    worker.bury()
    (outcome,) = worker.ended
    (said,) = json.loads(outcome.error)["exc_message"]
    assert said == (
        "the worker ended its run of task pack[job-0], because it was shut down or its lease was over, and the job may "
        "not run again"
    )


def test_a_heartbeat_that_is_back_in_time(start: Any, killed: list[int], caplog: Any) -> None:
    worker = start()
    worker.clock = 2.0
    worker.turn()
    worker.clock = 0.5
    worker.turn()
    away, back = [record.message for record in caplog.records]
    assert ": its pool processes are killed, others may take its jobs, and no job is claimed until" in away
    assert back == "The heartbeat is back: claiming again"
    assert worker.claiming == [False, True]


def test_while_no_heartbeat_comes_it_neither_claims_nor_says_more(start: Any, killed: list[int], caplog: Any) -> None:
    """Though nothing runs any more."""
    worker = start()
    worker.clock = 2.0
    for _ in range(3):
        worker.turn()
    assert (worker.ending.state, worker.claiming) == (State.FENCED, [False])
    assert len(caplog.records) == 1


def test_one_that_is_ended_already_does_not_save_the_others(start: Any, killed: list[int]) -> None:
    worker = start()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        other = Child(2, 1, ours)
        other.pid = PID + 1
        worker.fence._crew.append(other)
        worker.child.kill()
        killed.clear()
        worker.clock = 2.0
        worker.turn()
    assert PID + 1 in killed


def test_nothing_is_claimed_before_the_last_run_is_over(start: Any, killed: list[int]) -> None:
    """Its process was killed, and is not dead yet."""
    worker = start()
    worker.child.send_jobs([job(0)])
    worker.clock = 2.0
    worker.turn()
    worker.clock = 0.5
    worker.turn()
    assert (worker.ending.state, worker.claiming) == (State.FENCED, [False])
    worker.bury()
    worker.turn()
    assert (worker.ending.state, worker.claiming) == (State.RUNNING, [False, True])


def test_a_new_identity_has_a_lease_as_well(start: Any, killed: list[int]) -> None:
    worker = start()
    worker.watch.declared_dead = True
    states = []
    worker.turn()
    states.append(worker.ending.state)
    worker.watch.declared_dead, worker.rounds.registering, worker.clock = False, False, 2.0
    worker.turn()
    states.append(worker.ending.state)
    assert states == [State.REGISTERING, State.FENCED]


def test_it_registers_once_for_a_death(start: Any, killed: list[int]) -> None:
    """Also where the new identity is there just after a look at the old one: a second would leave the first behind."""
    worker = start()
    worker.watch.declared_dead = True
    worker.turn()

    class Registered:
        deadline = 3.0

        @property
        def declared_dead(self) -> bool:
            dead, worker.rounds.registering = worker.rounds.registering, False
            return bool(dead)

    worker.fence._watch = Registered()
    worker.turn()
    assert worker.rounds.registrations == 1
    worker.turn()
    assert (worker.ending.state, worker.claiming) == (State.RUNNING, [False, True])


@pytest.mark.parametrize("event", ["declared_dead", "late"])
@pytest.mark.parametrize("state", [State.DRAINING, State.SOFT])
def test_a_shutdown_that_outlasts_the_lease_ends(start: Any, caplog: Any, event: str, state: State) -> None:
    worker = start()
    worker.child.send_jobs([job(0)])
    worker.ending.state, worker.ending.claims = state, False
    worker.turn()
    assert (worker.said_end, caplog.records) == ([], [])
    worker.watch.declared_dead, worker.clock = event == "declared_dead", 2.0 if event == "late" else 0.5
    worker.turn()
    assert worker.said_end == [True]
    (record,) = caplog.records
    assert record.message.startswith("The lease ended during the shutdown")


@pytest.mark.parametrize("event", ["declared_dead", "late"])
def test_a_worker_that_ends_does_not_come_back_when_its_lease_has_ended(start: Any, caplog: Any, event: str) -> None:
    """It may wait for a database that takes its last outcomes: it neither registers anew nor claims."""
    worker = start()
    worker.ending.state, worker.ending.claims = State.ENDING, False
    worker.watch.declared_dead, worker.clock = event == "declared_dead", 2.0 if event == "late" else 0.5
    worker.turn()
    worker.watch.declared_dead, worker.clock = False, 0.5
    worker.turn()
    assert worker.ending.state is State.ENDING
    assert (worker.rounds.registrations, worker.claiming, caplog.records) == (0, [], [])


@pytest.mark.parametrize("event", ["declared_dead", "late"])
@pytest.mark.parametrize("state", [State.RUNNING, State.DRAINING, State.SOFT])
def test_solo_ends_with_its_run(start: Any, caplog: Any, event: str, state: State) -> None:
    worker = start("solo")
    worker.child.send_jobs([job(0)])
    worker.ending.state, worker.ending.claims = state, state is State.RUNNING
    worker.watch.declared_dead, worker.clock = event == "declared_dead", 2.0 if event == "late" else 0.5
    with pytest.raises(SystemExit):
        worker.turn()
    (record,) = caplog.records
    assert record.message.endswith(": this process ends, and with it the task that it runs, before others may run it")


@pytest.mark.parametrize("embedded", [False, True])
def test_solo_goes_on_where_nothing_runs_or_where_it_may_not_end(start: Any, caplog: Any, embedded: bool) -> None:
    worker = start("solo", embedded=embedded)
    if embedded:
        worker.child.send_jobs([job(0)])
    worker.clock = 2.0
    worker.turn()
    (record,) = caplog.records
    said = "the task that runs in this program cannot be ended" if embedded else "nothing runs here"
    assert f"for 27 s: {said}, others may take its jobs" in record.message
    assert not worker.child.killed
