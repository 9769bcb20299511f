"""A bell that a thread can wait for together with a socket: an Event with a descriptor."""

from __future__ import annotations

import contextlib
import socket


class Doorbell:
    """Rung by any thread, answered by one. A ring is kept until then; only the first costs a system call."""

    def __init__(self) -> None:
        self._rung = False
        self._ends: tuple[socket.socket, socket.socket] | None = None

    def open(self) -> None:
        """Get the descriptor, before anybody waits for it."""
        self._ends = socket.socketpair()
        for end in self._ends:
            end.setblocking(False)

    @property
    def rung(self) -> bool:
        return self._rung

    def ring(self) -> None:
        if not self._rung:
            self._rung = True
            if self._ends is not None:
                with contextlib.suppress(OSError):  # full: it can be heard already; closed: nobody is there any more
                    self._ends[1].send(b"\0")

    def answer(self) -> None:
        """Forget the rings so far. What they were rung for must be looked for after this."""
        # In this order: a ring between the two is kept by the flag, though its byte is read.
        self._rung = False
        if self._ends is not None:
            # Whether it was rung or not: the byte of a ring that was answered before it was sent may be here, and
            # nobody could wait as long as it is.
            with contextlib.suppress(BlockingIOError):
                self._ends[0].recv(4096)

    def fileno(self) -> int:
        """Readable when it was rung."""
        assert self._ends is not None
        return self._ends[0].fileno()

    def close(self) -> None:
        for end in self._ends or ():
            end.close()
