"""What a worker holds, and how claimed jobs come to its supervisor: each once, and none lost."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from dbqueue.jobs import Outcome, Succeeded
from dbqueue.store.records import Round
from dbqueue.worker.claiming import absent
from dbqueue.worker.claiming.aside import Aside
from dbqueue.worker.claiming.handover import MAX_CLAIM, Handover
from dbqueue.worker.claiming.holding import MAX_OUTCOMES, Holding
from tests.stores import claimed_job


def end(job_id: str, lease: str = "lease") -> Outcome:
    return Succeeded(job_id, lease, "1", 0.0)


@pytest.fixture
def holding() -> Holding:
    return Holding()


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def handover(holding: Holding, told: list[str]) -> Handover:
    return Handover(holding, lambda: told.append("jobs"))


def test_a_lease_is_held_until_its_outcome_is_written(holding: Holding) -> None:
    holding.take([claimed_job("a"), claimed_job("b", successors=True)])
    holding.take([claimed_job("c", successors=True)])
    assert holding.leases == {"a": "lease", "b": "lease", "c": "lease"}
    assert holding.linked == {"b", "c"}
    holding.outcomes.extend([end("a"), end("b")])
    outcomes = holding.next_outcomes()
    holding.outcomes.append(end("c"))  # while those are under way
    holding.written(outcomes, Round())
    assert (list(holding.outcomes), holding.leases, holding.linked) == ([end("c")], {"c": "lease"}, {"c"})
    holding.forget(["c"])
    assert (holding.leases, holding.linked) == ({}, set())
    holding.written(holding.next_outcomes(), Round())
    assert not holding.outcomes


def test_the_end_of_a_former_run_leaves_the_lease_of_a_new_one(holding: Holding) -> None:
    holding.take([claimed_job("a", lease="new", successors=True)])
    holding.outcomes.append(end("a", "old"))
    holding.written(holding.next_outcomes(), Round())
    assert (holding.leases, holding.linked) == ({"a": "new"}, {"a"})


def test_of_two_claims_of_one_job_the_later_lease_is_held(holding: Holding) -> None:
    """As when the database had given the first to others before it was looked at."""
    holding.take([claimed_job("a", lease="old")])
    holding.take([claimed_job("a", lease="new")])
    assert holding.leases == {"a": "new"}


def test_rounds_of_outcomes_have_each_once(holding: Holding) -> None:
    ends = [end(f"{number}") for number in range(MAX_OUTCOMES + 3)]
    holding.outcomes.extend(ends)
    first = holding.next_outcomes()
    second = holding.next_outcomes(after=len(first))
    assert (first, second) == (ends[:MAX_OUTCOMES], ends[MAX_OUTCOMES:])
    holding.written(first, Round())
    assert holding.next_outcomes() == second


def test_what_is_claimed_comes_once(holding: Holding, handover: Handover, told: list[str]) -> None:
    handover.want(5)
    handover.add([])
    handover.give()
    assert (told, handover.take()) == ([], [])
    first, second, third = (claimed_job(name, successors=True) for name in "abc")
    handover.add([first])
    handover.add([second])
    assert handover.take() == []
    handover.give()
    handover.give()
    assert told == ["jobs"]
    assert holding.linked == {"a", "b"}, "before any of them can end"
    assert holding.leases.keys() == {"a", "b"}
    handover.add([third])
    handover.give()
    assert (handover.take(), handover.take()) == ([first, second, third], [])


def test_no_more_is_claimed_than_the_supervisor_can_take(handover: Handover) -> None:
    assert handover.room == 0
    handover.want(3)
    handover.add([claimed_job("a")])
    assert handover.room == 2
    handover.give()
    handover.add([claimed_job("b")])
    assert handover.room == 1
    handover.take()
    assert handover.room == 1, "as before: it has one less to take, and takes one less"
    handover.want(10 * MAX_CLAIM)
    assert handover.room == MAX_CLAIM


def test_it_is_told_whether_the_supervisor_can_take_more_than_before(handover: Handover) -> None:
    assert handover.want(3)
    assert handover.take() == []
    assert not handover.want(3)
    handover.add([claimed_job("a")])
    handover.give()
    handover.take()
    assert not handover.want(2), "the third is the one that it has got"
    assert handover.want(3)
    handover.want(0)
    handover.add([claimed_job("b")])
    handover.give()
    handover.take()
    assert handover.room == 0, "though it has taken more than it wanted"
    assert handover.want(1)


def test_what_is_locked_keeps_its_lease_until_it_is_written(holding: Holding) -> None:
    holding.take([claimed_job(name, successors=True) for name in "abc"])
    holding.outcomes.extend([end("a"), end("b"), end("c")])
    holding.written(holding.next_outcomes(), Round(locked=frozenset({"a", "c"})))
    assert not holding.outcomes
    assert list(holding.unwritten) == holding.aside.next_try() == [end("a"), end("c")]
    assert (holding.leases, holding.linked) == ({"a": "lease", "c": "lease"}, {"a", "c"})
    assert holding.aside.again_at is not None
    assert not holding.aside.due
    holding.written_at_last(holding.aside.next_try(), Round(locked=frozenset({"a"})))
    assert (holding.aside.next_try(), holding.leases) == ([end("a")], {"a": "lease"})
    holding.written_at_last(holding.aside.next_try(), Round())
    assert (len(holding.aside), holding.leases, holding.linked) == (0, {}, set())
    assert holding.aside.again_at is None


def test_what_is_locked_later_waits_behind_what_is_aside_already(holding: Holding) -> None:
    for name in "abc":
        holding.outcomes.append(end(name))
        holding.written(holding.next_outcomes(), Round(locked=frozenset({name})))
    assert holding.aside.next_try() == [end("a"), end("b"), end("c")]
    assert len(holding.aside) == 3


def test_two_runs_of_one_job_that_cannot_be_written_are_tried_no_more_often_than_one(holding: Holding) -> None:
    """It was rescued from this worker, and claimed by it again."""
    aside = holding.aside
    aside.put([end("a", "first"), end("a", "second")])
    aside._again_at = 0.0
    aside.tried(aside.next_try(), {"a"})
    assert aside.again_at != 0.0, "there was no pause"
    assert [outcome.lease for outcome in aside] == ["first", "second"]
    aside.tried(aside.next_try(), set())
    assert len(aside) == 0


def test_those_that_are_locked_for_long_keep_no_others_from_being_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dbqueue.worker.claiming.aside.MAX_TRIED", 2)
    aside, ends = Aside(), [end("a"), end("b"), end("c")]
    aside.put(ends)
    aside.tried(aside.next_try(), {"a", "b"})
    assert aside.next_try() == [end("c"), end("a")]


def test_what_is_put_aside_later_puts_no_try_off_and_is_not_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """Jobs may end all the time, and somebody's lock be held for long."""
    aside = Aside()
    aside.put([end("a")])
    again_at = aside.again_at
    for job_id in "bcd":
        aside.put([end(job_id)])
    assert (len(aside), aside.again_at) == (4, again_at)
    assert len(caplog.records) == 1


