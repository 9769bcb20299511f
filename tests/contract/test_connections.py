"""Each connection to PostgreSQL finds out by itself that the server's host has gone without a word."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import psycopg
import pytest

from dbqueue.store.base import Store
from dbqueue.store.postgres.watch_session import PostgresWatchSession
from dbqueue.store.postgres.work_session import PostgresWorkSession
from tests.stores import opened

OPTIONS = {
    (socket.SOL_SOCKET, "SO_KEEPALIVE"): 1,
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE"): 30,
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL"): 10,
    (socket.IPPROTO_TCP, "TCP_KEEPCNT"): 3,
    (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT"): 20_000,
}
"""Seconds, but for the last: milliseconds."""

Driver = psycopg.Connection[Any]


@contextmanager
def pooled(store: Store) -> Iterator[Driver]:
    connection = store.engine.raw_connection()
    yield cast(Driver, connection.driver_connection)
    connection.close()


@contextmanager
def of_rounds(store: Store) -> Iterator[Driver]:
    session = cast(PostgresWorkSession, store.work_session("test"))
    yield session._driver
    session.close()


@contextmanager
def of_watch(store: Store) -> Iterator[Driver]:
    session = cast(PostgresWatchSession, store.watch_session("test"))
    yield session._driver
    session.close()


@pytest.mark.parametrize("connected", [pooled, of_rounds, of_watch], ids=lambda each: each.__name__)
def test_a_host_that_is_silent_is_given_up(postgres_url: str, connected: Callable[[Store], Any]) -> None:
    known = [(level, name) for level, name in OPTIONS if hasattr(socket, name)]  # all of them on Linux
    with opened(postgres_url) as store, connected(store) as driver:
        same = socket.socket(fileno=os.dup(driver.fileno()))
        if same.family == socket.AF_UNIX:
            pytest.skip("a socket of this host, which cannot go without a word")
        found = {(level, name): same.getsockopt(level, getattr(socket, name)) for level, name in known}
        same.close()
    assert found == {key: OPTIONS[key] for key in known}
