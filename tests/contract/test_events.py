"""Events: each that is written while somebody reads is read once, in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from dbqueue.store import events
from dbqueue.store.base import Store
from dbqueue.store.sessions import WatchSession
from tests.servers import libpq_url
from tests.stores import opened, run_sql


@pytest.fixture
def watch(store: Store) -> Iterator[WatchSession]:
    watch = store.watch_session("test")
    yield watch
    watch.close()


def event(number: int) -> dict[str, Any]:
    return {"type": "test", "number": number}


def numbers(found: list[dict[str, Any]]) -> list[int]:
    return [each["number"] for each in found]


def test_each_is_read_once(store: Store, watch: WatchSession) -> None:
    events.send(store, [event(0)])  # nobody reads yet
    reader = events.Reader(store)
    reader.start()
    events.write(watch, [event(1), event(2)])
    assert numbers(reader.read()) == [1, 2]
    assert reader.read() == []
    events.send(store, [event(3)])
    assert numbers(reader.read()) == [3]
    assert reader.read() == []


def test_more_than_one_look_reads(store: Store) -> None:
    reader, number = events.Reader(store), events.OVERLAP + 2 * events.BATCH + 1
    reader.start()
    events.send(store, [event(each) for each in range(number)])
    read: list[int] = []
    while found := reader.read():
        assert len(found) <= events.BATCH
        read += numbers(found)
    assert read == list(range(number))
    assert len(reader._seen) <= events.OVERLAP  # a monitor reads for weeks


def test_a_number_that_nobody_gave_out_makes_no_monitor_deaf(store: Store, watch: WatchSession) -> None:
    """As a broken program writes it, who may write anything: those who read, and who begin to, hear what follows."""
    reader = events.Reader(store)
    reader.start()
    run_sql(store, f"INSERT INTO dbqueue_events (seq, body) VALUES ({2**62}, :body)", body='{"type": "odd"}')
    reader.read()
    other = events.Reader(store)
    other.start()
    events.send(store, [event(1)])
    assert (numbers(reader.read()), numbers(other.read())) == ([1], [1])
    events.prune(watch)
    events.write(watch, [event(2)])
    assert (numbers(reader.read()), numbers(other.read())) == ([2], [2])
    if store.dialect == "postgresql":
        assert run_sql(store, "DELETE FROM dbqueue_events WHERE seq > 1000000") == 0, "it is deleted at once"


@pytest.mark.parametrize("created_at", ["2020-01-01 00:00:00.000", "2999-01-01 00:00:00.000"])
def test_a_monitor_goes_on_when_a_number_far_ahead_is_deleted(
    store: Store, watch: WatchSession, created_at: str
) -> None:
    reader = events.Reader(store)
    reader.start()
    events.send(store, [event(1)])
    assert numbers(reader.read()) == [1]
    far = f"INSERT INTO dbqueue_events (seq, body, created_at) VALUES (1000000, :body, '{created_at}')"
    run_sql(store, far, body='{"type": "test", "number": 0}')
    assert numbers(reader.read()) == [0]
    other = events.Reader(store)
    other.start()
    events.prune(watch)
    assert (reader.read(), other.read()) == ([], [])
    events.send(store, [event(2)])
    assert (numbers(reader.read()), numbers(other.read())) == ([2], [2])
    assert (reader.read(), other.read()) == ([], [])


def test_a_monitor_goes_on_when_all_was_old_and_deleted(store: Store, watch: WatchSession) -> None:
    """SQLite begins at 1 again."""
    reader = events.Reader(store)
    reader.start()
    for number in range(3):
        events.send(store, [event(number), event(number)])
        assert numbers(reader.read()) == [number, number]
        run_sql(store, "DELETE FROM dbqueue_events")
        assert reader.read() == []


def test_numbers_that_json_has_none_of_are_texts(store: Store, watch: WatchSession) -> None:
    """A loss that is NaN is told of, with all else: it was an error in the task, and a batch was lost."""
    reader = events.Reader(store)
    reader.start()
    odd = {"type": "test", "losses": [float("nan"), -float("inf"), 0.5]}
    events.send(store, [odd])
    events.write(watch, [event(1), odd])
    assert [each.get("losses") for each in reader.read()] == [(told := ["NaN", "-Infinity", 0.5]), None, told]


def test_what_is_committed_late_is_read_all_the_same(postgres_url: str) -> None:
    """Its number was given out before that of what was read already."""
    with opened(postgres_url) as store, psycopg.connect(libpq_url(postgres_url)) as late:
        reader = events.Reader(store)
        reader.start()
        late.execute('INSERT INTO dbqueue_events (body) VALUES (\'{"type": "test", "number": 1}\')')
        events.send(store, [event(2)])
        assert numbers(reader.read()) == [2]
        late.commit()
        assert numbers(reader.read()) == [1]
        assert reader.read() == []
