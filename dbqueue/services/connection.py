"""`app.connection()`: what Celery's programs hand to receivers and publishers, in the place of a broker's connection.

There is nothing to open: each use of the database takes a connection from the application's pool.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from dbqueue.app import DBQueue


class Connection:
    """The application's database, under the names that Celery's programs call on a connection."""

    def __init__(self, app: DBQueue) -> None:
        self.app = app

    def ensure_connection(self, *args: Any, **kwargs: Any) -> Self:
        """Raise OperationalError unless the database answers now. Celery's retries have no effect."""
        self.app.database.store.ensure_schema()
        return self

    connect = ensure_connection

    @property
    def connected(self) -> bool:
        """True: a connection is taken from the pool when it is used."""
        return True

    def as_uri(self, include_password: bool = False, **kwargs: Any) -> str:
        """The database's URL with its password masked, whatever is asked for."""
        return self.app.database.url

    def release(self) -> None:
        """Nothing to give back."""

    close = release

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<Connection: {self.as_uri()}>"


class Pool:
    """`app.pool` and `app.producer_pool`: they hand out what `app.connection()` gives."""

    def __init__(self, app: DBQueue) -> None:
        self.app = app

    def acquire(self, block: bool = False, timeout: float | None = None) -> Connection:
        """A connection, at once: the application's database has a pool of its own (`database_pool_size`)."""
        return Connection(self.app)
