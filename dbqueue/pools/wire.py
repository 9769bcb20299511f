"""What a supervisor and its children say to each other, and how it is framed on a socket.

    supervisor -> child     IMPORT modules | RUN jobs | RECALL | INTERRUPT job id [limit] | STOP
    child -> supervisor     READY | DONE outcome | PROGRESS report | RECALLED job ids | RETIRE why | WAITING job id

Both ends are the same program, so a frame is a length and a `marshal` text: the fastest of the
standard library's codecs, and one that runs no code when it is read. An outcome is written the
moment that it is known: what a killed child had finished is never run again.
"""

from __future__ import annotations

import marshal
import socket
import struct
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from dbqueue.jobs import ClaimedJob, Failed, NewJob, Outcome, Released, Replaced, Retried, Settled, Succeeded
from dbqueue.workflows import Edge, Workflow

RUN: Final = 1
RECALL: Final = 2
STOP: Final = 3
READY: Final = 4
DONE: Final = 5
RECALLED: Final = 6
INTERRUPT: Final = 7
RETIRE: Final = 8
"""The child asks to be replaced: it has grown past its limit of memory."""
PROGRESS: Final = 9
IMPORT: Final = 10
"""Import these modules, or import them anew, before any job that follows."""
WAITING: Final = 11
"""The job that is to be interrupted for its limit has not begun: what ran here kept it waiting."""

_LENGTH: Final = struct.Struct("!I")
_READ_BYTES: Final = 1 << 16
"""A larger buffer is mapped and unmapped for each read, which takes four times as long as the read."""

_OUTCOMES: Final = (Succeeded, Failed, Retried, Released, Settled)
_KINDS: Final[dict[type, int]] = {kind: number for number, kind in enumerate(_OUTCOMES)}
_REPLACED: Final = len(_OUTCOMES)
"""An outcome that carries values of classes, which marshal does not know."""


def frame(*message: Any) -> bytes:
    """One message as bytes; its parts are None, numbers, text, bytes, and tuples and lists of them."""
    body = marshal.dumps(message)
    return _LENGTH.pack(len(body)) + body


def run_frame(jobs: Iterable[ClaimedJob]) -> bytes:
    return frame(RUN, [job[:] for job in jobs])  # a slice is a plain tuple, which marshal knows


def read_jobs(fields: Iterable[tuple[Any, ...]]) -> list[ClaimedJob]:
    return [ClaimedJob._make(each) for each in fields]


def done_frame(outcome: Outcome) -> bytes:
    if type(outcome) is Replaced:
        jobs = [_job_fields(job) for job in outcome.workflow.jobs]
        edges = [tuple(edge) for edge in outcome.workflow.edges]
        return frame(DONE, _REPLACED, (outcome.job_id, outcome.lease, jobs, edges, outcome.seconds))
    return frame(DONE, _KINDS[type(outcome)], outcome[:])


def read_outcome(kind: int, fields: tuple[Any, ...]) -> Outcome:
    if kind == _REPLACED:
        job_id, lease, jobs, edges, seconds = fields
        workflow = Workflow(tuple(map(_job, jobs)), tuple(Edge(*edge) for edge in edges))
        return Replaced(job_id, lease, workflow, seconds)
    return _OUTCOMES[kind]._make(fields)


def _job_fields(job: NewJob) -> tuple[Any, ...]:
    return tuple(field.isoformat() if isinstance(field, datetime) else field for field in job)


def _job(fields: tuple[Any, ...]) -> NewJob:
    values = dict(zip(NewJob._fields, fields, strict=True))
    for name in ("eta", "expires_at"):
        values[name] = None if values[name] is None else datetime.fromisoformat(values[name])
    return NewJob(**values)


class Reader:
    """Takes bytes as they come from a socket and gives whole messages."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._buffer = bytearray()

    def receive(self) -> list[tuple[Any, ...]] | None:
        """The messages that one read completes, maybe none; None at the end of the stream.

        Blocks as the socket does; BlockingIOError where it does not and nothing is there.
        """
        try:
            data = self._socket.recv(_READ_BYTES)
        except (ConnectionError, InterruptedError):
            data = b""
        if not data:
            return None
        buffer = self._buffer
        buffer += data
        messages = []
        start, end = 0, len(buffer)
        while end - start >= 4:
            (length,) = _LENGTH.unpack_from(buffer, start)
            if end - start - 4 < length:
                break
            messages.append(marshal.loads(memoryview(buffer)[start + 4 : start + 4 + length]))  # noqa: S302 - our own child's words
            start += 4 + length
        if start:
            del buffer[:start]
        return messages
