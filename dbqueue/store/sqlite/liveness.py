"""Who is alive on a SQLite file, told by the kernel rather than by the clock on the wall.

All workers of a file are on one host. Each holds a lock on one byte of a file beside it, and the
kernel releases the lock when the process dies, however it dies: the next look finds it free, and
the dead worker's jobs are taken back without waiting for a heartbeat to grow old.

The locks belong to the open file, not to the process (`F_OFD_SETLK`, Linux), so that two workers
in one process do not see each other's as free. Elsewhere heartbeats alone decide.

A process that lives and does nothing, for it was stopped, keeps its lock: its heartbeat tells. There is no server
whose clock would be everybody's, and the clocks on the wall of processes jump, and may differ. So a heartbeat is not
compared with the time: see `heartbeats`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import threading
from pathlib import Path
from time import monotonic, time
from typing import Final

from dbqueue.store.sqlite.files import file_identity

try:
    import fcntl
except ImportError:  # Windows: heartbeats alone decide
    fcntl = None  # type: ignore[assignment]

_FLOCK = "hhqqi4x"
"""struct flock of Linux on 64 bits: l_type, l_whence, l_start, l_len, l_pid."""


SETTLE_SECONDS: Final = 5.0
"""How long nobody is dead by a new lock file: workers look once a second, and hold their locks there when they have."""


class WorkerLocks:
    """The lock file of one database; does nothing for a database in memory or without such locks."""

    def __init__(self, database: Path | None) -> None:
        self._descriptor: int | None = None
        self._held: set[str] = set()
        self._renewing = threading.Lock()
        self._trusted_at = 0.0
        """From when on a lock that nobody holds tells of a death, on the monotonic clock."""
        if database is not None and hasattr(fcntl, "F_OFD_SETLK"):
            self._path = database.with_name(database.name + "-workers")
            self._open()

    def _open(self) -> None:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        found = os.fstat(self._descriptor)
        self._file = found.st_dev, found.st_ino
        # One that is new may be in the place of another that was deleted, which who lives has yet to see.
        age = max(0.0, time() - found.st_mtime)  # nobody writes to it
        self._trusted_at = monotonic() + SETTLE_SECONDS - age

    def _renew(self) -> None:
        """Hold the locks in the file that others open, where ours was deleted or replaced: to them we would be dead."""
        if self._descriptor is None or file_identity(self._path) == self._file:
            return
        with self._renewing, contextlib.suppress(OSError):  # its folder is gone, too
            if file_identity(self._path) != self._file:
                before = self._descriptor
                self._open()
                for worker_id in self._held:
                    self._try(worker_id, lock=True)
                os.close(before)

    def hold(self, worker_id: str) -> None:
        """Lock this worker's byte, until `drop` or the end of the process."""
        self._renew()
        if self._try(worker_id, lock=True):
            self._held.add(worker_id)

    def drop(self, worker_id: str) -> None:
        self._held.discard(worker_id)
        self._try(worker_id, lock=False)

    def released(self, worker_id: str) -> bool:
        """Whether nobody holds this worker's lock: it is dead. False where it cannot be known."""
        self._renew()
        # A lock never conflicts with others of the same open file: one's own would look free.
        if worker_id in self._held or monotonic() < self._trusted_at or not self._try(worker_id, lock=True):
            return False
        self._try(worker_id, lock=False)
        return True

    def close(self) -> None:
        """Close the file, unless a worker of this process holds a lock: its end would be its death to others."""
        if self._descriptor is not None and not self._held:
            os.close(self._descriptor)
            self._descriptor = None

    @property
    def closed(self) -> bool:
        return self._descriptor is None

    def _try(self, worker_id: str, *, lock: bool) -> bool:
        if self._descriptor is None:
            return False
        byte = int.from_bytes(hashlib.blake2b(worker_id.encode(), digest_size=7).digest())
        request = struct.pack(_FLOCK, fcntl.F_WRLCK if lock else fcntl.F_UNLCK, os.SEEK_SET, byte, 1, 0)
        try:
            fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, request)
        except OSError:
            return False
        return True
