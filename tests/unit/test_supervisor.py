"""One turn of the worker's loop after the other: what becomes of each message, death and claim.

No processes and no database are there. What is sent to a child is read at the other end of its socket, what the
database is to be told is looked up in the rounds, whose thread does not run.
"""

from __future__ import annotations

import selectors
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from dbqueue.jobs import ClaimedJob, Failed, Outcome, Released, Succeeded
from dbqueue.pools import wire
from dbqueue.pools.nursery import Died
from dbqueue.worker import supervisor as module
from dbqueue.worker.children import Child
from dbqueue.worker.config import WorkerConfig
from dbqueue.worker.crew import Crew
from dbqueue.worker.doorbell import Doorbell
from dbqueue.worker.limits import Limits, TimeLimits
from dbqueue.worker.shutdown import State
from dbqueue.worker.supervisor import Supervisor
from dbqueue.worker.watch import boot_clock
from tests.clocks import set_clock
from tests.stores import claimed_job

PID = 2**22 + 1
"""More than any process has."""


class Nursery:
    """Bears nobody: the test has the children's ends of their sockets, and tells of deaths."""

    def __init__(self) -> None:
        self.socket, self._other = socket.socketpair()
        self.ends: dict[int, socket.socket] = {}
        self.deaths: list[Died] | None = []

    def bear(self, number: int, connection: socket.socket) -> None:
        if number in self.ends:
            self.ends[number].close()
        self.ends[number] = connection.dup()

    def dies(self, child: Child, status: int = 9) -> None:
        assert self.deaths is not None
        assert child.pid is not None
        self.deaths.append(Died(child.pid, status))
        self._other.send(b"\0")

    def is_gone(self) -> None:
        self.deaths = None
        self._other.send(b"\0")

    def events(self) -> list[Died] | None:
        self.socket.recv(100)
        deaths, self.deaths = self.deaths, [] if self.deaths is not None else None
        return deaths

    def go_on(self) -> None:
        pass

    def close(self) -> None:
        for end in (self.socket, self._other, *self.ends.values()):
            end.close()


class Worker:
    """A supervisor whose loop the test turns."""

    def __init__(self, *, concurrency: int = 1, pool: str = "prefork", **config: Any) -> None:
        settings = WorkerConfig("w@test", ("celery",), pool, concurrency, **config)
        self.crew = Crew(settings, SimpleNamespace(), lambda name: None)
        self.nursery = Nursery()
        self.crew._nursery = self.nursery  # type: ignore[assignment]
        store: Any = SimpleNamespace(sees_deaths=True, must_poll=False, supports_listen=True)
        self.readied = 0
        limits = TimeLimits({}, Limits())
        supervisor = self.supervisor = Supervisor(store, settings, self.crew, limits=limits, on_ready=self._is_ready)
        self.rounds, self.ending, self.dispatcher = supervisor._rounds, supervisor._ending, supervisor._dispatcher
        self.crew.selector.register(supervisor._wakeup.reader, selectors.EVENT_READ, supervisor._wakeup)
        self.crew.selector.register(self.nursery.socket, selectors.EVENT_READ, self.nursery)
        supervisor._watch.beat_for("w@test#1", boot_clock())
        self.crew.start()
        for child in self.crew:
            child.pid = PID + child.number
        self.readers = {number: wire.Reader(end) for number, end in self.nursery.ends.items()}
        for end in self.nursery.ends.values():
            end.setblocking(False)

    def _is_ready(self) -> None:
        self.readied += 1

    @property
    def child(self) -> Child:
        (child,) = self.crew
        return child

    def turn(self) -> None:
        self.supervisor._look_after_at = 0.0
        self.supervisor._turn()

    def says(self, *message: Any, child: int = 1) -> None:
        """The child does, and is heard."""
        self.nursery.ends[child].send(wire.frame(*message))
        self.turn()

    def answers(self, outcome: Outcome, child: int = 1) -> None:
        self.nursery.ends[child].send(wire.done_frame(outcome))
        self.turn()

    def is_ready(self) -> None:
        for number in list(self.nursery.ends):
            self.says(wire.READY, child=number)
        self.sent()

    def claims(self, *jobs: ClaimedJob) -> None:
        """The rounds did; and the next turn of the loop."""
        self.rounds.handover.add(jobs)
        self.rounds.handover.give()
        self.turn()

    def sent(self, child: int = 1) -> list[Any]:
        """The kinds of the messages to a child since the last look."""
        try:
            return [message[0] for message in self.readers[child].receive() or ()]
        except BlockingIOError:
            return []

    def written(self) -> list[Outcome]:
        """What the database is to be told since the last look."""
        outcomes = list(self.rounds._holding.outcomes)
        self.rounds._holding.outcomes.clear()
        return outcomes

    def close(self) -> None:
        self.crew.close()
        self.supervisor._wakeup.close()


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, killed: list[int]) -> Iterator[Any]:
    workers: list[Worker] = []
    monkeypatch.setattr(Supervisor, "_longest_wait", lambda self: 0.0)

    def start(*, ready: bool = True, **options: Any) -> Worker:
        workers.append(Worker(**options))
        if ready:
            workers[-1].is_ready()
        return workers[-1]

    yield start
    for worker in workers:
        worker.close()


