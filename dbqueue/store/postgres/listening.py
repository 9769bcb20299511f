"""Waiting for what the server announces on a connection of a worker's."""

from __future__ import annotations

import psycopg

from dbqueue.store.postgres.driver import Driver, translated
from dbqueue.store.readiness import HasFileno, wait_readable


class Listening:
    """On one connection. Not by the driver's own generator: it looks ten times a second whether somebody interrupts
    it, which was half of what an idle worker cost."""

    def __init__(self, driver: Driver, *, hears: bool) -> None:
        """`hears`: not through a pooler, which tells of nothing."""
        self._driver, self._hears = driver, hears
        self._announced = False
        driver.add_notify_handler(self._on_notify)

    def wait(self, seconds: float, bell: HasFileno | None = None) -> bool:
        """Whether something was announced since the last call; waits for it, or for the bell, at most so long."""
        with translated():
            if self._driver.closed:  # no descriptor to wait for
                raise psycopg.OperationalError("the connection is closed")
            self._look()
            if not self._announced:
                sources = [source for source in (self._driver if self._hears else None, bell) if source is not None]
                if self._driver in wait_readable(sources, seconds):
                    self._driver.pgconn.consume_input()
                    self._look()
        announced, self._announced = self._announced, False
        return announced

    def _look(self) -> None:
        """Take what libpq has read: before a wait too, for the socket tells no more of it.

        Where the last answers of a pipeline come at once, the driver tells nobody of what came with them: 22 of 2,300
        notifications that were sent beside short statements were not heard.
        """
        while self._driver.pgconn.notifies() is not None:
            self._announced = True

    def _on_notify(self, notification: psycopg.Notify) -> None:
        """One that came with the answer of a statement."""
        self._announced = True
