"""How many pool processes follow so much work."""

from __future__ import annotations

import pytest

from dbqueue.worker.supervising.autoscale import Autoscaler

KEEPALIVE = 30.0


@pytest.mark.parametrize(
    ("size", "busy", "change"),
    [
        (2, 0, 0),
        (2, 1, 0),
        (2, 2, 1),  # one free process shows that there is no more work
        (2, 4, 3),
        (2, 5, 3),  # never above the maximum
        (5, 5, 0),
        (1, 0, 1),  # never below the minimum
        (7, 7, -2),  # the maximum was lowered: at once
    ],
)
def test_one_more_than_are_busy_within_the_bounds(size: int, busy: int, change: int) -> None:
    assert Autoscaler(5, 2, keepalive=KEEPALIVE).change(size, busy) == change


def test_processes_leave_when_they_were_too_many_for_a_while() -> None:
    scaler = Autoscaler(5, 1, keepalive=KEEPALIVE)
    now = 1_000_000.0
    assert scaler.change(4, 3, now=now) == 0
    assert scaler.change(4, 0, now=now + KEEPALIVE - 1) == 0
    assert scaler.change(4, 3, now=now + KEEPALIVE) == 0, "all were needed again"
    assert scaler.change(4, 0, now=now + 2 * KEEPALIVE - 1) == 0
    assert scaler.change(4, 1, now=now + 2 * KEEPALIVE) == -2
    assert scaler.change(2, 0, now=now + 2 * KEEPALIVE + 1) == 0, "the others have their time too"


def test_the_while_is_celerys() -> None:
    scaler, now = Autoscaler(5), 1_000_000.0
    assert scaler.change(4, 3, now=now) == 0
    assert scaler.change(4, 0, now=now + 29.9) == 0
    assert scaler.change(4, 0, now=now + 30.0) == -3


def test_bounds_are_changed_one_by_one() -> None:
    scaler = Autoscaler(5)
    assert (scaler.maximum, scaler.minimum) == (5, 1), "with none, nothing would show that work has come"
    scaler.update(maximum=8)
    scaler.update(minimum=3)
    assert (scaler.maximum, scaler.minimum) == (8, 3)
    with pytest.raises(ValueError, match=r"the maximum \(2\) is less than the minimum \(3\)"):
        scaler.update(maximum=2)
    with pytest.raises(ValueError, match=r"more than a worker may have \(5000\)"):
        scaler.update(maximum=5001)
    assert Autoscaler(5000, 5000).minimum == 5000
    for wrong in (2.5, "9", [9]):  # a pool of so many processes ended the worker
        for bounds in ({"maximum": wrong}, {"minimum": wrong}):
            with pytest.raises(ValueError, match="whole numbers"):
                scaler.update(**bounds)  # type: ignore[arg-type]
    assert scaler.info(4, 3) == {"max": 8, "min": 3, "current": 4, "qty": 3}
