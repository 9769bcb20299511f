"""The schedules of the settings: their rows follow them, and are no user's to change."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest

from dbqueue.store import schedules
from dbqueue.store.base import Store
from tests.contract.schedules import NOON, RACERS, add, entry, new_beat, row, settle
from tests.stores import run_sql


def names(store: Store) -> list[str]:
    return [each.name for each in schedules.read(store)[1]]


def test_rows_follow_the_settings(store: Store) -> None:
    add(store, "by hand")
    assert schedules.synchronise(store, "shop", [entry("a", args='["ü", 1e16]'), entry("b")]) == []
    assert names(store) == ["a", "b", "by hand"]
    assert (row(store, "a").args, row(store, "a").source, row(store, "a").app) == ('["ü", 1e16]', "settings", "shop")
    assert schedules.synchronise(store, "shop", [entry("b", schedule="every 5 seconds", options='{"queue":"q"}')]) == []
    assert names(store) == ["b", "by hand"]
    assert (row(store, "b").schedule, row(store, "b").options) == ("every 5 seconds", '{"queue":"q"}')
    schedules.synchronise(store, "shop", [])
    assert names(store) == ["by hand"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("task", "shop.tock"),
        ("schedule", "every 5 seconds"),
        ("timezone", "Asia/Tokyo"),
        ("args", "[1]"),
        ("kwargs", '{"a":1}'),
        ("options", '{"queue":"q"}'),
        ("misfire", "all"),
    ],
)
def test_a_row_follows_each_field_of_its_entry(store: Store, field: str, value: str) -> None:
    schedules.synchronise(store, "shop", [entry("a")])
    schedules.synchronise(store, "shop", [entry("a", **{field: value})])
    assert getattr(row(store, "a"), field) == value


def test_a_row_tells_when_it_was_changed_last(store: Store) -> None:
    """By the settings or by a user; a start with the same settings is no change."""
    schedules.synchronise(store, "shop", [entry("theirs")])
    schedules.put(store, entry("ours"), enabled=True)

    def changed() -> list[str]:
        """Since the last call."""
        with store.connect() as connection:
            query = "SELECT name FROM dbqueue_schedules WHERE updated_at > '2021-01-01' ORDER BY name"
            found = list(connection.exec_driver_sql(query).scalars())
        run_sql(store, "UPDATE dbqueue_schedules SET updated_at = '2020-01-01 00:00:00.000'")
        return found

    changed()
    schedules.synchronise(store, "shop", [entry("theirs")])
    assert changed() == []
    schedules.synchronise(store, "shop", [entry("theirs", schedule="every 5 seconds")])
    assert changed() == ["theirs"]
    schedules.put(store, entry("ours", schedule="every 5 seconds"), enabled=True)
    assert changed() == ["ours"]
    schedules.set_enabled(store, ["ours"], enabled=False)
    assert changed() == ["ours"]


def test_what_runs_goes_on_when_the_settings_are_the_same(store: Store) -> None:
    beat = new_beat(store)
    schedules.synchronise(store, "shop", [entry("tick")])
    settle(beat, NOON)
    settle(beat, NOON + timedelta(seconds=61))
    schedules.set_enabled(store, ["tick"], enabled=False)
    schedules.set_enabled(store, ["tick"], enabled=True)
    settle(beat, NOON + timedelta(seconds=62))
    before = row(store)
    schedules.synchronise(store, "shop", [entry("tick")])
    assert row(store) == before
    schedules.set_enabled(store, ["tick"], enabled=False)
    schedules.synchronise(store, "shop", [entry("tick", schedule="every 2 seconds")])
    assert not row(store).enabled  # a pause holds through a deployment


def test_names_of_others_are_left_to_them(store: Store) -> None:
    add(store, "mine", schedule="every 1 hour")
    schedules.synchronise(store, "shop", [entry("a")])
    assert schedules.synchronise(store, "mail", [entry("a", task="mail.send"), entry("mine"), entry("c")]) == [
        "a",
        "mine",
    ]
    assert names(store) == ["a", "c", "mine"]
    assert (row(store, "a").task, row(store, "mine").schedule) == ("shop.tick", "every 1 hour")
    schedules.synchronise(store, "mail", [])
    assert names(store) == ["a", "mine"]
    run_sql(store, "UPDATE dbqueue_schedules SET app = 'mail' WHERE name = 'mine'")  # by plain SQL, which may
    schedules.synchronise(store, "mail", [])
    assert names(store) == ["a", "mine"]


def test_a_row_of_the_settings_is_not_a_users_to_change_or_remove(store: Store) -> None:
    schedules.synchronise(store, "shop", [entry("a")])
    before = row(store, "a")
    assert not schedules.put(store, entry("a", task="other"), enabled=False)
    assert not schedules.remove(store, "a")
    assert row(store, "a") == before
    assert schedules.put(store, entry("mine"), enabled=True)
    assert schedules.put(store, entry("mine", task="other"), enabled=False)
    assert (row(store, "mine").task, row(store, "mine").enabled) == ("other", False)
    assert schedules.remove(store, "mine")
    assert names(store) == ["a"]


def test_two_applications_start_at_once(store: Store, in_threads: Callable[..., None]) -> None:
    entries = [entry(f"e{number}") for number in range(20)]
    # In whatever order each has its entries: else they would wait for each other in turn.
    orders = [entries, entries[::-1]] * (RACERS // 2)
    in_threads(*(lambda order=order: schedules.synchronise(store, "shop", order) for order in orders))
    assert len(names(store)) == 20


@pytest.fixture
def in_threads() -> Callable[..., None]:
    def run(*actions: Callable[[], object]) -> None:
        errors: list[BaseException] = []

        def guarded(action: Callable[[], object]) -> None:
            try:
                action()
            except BaseException as error:  # noqa: BLE001 - shown by the test
                errors.append(error)

        threads = [threading.Thread(target=guarded, args=[action]) for action in actions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert errors == []

    return run
