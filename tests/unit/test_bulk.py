"""Very many objects, made with the collector out of the way."""

from __future__ import annotations

import gc

import pytest

from dbqueue import bulk


def test_what_is_gathered_is_all_of_it_and_the_collector_is_on_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bulk.gathered(gc.isenabled() for _ in range(10)) == [False] * 10
    assert gc.isenabled()
    monkeypatch.setattr(bulk, "GATHER_SECONDS", -1.0)  # a pause after each
    assert bulk.gathered(iter(range(10))) == list(range(10))
    assert bulk.gathered(()) == []


def test_the_collector_is_on_again_where_an_item_cannot_be_made() -> None:
    with pytest.raises(ZeroDivisionError):
        bulk.gathered(1 // n for n in (1, 0))
    assert gc.isenabled()
