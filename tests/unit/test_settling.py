"""Rounds in which the database refuses something: whatever it is, each outcome is written, put aside, or a FAILURE."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import pytest

from dbqueue.errors import LockTimeout, OperationalError
from dbqueue.jobs import ClaimedJob, Failed, Outcome, Settled, Succeeded
from dbqueue.store.records import Claim, Round
from dbqueue.worker.settling import settle, settle_free, settle_in_time
from tests.stores import claimed_job

CLAIM = Claim("w#1", "lease", ["celery"], 1)
OF_KEYS = Claim("w#1", "lease", ["celery"], 1, keys=["k"])
FOUND = claimed_job("found")


def ends(names: str) -> list[Outcome]:
    return [Succeeded(name, "lease", "1", 0.0) for name in names]


class Session:
    """A database that writes what it is sent, but for what the test says."""

    def __init__(
        self,
        *,
        bad: str = "",
        locked: str = "",
        found_locked: str = "",
        frees: str = "",
        claim_error: Exception | None = None,
    ) -> None:
        """Of the jobs `bad` it refuses each outcome but a failure; those `locked` are waited for, in vain, unless they
        are `found_locked`; others may run after those of `frees`."""
        self.bad, self.waits, self.found_locked, self.frees = bad, locked, found_locked, frees
        self.claim_error = claim_error
        self.written: list[Outcome] = []
        self.claims = 0

    def round(self, outcomes: Sequence[Outcome], claim: Claim | None, **_: Any) -> Round:
        if any(each.job_id in self.waits + self.found_locked for each in outcomes):
            raise LockTimeout("a row is locked")
        if claim is not None and self.claim_error is not None:
            raise self.claim_error
        self.claims += claim is not None
        return self._written(outcomes, [FOUND] if claim else [])

    def settle_free(self, outcomes: Sequence[Outcome], **_: Any) -> Round:
        if any(each.job_id in self.waits for each in outcomes):
            raise LockTimeout("a row that nobody looks for is locked")
        locked = frozenset(each.job_id for each in outcomes if each.job_id in self.found_locked)
        return self._written([each for each in outcomes if each.job_id not in locked], [], locked)

    def _written(
        self, outcomes: Sequence[Outcome], found: Sequence[ClaimedJob], locked: frozenset[str] = frozenset()
    ) -> Round:
        for each in outcomes:
            if each.job_id in self.bad and not isinstance(each, Failed):
                raise ValueError("not this row")
        self.written += outcomes
        ids = frozenset(each.job_id for each in outcomes)
        return Round(ids, found, not ids.isdisjoint(self.frees), locked=locked)

    def recorded(self, job_ids: Collection[str]) -> dict[str, Any]:
        raise AssertionError(f"these were not written: {job_ids}")

    @property
    def ids(self) -> str:
        return "".join(sorted(each.job_id for each in self.written))


Settle = Callable[..., Round]


@pytest.mark.parametrize("way", [settle, settle_in_time])
def test_a_claim_that_is_refused_is_no_fault_of_the_outcomes(way: Settle) -> None:
    session: Any = Session(claim_error=ValueError("not this job"))
    assert way(session, ends("a"), CLAIM, ()).settled == {"a"}
    assert session.written == ends("a")
    with pytest.raises(ValueError, match="not this job"):
        way(session, [], CLAIM, ())


@pytest.mark.parametrize("bad", ["a", "c", "e", "be", "abcde"])
@pytest.mark.parametrize("claim", [None, CLAIM])
def test_one_bad_row_does_not_poison_a_batch(bad: str, claim: Claim | None) -> None:
    session: Any = Session(bad=bad)
    settle(session, ends("abcde"), claim, ())
    assert session.ids == "abcde"
    assert {each.job_id for each in session.written if isinstance(each, Failed)} == set(bad)


@pytest.mark.parametrize(("linked", "released"), [((), False), (("b",), True)])
def test_what_waits_for_those_of_a_batch_that_was_taken_apart_is_looked_for(
    linked: Sequence[str], released: bool
) -> None:
    session: Any = Session(bad="a")
    assert settle(session, ends("ab"), None, linked).released == released


@pytest.mark.parametrize("locked", ["a", "d", "ad", "bcd", "abcd"])
@pytest.mark.parametrize("how", ["locked", "found_locked"])
def test_what_is_locked_is_put_aside_and_nothing_else(how: str, locked: str) -> None:
    session: Any = Session(locked=locked) if how == "locked" else Session(found_locked=locked)
    result = settle_in_time(session, ends("abcd"), None, ())
    assert result.locked == set(locked)
    assert result.settled == set("abcd") - set(locked)
    assert session.ids == "".join(sorted(result.settled))


@pytest.mark.parametrize("frees", ["b", "c"])
def test_what_may_run_after_a_half_is_looked_for(frees: str) -> None:
    session: Any = Session(locked="a", frees=frees)
    assert settle_in_time(session, ends("abcd"), None, ()).released
    session = Session(locked="a")
    assert not settle_in_time(session, ends("abcd"), None, ()).released


@pytest.mark.parametrize("claim", [CLAIM, OF_KEYS])
def test_the_claim_comes_after_what_could_be_written(claim: Claim) -> None:
    session: Any = Session(found_locked="a", frees="b")
    result = settle_in_time(session, ends("ab"), claim, ())
    assert result == Round(frozenset("b"), [FOUND], True, locked=frozenset("a"))
    assert session.claims == 1


@pytest.mark.parametrize("outcomes", ["", "ab"])
def test_a_claim_of_permits_waits_for_nobody(outcomes: str) -> None:
    """There are other ways to those jobs, and others to claim; any other claim is tried again."""
    session: Any = Session(found_locked="a", claim_error=LockTimeout("a limit is locked"))
    result = settle_in_time(session, ends(outcomes), OF_KEYS, ())
    assert result.settled == frozenset(outcomes) - {"a"}
    assert result.locked == frozenset(outcomes) & {"a"}
    assert not result.claimed
    with pytest.raises(LockTimeout):
        settle_in_time(session, ends(outcomes), CLAIM, ())


def test_a_bad_row_among_locked_ones() -> None:
    session: Any = Session(bad="b", found_locked="a", locked="d")
    result = settle_in_time(session, ends("abcd"), None, ())
    assert result.locked == {"a", "d"}
    assert session.ids == "bc"
    assert isinstance(next(each for each in session.written if each.job_id == "b"), Failed)


def test_a_bad_row_that_is_locked_when_it_is_written_alone() -> None:
    session: Any = Session(bad="b")
    session.round = Session(locked="b").round
    assert settle_free(session, ends("b"), None, ()).locked == {"b"}


@pytest.mark.parametrize("way", [settle, settle_in_time, settle_free])
def test_what_has_been_written_by_its_own_transaction_is_not_written_again(way: Settle) -> None:
    session: Any = Session()
    way(session, [Settled("own", "lease", 0.0, succeeded=True), *ends("a")], None, ())
    assert session.ids == "a"


@pytest.mark.parametrize("way", [settle, settle_in_time])
def test_trouble_is_not_about_one_row(way: Settle) -> None:
    session: Any = Session(claim_error=OperationalError("the database is away"))
    with pytest.raises(OperationalError):
        way(session, ends("ab"), CLAIM, ())
    assert session.written == []