def released(job: ClaimedJob, *, lost: bool = False) -> Outcome:
    return Released(job.id, job.lease, job.ready_at, lost=lost)


def done(job: ClaimedJob) -> Outcome:
    return Succeeded(job.id, job.lease, "1", 9.0)


A, B, C = (claimed_job(each, redeliver=True) for each in "abc")


def claimed_beside_its_own_run(worker: Worker) -> ClaimedJob:
    """A, claimed again while a run of it goes on that was terminated and took no notice: it was retried by hand."""
    first = next(iter(worker.crew))
    first.send_jobs([A])
    first.write_off(A)
    again = A._replace(lease="another")
    worker.claims(again)
    return again


def test_it_is_ready_once_and_when_all_children_are(start: Any) -> None:
    worker = start(concurrency=2, ready=False)
    worker.says(wire.READY, child=1)
    assert worker.readied == 0
    worker.says(wire.READY, child=2)
    worker.says(wire.READY, child=2)
    assert worker.readied == 1


def test_a_job_is_run_and_its_outcome_written(start: Any) -> None:
    worker = start()
    worker.claims(A)
    assert worker.sent() == [wire.RUN]
    worker.answers(done(A))
    assert worker.written() == [done(A)]
    assert (len(worker.child.held), worker.child.answered) == (0, 1)
    assert worker.supervisor._control.total == {"pack": 1}


