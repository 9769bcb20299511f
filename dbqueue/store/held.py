"""Jobs that wait for a permit, and how they get one: in bulk, by a claim of their own.

    enqueue ─► held_at set ──claim_held──► STARTED, permit = its key ──ends──► permit NULL
                  ▲                            │
                  └── retry, release, rescue ◄─┘     it waits for a permit again, at its old place

A job with a limit is enqueued held. Held rows are in an index of their own, which no other claim
reads, and go from there to STARTED in one step, as many as there are permits: nothing is claimed
and handed back, and no row is admitted that nobody runs. A permit is nothing but the column of the
STARTED row: whatever ends the run frees it, and a rescue of a dead worker's jobs frees theirs.

One claim, in one transaction:

1. `levels`: which keys, queues and priorities hold rows. One probe of the index for each.
2. `lock`: the rows of these keys in the table of limits; a key that another worker has is passed over.
3. `candidates`: counts the permits in use, and reads as many due rows as there are left. A statement
   after the lock: the snapshot of the one that waited might not show what the last holder admitted.
4. `take` and `spend`.

Keys without a row, and without a policy to make one from, limit nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from dbqueue.jobs import ClaimedJob
from dbqueue.limits import TASK_KEYS, Limit, parse_rate
from dbqueue.store.records import HeldClaim, HeldRound

MAX_LEVELS: Final = 500
"""Most levels (a key in a queue at a priority) that one claim looks at; the next goes on behind them."""
BUSY_SECONDS: Final = 0.02
"""When to try again a key that another worker admits jobs of, or a rate whose tokens gather."""
FULL_SECONDS: Final = 1.0
"""When to look again at a key all of whose permits are in use; who frees one wakes the others before that."""


START: Final = ("", "", 0)
"""Before all levels."""


class Level(NamedTuple):
    """Held rows of one key, queue and priority: in how many seconds the first is due, and its task."""

    key: str
    queue: str
    priority: int
    due_in: float
    task: str


class LimitState(NamedTuple):
    """A row of the table of limits; `full_at` is in seconds of the clock that `lock` returns."""

    key: str
    running: int | None
    rate: str | None
    full_at: float | None


class Candidate(NamedTuple):
    """A held row that is due: `most` is how many of its key may start; `held_at` sorts as the times do."""

    key: str
    most: int
    position: int
    priority: int
    held_at: str
    id: str
    task: str

    @property
    def place(self) -> tuple[int, int, str]:
        return self.position, -self.priority, self.held_at


class Asked(NamedTuple):
    """A level to read candidates from; `running` and `most` are its key's."""

    key: str
    queue: str
    priority: int
    position: int
    running: int | None
    most: int


class HeldTable(ABC):
    """What a database does for a claim of held jobs."""

    looks_first = False
    """Whether to see that there is something to take before a transaction begins: where it locks out all others."""

    @abstractmethod
    def transaction(self) -> AbstractContextManager[None]:
        """A transaction, in which each statement sees what was committed before it."""

    @abstractmethod
    def levels(self, keys: Collection[str], after: tuple[str, str, int], most: int) -> list[Level]:
        """At most `most` levels: of these keys; or without any, those that come after the one given."""

    @abstractmethod
    def lock(self, keys: Collection[str]) -> tuple[list[LimitState], set[str], float]:
        """Lock the limits of these keys; those that were free, the keys of all there are, and the time."""

    @abstractmethod
    def add(self, limits: Sequence[tuple[str, Limit, str]]) -> set[str]:
        """Write limits that are not there: key, limit, task. The keys of those that nobody else wrote meanwhile."""

    @abstractmethod
    def first_due(self, queues: Sequence[str]) -> tuple[int, int, str] | None:
        """The place of the first job that is due and needs no permit."""

    @abstractmethod
    def candidates(self, asked: Sequence[Asked]) -> list[Candidate]:
        """Due rows of these levels, locked; of each level no more than its key has permits."""

    @abstractmethod
    def take(self, claim: HeldClaim, picked: Sequence[Candidate], counted: Collection[str]) -> list[ClaimedJob]:
        """Start these under the claim's lease, in their order; with a permit where their key is counted."""

    @abstractmethod
    def spend(self, full_at: Mapping[str, float]) -> None:
        """Note when these keys' buckets are full again."""


@dataclass(slots=True)
class _Picked:
    candidates: list[Candidate] = field(default_factory=list)
    counted: set[str] = field(default_factory=set)
    states: dict[str, LimitState] = field(default_factory=dict)
    now: float = 0.0
    again: list[float] = field(default_factory=list)


def claim_held(table: HeldTable, claim: HeldClaim) -> HeldRound:
    """Start held jobs for which there are permits; see the module."""
    levels = table.levels(claim.keys, claim.after, MAX_LEVELS)
    more = len(levels) == MAX_LEVELS and not claim.keys
    after = levels[-1][:3] if more else START
    positions = {queue: position for position, queue in enumerate(claim.queues)}
    ours = [level for level in levels if level.queue in positions]
    due = [level for level in ours if level.due_in <= 0 and not _is_starved(level, claim.tokens)]
    again = [level.due_in for level in ours if level.due_in > 0]
    claimed: list[ClaimedJob] = []
    simple: set[str] = set()
    if due and not (table.looks_first and _found_none(table, claim, due, positions, again)):
        with table.transaction():
            picked = _pick(table, claim, due, positions, dry=False)
            simple = {key for key in picked.counted if picked.states[key].rate is None}
            if picked.candidates:
                claimed = table.take(claim, picked.candidates, picked.counted)
                if claimed:
                    table.spend(_spent(picked))
        again += picked.again
    if more:
        again.append(0.0)
    keys = frozenset(level.key for level in levels)
    tasks = frozenset(level.task for level in ours if level.due_in <= 0)
    return HeldRound(claimed, min(again, default=None), after, keys, tasks, frozenset(simple))


