"""The children of a worker: how many there are for jobs that are to run alone, and when a dead one is replaced."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from dbqueue.pools import nursery as nurseries
from dbqueue.pools.nursery import Born, Died
from dbqueue.worker.config import WorkerConfig
from dbqueue.worker.supervising import children
from dbqueue.worker.supervising import crew as module
from dbqueue.worker.supervising.children import Child
from dbqueue.worker.supervising.crew import MAX_ALONE, Crew
from tests.clocks import set_clock
from tests.stores import claimed_job
from tests.waiting import wait_until


@pytest.fixture
def crew() -> Iterator[Crew]:
    """Of one process that runs many jobs, and of whatever is asked for beside it."""
    config = WorkerConfig("w@test", ("celery",), "threads", 4)
    crew = Crew(config, SimpleNamespace(), lambda name: None)
    crew.fork_nursery()
    crew.start()
    yield crew
    crew.close()


def alone(crew: Crew) -> list[Child]:
    return [child for child in crew if child.alone]


def born(crew: Crew, child: Child) -> list[Died]:
    """Deaths that were told of meanwhile: a child that is to stop may have done so by then."""
    deaths: list[Died] = []

    def is_born() -> bool:
        deaths.extend(crew.nursery_events() or [])
        return child.pid is not None

    wait_until(is_born, what="the child's birth")
    return deaths


def kill(crew: Crew, child: Child) -> None:
    """As the supervisor sees to a child that is dead."""
    deaths = born(crew, child)
    assert child.pid is not None
    if not deaths:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)
        wait_until(crew.nursery_events, what="its death")
    crew.remove(child, replace=True)


def test_what_has_started_already_is_left_as_it_is(crew: Crew) -> None:
    """A worker starts its children before it registers, and asks for them again when it has."""
    (child,) = crew
    crew.start()
    crew.bear_missing()
    assert list(crew) == [child]


def test_one_that_is_closed_holds_no_descriptor(crew: Crew) -> None:
    for _ in range(2):
        crew.close()
        assert crew.selector.get_map() is None


@pytest.fixture
def solo() -> Iterator[Crew]:
    crew = Crew(WorkerConfig("w@test", ("celery",), "solo", 1, max_tasks_per_child=1), SimpleNamespace(), print)
    crew.fork_nursery()
    crew.start()
    yield crew
    crew.close()
    assert crew.place is not None
    crew.place.close()


def test_the_worker_s_own_process_is_replaced_after_no_number_of_tasks(solo: Crew) -> None:
    """It could not be, and would be sent no more jobs."""
    (child,) = solo
    child.send_jobs([claimed_job()])
    child.held.clear()
    assert child.free == 1


def test_the_worker_s_own_process_cannot_be_replaced_by_hand(solo: Crew) -> None:
    with pytest.raises(ValueError, match="cannot be restarted"):
        solo.restart()
    for pool in ("solo", "threads"):
        with pytest.raises(ValueError, match=f"the pool {pool} cannot grow or shrink"):
            Crew(WorkerConfig("w@test", ("celery",), pool, 1), SimpleNamespace(), print).resize(1)


def test_jobs_that_run_alone_do_not_fill_the_machine(crew: Crew) -> None:
    for _ in range(2):
        crew.provide_alone(3 * MAX_ALONE)
        assert len(alone(crew)) == MAX_ALONE


def test_who_is_needed_no_longer_goes(crew: Crew) -> None:
    crew.provide_alone(3)
    crew.provide_alone(1)
    assert [child.stopping for child in alone(crew)] == [False, True, True]
    assert crew.slots == 4, "nobody takes its place"
    crew.provide_alone(2)
    assert sum(not child.stopping for child in alone(crew)) == 2, "one that leaves is none for the next job"


def test_one_that_has_a_job_is_none_for_the_next(crew: Crew) -> None:
    crew.provide_alone(1)
    (busy,) = alone(crew)
    busy.send_jobs([claimed_job()])
    assert busy.left == 0, "it leaves with its job"
    crew.provide_alone(1)
    assert [(child.stopping, len(child.held)) for child in alone(crew)] == [(False, 1), (False, 0)]
    crew.provide_alone(0)
    assert [child.stopping for child in alone(crew)] == [False, True]


def test_a_birth_that_cannot_be_asked_for_leaves_no_socket(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again once a second."""
    pairs: list[tuple[socket.socket, socket.socket]] = []
    pair = socket.socketpair

    def socketpair() -> tuple[socket.socket, socket.socket]:
        pairs.append(pair())
        return pairs[-1]

    def bear(number: int, connection: socket.socket) -> None:
        raise OSError(errno.ENOBUFS, "no room")

    monkeypatch.setattr(socket, "socketpair", socketpair)
    monkeypatch.setattr(crew._nursery, "bear", bear)
    crew.provide_alone(1)
    assert alone(crew) == []
    assert [end.fileno() for each in pairs for end in each] == [-1, -1]


