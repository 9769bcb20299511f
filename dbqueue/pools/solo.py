"""One job at a time on the worker's own main thread: for a debugger, and for tests.

There is no process to kill: a crash takes the worker with it, and a task that holds the
interpreter lock holds up the worker's heartbeat.
"""

from __future__ import annotations

import contextlib
import socket
import threading

from dbqueue.pools import interrupts, prefork
from dbqueue.pools.child import Execute, Link


def run_in_place(connection: socket.socket, execute: Execute) -> None:
    """Be the only child, on the calling thread, until told to stop or cut off."""
    interrupts.listen()
    link = Link(connection, slots=1)
    execute.report = link.reports.put

    def read() -> None:
        try:
            with contextlib.suppress(ConnectionError):  # the supervisor has gone, and left something unread
                link.read(lambda: None)
        finally:  # also where a task has closed the socket: nothing more will be heard
            link.inbox.recall()
            link.inbox.put(None)

    reader = threading.Thread(target=read, name="reader", daemon=True)
    reader.start()
    try:
        with contextlib.suppress(ConnectionError):  # a supervisor that has gone hears no answer
            prefork.run_slots(link, execute, 1)
    finally:
        link.reports.close()
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)  # as a process's end would: the reader and the supervisor see it
        reader.join()
        connection.close()
