"""What the peers on PostgreSQL have in common: a clean database, and a look at how far they are."""

from __future__ import annotations

import psycopg


def clean(url: str) -> None:
    """Each peer has a database of its own, which is made empty before a row."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")


def settle(url: str) -> None:
    """Statistics as they should be, and the writes of the contestant before on disk."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")


def asking(url: str, query: str):
    """A function that gives the query's one value."""
    connection = psycopg.connect(url, autocommit=True)
    return lambda: connection.execute(query).fetchone()[0]
