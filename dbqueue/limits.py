"""Limits as values: how many jobs may run at once, and how many may start in a time.

    @app.task(limit=Limit(running=5))                        five of this task at once, over all workers
    @app.task(limit=Limit(rate="100/m", key="mailgun"))      shared by all tasks that name this key
    @app.task(limit=Limit(running=1, key="customer-{id}"))   one at once for each value of the argument `id`

A rate is a token bucket without a table of tokens: `full_at`, the time at which the bucket is full
again, is all that is kept of it. A bucket holds one token, so that runs are evenly spaced (as in
Celery); a fast one holds a tenth of a second's worth, or each job would need a look of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from dbqueue.jobs import shortened

_PERIODS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}
BURST_SECONDS: Final = 0.1
"""How much of a fast rate may come at once."""
_ROUNDING: Final = 1e-3
"""Share of a token that a time may be short of, for what floating point loses of it."""
CLOCK_SECONDS: Final = 1.0
"""How far a clock may be put back without a bucket's being taken for full: it only waits for as long."""
MAX_RUNNING: Final = 2**31 - 1
"""The column's."""
TASK_KEYS: Final = "rate:"
"""Keys that begin with this are of the workers' own rates: `rate:` and the task's name."""


@dataclass(frozen=True, slots=True)
class Rate:
    """So many in a second."""

    per_second: float

    @property
    def seconds(self) -> float:
        """From one token to the next."""
        return 1.0 / self.per_second

    @property
    def burst(self) -> int:
        """Most tokens that may gather."""
        return max(1, int(self.per_second * BURST_SECONDS))

    def tokens(self, full_at: float | None, now: float) -> int:
        """How many there are; None is a bucket that was never used."""
        if full_at is None:
            return self.burst
        return max(0, min(self.burst, self.burst + math.floor((now - full_at) * self.per_second + _ROUNDING)))

    def spend(self, full_at: float | None, now: float, count: int) -> float:
        """When the bucket is full again, after `count` tokens were taken."""
        return max(now, now if full_at is None else full_at) + count * self.seconds

    def is_of_another_clock(self, full_at: float, now: float) -> bool:
        """Whether it was noted before the clock was put back: an empty bucket of now is full before that."""
        return full_at > now + self.burst * self.seconds + CLOCK_SECONDS

    def wait(self, full_at: float | None, now: float) -> float:
        """Seconds until there is a token."""
        return 0.0 if full_at is None else max(0.0, full_at - (self.burst - 1) * self.seconds - now)


def parse_rate(value: str | float | None) -> Rate | None:
    """`'10/m'`, `'100/s'`, `'1/h'` or a number in a second; None, 0 and an empty text are no limit.

    Raises ValueError for anything else.
    """
    if not value:
        return None
    if isinstance(value, str):
        number, _, period = value.partition("/")
        if (period.strip() or "s") not in _PERIODS:
            raise ValueError(f"a rate is a number in s, m or h, such as '10/m', not {value!r}")
        per_second = float(number) / _PERIODS[period.strip() or "s"]
    else:
        per_second = float(value)
    if per_second == 0:
        return None
    if not 0 < per_second < math.inf:
        raise ValueError(f"a rate must be more than 0, not {value!r}")
    return Rate(per_second)


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit over all workers, for `@app.task(limit=...)`.

    `running` is how many of its jobs may run at once (0: none), `rate` how many may start (`'100/m'`,
    or a number in a second); None is no limit. `key` says what is counted together: by default all
    jobs of the task; a text without braces, all jobs of all tasks that name it; a text with the
    names of arguments in braces, or a function of the call's arguments that returns a text (or
    None: this call is not limited), the jobs whose text is the same. Raises ValueError.
    """

    running: int | None = None
    rate: str | float | None = None
    key: str | Callable[..., str | None] | None = None

    def __post_init__(self) -> None:
        running: Any = self.running
        is_number = isinstance(running, int) and not isinstance(running, bool) and 0 <= running <= MAX_RUNNING
        if running is not None and not is_number:
            raise ValueError(
                f"running is how many jobs may run at once, a whole number from 0 to {MAX_RUNNING}, not {running!r}"
            )
        parse_rate(self.rate)
        key: Any = self.key
        if key is not None and not callable(key):
            check_key(key)

    @property
    def rate_text(self) -> str | None:
        """The rate as it is kept; None is no rate."""
        return None if parse_rate(self.rate) is None else str(self.rate)

    def fixed_key(self, task: str) -> str | None:
        """The one key of all the task's jobs; None where it follows from their arguments."""
        if self.key is None:
            return task
        return check_key(self.key) if isinstance(self.key, str) and not set("{}") & set(self.key) else None


class Policies:
    """The limits of an application's tasks, by their names."""

    def __init__(self, by_task: Mapping[str, Limit]) -> None:
        self.by_task = dict(by_task)
        self.fixed = {
            key: (limit, task) for task, limit in by_task.items() if (key := limit.fixed_key(task)) is not None
        }
        """By key, with the last task that names it: what belongs to no call in particular."""

    def of(self, key: str, task: str) -> tuple[Limit, str] | None:
        """What limits this key, and the task that says so; `task` is one that has jobs of it."""
        limit = self.by_task.get(task)
        return self.fixed.get(key) or (None if limit is None else (limit, task))

    def __bool__(self) -> bool:
        return bool(self.by_task)


NO_POLICIES: Final = Policies({})


def check_key(key: Any) -> str:
    """The key as rows have it, or ValueError for one that no limit can have."""
    if not isinstance(key, str) or not key or not key.isprintable():
        raise ValueError(f"the key of a limit is a printable text that is not empty, not {key!r}")
    if key.startswith(TASK_KEYS):
        raise ValueError(f"the key of a limit cannot begin with {TASK_KEYS!r}, as {key!r} does: those are rate_limit's")
    return shortened(key)