def held_queues(table: HeldTable) -> set[str]:
    """The names of the queues that hold jobs which wait for permits."""
    names: set[str] = set()
    after = START
    while levels := table.levels((), after, MAX_LEVELS):
        names |= {level.queue for level in levels}
        after = levels[-1][:3]
    return names


def _is_starved(level: Level, tokens: Mapping[str, int]) -> bool:
    """Whether all rows of this level are of a task that this worker has no tokens for."""
    return level.key == TASK_KEYS + level.task and tokens.get(level.task, 1) <= 0


def _found_none(
    table: HeldTable, claim: HeldClaim, due: Sequence[Level], positions: Mapping[str, int], again: list[float]
) -> bool:
    picked = _pick(table, claim, due, positions, dry=True)
    if not picked.candidates:
        again += picked.again
    return not picked.candidates


def _pick(
    table: HeldTable, claim: HeldClaim, due: Sequence[Level], positions: Mapping[str, int], *, dry: bool
) -> _Picked:
    """The rows to start, within all limits; with `dry` nothing is written for it."""
    picked = _Picked()
    keys = sorted({level.key for level in due if not level.key.startswith(TASK_KEYS)})
    states, known, picked.now = table.lock(keys) if keys else ([], set[str](), 0.0)
    picked.states = {state.key: _by_this_clock(state, picked.now) for state in states}
    missing = {
        level.key: (level.key, *policy)
        for level in reversed(due)
        if level.key not in known and (policy := _policy(claim, level)) is not None
    }
    added = missing.keys() if dry else table.add([missing[key] for key in sorted(missing)])
    for key in added:
        _, limit, _ = missing[key]
        picked.states[key] = LimitState(key, limit.running, limit.rate_text, None)
    asked: list[Asked] = []
    for level in due:
        state = picked.states.get(level.key)
        if state is None and (level.key in known or level.key in missing):
            picked.again.append(BUSY_SECONDS)
            continue
        most = claim.limit if state is None else min(claim.limit, _tokens(state, picked))
        if most > 0:
            running = None if state is None else state.running
            asked.append(Asked(level.key, level.queue, level.priority, positions[level.queue], running, most))
    picked.counted = {each.key for each in asked if each.running is not None}
    found = table.candidates(asked) if asked else []
    empty = {each.key for each in asked} - {each.key for each in found}
    picked.again += [FULL_SECONDS if key in picked.counted else BUSY_SECONDS for key in empty]
    _choose(table, claim, sorted(found, key=lambda each: (each.place, each.id)), picked)
    return picked


def _policy(claim: HeldClaim, level: Level) -> tuple[Limit, str] | None:
    if claim.policies is None or level.key.startswith(TASK_KEYS):
        return None
    return claim.policies.of(level.key, level.task)


def _by_this_clock(state: LimitState, now: float) -> LimitState:
    """The limit, which is not to let nothing start for an hour because the database's clock was put back by one."""
    rate = parse_rate(state.rate)
    if rate is None or state.full_at is None or not rate.is_of_another_clock(state.full_at, now):
        return state
    return state._replace(full_at=None)


def _tokens(state: LimitState, picked: _Picked) -> int:
    rate = parse_rate(state.rate)
    if rate is None:
        return 1 << 30
    tokens = rate.tokens(state.full_at, picked.now)
    if tokens <= 0:
        picked.again.append(max(BUSY_SECONDS, rate.wait(state.full_at, picked.now)))
    return tokens


def _choose(table: HeldTable, claim: HeldClaim, found: Sequence[Candidate], picked: _Picked) -> None:
    """Of the candidates in their order, those within their keys' and tasks' numbers and before the rest's turn."""
    first = table.first_due(claim.queues) if found and claim.yielding else None
    by_key: Counter[str] = Counter()
    by_task: Counter[str] = Counter()
    for each in found:
        if len(picked.candidates) >= claim.limit or (first is not None and each.place > first):
            picked.again.append(0.0)  # there is more, and permits for it
            break
        # Where the tokens of a task stop its rows, the worker knows when there are others.
        if by_key[each.key] < each.most and by_task[each.task] < claim.tokens.get(each.task, claim.limit):
            by_key[each.key] += 1
            by_task[each.task] += 1
            picked.candidates.append(each)
    for key, most in {each.key: each.most for each in found}.items():
        if by_key[key] >= most:
            picked.again.append(_next_permit(picked, key, by_key[key]))


def _next_permit(picked: _Picked, key: str, taken: int) -> float:
    """In how many seconds to look for more permits of a key of which all were taken just now."""
    state = picked.states.get(key)
    rate = parse_rate(state.rate) if state else None
    if state is None or rate is None:
        return FULL_SECONDS if key in picked.counted else 0.0  # no limit but the claim's own
    return max(BUSY_SECONDS, rate.wait(rate.spend(state.full_at, picked.now, taken), picked.now))


def _spent(picked: _Picked) -> dict[str, float]:
    """When the buckets of the rates that were drawn from are full again."""
    spent: dict[str, float] = {}
    for key, count in Counter(each.key for each in picked.candidates).items():
        state = picked.states.get(key)
        rate = parse_rate(state.rate) if state else None
        if state is not None and rate is not None:
            spent[key] = rate.spend(state.full_at, picked.now, count)
    return spent
