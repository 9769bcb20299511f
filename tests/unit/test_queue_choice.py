"""In which order a worker's claims read its queues."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbqueue import DBQueue
from dbqueue.errors import ImproperlyConfigured
from dbqueue.worker.claiming.queue_choice import QueueChoice
from dbqueue.worker.config import WorkerConfig


def choice(*queues: str, **options: Any) -> QueueChoice:
    chosen = QueueChoice(WorkerConfig("w@h", queues, "solo", 1, **options))
    chosen.names = list(queues)
    return chosen


def session(*present: str, paused: Collection[str] = ()) -> Any:
    """Tells what is there, and what is paused."""
    return SimpleNamespace(waiting_queues=lambda: list(present), paused_queues=lambda: set(paused))


def test_what_is_paused_is_left_out_until_it_is_not() -> None:
    """An idle worker looks again for that, for no job comes that would tell it."""
    chosen = choice("a", "b")
    chosen.look(session(paused=["b"]))
    assert (chosen.names, chosen.restless) == (["a"], True)
    chosen.look(session())
    assert (chosen.names, chosen.restless) == (["a", "b"], False)


def test_a_pattern_stands_for_what_is_there_but_for_what_is_excluded() -> None:
    """And may stand for more at any time."""
    chosen = choice("orders.*", excluded=["orders.slow"])
    chosen.look(session("mail", "orders.new", "orders.slow"))
    assert (chosen.names, chosen.restless) == (["orders.new"], True)


def test_other_queues_are_looked_at_soon() -> None:
    """Also where they come in the middle of a look, which has read the former ones."""
    chosen = choice("a")
    chosen.look(session())
    assert chosen.look_at > 0.0
    chosen.consume(["b"])
    assert (chosen.chosen, chosen.look_at) == (("b",), 0.0)

    def consume() -> set[str]:
        chosen.consume(["c"])
        return set()

    chosen.look(SimpleNamespace(paused_queues=consume))  # type: ignore[arg-type]
    assert chosen.look_at == 0.0
    chosen.look(session())
    assert chosen.names == ["c"]


def test_a_strict_order_is_always_the_same() -> None:
    strict = choice("a", "b", strict_order=True)
    assert [strict.next_order() for _ in range(3)] == [["a", "b"]] * 3


@pytest.mark.parametrize("options", [{}, {"queue_weights": {"a": 1}}])
def test_where_all_are_paused_there_is_no_order(options: dict[str, Any]) -> None:
    chosen = choice("a", **options)
    chosen.look(session(paused=["a"]))
    assert chosen.next_order() == []


def test_round_robin() -> None:
    turns = choice("a", "b", "c")
    orders = [turns.next_order() for _ in range(6)]
    assert all(sorted(order) == ["a", "b", "c"] for order in orders), "what the first leaves goes to the others"
    firsts = [order[0] for order in orders]
    assert Counter(firsts) == {"a": 2, "b": 2, "c": 2}
    assert len(set(firsts[:3])) == 3


def test_weights_are_spread_evenly() -> None:
    weighted = choice("a", "b", queue_weights={"a": 3})
    assert "".join(weighted.next_order()[0] for _ in range(8)) == "aabaaaba"


def test_a_weight_by_a_pattern() -> None:
    weighted = choice("reports.daily", "mail", queue_weights={"mail": 1, "reports.*": 4})
    assert Counter(weighted.next_order()[0] for _ in range(10)) == {"reports.daily": 8, "mail": 2}


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 20), min_size=1))
def test_each_gets_its_share_and_none_starves(weights: dict[str, int]) -> None:
    weighted = choice(*weights, queue_weights=weights)
    total = sum(weights.values())
    orders = [weighted.next_order() for _ in range(3 * total)]
    assert Counter(order[0] for order in orders) == {name: 3 * weight for name, weight in weights.items()}
    assert all(sorted(order) == sorted(weights) for order in orders)  # what the first leaves goes to the others
    for name in weights:
        gaps = [number for number, order in enumerate(orders) if order[0] == name]
        assert all(later - earlier <= total for earlier, later in pairwise(gaps))


def test_queues_that_come_and_go() -> None:
    weighted = choice("a", "b", queue_weights={"a": 5})
    for _ in range(7):
        weighted.next_order()
    weighted.names = ["b", "c"]
    assert {weighted.next_order()[0] for _ in range(2)} == {"b", "c"}
    assert weighted._credit[False].keys() == {"b", "c"}, "a pattern may stand for ever new ones"


@pytest.mark.parametrize("options", [{}, {"queue_weights": {"a": 1}}])
def test_looks_at_held_jobs_between_the_claims_take_none_of_their_turns(options: dict[str, Any]) -> None:
    turns = choice("a", "b", **options)
    claims, looks = zip(*((turns.next_order()[0], turns.next_order(held=True)[0]) for _ in range(6)), strict=True)
    assert Counter(claims) == Counter(looks) == {"a": 3, "b": 3}


@pytest.mark.parametrize("weights", [{"a": 0}, {"a": -1}, {"a": 1.5}, {"a": "3"}, {"a": True}])
def test_weights_that_cannot_work(weights: dict[str, Any]) -> None:
    app = DBQueue("weights", broker="sqlite://", set_as_current=False, worker_queue_weights=weights)
    with pytest.raises(ImproperlyConfigured, match="'a' must be a whole number from 1"):
        app.Worker(pool="solo")


def test_weights_and_a_strict_order_exclude_each_other() -> None:
    settings: dict[str, Any] = {"worker_queue_weights": {"a": 2}, "worker_queue_order": "strict"}
    app = DBQueue("weights", broker="sqlite://", set_as_current=False, **settings)
    with pytest.raises(ImproperlyConfigured, match="no meaning"):
        app.Worker(pool="solo")
