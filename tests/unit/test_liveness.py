"""What is a step of the server's clock, and what is only a look that took long or a clock that is being corrected."""

from __future__ import annotations

import pytest

from dbqueue.store import heartbeats
from dbqueue.store.postgres import liveness
from dbqueue.store.postgres.liveness import Liveness

LEASE = 30.0


class Observer:
    """Looks for the dead by clocks that the test moves: its own, and the server's beside it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._liveness, self.own, self.server = Liveness(), 1000.0, 5000.0
        for module in (heartbeats, liveness):
            monkeypatch.setattr(module, "monotonic", lambda: self.own)

    def pass_time(self, seconds: float, *, gained: float = 0.0) -> None:
        self.own += seconds
        self.server += seconds + gained

    def believes(self, *, sent_for: float = 0.0, read_for: float = 0.0) -> bool:
        """Whether a worker that is late by the server's clock, and was never seen before, is dead at this look.

        The request was under way for so long before the server read its clock, and the reply for so long after it.
        """
        worker = f"worker of {self.own}"

        def look() -> list[tuple[str, str, float, bool, float]]:
            self.pass_time(sent_for)
            rows = [(worker, "long ago", LEASE, True, self.server)]
            self.pass_time(read_for)
            return rows

        return worker in self._liveness.dead(look)


@pytest.fixture
def observer(monkeypatch: pytest.MonkeyPatch) -> Observer:
    return Observer(monkeypatch)


@pytest.mark.parametrize("first", [{"sent_for": 20.0}, {"read_for": 20.0}, {}])
@pytest.mark.parametrize("second", [{"sent_for": 20.0}, {"read_for": 20.0}, {}])
def test_a_look_that_takes_long_is_no_step(
    observer: Observer, first: dict[str, float], second: dict[str, float]
) -> None:
    observer.believes(**first)
    observer.pass_time(1)
    assert observer.believes(**second)


@pytest.mark.parametrize("gained", [0.4, -0.4])
def test_a_clock_that_is_corrected_has_not_stepped_however_far_it_has_come(observer: Observer, gained: float) -> None:
    observer.believes()
    for _ in range(10):
        observer.pass_time(5, gained=gained)
        assert observer.believes()


@pytest.mark.parametrize("gained", [0.6, -0.6])
def test_the_servers_word_is_taken_again_a_lease_after_the_step(observer: Observer, gained: float) -> None:
    observer.believes()
    observer.pass_time(5, gained=gained)
    assert not observer.believes()
    observer.pass_time(LEASE)
    assert not observer.believes()
    observer.pass_time(0.1)
    assert observer.believes()
