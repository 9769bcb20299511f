"""How long a worker that is woken on a busy machine leaves the jobs to those beside it."""

from __future__ import annotations

import pytest

from dbqueue.worker import neighbours
from dbqueue.worker.neighbours import (
    FIRST_PAUSE_SECONDS,
    JOIN_EVERY_SECONDS,
    LONGEST_PAUSE_SECONDS,
    LONGEST_SECONDS,
    Neighbours,
    waiting_threads,
)
from tests.clocks import set_clock

PROCESSORS, ENOUGH = 2, 4


class Machine:
    """Its clock, and how many of its threads want a processor."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = set_clock(monkeypatch, neighbours)
        self.busy = 100
        monkeypatch.setattr(neighbours, "waiting_threads", lambda: self.busy)
        monkeypatch.setattr("random.uniform", lambda least, most: 1.0)

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
    worker.slots_before = slots_before
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


def test_where_processors_are_free_nobody_holds_back(machine: Machine) -> None:
    machine.busy = ENOUGH - 1
    assert machine.joins_in_after(worker(1_000)) == 0.0


def test_it_joins_in_once_a_processor_is_free(machine: Machine) -> None:
    one = worker(1_000)
    one.woken()
    machine.busy = ENOUGH
    assert one.pause() > 0
    machine.busy = ENOUGH - 1
    assert one.pause() == 0.0
    assert not one.holding_back


def test_its_looks_are_ever_more_seldom(machine: Machine) -> None:
    """Each costs the machine something, and a wait that was long may be somewhat longer."""
    one = worker(1_000)
    one.woken()
    pauses = [one.pause() for _ in range(8)]
    assert pauses[:4] == [FIRST_PAUSE_SECONDS * 2**n for n in range(4)]
    assert pauses[-1] == LONGEST_PAUSE_SECONDS


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


def test_who_was_not_woken_does_not_hold_back(machine: Machine) -> None:
    """But claims for another reason: its own jobs have ended, say."""
    assert worker(1_000).pause() == 0.0


def test_the_next_wake_up_begins_anew(machine: Machine) -> None:
    one = worker(ENOUGH)
    times = [machine.joins_in_after(one) for _ in range(2)]
    assert times == pytest.approx([JOIN_EVERY_SECONDS] * 2)


def test_the_system_tells_how_many_threads_want_a_processor() -> None:
    assert waiting_threads() >= 0


def test_where_the_system_tells_nothing_all_processors_count_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", missing)
    assert waiting_threads() == 0