def test_what_a_socket_does_not_take_is_sent_as_soon_as_it_does(crew: Crew) -> None:
    """A child that is busy with a long job says nothing meanwhile: nothing else would tell."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = crew.children[7] = Child(7, 1, ours)
        crew.selector.register(ours, selectors.EVENT_READ, child)
        child.send(b"x" * 10_000_000)
        crew.recall(child)
        assert crew.selector.get_key(ours).events == selectors.EVENT_READ | selectors.EVENT_WRITE
        while child.wants_to_write:
            theirs.recv(1 << 20)
            child.flush()
        crew.watch(child)
        assert crew.selector.get_key(ours).events == selectors.EVENT_READ
        crew.hang_up(child)
        del crew.children[7]


def test_that_a_child_is_to_stop_is_sent_as_soon_as_its_socket_takes_it(crew: Crew) -> None:
    """Though it was asked for its jobs before, when there was room."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = crew.children[7] = Child(7, 1, ours)
        crew.selector.register(ours, selectors.EVENT_READ, child)
        child.recalling = True
        with contextlib.suppress(BlockingIOError):
            while True:
                ours.send(b"x")
        crew.retire(child)
        assert crew.selector.get_key(ours).events == selectors.EVENT_READ | selectors.EVENT_WRITE
        crew.hang_up(child)
        del crew.children[7]


@pytest.mark.parametrize("answered", [0, 1])
def test_a_child_that_dies_young_is_replaced_after_a_pause(
    crew: Crew, monkeypatch: pytest.MonkeyPatch, answered: int
) -> None:
    """Else one whose start fails would be born again and again; but not one that has worked."""
    monkeypatch.setattr(module, "QUICK_DEATH_SECONDS", 600.0)
    (child,) = crew
    child.answered = answered
    kill(crew, child)
    crew.bear_missing()
    assert len(crew.children) == answered
    if not answered:
        (at,) = crew._missing.values()
        crew._missing = {child.number: at - 600.0}
        crew.bear_missing()
        assert len(crew.children) == 1


@pytest.mark.parametrize("ready", [False, True])
def test_one_that_is_to_run_alone_and_dies_at_its_start(
    crew: Crew, monkeypatch: pytest.MonkeyPatch, *, ready: bool
) -> None:
    monkeypatch.setattr(module, "QUICK_DEATH_SECONDS", 600.0)
    crew.provide_alone(1)
    (child,) = alone(crew)
    child.ready = ready
    kill(crew, child)
    crew.provide_alone(1)
    assert len(alone(crew)) == ready


