"""The words of the engine as values: a job to enqueue, a job claimed, and what a run produced.

A job's life, and which operation moves it:

    enqueue ──► PENDING ──claim──► STARTED ──Succeeded──► SUCCESS
                   ▲                  │────── Failed ────► FAILURE | REVOKED
                   │◄──── Released ───┤
                   │◄──── Replaced ───┤ (`workflows`)
                   │                  │ (Settled: the run has written its SUCCESS itself)
                   └◄─── RETRY ◄──────┘ Retried

A terminal row never changes, except by an operator's explicit retry and by `forget`. Everything
here is immutable, knows no SQL, and nothing of dbqueue but how JSON is read.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections import deque
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, TypeGuard, TypeVar
from uuid import UUID

from dbqueue.codec.plain import json_object
from dbqueue.shown import shown

if TYPE_CHECKING:
    from dbqueue.workflows import Workflow

T = TypeVar("T")

PENDING: Final = "PENDING"
STARTED: Final = "STARTED"
RETRY: Final = "RETRY"
SUCCESS: Final = "SUCCESS"
FAILURE: Final = "FAILURE"
REVOKED: Final = "REVOKED"

STATUSES: Final = (PENDING, STARTED, RETRY, SUCCESS, FAILURE, REVOKED)
WAITING: Final = frozenset({PENDING, RETRY})
TERMINAL: Final = frozenset({SUCCESS, FAILURE, REVOKED})

MAX_NAME_LENGTH: Final = 255
"""Longest id, task or queue name, in characters: Celery's own limit for ids in its database."""
A_NAME: Final = f"a text of 1 to {MAX_NAME_LENGTH} printable characters"
"""What `is_name` asks for, in words."""
MIN_PRIORITY: Final = -32768
MAX_PRIORITY: Final = 32767

BLOCKED_BY_PREDECESSORS: Final = "predecessors"
BLOCKED_BY_LIMIT: Final = "limit"

REJECTIONS: Final = "rejections"
"""Among a row's options: how often the task has given the job back (`Reject(requeue=True)`)."""

RETRIES_OPTION: Final = "retried_by_operator"
"""Among a row's options: how often `dbqueue jobs retry` has put the job back."""

UNIQUE_OPTION: Final = "unique_key"
"""Among a row's options: the key that it was enqueued for, and for how many seconds its success stands."""

NOT_ENQUEUED: Final = ""
"""The task of a row that only remembers a revoke: the id was revoked before anybody enqueued it."""

_DIGEST_BYTES: Final = 16

_HALVES: Final = re.compile("[\ud800-\udfff]")


def is_name(value: object) -> TypeGuard[str]:
    """Whether this may name a job, a task, a queue, a state or a worker: every database and log line can carry it."""
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME_LENGTH and value.isprintable()


def as_id(value: object) -> str:
    """A job's id as the tables have it, of a text or a UUID; raises TypeError for anything else."""
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, str):
        return value
    raise TypeError(f"the id of a task is a text, not {shown(value)}")


def shortened(key: str) -> str:
    """The key itself, or if it is longer than a name its beginning and what tells it from all others."""
    if len(key) <= MAX_NAME_LENGTH:
        return key
    told_apart = digest(key)
    return f"{key[: MAX_NAME_LENGTH - len(told_apart) - 1]}:{told_apart}"


def digest(text: str) -> str:
    """What tells this text from all others, in 32 characters."""
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest()


def worker_name(worker_id: str) -> str:
    """The name of the worker that has this id: `name#incarnation`, and a name may have such a sign of its own."""
    return worker_id.rsplit("#", 1)[0]


def storable(names: Iterable[str]) -> list[str]:
    """Those of these ids (or queues, or tasks) that a row can have: a job of another does not exist.

    PostgreSQL's texts hold no NUL, and UTF-8 no half of a surrogate pair.
    """
    return [name for name in names if "\0" not in name and (name.isascii() or not _HALVES.search(name))]


# The system's randomness, some hundred ids' worth at a time: each call of it costs as much as the
# rest of an enqueue's work in Python. A deque's ends are safe between threads, and a forked process
# begins anew.
_random_chunks: deque[bytes] = deque()
_CHUNK: Final = 8


def _random_bytes() -> bytes:
    try:
        return _random_chunks.popleft()
    except IndexError:
        block = os.urandom(_CHUNK * 256)
        _random_chunks.extend(block[start : start + _CHUNK] for start in range(_CHUNK, len(block), _CHUNK))
        return block[:_CHUNK]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random_chunks.clear)


