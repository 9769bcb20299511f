"""The process that children are forked from: single-threaded, with the application and no connection.

    worker (supervisor, threads, connections)
      └── nursery (imported the application, then only waits)
            ├── child 1
            └── child 2

A fork copies the one thread that calls it and every lock as it stands; forked from the supervisor,
a child could inherit a lock that is held for ever, or a database socket that two processes then
share. The nursery is forked before the supervisor has either, and so are all later replacements.
It ends with the supervisor, and its children with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import os
import select
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from dbqueue.pools.child import die_with_parent

_REQUEST: Final = struct.Struct("!q")
"""The number of the child to bear; its socket travels beside it."""
_EVENT: Final = struct.Struct("!bqq")
"""Which of `_KINDS` it is, and its two fields."""


class Born(NamedTuple):
    number: int
    pid: int


class Died(NamedTuple):
    pid: int
    status: int
    """As `os.waitpid` gives it; `describe_exit` puts it in words."""


class Unborn(NamedTuple):
    """The system had no room for another process, or another descriptor."""

    number: int
    errno: int


_KINDS: Final = (Born, Died, Unborn)


def describe_exit(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exited with code {code}"
    with contextlib.suppress(ValueError):
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"


class Nursery:
    """The supervisor's handle on the nursery process."""

    def __init__(self, be_child: Callable[[socket.socket, int], None]) -> None:
        """Fork the nursery. `be_child(socket, number)` is the life of a child; its return ends it."""
        self.socket, theirs = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        _give_back()
        self.pid = os.fork()
        if self.pid == 0:
            self.socket.close()
            _exit_after(lambda: _tend(theirs, be_child))
        theirs.close()
        self.socket.setblocking(False)
        self._unread = bytearray()

    def bear(self, number: int, connection: socket.socket) -> None:
        """Ask for a child that talks over this socket; `Born` tells its pid. Raises OSError where that cannot be asked.

        A nursery that is gone is told of by `events`.
        """
        self.go_on()
        with contextlib.suppress(ConnectionError):
            socket.send_fds(self.socket, [_REQUEST.pack(number)], [connection.fileno()])

    def events(self) -> list[Born | Died | Unborn] | None:
        """What has happened since; None when the nursery itself is gone."""
        try:
            while data := self.socket.recv(_EVENT.size * 64):
                self._unread += data
            return None
        except BlockingIOError:
            pass
        except ConnectionError:
            return None
        whole = len(self._unread) // _EVENT.size * _EVENT.size
        events = [_KINDS[kind](*fields) for kind, *fields in _EVENT.iter_unpack(self._unread[:whole])]
        del self._unread[:whole]
        return events

    def go_on(self) -> None:
        """Wake the nursery, which somebody may have stopped: it would bear no child, tell of no death, nor see
        that it is to end.
        """
        if self.socket.fileno() != -1:  # else its pid may be another's
            # PermissionError: where the worker has changed its user, it can wake it no more.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End the nursery and whatever children it still has, and wait for it. May be called twice."""
        if self.socket.fileno() == -1:
            return
        self.go_on()
        self.socket.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def _give_back() -> None:
    """Let go of what the processes would otherwise share only to copy it soon: 1 MB of a worker's 60.

    The interpreter's cache of attributes is full of what imports looked for. Each look-up after the fork that drops one
    of these writes to its name's counter of references, and so copies the page that the name is on.
    """
    clear = getattr(sys, "_clear_internal_caches", None) or getattr(sys, "_clear_type_cache", None)
    if clear is not None:
        clear()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def _tend(supervisor: socket.socket, be_child: Callable[[socket.socket, int], None]) -> None:
    """Be the nursery: fork a child for each request, and report each death."""
    die_with_parent()
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)  # a terminal's ^C goes to the whole group; the supervisor decides
    wake_reader, wake_writer = os.pipe()
    os.set_blocking(wake_writer, False)
    os.set_blocking(wake_reader, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
    gc.freeze()  # children share these objects' pages for as long as nothing writes to them
    children: set[int] = set()
    while True:
        sources: list[socket.socket | int] = [supervisor, wake_reader]
        ready, _, _ = select.select(sources, [], [])
        if wake_reader in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(wake_reader, 4096)
            _report_deaths(supervisor, children)
        if supervisor in ready:
            request = _next_request(supervisor)
            if request is None:
                break
            number, descriptors = request
            try:
                connection, pid = _fork(descriptors)
            except OSError as error:
                _tell(supervisor, Unborn(number, error.errno or 0))
                continue
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for descriptor in (wake_reader, wake_writer):
                    os.close(descriptor)
                supervisor.close()
                _exit_after(partial(be_child, connection, number))
            connection.close()
            children.add(pid)
            _tell(supervisor, Born(number, pid))
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _next_request(supervisor: socket.socket) -> tuple[int, list[int]] | None:
    """The number of a child to bear, and the descriptor of its socket; None where the supervisor has gone."""
    try:
        message, descriptors, _, _ = socket.recv_fds(supervisor, _REQUEST.size, 1)
    except ConnectionError:  # and has left something unread
        return None
    return (_REQUEST.unpack(message)[0], descriptors) if message else None


def _fork(descriptors: list[int]) -> tuple[socket.socket, int]:
    """The socket that came, and the child's pid, in the child 0."""
    if not descriptors:  # it was dropped on its way
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    connection = socket.socket(fileno=descriptors[0])
    try:
        return connection, os.fork()
    except OSError:
        connection.close()
        raise


def _tell(supervisor: socket.socket, event: Born | Died | Unborn) -> None:
    with contextlib.suppress(ConnectionError):  # it has gone, which the next request tells
        supervisor.sendall(_EVENT.pack(_KINDS.index(type(event)), *event))


def _report_deaths(supervisor: socket.socket, children: set[int]) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        children.discard(pid)
        _tell(supervisor, Died(pid, status))


def _exit_after(life: Callable[[], None]) -> None:
    """Run a forked process's life and end it here: it must never return into its parent's code."""
    code = 1
    try:
        life()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - nothing is above us to show it
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
