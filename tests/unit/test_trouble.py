"""Which errors of the driver another try may mend, and how many tries there are."""

from __future__ import annotations

import random
import time

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import errors

from dbqueue.store import trouble
from dbqueue.store.trouble import Tries, Trouble, first_line, may_be_outdated, trouble_of

KINDS = {
    errors.SerializationFailure: Trouble.CONFLICT,
    errors.DeadlockDetected: Trouble.CONFLICT,
    errors.LockNotAvailable: Trouble.CONFLICT,
    errors.ReadOnlySqlTransaction: Trouble.LOST,
    errors.AdminShutdown: Trouble.LOST,
    errors.CrashShutdown: Trouble.LOST,
    errors.IdleSessionTimeout: Trouble.LOST,
    errors.IdleInTransactionSessionTimeout: Trouble.LOST,
    errors.TransactionTimeout: Trouble.LOST,
    errors.ConnectionFailure: Trouble.LOST,
    errors.ConnectionException: Trouble.LOST,
    errors.TooManyConnections: Trouble.CROWDED,
    errors.CannotConnectNow: Trouble.CROWDED,
    errors.UniqueViolation: None,
    errors.UndefinedTable: None,
    errors.QueryCanceled: None,
    errors.DiskFull: None,
}


@pytest.mark.parametrize(("error", "kind"), KINDS.items())
def test_by_their_sqlstate(error: type[psycopg.Error], kind: Trouble | None) -> None:
    assert trouble_of(error("what the server says")) is kind
    assert trouble_of(sa.exc.OperationalError("SELECT 1", {}, error("the same through SQLAlchemy"))) is kind


OUTDATED = (
    errors.UndefinedTable,
    errors.UndefinedColumn,
    errors.InvalidSchemaName,
    errors.InvalidColumnReference,
    errors.UndefinedFunction,
    errors.UndefinedObject,
    errors.InsufficientPrivilege,
    errors.QueryCanceled,
)


@pytest.mark.parametrize("error", [*OUTDATED, errors.UniqueViolation, errors.DeadlockDetected])
def test_what_may_come_of_settings_that_the_role_has_no_longer(error: type[psycopg.Error]) -> None:
    """A connection that has said so once is not used again: it might say it for ever."""
    said = error("what the server says")
    assert may_be_outdated(said) is (error in OUTDATED)
    assert may_be_outdated(sa.exc.ProgrammingError("SELECT 1", {}, said)) is (error in OUTDATED)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("FATAL:  sorry, too many clients already", Trouble.CROWDED),
        ('FATAL:  too many connections for role "shop"', Trouble.CROWDED),
        ('FATAL:  too many connections for database "shop"', Trouble.CROWDED),
        ("FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute", Trouble.CROWDED),
        ("FATAL:  no more connections allowed (max_client_conn)", Trouble.CROWDED),
        ("FATAL:  the database system is starting up", Trouble.CROWDED),
        ("FATAL:  the database system is not yet accepting connections", Trouble.CROWDED),
        ("FATAL:  the database system is in recovery mode", Trouble.CROWDED),
        ('FATAL:  password authentication failed for user "shop"', None),
    ],
)
def test_before_a_connection_stands_by_their_text(text: str, kind: Trouble | None) -> None:
    assert trouble_of(psycopg.OperationalError(f"connection failed: {text}")) is kind


@pytest.mark.parametrize(("is_gone", "kind"), [(True, Trouble.LOST), (False, None)])
def test_a_connection_that_is_gone_is_lost_whatever_was_said_of_it(is_gone: bool, kind: Trouble | None) -> None:
    error = psycopg.OperationalError("consuming input failed: server closed the connection unexpectedly")
    seen = sa.exc.OperationalError("SELECT 1", {}, error, connection_invalidated=is_gone)
    assert trouble_of(seen) is kind


def test_others_are_nobodys() -> None:
    assert trouble_of(None) is None
    assert trouble_of(ValueError("40001")) is None


def test_so_many_tries_of_each_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trouble, "LAST_PAUSE_SECONDS", 0.0)
    tries = Tries(connections=3)
    assert not tries.again(None)
    for kind, number in (
        (Trouble.LOST, 3),
        (Trouble.CONFLICT, trouble.CONFLICT_TRIES),
        (Trouble.CROWDED, trouble.CROWDED_TRIES),
    ):
        assert [tries.again(kind) for _ in range(number + 1)] == [True] * number + [False]


def test_no_more_when_the_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    tries, now = Tries(connections=3), time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + trouble.PATIENCE_SECONDS)
    assert not any(tries.again(kind) for kind in Trouble)


def test_pauses_grow_but_for_a_connection_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that starts needs time, and so do others that hold locks; another connection may be a good one now."""
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(random, "random", lambda: 1.0)
    tries = Tries(connections=3)
    for kind in (Trouble.LOST, Trouble.CONFLICT, Trouble.LOST, Trouble.CROWDED, Trouble.CROWDED):
        assert tries.again(kind)
    assert pauses == [trouble.FIRST_PAUSE_SECONDS * factor for factor in (1, 2, 4)]


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_error_without_words_is_told_by_its_name(text: str) -> None:
    """Else another error would come in its place."""
    assert first_line(psycopg.OperationalError(text)) == "OperationalError"