_last_tick = 0
# The first of the random digits, with the two bits that RFC 9562 fixes.
_VARIANT: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


def _id(tick: int, random: str) -> str:
    """The id of a time, milliseconds and 4096ths of one, with 16 hexadecimal digits that are random."""
    time = f"{tick >> 12:012x}"
    return f"{time[:8]}-{time[8:]}-7{tick & 0xFFF:03x}-{_VARIANT[random[0]]}{random[1:4]}-{random[4:]}"


def _ticks(number: int) -> int:
    """The first of so many times that no id of this process has had."""
    global _last_tick  # noqa: PLW0603 - the state of the process, as the chunks above
    first = max((time.time_ns() << 12) // 1_000_000, _last_tick + 1)
    _last_tick = first + number - 1
    return first


def new_job_id() -> str:
    """A UUID of version 7 (RFC 9562, method 3) as text: 60 bits of time, then random bits.

    Time-ordered ids keep the primary key's inserts at its right edge; made by the client, an
    enqueue needs no RETURNING and is safe to repeat after a lost connection. The ids of a process
    rise strictly, as long as one thread makes them: jobs that become due in the same instant (of a
    batch, or within a millisecond on SQLite) run in the order in which they were enqueued.
    """
    return _id(_ticks(1), _random_bytes().hex())


_MADE_ID: Final = re.compile("([0-9a-f]{8})-([0-9a-f]{4})-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
NEW_SECONDS: Final = 300.0
"""Longer than a caller's enqueue takes, with all its tries."""


def is_new(job_id: str) -> bool:
    """Whether the id may have been made for the call under way: nobody else's job has it then."""
    made = _MADE_ID.fullmatch(job_id)
    return made is not None and abs(time.time() - int(made[1] + made[2], 16) / 1000) < NEW_SECONDS


def new_job_ids(number: int) -> list[str]:
    """So many ids, as `new_job_id` would make them one after the other, for two thirds of the time."""
    first, random = _ticks(number), os.urandom(_CHUNK * number).hex()
    return [_id(first + n, random[n * 2 * _CHUNK : (n + 1) * 2 * _CHUNK]) for n in range(number)]


# Named tuples, for they are made by the ten thousand a second: a frozen dataclass of so many fields
# takes six times as long to make.


class NewJob(NamedTuple):
    """One job to enqueue; text fields `args` to `options` are JSON already."""

    id: str
    task: str
    queue: str
    args: str = "[]"
    kwargs: str = "{}"
    priority: int = 0
    eta: datetime | None = None
    """Not before this time, as the caller gave it (aware)."""
    delay_seconds: float | None = None
    """Not before this many seconds after the enqueue, on the database's clock (`countdown`)."""
    expires_at: datetime | None = None
    expires_seconds: float | None = None
    headers: str | None = None
    options: str | None = None
    content_type: str | None = None
    """None is JSON; another serializer's data lies in `content`."""
    content: bytes | None = None
    parent_id: str | None = None
    root_id: str | None = None
    group_id: str | None = None
    blocked_reason: str | None = None
    """Why it is not to be claimed yet, `BLOCKED_BY_PREDECESSORS` or `BLOCKED_BY_LIMIT`; None: it may be when due."""
    waits_for: int = 0
    """Of how many predecessors in its workflow the end is awaited."""
    inputs: bool = False
    """Whether results of predecessors are among its arguments."""
    successors: bool = False
    """Whether other jobs wait for its end."""
    limit_key: str | None = None
    """The limit that it counts against."""
    unique_key: str | None = None
    """What it is not to be enqueued twice for."""
    unique_seconds: float | None = None
    """How long after the enqueue its success stands for further calls; None: no longer than until it has ended."""

    @property
    def shown_name(self) -> str:
        """Its name for people who watch: the call's `shadow`, or the task's."""
        return _shadow(self.options) or self.task

    @property
    def is_plain(self) -> bool:
        """Whether it is neither part of a workflow nor limited, as most jobs are: fewer columns to write."""
        return not (self.blocked_reason or self.inputs or self.successors or self.limit_key)


def _shadow(options: str | None) -> str | None:
    if options is None or '"shadow"' not in options:
        return None
    shadow = json_object(options).get("shadow")
    return shadow[:MAX_NAME_LENGTH] if isinstance(shadow, str) else None


Input: TypeAlias = tuple[str, str, str | None, bytes | None]
"""What a predecessor left: its id, the place, the result as JSON text, the result in another serializer."""


class ClaimedJob(NamedTuple):
    """One job that this worker holds under `lease`, as the claim returned it."""

    id: str
    lease: str
    task: str
    queue: str
    priority: int
    args: str
    kwargs: str
    headers: str | None
    options: str | None
    content_type: str | None
    content: bytes | None
    parent_id: str | None
    root_id: str | None
    group_id: str | None
    eta: str | None
    expires_at: str | None
    ready_at: str
    """When it was due; a release writes it back, so that the job keeps its place in the queue."""
    retries: int
    losses: int
    redeliver: bool
    """Whether a run that dies is run again (`acks_late`, `reject_on_worker_lost`)."""
    expired: bool
    revoked: bool = False
    """Whether it was revoked while an earlier run was under way: that run may end, no other begins."""
    successors: bool = False
    """Whether other jobs of its workflow wait for its end."""
    permit: str | None = None
    """The limit that has admitted it, and that its end is to free."""
    inputs: bool | int | str | tuple[Input, ...] = False
    """What its predecessors left for it (see `workflows`).

    Where that is more than `max_input_bytes`: its size in bytes; where one was deleted, or left nothing: its id; where
    no edge is left to say what it takes: the job's own."""

    @property
    def redelivered(self) -> bool:
        """Whether an earlier run was lost, or gave it back."""
        return self.losses > 0 or (self.options is not None and f'"{REJECTIONS}"' in self.options)

    @property
    def shown_name(self) -> str:
        """Its name for people who watch: the call's `shadow`, or the task's."""
        return _shadow(self.options) or self.task


class Succeeded(NamedTuple):
    """The task returned; `result` is JSON text, None where no value is kept.

    With another serializer the value is in `content`, and `result` is `{"content_type": ...}`.
    """

    job_id: str
    lease: str
    result: str | None
    seconds: float
    content: bytes | None = None


class Failed(NamedTuple):
    """The job is over without success; `error` is JSON in Celery's shape."""

    job_id: str
    lease: str
    error: str
    traceback: str | None
    seconds: float
    status: str = FAILURE
    missed: str | None = None
    """As in `Released`."""


class Retried(NamedTuple):
    """The same job runs again after `delay_seconds`, or at `eta`; counted in `retries`.

    `eta` and `expires_at` are ISO 8601 texts with an offset. Each field after `eta` is None where
    the retry leaves it as it is.
    """

    job_id: str
    lease: str
    error: str
    traceback: str | None
    seconds: float
    delay_seconds: float = 0.0
    eta: str | None = None
    args: str | None = None
    kwargs: str | None = None
    options: str | None = None
    queue: str | None = None
    priority: int | None = None
    expires_at: str | None = None
    content: bytes | None = None
    headers: str | None = None


class Released(NamedTuple):
    """The job was not run, or its run is not to count: back to its place in the queue."""

    job_id: str
    lease: str
    ready_at: str
    lost: bool = False
    """Whether a run died: counted in `losses`, which a poison job's cap compares."""
    ended: bool = False
    """Whether the worker itself ended a run, which does not count."""
    delay_seconds: float | None = None
    """Due only after this pause, rather than at `ready_at`."""
    options: str | None = None
    """The row's options as they are to be; None leaves them."""
    hold: str | None = None
    """The limit whose permit it is to wait for; one that it has already goes before."""
    missed: str | None = None
    """The run's own transaction did not find the lease: what becomes of the job if the worker does, for its log."""

    @property
    def rejected(self) -> bool:
        """Whether the task gave the job back itself (`Reject(requeue=True)`)."""
        return self.delay_seconds is not None


class Replaced(NamedTuple):
    """The run ended by putting a workflow in its place.

    The one of its jobs that has the running job's id is what the row becomes: it keeps its id and
    what waits for it. The others are new.
    """

    job_id: str
    lease: str
    workflow: Workflow
    seconds: float


class Progress(NamedTuple):
    """What a running job shows of itself: its own state and meta (JSON text), while it stays STARTED."""

    job_id: str
    lease: str
    state: str | None
    meta: str | None


class Settled(NamedTuple):
    """Nothing is left to write: the run has written its end itself, or has no right to write one any more."""

    job_id: str
    lease: str
    seconds: float
    succeeded: bool
    """Whether the job is SUCCESS by this run; otherwise it was replaced by a workflow, or its lease was lost."""
    result: str | None = None
    """As in `Succeeded`, for monitors."""


Outcome: TypeAlias = Succeeded | Failed | Retried | Released | Replaced | Settled
