"""How long a worker that is woken on a busy machine leaves the jobs to those beside it."""

from __future__ import annotations

import io
import math
import os
import time

import pytest

from dbqueue.store.records import WorkersBefore
from dbqueue.worker.claiming import neighbours
from dbqueue.worker.claiming.neighbours import (
    FIRST_PAUSE_SECONDS,
    IDLE_SHARE,
    JOIN_EVERY_SECONDS,
    LONGEST_PAUSE_SECONDS,
    LONGEST_SECONDS,
    SHORT_JOBS_FACTOR,
    SHORT_JOBS_SHARE,
    STEP_BACK_SECONDS,
    Neighbours,
    idle_seconds,
    seconds_of,
    waiting_threads,
)
from tests.clocks import set_clock

PROCESSORS, ENOUGH = 2, 4
FIRST_ONES = (11, 12)


class Machine:
    """Its clock, how many of its threads want a processor, and what part of all its processors has nothing to do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = set_clock(monkeypatch, neighbours)
        self._began = self.clock[0]
        self.busy, self.idle = 100, 0.0
        self.shares: dict[int, float] = {}
        """How much of a processor the process of each worker takes."""
        monkeypatch.setattr(neighbours, "waiting_threads", lambda: self.busy)
        monkeypatch.setattr(neighbours, "idle_seconds", lambda: 500.0 + self.idle * PROCESSORS * self.seconds)
        monkeypatch.setattr(
            neighbours, "seconds_of", lambda pids: sum(self.shares.get(pid, 0.0) for pid in pids) * self.seconds
        )
        monkeypatch.setattr("random.uniform", lambda least, most: 1.0)

    @property
    def seconds(self) -> float:
        return self.clock[0] - self._began

    def joins_in_after(self, worker: Neighbours) -> float:
        """Seconds from a wake-up until it claims."""
        began = self.clock[0]
        worker.woken()
        while (pause := worker.pause()) > 0:
            assert worker.holding_back
            self.clock[0] += pause
        assert not worker.holding_back
        return self.clock[0] - began


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def worker(slots_before: int) -> Neighbours:
    worker = Neighbours(PROCESSORS)
    worker.before = WorkersBefore(slots_before, FIRST_ONES)
    return worker


@pytest.mark.parametrize("slots_before", [0, ENOUGH - 1])
def test_the_first_ones_never_hold_back(machine: Machine, slots_before: int) -> None:
    assert machine.joins_in_after(worker(slots_before)) == 0.0


def test_on_a_busy_machine_the_others_join_in_one_after_the_other(machine: Machine) -> None:
    """However long it is busy: the first ones may have long jobs, and what keeps it busy may be no worker at all."""
    times = [machine.joins_in_after(worker(slots)) for slots in (ENOUGH, ENOUGH + 1, ENOUGH + 10)]
    assert times == pytest.approx([JOIN_EVERY_SECONDS, 2 * JOIN_EVERY_SECONDS, 11 * JOIN_EVERY_SECONDS])


def test_nobody_holds_back_for_longer_than_some_seconds(machine: Machine) -> None:
    assert machine.joins_in_after(worker(10_000)) == pytest.approx(LONGEST_SECONDS)


def test_while_the_first_ones_have_short_jobs_the_others_join_in_more_slowly(machine: Machine) -> None:
    """There each that joins in costs more than it does."""
    machine.shares = dict.fromkeys(FIRST_ONES, SHORT_JOBS_SHARE / 2 + 0.001)
    times = [machine.joins_in_after(worker(slots)) for slots in (ENOUGH, ENOUGH + 10, 10_000)]
    assert times == pytest.approx([SHORT_JOBS_FACTOR * time for time in (0.1, 1.1, LONGEST_SECONDS)])


def test_where_the_first_ones_take_less_their_jobs_are_long(machine: Machine) -> None:
    """As long as they run those others wait, which more workers could run."""
    machine.shares = dict.fromkeys(FIRST_ONES, SHORT_JOBS_SHARE / 2 - 0.001)
    assert machine.joins_in_after(worker(ENOUGH)) == pytest.approx(JOIN_EVERY_SECONDS)


def test_what_the_first_ones_did_before_the_wake_up_does_not_count(machine: Machine) -> None:
    machine.shares = dict.fromkeys(FIRST_ONES, 1.0)
    machine.clock[0] += 100.0
    one = worker(ENOUGH)
    one.woken()
    one.pause()
    machine.shares = dict.fromkeys(FIRST_ONES, 100.0 / 101.0)  # the same in all as before
    machine.clock[0] += 1.0
    assert one.pause() == 0.0


def test_one_that_takes_the_place_of_a_first_one_has_done_nothing_since_the_wake_up(machine: Machine) -> None:
    """Whatever its process has taken before: it was one of many, and another has stopped."""
    machine.shares = {13: 1.0}
    machine.clock[0] += 100.0
    one = worker(ENOUGH)
    one.woken()
    one.pause()
    one.before = WorkersBefore(ENOUGH, (12, 13))
    machine.shares = {13: 100.0 / (100.0 + 2 * JOIN_EVERY_SECONDS)}
    machine.clock[0] += 2 * JOIN_EVERY_SECONDS
    assert one.pause() == 0.0


def test_where_processors_are_free_nobody_holds_back(machine: Machine) -> None:
    machine.busy = PROCESSORS - 1
    assert machine.joins_in_after(worker(1_000)) == 0.0


def test_it_joins_in_once_processors_have_been_idle(machine: Machine) -> None:
    one = worker(1_000)
    one.woken()
    machine.busy = PROCESSORS
    assert one.pause() > 0
    machine.idle = 1.0
    machine.clock[0] += FIRST_PAUSE_SECONDS
    assert one.pause() == 0.0
    assert not one.holding_back


def test_a_moment_in_which_few_threads_want_a_processor_says_little(machine: Machine) -> None:
    """Of many looks of many workers some would see one."""
    one = worker(1_000)
    one.woken()
    assert one.pause() > 0
    machine.busy, machine.idle = 0, IDLE_SHARE / 2
    machine.clock[0] += LONGEST_PAUSE_SECONDS
    assert one.pause() > 0


def test_where_the_system_tells_nothing_of_idle_processors_it_joins_in(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "idle_seconds", lambda: math.inf)
    one = worker(1_000)
    one.woken()
    assert one.pause() > 0
    assert one.pause() == 0.0


def test_the_system_counts_in_ticks_of_which_one_says_nothing(machine: Machine) -> None:
    one = worker(1_000)
    one.woken()
    one.pause()
    machine.idle = 0.05  # 10 ms of 200
    machine.clock[0] += FIRST_PAUSE_SECONDS
    assert one.pause() > 0


def test_its_looks_are_ever_more_seldom(machine: Machine) -> None:
    """Each costs the machine something, and a wait that was long may be somewhat longer."""
    one = worker(1_000)
    one.woken()
    pauses = [one.pause() for _ in range(8)]
    assert pauses[:4] == [FIRST_PAUSE_SECONDS * 2**n for n in range(4)]
    assert pauses[-1] == LONGEST_PAUSE_SECONDS
    one._looks = 5000  # while the first ones have short jobs
    assert one.pause() == LONGEST_PAUSE_SECONDS


def test_those_that_were_woken_together_look_at_different_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "waiting_threads", lambda: 100)
    one = worker(1_000)
    pauses = set()
    for _ in range(10):
        one.woken()
        pauses.add(one.pause())
        one._since = None
    assert len(pauses) > 1
    assert all(0.5 * FIRST_PAUSE_SECONDS < pause < 2 * FIRST_PAUSE_SECONDS for pause in pauses)


def at_work(machine: Machine, slots_before: int = ENOUGH, seconds: float = STEP_BACK_SECONDS) -> float:
    """How long one that goes on claiming is to pause after this time, for which the machine stays as it is."""
    one = worker(slots_before)
    assert one.pause() == 0.0
    machine.clock[0] += seconds
    return one.pause()


def test_one_that_works_steps_back_where_the_first_ones_have_short_jobs(machine: Machine) -> None:
    machine.shares = dict.fromkeys(FIRST_ONES, SHORT_JOBS_SHARE)
    assert at_work(machine) > 0
    assert at_work(machine, seconds=STEP_BACK_SECONDS / 2) == 0.0
    assert at_work(machine, ENOUGH - 1) == 0.0


def test_it_goes_on_where_the_first_ones_have_long_jobs_or_processors_are_free(machine: Machine) -> None:
    machine.shares = dict.fromkeys(FIRST_ONES, SHORT_JOBS_SHARE / 2 - 0.001)
    assert at_work(machine) == 0.0
    machine.shares = dict.fromkeys(FIRST_ONES, 1.0)
    machine.idle = 2 * IDLE_SHARE
    assert at_work(machine) == 0.0


def test_it_joins_in_again_once_processors_have_been_idle(machine: Machine) -> None:
    machine.shares = dict.fromkeys(FIRST_ONES, 1.0)
    one = worker(1_000)
    one.pause()
    machine.clock[0] += STEP_BACK_SECONDS
    pause = one.pause()
    machine.busy = 0  # for a moment
    machine.clock[0] += pause
    assert one.pause() > 0
    machine.idle = 1.0
    machine.clock[0] += LONGEST_PAUSE_SECONDS
    assert one.pause() == 0.0
    assert not one.holding_back


def test_the_time_before_its_last_look_does_not_count(machine: Machine) -> None:
    """It may have slept: what counts is from its next claim on."""
    machine.shares = dict.fromkeys(FIRST_ONES, 1.0)
    one = worker(ENOUGH)
    one.pause()
    machine.idle = 1.0
    machine.clock[0] += 60.0
    assert one.pause() == 0.0
    machine.clock[0] += STEP_BACK_SECONDS / 2
    assert one.pause() == 0.0


def test_who_has_joined_in_works_for_a_while_before_it_steps_back(machine: Machine) -> None:
    """Else the last one would never have its turn."""
    machine.shares = dict.fromkeys(FIRST_ONES, 1.0)
    one = worker(ENOUGH)
    machine.joins_in_after(one)
    assert one.pause() == 0.0
    machine.clock[0] += STEP_BACK_SECONDS / 2
    assert one.pause() == 0.0
    machine.clock[0] += STEP_BACK_SECONDS / 2
    assert one.pause() > 0


def test_who_was_not_woken_does_not_hold_back(machine: Machine) -> None:
    """But claims for another reason: its own jobs have ended, say."""
    assert worker(1_000).pause() == 0.0


def test_the_next_wake_up_begins_anew(machine: Machine) -> None:
    one = worker(ENOUGH)
    times = [machine.joins_in_after(one) for _ in range(2)]
    assert times == pytest.approx([JOIN_EVERY_SECONDS] * 2)


def test_the_system_tells_how_many_threads_want_a_processor() -> None:
    assert waiting_threads() >= 0


def test_the_system_tells_how_long_processors_were_idle() -> None:
    assert 0 <= idle_seconds() <= idle_seconds()


def test_the_system_tells_what_processes_have_taken() -> None:
    before, began = seconds_of([os.getpid()]), time.process_time()
    while time.process_time() < began + 0.2:
        pass
    assert seconds_of([os.getpid()]) - before == pytest.approx(0.2, abs=0.1)
    assert seconds_of([os.getpid(), os.getpid()]) >= 2 * before


def test_the_name_of_a_process_may_be_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = b"7 (a) S 1) S 1 7 7 0 -1 0 0 0 0 0 300 200 0 0 20 0 1 0"
    monkeypatch.setattr(neighbours, "open", lambda *_, **__: io.BytesIO(figures), raising=False)
    assert seconds_of([7]) == pytest.approx(500 / os.sysconf("SC_CLK_TCK"))


@pytest.mark.parametrize("pid", [2**31 - 1, 0, -1])
def test_a_process_that_nobody_knows_of_takes_nothing(pid: int) -> None:
    """A worker's row may say anything."""
    assert seconds_of([pid]) == 0.0


def test_where_the_system_tells_nothing_all_processors_count_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError

    for tell in (missing, lambda *_, **__: io.BytesIO(b""), lambda *_, **__: io.BytesIO(b"no figure at all " * 9)):
        monkeypatch.setattr("builtins.open", tell)
        assert waiting_threads() == 0
        assert idle_seconds() == math.inf
        assert seconds_of(FIRST_ONES) == 0.0
