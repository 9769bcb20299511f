"""Arrays as text, read back by PostgreSQL itself."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from dbqueue.store.postgres.arrays import array
from tests.servers import libpq_url

TEXTS = [
    "plain",
    "",
    " ",
    ",",
    "{}",
    '"',
    "\\",
    '\\"',
    "NULL",
    "null",
    "a\nb\tc",
    "naïve-ключ-🦊",
    "'",
    "{NULL}",
    "\\N",
]
COLUMNS: dict[str, tuple[str, list[Any]]] = {
    "texts": ("text[]", TEXTS),
    "one text": ("text[]", ["x"]),
    "no value": ("text[]", [None, None]),
    "texts and no value": ("text[]", ["a", None, '"b"']),
    "leases": ("uuid[]", ["0193e5d2-0000-7000-8000-000000000000"] * 2),
    "floats": ("float8[]", [0.1, 1e-300, 1.7976931348623157e308, -0.0, 3]),
    "endless": ("float8[]", [float("inf"), float("-inf")]),
    "numbers": ("int[]", [1, -2, 0]),
    "bytes": ("bytea[]", [b"\0\xff", b""]),
    "truths": ("boolean[]", [True, False]),
}


@pytest.mark.parametrize(("kind", "values"), COLUMNS.values(), ids=COLUMNS)
def test_each_value_comes_back(postgres_url: str, kind: str, values: list[Any]) -> None:
    with psycopg.connect(libpq_url(postgres_url)) as connection:
        query = f"SELECT array_agg(d.value ORDER BY n) FROM unnest(%s::{kind}) WITH ORDINALITY AS d(value, n)"
        row = connection.execute(query.encode(), [array(values)]).fetchone()
    assert row is not None
    assert [str(value) if kind == "uuid[]" else value for value in row[0]] == values


def test_a_nul_is_refused_as_everywhere(postgres_url: str) -> None:
    with psycopg.connect(libpq_url(postgres_url)) as connection, pytest.raises(psycopg.DataError, match="NUL"):
        connection.execute("SELECT %s::text[]", [array(["a\0b", "c"])])