def test_what_cannot_be_told_to_monitors_is_written_all_the_same(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = start()

    def stumble(*_: Any) -> None:
        raise RecursionError("whatever it is")

    worker.claims(A)
    monkeypatch.setattr(worker.supervisor._events, "ended", stumble)
    worker.answers(done(A))
    assert worker.written() == [done(A)]


@pytest.mark.parametrize("state", [State.FENCED, State.REGISTERING, State.DRAINING])
def test_what_is_claimed_while_it_may_run_nothing_goes_back(
    start: Any, monkeypatch: pytest.MonkeyPatch, state: State
) -> None:
    """A claim that was under way when the state changed. What waited here goes back with it."""
    worker = start()
    monkeypatch.setattr(worker.supervisor._fence, "keep", lambda: None)
    worker.dispatcher.add([A])
    worker.ending.state = state
    worker.claims(B)
    assert worker.sent() == []
    assert sorted(worker.written()) == [released(A), released(B)]
    assert len(worker.dispatcher) == 0


def test_a_claim_that_is_void_is_dropped_in_the_turn_that_brings_it(start: Any) -> None:
    """Before a child could get it: another worker may run the job already."""
    worker = start()
    worker.rounds.lost_leases.append((A.id, A.lease))
    worker.claims(A)
    assert (worker.sent(), worker.written()) == ([], [])


def test_a_worker_that_is_late_gives_out_nothing_in_that_turn(start: Any, killed: list[int]) -> None:
    worker = start()
    worker.claims(A)
    worker.sent()
    worker.supervisor._watch._lease_began_at -= 1000.0
    worker.claims(B)
    assert killed == [worker.child.pid]
    assert worker.sent() == []
    assert worker.written() == [released(B)]
    worker.nursery.dies(worker.child)
    worker.turn()
    assert worker.written() == [released(A)], "it is no loss: this worker has ended the run"


def test_what_a_child_gives_back_is_first_in_line_again(start: Any) -> None:
    worker = start(max_tasks_per_child=5)
    worker.child.send_jobs([A, B, C])
    worker.child.recalling = True
    worker.dispatcher.add([claimed_job("later")])
    worker.sent()
    worker.says(wire.RECALLED, [B.id, C.id, "of another time"])
    assert not worker.child.recalling
    assert [job.id for job in worker.dispatcher.waiting] == ["b", "c", "later"]
    assert worker.child.left == 4, "what it has not run does not count"


def test_a_run_whose_end_is_known_already_is_not_ended_twice(start: Any) -> None:
    worker = start()
    worker.claims(A)
    worker.child.write_off(A)
    worker.answers(done(A))
    assert worker.written() == []
    worker.claims(B)
    assert list(worker.child.held) == ["b"], "its slot is free"


def test_a_message_about_a_job_that_is_not_there_is_no_error(start: Any) -> None:
    worker = start()
    worker.says(wire.WAITING, "gone")
    worker.says(wire.RECALLED, ["gone"])
    assert worker.written() == []


def test_a_child_leaves_with_its_last_job_and_not_before(start: Any) -> None:
    worker = start(max_tasks_per_child=2)
    worker.claims(A)
    worker.answers(done(A))
    assert worker.sent() == [wire.RUN]
    worker.claims(B)
    worker.answers(done(B))
    assert worker.sent() == [wire.RUN, wire.RECALL, wire.STOP]


@pytest.mark.parametrize("state", [State.RUNNING, State.DRAINING])
def test_a_child_that_has_grown_too_large_is_replaced_while_the_worker_runs(start: Any, state: State) -> None:
    worker = start()
    worker.ending.state = state
    worker.says(wire.RETIRE)
    assert worker.child.stopping == (state is State.RUNNING)


def test_what_a_dead_child_has_said_is_heard_before_its_jobs_are_seen_to(start: Any) -> None:
    """An outcome that was written the moment that it was known is not run again."""
    worker = start()
    worker.claims(A)
    child = worker.child
    child.send_jobs([B, C])
    worker.nursery.ends[1].send(wire.done_frame(done(A)))
    worker.nursery.dies(child)
    worker.supervisor._bury(worker.crew.nursery_events())  # which may come before the socket's turn
    assert worker.written() == [done(A), released(B, lost=True)]
    assert [job.id for job in worker.dispatcher.waiting] == ["c"], "that one has not begun"


@pytest.mark.parametrize("state", [State.RUNNING, State.FENCED, State.REGISTERING, State.DRAINING, State.SOFT])
def test_a_dead_child_is_replaced_unless_the_worker_ends(start: Any, state: State) -> None:
    worker = start()
    child = worker.child
    child.answered = 1
    worker.ending.state = state
    worker.nursery.dies(child)
    worker.supervisor._bury(worker.crew.nursery_events())
    assert list(worker.crew) == []
    worker.crew.bear_missing()
    assert bool(list(worker.crew)) == worker.ending.claims


def test_the_death_of_an_unknown_process_hides_no_other(start: Any) -> None:
    worker = start()
    worker.supervisor._bury([Died(PID + 1000, 9)])
    assert len(list(worker.crew)) == 1
    worker.supervisor._bury([Died(PID + 1000, 9), Died(worker.child.pid, 9)])
    assert len(list(worker.crew)) == 0


def test_a_child_whose_death_is_heard_of_before_its_socket_is_read_there_no_more(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are ready in one turn, in whatever order."""
    worker = start()
    worker.claims(A)
    keys = [(worker.crew.selector.get_key(each), 1) for each in (worker.nursery.socket, worker.child.socket)]
    worker.nursery.ends[1].send(wire.done_frame(done(A)))
    worker.nursery.dies(worker.child)
    monkeypatch.setattr(worker.crew.selector, "select", lambda _: keys)
    worker.turn()
    assert worker.written() == [done(A)]


def test_another_child_is_there_for_the_next_job(start: Any) -> None:
    worker = start()
    worker.child.answered = 1
    worker.nursery.dies(worker.child)
    worker.turn()
    worker.child.ready = True
    worker.claims(A)
    assert list(worker.child.held) == ["a"]


def test_a_job_that_was_lost_runs_alone_where_others_would_be_lost_with_it(start: Any) -> None:
    worker = start(pool="threads", concurrency=4)
    worker.claims(A._replace(losses=1), B)
    worker.turn()
    shared, alone = worker.crew
    assert (shared.alone, alone.alone) == (False, True)
    assert list(shared.held) == ["b"]
    alone.ready = True
    worker.turn()
    assert list(alone.held) == ["a"]


def test_in_each_look_all_that_has_a_clock_is_seen_to(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = start()
    seen: list[str] = []
    loop = worker.supervisor
    parts = {
        "shutdown": (worker.ending, "keep"),
        "commands": (loop._desk, "work"),
        "time limits": (loop._limits, "enforce"),
        "the doomed": (worker.crew, "end_doomed"),
        "revokes": (loop._revoker, "keep"),
        "monitors": (loop._events, "keep"),
        "stalled": (loop, "_relieve_stalled"),
    }
    for name, (part, method) in parts.items():
        monkeypatch.setattr(part, method, lambda *_, name=name: seen.append(name))
    worker.turn()
    assert sorted(seen) == sorted(parts)


def test_what_a_socket_does_not_take_is_sent_when_it_does(start: Any) -> None:
    """A large job must not wait for the child's next word."""
    worker = start()
    large = claimed_job("large", args=f'["{"x" * 3_000_000}"]')
    worker.claims(large)
    taken: list[Any] = []
    for _ in range(1000):
        taken += worker.sent()
        worker.turn()
        if taken:
            break
    assert taken == [wire.RUN]
    assert not worker.child.wants_to_write


def test_what_waits_here_counts_as_held(start: Any) -> None:
    """No more is claimed than can be run."""
    worker = start(concurrency=2)
    assert worker.rounds.handover.room == 2
    worker.claims(A)
    assert worker.rounds.handover.room == 1
    worker.claims(B, C)
    assert worker.rounds.handover.room == 0
    for child in list(worker.crew):
        worker.answers(done(next(iter(child.held.values()))), child.number)
    assert worker.rounds.handover.room == 1


def test_a_loop_that_has_nothing_to_do_leaves_the_rounds_asleep(start: Any) -> None:
    """What it wants is what it wanted before, or less by what it has taken; they are to hear of more."""
    worker, bell = start(concurrency=2), Doorbell()
    worker.rounds._bell = bell
    worker.turn()
    bell.answer()
    worker.turn()
    assert (bell.rung, worker.rounds.handover.room > 0) == (False, True)
    worker.claims(A)
    assert not bell.rung
    worker.rounds.handover.want(0)
    worker.turn()
    assert (bell.rung, worker.rounds.handover.room) == (True, 1)


def test_what_waits_for_children_that_are_not_ready_counts_as_held(start: Any) -> None:
    worker = start(concurrency=2, ready=False)
    worker.claims(A, B)
    assert (worker.sent(), worker.rounds.handover.room) == ([], 0)


def test_what_cannot_be_told_of_is_not_given_out(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = start(concurrency=2)

    def stumble(jobs: list[ClaimedJob]) -> None:
        if A in jobs:
            raise RecursionError("whatever it is")

    monkeypatch.setattr(worker.supervisor._events, "received", stumble)
    worker.claims(A, B)
    assert [job.id for child in worker.crew for job in child.held.values()] == ["b"]
    assert [outcome.job_id for outcome in worker.written()] == ["a"]


def test_an_answer_is_progress_and_is_learned_from(start: Any) -> None:
    worker = start()
    worker.claims(A)
    child = worker.child
    child.silence.began_at = worker.dispatcher.progress_at = 0.0
    worker.answers(done(A))
    assert child.silence.began_at == worker.dispatcher.progress_at > 0.0
    assert worker.dispatcher.expected_seconds(A.task) == 9.0
    assert child.backlog_seconds == 0.0


def test_a_child_that_others_share_is_replaced_when_a_slot_of_it_is_free_and_no_job_left(start: Any) -> None:
    worker = start(pool="threads", concurrency=2, max_tasks_per_child=2)
    worker.claims(A, B)
    worker.turn()
    first = next(iter(worker.crew))
    assert not first.stopping
    worker.answers(done(A))
    assert first.stopping, "its other run may be a long one"
    one = start(max_tasks_per_child=2)
    one.child.send_jobs([A, B])
    one.answers(done(A))
    assert not one.child.stopping, "its last job would be called back"


def test_a_run_that_was_interrupted_and_goes_on_has_no_second_one_beside_it(start: Any) -> None:
    worker = start(pool="threads", concurrency=2)
    worker.claims(A)
    worker.supervisor._revoker.revoke([A.id], 15)
    worker.turn()
    again = A._replace(lease="another")
    worker.claims(again)
    assert list(worker.child.held.values()) == [A]
    assert list(worker.dispatcher.behind) == [again]


def test_solo_that_gives_up_waits_for_what_it_may_hand_back(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its task runs in this process: what becomes of its jobs is seen to with the end of that."""
    worker = start()
    worker.claims(A)
    worker.crew.place = worker.nursery.socket
    worker.supervisor._give_up("whatever it is")
    assert list(worker.child.held) == ["a"]
    assert worker.written() == []


def test_a_child_that_hangs_up_is_not_listened_to_any_more(start: Any) -> None:
    """Its death follows; until then its jobs are its own."""
    worker = start()
    worker.claims(A)
    worker.nursery.ends[1].close()
    worker.turn()
    worker.turn()
    assert worker.child.closed
    assert worker.written() == []
    worker.nursery.dies(worker.child)
    worker.turn()
    assert worker.written() == [released(A, lost=True)]


@pytest.mark.parametrize("fault", ["rounds", "watch", "nursery"])
def test_a_part_that_is_gone_ends_the_worker_and_its_jobs_go_back(start: Any, killed: list[int], fault: str) -> None:
    worker = start()
    worker.claims(A)
    child = worker.child
    if fault == "rounds":
        worker.rounds.failed = ZeroDivisionError("whatever it is")
    elif fault == "watch":
        worker.supervisor._watch.thread = SimpleNamespace(ident=1, is_alive=lambda: False)
    else:
        worker.nursery.is_gone()
    worker.turn()
    worker.turn()
    assert worker.ending.state is State.ENDING
    assert (worker.ending.exit_code, worker.ending.finished) == (1, True)
    assert killed == [child.pid]
    assert worker.written() == [released(A)]


def test_a_command_to_stop_is_a_warm_request_however_often_it_comes(start: Any) -> None:
    worker = start()
    worker.claims(A)
    for _ in range(2):
        worker.supervisor._stop_by_command()
        worker.supervisor._stop_by_command()
        worker.turn()
    states = [worker.ending.state]
    worker.supervisor.request_stop()
    worker.turn()
    assert [*states, worker.ending.state] == [State.DRAINING, State.ENDING]


@pytest.mark.parametrize("what", ["a request to stop", "a registration"])
def test_a_loop_that_sleeps_hears_at_once_of(start: Any, what: str) -> None:
    worker = start()
    worker.turn()
    assert worker.crew.selector.select(0) == []
    if what == "a registration":
        worker.supervisor._registered("w@test#2", boot_clock())
    else:
        worker.supervisor.request_stop()
    ((key, _),) = worker.crew.selector.select(0)
    assert key.data is worker.supervisor._wakeup


def test_an_error_of_the_loop_hands_back_what_ran(start: Any, killed: list[int]) -> None:
    worker = start(concurrency=2)
    once = claimed_job("once", redeliver=False)
    worker.claims(once, A)
    worker.claims(B)
    worker.supervisor._abandon()
    assert killed == [child.pid for child in worker.crew]
    outcomes = {outcome.job_id: outcome for outcome in worker.written()}
    assert isinstance(outcomes.pop("once"), Failed)
    assert outcomes == {"a": released(A)}, "it is no loss"
    assert [job.id for job in worker.dispatcher.waiting] == ["b"]


@pytest.mark.parametrize("why", ["cold", "a second signal", "overdue"])
def test_the_last_outcomes_are_waited_for_but_not_for_ever(
    start: Any, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    worker = start()
    clock = set_clock(monkeypatch, module)
    began = clock[0]
    waited: list[float] = []

    def stop(seconds: float) -> bool:
        waited.append(clock[0] - began)
        clock[0] += 1.0
        if clock[0] == began + 100.0:  # a hundred seconds of patience, until then
            if why == "cold":
                worker.ending.exit_code = 1
            elif why == "overdue":
                worker.ending._until = 0.0
            else:
                worker.supervisor.request_stop()
        return clock[0] > began + 1000.0

    monkeypatch.setattr(worker.rounds, "stop", stop)
    assert not worker.supervisor._say_goodbye()
    assert 100.0 < waited[-1] < 130.0


def test_at_its_end_it_gives_back_what_has_not_run_and_beats_until_all_is_written(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = start()
    worker.dispatcher.add([A])
    worker.rounds.handover.add([B])
    worker.rounds.handover.give()
    did: list[str] = []

    def stop(seconds: float) -> bool:
        did.append("rounds")
        return True

    worker.rounds.thread = SimpleNamespace(ident=1)
    monkeypatch.setattr(worker.rounds, "stop", stop)
    monkeypatch.setattr(worker.supervisor._desk, "flush", lambda: did.append("replies"))
    monkeypatch.setattr(worker.supervisor._events, "offline", lambda: did.append("offline"))
    monkeypatch.setattr(worker.supervisor._watch, "stop", lambda: did.append("watch"))
    worker.supervisor._end()
    assert sorted(worker.written()) == [released(A), released(B)]
    assert did == ["rounds", "replies", "offline", "watch"]
    assert worker.ending.exit_code == 0


@pytest.mark.parametrize("fault", ["not written", "failed"])
def test_outcomes_that_were_not_written_are_no_success(start: Any, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    worker = start()
    worker.rounds.thread = SimpleNamespace(ident=1)
    monkeypatch.setattr(worker.supervisor, "_say_goodbye", lambda: fault != "not written")
    worker.rounds.failed = ZeroDivisionError("whatever it is") if fault == "failed" else None
    worker.supervisor._end()
    assert worker.ending.exit_code == 1


def test_a_second_claim_waits_for_the_run_that_was_to_end(start: Any) -> None:
    worker = start(concurrency=2)
    again = claimed_beside_its_own_run(worker)
    assert [job.id for job in worker.dispatcher.behind] == ["a"]
    worker.answers(done(A))
    assert worker.written() == []
    assert [job for child in worker.crew for job in child.held.values()] == [again]


def test_a_claim_that_has_waited_too_long_for_such_a_run_goes_back(start: Any) -> None:
    worker = start(concurrency=2)
    again = claimed_beside_its_own_run(worker)
    worker.dispatcher.behind[again] -= 60.0
    worker.turn()
    assert worker.written() == [released(again)]


def test_what_waits_behind_a_long_run_is_called_back_and_what_waits_here_goes_back(start: Any) -> None:
    worker = start()
    worker.claims(A)
    worker.child.send_jobs([B])
    worker.sent()
    worker.dispatcher.add([C])
    for since in (0.2, 0.9):
        worker.dispatcher.progress_at -= since
        worker.child.silence.began_at -= since
        worker.turn()
        if since == 0.2:
            worker.turn()  # a child that was not watched yet is, from the turn before
            worker.child.silence.began_at -= 1.0
            worker.turn()
    assert worker.sent() == [wire.RECALL]
    assert worker.written() == [released(C)]


def test_what_waits_here_stays_while_a_child_gets_no_processor(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere it would wait for the same one."""
    worker = start()
    worker.claims(A)
    worker.dispatcher.add([C])
    worker.dispatcher.progress_at -= 1.0
    monkeypatch.setattr(worker.child.silence, "seconds", lambda now, pid: 0.0)
    worker.turn()
    assert worker.written() == []
