"""How a worker ends, step by step: the table at the top of `dbqueue.worker.supervising.shutdown`."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from dbqueue.jobs import Outcome, Released
from dbqueue.pools import wire
from dbqueue.worker.config import WorkerConfig
from dbqueue.worker.supervising import shutdown as module
from dbqueue.worker.supervising.children import Child
from dbqueue.worker.supervising.shutdown import RECALL_SECONDS, Request, Shutdown, State, requests_by_signal
from tests.clocks import set_clock
from tests.stores import claimed_job

WARM, COLD = Request("warm"), Request("cold")
JOBS = [claimed_job("runs"), claimed_job("waits")]


class Crew:
    """One child, whose process is not there: what is sent to it is read."""

    def __init__(self, child: Child) -> None:
        self.children = [child]
        self.kills = 0
        self.watched: list[Child] = []

    def __iter__(self) -> Iterator[Child]:
        return iter(list(self.children))

    def kill(self) -> None:
        self.kills += 1

    def recall(self, child: Child) -> None:
        child.recalling = True
        child.send(wire.frame(wire.RECALL))

    def watch(self, child: Child) -> None:
        self.watched.append(child)

    def remove(self, child: Child, *, replace: bool) -> None:
        self.children.clear()


class Worker:
    """What ends, and what it has been told."""

    def __init__(self, *, pool: str = "prefork", jobs: int = 0, **config: Any) -> None:
        ours, self.theirs = socket.socketpair()
        self.child = Child(1, 1, ours)
        self.child.pid = os.getpid()
        self.child.held = {job.id: job for job in JOBS[:jobs]}
        self.crew = Crew(self.child)
        self.claiming = True
        self.ended: list[Outcome] = []
        self.said: list[str] = []
        rounds: Any = SimpleNamespace(
            stop_claiming=self._stop_claiming, complete=self.ended.append, stop=lambda _: self.said.append("goodbye")
        )
        settings = WorkerConfig("w@test", ("celery",), pool, 1, at_exit=lambda: self.said.append("exit"), **config)
        crew: Any = self.crew
        self.shutdown = Shutdown(settings, crew, rounds, lambda job: Released(job.id, job.lease, job.ready_at))

    def _stop_claiming(self) -> None:
        self.claiming = False

    def ask(self, *requests: Request) -> list[State]:
        """The states after each of these requests."""
        states = []
        for request in requests:
            self.shutdown.ask(request)
            states.append(self.shutdown.state)
        return states

    def sent(self) -> list[Any]:
        self.theirs.setblocking(False)
        try:
            return [message[0] for message in wire.Reader(self.theirs).receive() or ()]
        except BlockingIOError:
            return []

    def close(self) -> None:
        self.child.close()
        self.theirs.close()


@pytest.fixture
def start() -> Iterator[Callable[..., Worker]]:
    workers: list[Worker] = []

    def start(**options: Any) -> Worker:
        workers.append(Worker(**options))
        return workers[-1]

    yield start
    for worker in workers:
        worker.close()


@pytest.mark.parametrize(
    ("options", "requests", "states"),
    [
        ({}, [WARM], [State.DRAINING]),
        ({"jobs": 1, "soft_shutdown_seconds": 9.0}, [COLD], [State.SOFT]),
        ({}, [WARM, WARM, WARM], [State.DRAINING, State.ENDING, State.ENDING]),
        ({}, [COLD, WARM], [State.ENDING, State.ENDING]),
        ({"jobs": 1, "soft_shutdown_seconds": 9.0}, [WARM, WARM, WARM], [State.DRAINING, State.SOFT, State.ENDING]),
        ({"jobs": 1, "soft_shutdown_seconds": 9.0}, [COLD, COLD, COLD], [State.SOFT, State.ENDING, State.ENDING]),
        ({"soft_shutdown_seconds": 9.0}, [COLD], [State.ENDING]),
        ({"soft_shutdown_seconds": 9.0, "soft_shutdown_on_idle": True}, [COLD, COLD], [State.SOFT, State.ENDING]),
        ({"soft_shutdown_on_idle": True}, [COLD], [State.ENDING]),
    ],
)
def test_what_each_request_leads_to(
    start: Callable[..., Worker], options: dict[str, Any], requests: list[Request], states: list[State]
) -> None:
    worker = start(**options)
    claims = [worker.shutdown.claims]
    assert worker.ask(*requests) == states
    assert [*claims, worker.shutdown.claims] == [True, False]
    assert not worker.claiming
    assert worker.shutdown.exit_code == (states[-1] is State.ENDING)
    assert worker.crew.kills == (states[-1] is State.ENDING), "killed once"


@pytest.mark.parametrize("state", [State.FENCED, State.REGISTERING])
def test_a_worker_that_claims_nothing_for_a_while_ends_as_warmly(start: Callable[..., Worker], state: State) -> None:
    worker = start()
    worker.shutdown.state = state
    assert worker.shutdown.claims, "it will again, and its dead children are replaced"
    assert worker.ask(WARM, WARM) == [State.DRAINING, State.ENDING]


@pytest.mark.parametrize("remap", [None, "SIGQUIT", "SIGINT"])
def test_what_each_signal_asks_for(monkeypatch: pytest.MonkeyPatch, remap: str | None) -> None:
    """HUP is a lost terminal, and no reason to end what runs."""
    monkeypatch.delenv("REMAP_SIGTERM", raising=False)
    if remap is not None:
        monkeypatch.setenv("REMAP_SIGTERM", remap)
    hows = {request.sig: request.how for request in requests_by_signal().values()}
    assert all(signal.Signals(number).name == request.sig for number, request in requests_by_signal().items())
    term = "cold" if remap == "SIGQUIT" else "warm"
    assert hows == {"SIGTERM": term, "SIGINT": "warm", "SIGHUP": "warm", "SIGQUIT": "cold"}


@pytest.mark.parametrize("request_", [WARM, COLD])
def test_running_jobs_end_and_the_others_go_back(start: Callable[..., Worker], request_: Request) -> None:
    worker = start(jobs=2, soft_shutdown_seconds=9.0)
    worker.ask(request_)
    assert worker.sent() == [wire.RECALL, wire.STOP]
    assert worker.crew.watched == [worker.child], "what its socket does not take now is sent when it does"
    assert worker.crew.kills == 0


@pytest.mark.parametrize(("request_", "setting"), [(WARM, "shutdown_seconds"), (COLD, "soft_shutdown_seconds")])
def test_what_drains_for_too_long_is_ended(
    start: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch, request_: Request, setting: str
) -> None:
    clock = set_clock(monkeypatch, module)
    worker = start(jobs=1, **{setting: 9.0})
    (draining,) = worker.ask(request_)
    clock[0] += 8.0
    worker.shutdown.keep()
    assert worker.shutdown.state is draining
    clock[0] += 1.0
    worker.shutdown.keep()
    assert worker.shutdown.state is State.ENDING
    assert worker.crew.kills == 1


def test_it_is_over_when_no_child_is_left(start: Callable[..., Worker]) -> None:
    worker = start()
    worker.ask(WARM)
    finished = [worker.shutdown.finished]
    worker.crew.children.clear()
    assert [*finished, worker.shutdown.finished] == [False, True]


def test_a_worker_that_runs_is_not_over_while_its_children_are_born_anew(start: Callable[..., Worker]) -> None:
    worker = start()
    worker.crew.children.clear()
    for state in (State.RUNNING, State.FENCED, State.REGISTERING):
        worker.shutdown.state = state
        assert not worker.shutdown.finished


def test_a_soft_shutdown_is_over_with_its_last_run(start: Callable[..., Worker]) -> None:
    worker = start(jobs=1, soft_shutdown_seconds=9.0)
    worker.ask(COLD)
    worker.crew.children.clear()
    assert worker.shutdown.finished


def test_a_warm_shutdown_is_overdue_after_its_time_and_without_one_never(
    start: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = set_clock(monkeypatch, module)
    limited, patient = start(shutdown_seconds=9.0), start()
    for worker in (limited, patient):
        worker.ask(WARM)
    overdue = []
    for _ in range(2):
        overdue.append((limited.shutdown.overdue, patient.shutdown.overdue))
        clock[0] += 9.0
    patient.shutdown.keep()
    assert overdue == [(False, False), (True, False)]
    assert patient.shutdown.state is State.DRAINING


def test_the_end_of_its_process_is_that_of_its_owner_and_says_that_it_was_cold(
    start: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = start(pool="solo")

    def end(code: int) -> None:
        worker.said.append(f"exit code {code}")
        raise SystemExit

    monkeypatch.setattr(module, "os", SimpleNamespace(_exit=end))
    with pytest.raises(SystemExit):
        worker.shutdown.end_process()
    assert worker.said == ["exit", "exit code 1"]


def test_where_an_idle_one_is_soft_too_it_has_its_time(
    start: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = set_clock(monkeypatch, module)
    worker = start(soft_shutdown_seconds=9.0, soft_shutdown_on_idle=True)
    worker.ask(COLD)
    worker.crew.children.clear()
    finished = [worker.shutdown.finished]
    clock[0] += 9.0
    assert [*finished, worker.shutdown.finished] == [False, True]


def test_an_error_of_its_own_leaves_no_process(start: Callable[..., Worker]) -> None:
    worker = start()
    worker.shutdown.abandon()
    assert (worker.shutdown.state, worker.shutdown.exit_code, worker.crew.kills) == (State.ENDING, 1, 1)


@pytest.mark.parametrize("embedded", [False, True])
def test_solo_hands_back_what_waits_and_then_what_runs(
    start: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch, *, embedded: bool
) -> None:
    """Its task runs in this very process, which ends with it; inside of another program it goes on."""
    worker = start(pool="solo", jobs=2, embedded=embedded)
    monkeypatch.setattr(worker.shutdown, "end_process", lambda: worker.said.append("end"))
    worker.ask(COLD)
    assert worker.sent() == [wire.RECALL]
    worker.shutdown.keep()
    assert worker.ended == [], "it is to be told first what has not begun"
    worker.child.recalling = False
    del worker.child.held["waits"]
    worker.shutdown.keep()
    assert [outcome.job_id for outcome in worker.ended] == ["runs"]
    assert worker.said == ([] if embedded else ["goodbye", "end"])
    assert worker.shutdown.finished == embedded


def test_solo_ends_though_its_child_gives_nothing_back(
    start: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = set_clock(monkeypatch, module)
    worker = start(pool="solo", jobs=2)
    monkeypatch.setattr(worker.shutdown, "end_process", lambda: worker.said.append("end"))
    worker.ask(COLD)
    clock[0] += RECALL_SECONDS
    worker.shutdown.keep()
    assert [outcome.job_id for outcome in worker.ended] == ["runs", "waits"]