@pytest.fixture
def crowded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A file: while it is there, the system has no room for another process."""
    path, here = tmp_path / "crowded", os.getpid()

    def fork() -> int:
        if os.getpid() != here and path.exists():
            raise OSError(errno.EAGAIN, "no room")
        return os.fork()

    monkeypatch.setattr(nurseries, "os", SimpleNamespace(**{**vars(os), "fork": fork}))
    monkeypatch.setattr(module, "CROWDED_SECONDS", 600.0)
    return path


def test_no_room_is_told_once_and_anew_after_a_birth(
    crowded: Path, crew: Crew, caplog: pytest.LogCaptureFixture
) -> None:
    (child,) = crew
    kill(crew, child)
    crowded.touch()
    for _ in range(2):
        crew._missing = {1: 0.0}
        crew.bear_missing()
        wait_until(lambda: crew.nursery_events() == [] and not crew.children, what="no birth")
        assert list(crew._missing) == [1]
        assert [record.message.partition(" (")[0] for record in caplog.records] == ["No pool process can be started"]
    crowded.unlink()
    crew._missing = {1: 0.0}
    crew.bear_missing()
    kill(crew, crew.children[1])
    crowded.touch()
    crew._missing = {1: 0.0}
    crew.bear_missing()
    wait_until(lambda: crew.nursery_events() == [] and not crew.children, what="no birth")
    assert len(caplog.records) == 2


def test_no_room_for_one_that_is_to_run_alone(crowded: Path, crew: Crew) -> None:
    """It is tried again as long as such a job waits, and no longer."""
    born(crew, crew.children[1])
    crowded.touch()
    crew.provide_alone(1)
    wait_until(lambda: crew.nursery_events() == [] and not alone(crew), what="no birth")
    crew.provide_alone(1)
    assert (alone(crew), crew._missing) == ([], {})
    crowded.unlink()
    crew._alone_not_before = 0.0
    crew.provide_alone(1)
    assert len(alone(crew)) == 1


def test_who_was_killed_before_its_birth_dies_of_it(crew: Crew) -> None:
    assert crew._nursery is not None
    os.kill(crew._nursery.pid, signal.SIGSTOP)
    crew.provide_alone(1)
    (child,) = alone(crew)
    child.kill()
    os.kill(crew._nursery.pid, signal.SIGCONT)
    deaths = wait_until(crew.nursery_events, what="its death")
    assert deaths is not None
    assert [death.pid for death in deaths] == [child.pid]


def test_the_birth_of_one_that_is_not_waited_for_hides_no_death(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew._nursery, "events", lambda: [Born(99, 4711), Died(4712, 9)])
    assert crew.nursery_events() == [Died(4712, 9)]


def test_one_that_others_share_is_replaced_before_it_is_gone(crew: Crew) -> None:
    """Its last job may be a long one, and its other slots would wait."""
    (leaving,) = crew
    crew.retire(leaving)
    crew.retire(leaving)
    crew.bear_missing()
    assert [child.stopping for child in crew] == [True, False]
    assert crew.slots == 4
    kill(crew, leaving)
    crew.bear_missing()
    assert len(crew.children) == 1


@pytest.fixture
def prefork() -> Iterator[Crew]:
    """Of two processes that run one job each."""
    crew = Crew(WorkerConfig("w@test", ("celery",), "prefork", 2), SimpleNamespace(), lambda name: None)
    crew.fork_nursery()
    crew.start()
    yield crew
    crew.close()


def test_one_that_comes_while_another_leaves_has_a_number_of_its_own(prefork: Crew) -> None:
    prefork.resize(-1)
    leaving = [child.number for child in prefork if child.stopping]
    prefork.resize(1)
    prefork.bear_missing()
    assert len(leaving) == 1
    assert sorted(child.number for child in prefork if not child.stopping) != [1, 2]
    assert len(prefork.children) == 3


def test_one_that_was_to_be_born_again_is_not_where_fewer_are_wanted(prefork: Crew) -> None:
    dead = prefork.children[2]
    kill(prefork, dead)
    prefork._missing = {2: time.monotonic() + 600.0}
    prefork.resize(-1)
    prefork._missing = dict.fromkeys(prefork._missing, 0.0)
    prefork.bear_missing()
    assert list(prefork.children) == [1]


def test_the_pool_shrinks_by_who_has_the_least_to_do(prefork: Crew) -> None:
    prefork.children[2].send_jobs([claimed_job("runs")])
    prefork.resize(-1)
    assert [child.number for child in prefork if child.stopping] == [1]
    with pytest.raises(ValueError, match="one must be left"):
        prefork.resize(-1)


def test_the_pool_grows_to_so_many_and_no_further(prefork: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PROCESSES", 3)
    prefork.resize(1)
    with pytest.raises(ValueError, match="may have 3 at most"):
        prefork.resize(1)
    assert prefork.slots == 3


def test_another_restart_forgets_no_module_of_the_one_before(prefork: Crew) -> None:
    prefork.restart(["first"], reload=True)
    prefork.restart(["second", "first"])
    assert prefork._modules == (("first", "second"), True)


def test_a_doomed_child_is_ended_when_it_has_given_back_what_waits_or_does_not_hear(
    prefork: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = set_clock(monkeypatch, module)
    set_clock(monkeypatch, children)
    child = prefork.children[1]
    ended: list[float] = []
    monkeypatch.setattr(child, "end", lambda: ended.append(clock[0]))
    child.send_jobs([claimed_job("runs"), claimed_job("waits")])
    child.write_off(claimed_job("runs"))
    child.doom()
    prefork.end_doomed()
    assert (child.stopping, child.recalling, ended) == (True, True, [])
    clock[0] += module.DEAF_SECONDS
    prefork.end_doomed()
    assert ended == []
    clock[0] += 0.1
    prefork.end_doomed()
    assert len(ended) == 1
    child.held.clear()
    clock[0] -= 1.0
    prefork.end_doomed()
    assert len(ended) == 2


def test_a_doomed_child_is_not_ended_while_another_job_runs_there(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = set_clock(monkeypatch, module)
    set_clock(monkeypatch, children)
    (child,) = crew
    ended: list[float] = []
    monkeypatch.setattr(child, "end", lambda: ended.append(clock[0]))
    child.send_jobs([claimed_job("to end"), claimed_job("neighbour")])
    child.write_off(claimed_job("to end"))
    child.doom()
    clock[0] += 2 * module.DEAF_SECONDS
    crew.end_doomed()
    assert ended == []
    child.held.clear()
    crew.end_doomed()
    assert len(ended) == 1


@dataclass
class Doomed:
    crew: Crew
    child: Child
    clock: list[float]
    ended: list[float] = field(default_factory=list)

    def looked_after(self, *, later: float = 0.0) -> bool:
        """Whether it is ended so many seconds later."""
        self.clock[0] += later
        self.crew.end_doomed()
        return bool(self.ended)


@pytest.fixture
def doomed(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> Doomed:
    """A child with a run that is past its limit, and another beside it."""
    clock = set_clock(monkeypatch, module)
    set_clock(monkeypatch, children)
    child = crew.children[1]
    wait_until(child.receive, what="its first words")
    doomed = Doomed(crew, child, clock)
    monkeypatch.setattr(child, "end", lambda: doomed.ended.append(clock[0]))
    monkeypatch.setattr(child, "send", lambda data: None)
    child.send_jobs([claimed_job("over"), claimed_job("beside")])
    child.write_off(claimed_job("over"))
    return doomed


@pytest.mark.parametrize("answers", [True, False])
def test_a_doomed_child_that_says_nothing_any_more_is_ended_with_what_runs_beside(
    doomed: Doomed, answers: bool
) -> None:
    """What runs in a process that was stopped does not end, and the worker would wait for it."""
    doomed.child.doom()
    assert not doomed.looked_after()
    doomed.child.recalling = not answers
    assert not doomed.looked_after(later=module.FROZEN_SECONDS)
    assert doomed.looked_after(later=0.1) is not answers


def test_a_doomed_child_that_has_answered_is_not_ended_as_it_is_asked_again(doomed: Doomed) -> None:
    """By a shutdown, long after: its other run may end."""
    doomed.child.doom()
    doomed.looked_after()
    doomed.child.recalling = False
    doomed.looked_after(later=10 * module.FROZEN_SECONDS)
    doomed.child.recalling = False
    doomed.clock[0] += 10 * module.FROZEN_SECONDS
    doomed.crew.recall(doomed.child)
    assert not doomed.looked_after()
    assert not doomed.looked_after(later=module.FROZEN_SECONDS)
    assert doomed.looked_after(later=0.1)


def test_a_child_that_was_leaving_when_it_was_doomed_is_asked_whether_it_lives(doomed: Doomed) -> None:
    doomed.crew.retire(doomed.child)
    doomed.child.recalling = False
    doomed.clock[0] += 10 * module.FROZEN_SECONDS
    doomed.child.doom()
    assert not doomed.looked_after()
    assert doomed.child.recalling
    assert doomed.looked_after(later=module.FROZEN_SECONDS + 0.1)