def test_of_the_rows_that_are_looked_for_the_one_noted_first_is_given_up_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is noted again counts from then."""
    monkeypatch.setattr(absent, "MOST", 2)
    looked_for = absent.Absent()
    for job_id in "abac":
        looked_for.add(job_id)
    assert looked_for.ids == {"a", "c"}


def test_a_row_is_looked_for_until_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(absent, "time", SimpleNamespace(monotonic=lambda: now[0]))
    looked_for = absent.Absent()
    looked_for.add("a")
    now[0] += 1.0
    looked_for.add("b")
    now[0] = 1000.0 + absent.LOOK_SECONDS - 0.5
    looked_for.forget_old()
    assert looked_for.ids == {"a", "b"}
    now[0] += 1.0
    looked_for.forget_old()
    assert looked_for.ids == {"b"}


def test_jobs_gone_astray_are_known_until_they_are_seen_to(holding: Holding) -> None:
    for job_id in "ab":
        holding.lost(Round(astray=frozenset([job_id])))
    holding.lost(Round(absent=(end("c"),)))
    holding.take([claimed_job("d")])
    assert set(holding.known) == {"a", "b", "c", "d"}


def test_what_two_rounds_did_is_what_both_did() -> None:
    """Of some outcomes each was written in a round of its own."""
    job = claimed_job("a")
    did = Round(frozenset("a"), (job,), True, True, frozenset("b"), "no", frozenset("c"), (end("d"),))
    for both in (did | Round(), Round() | did):
        assert both == did
    other = Round(frozenset("e"), (), False, False, frozenset("f"), "nor", frozenset("g"), (end("h"),))
    assert did | other == Round(
        frozenset("ae"), (job,), True, True, frozenset("bf"), "no", frozenset("cg"), (end("d"), end("h"))
    )
