"""What a worker is told when it starts, once and for all: validated, and free of the application."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final
from uuid import uuid4

from dbqueue.limits import NO_POLICIES, Policies
from dbqueue.store.records import MAX_INPUT_BYTES, WorkerInfo

POOLS: Final = ("prefork", "threads", "asyncio", "solo")

MAX_PROCESSES: Final = 5_000
"""Of one worker: half of `settings.kinds.MAX_CONCURRENCY`, for each is a process."""

OWN_SHARE: Final = 0.9
"""The part of its lease after which a worker without a heartbeat has ended its runs; the rest is to be sure."""


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """Times are in seconds."""

    name: str
    queues: tuple[str, ...]
    pool: str
    concurrency: int
    lease_seconds: float = 30.0
    heartbeat_seconds: float = 10.0
    poll_seconds: float = 5.0
    """How long an idle worker that is woken by the database waits at most between two looks."""
    min_poll_seconds: float = 0.01
    """How long it waits at least, where nobody tells of new jobs; the pause grows while none come."""
    max_losses: int = 10
    result_expires_seconds: float | None = 86400.0
    result_max_kept: int | None = None
    max_input_bytes: int = MAX_INPUT_BYTES
    """How much the predecessors of one job may leave for it."""
    max_tasks_per_child: int | None = None
    max_memory_per_child: int | None = None
    """Kilobytes of resident memory at which a pool process is replaced after its job."""
    excluded: Collection[str] = ()
    """Queues, or patterns of them, that a pattern in `queues` does not stand for."""
    strict_order: bool = False
    """Whether an earlier queue always comes before a later one, rather than each in its turn."""
    queue_weights: Mapping[str, int] = field(default_factory=dict)
    """How often queues stand first, by their names or by patterns; a queue without a weight has 1. Empty: in turns."""
    embedded: bool = False
    """Whether it is a guest in another program's process, which it must not end."""
    once: Collection[str] = ()
    """Tasks that are not run again after a run that died."""
    version: str = ""
    remote_control: bool = True
    """Whether it obeys commands."""
    pool_restarts: bool = False
    """Whether it obeys the command pool_restart."""
    task_events: bool = False
    """Whether events about tasks are sent from the start."""
    repr_levels: int = 3
    """The depth to which events show arguments and results."""
    shutdown_seconds: float | None = None
    """How long a warm shutdown waits for running tasks; None: until they end."""
    soft_shutdown_seconds: float = 0.0
    """How long a cold shutdown waits for them first."""
    soft_shutdown_on_idle: bool = False
    """Whether it waits as long where nothing runs."""
    at_exit: Callable[[], None] = lambda: None
    """What the process's owner has to do before `os._exit`: a solo worker's cold shutdown ends the process there."""
    policies: Policies = NO_POLICIES
    """The limits of tasks over all workers."""

    @property
    def slots(self) -> int:
        return 1 if self.pool == "solo" else self.concurrency

    @property
    def own_seconds(self) -> float:
        """How long after the last heartbeat the worker may run its jobs."""
        return OWN_SHARE * self.lease_seconds

    def new_info(self) -> WorkerInfo:
        """A new incarnation: a worker that was declared dead comes back as another."""
        return WorkerInfo(
            id=f"{self.name}#{uuid4().hex[:12]}",
            name=self.name,
            hostname=socket.gethostname(),
            pid=os.getpid(),
            pool=self.pool,
            concurrency=self.slots,
            queues=self.queues,
            version=self.version,
            lease_seconds=self.lease_seconds,
        )
