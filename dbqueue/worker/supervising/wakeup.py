"""What wakes the supervisor's loop: a socket that other threads and signal handlers write a byte to."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Callable

from dbqueue.worker.supervising.shutdown import Request, requests_by_signal


class WakeUp:
    """The loop selects on `reader`."""

    def __init__(self) -> None:
        self.reader, self._writer = socket.socketpair()
        for end in (self.reader, self._writer):
            end.setblocking(False)
        self._before: int | None = None

    def wake(self) -> None:
        """Wake the loop; from any thread, and never an error."""
        with contextlib.suppress(OSError):  # full: it is awake already; closed: it has ended
            self._writer.send(b"\0")

    def drain(self) -> None:
        """Take what has woken the loop."""
        with contextlib.suppress(BlockingIOError):
            while self.reader.recv(4096):
                pass

    def take_signals(self, ask: Callable[[Request], None]) -> None:
        """Let TERM, INT, HUP and QUIT wake the loop, and ask for a shutdown. Call it on the main thread."""
        self._before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)

        def handler(request: Request) -> Callable[..., None]:
            return lambda *_: ask(request)

        for number, request in requests_by_signal().items():
            signal.signal(number, handler(request))

    def close(self) -> None:
        """Give the process's wake-up descriptor back; on the thread of `take_signals`.

        The handlers stay: a signal that comes late must not end the process while it tidies up.
        """
        before, self._before = self._before, None
        if before is not None:
            signal.set_wakeup_fd(before)
        self.reader.close()
        self._writer.close()
