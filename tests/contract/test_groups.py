"""Groups that are saved: the last one under an id is the one that comes back."""

from __future__ import annotations

from dbqueue.store import groups
from dbqueue.store.base import Store


def test_saved_again_restored_and_forgotten(store: Store) -> None:
    assert groups.restore(store, "g") is None
    for text in ('["first"]', '["second", "ü"]'):
        groups.save(store, "g", text)
        groups.save(store, "other", "[]")
        assert groups.restore(store, "g") == text
    assert groups.delete(store, "g")
    assert not groups.delete(store, "g")
    assert (groups.restore(store, "g"), groups.restore(store, "other")) == (None, "[]")
