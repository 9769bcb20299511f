"""What waits for others that have all ended, and was let go by none of them.

No operation of dbqueue's leaves such a job, but somebody's hand can: a row that was hidden (row-level security, a
restore) while its last predecessor ended, one that was ended or deleted by plain SQL.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import Any, Final, NamedTuple

from dbqueue.jobs import FAILURE, PENDING, RETRY, REVOKED, STARTED
from dbqueue.store.base import Store
from dbqueue.store.sessions import DELETED
from dbqueue.store.steps import Steps
from dbqueue.store.workflows.failure import Ended, apply, graph_below
from dbqueue.store.workflows.words import statement

PREDECESSORS: Final = """
SELECT e.successor, e.event, e.predecessor, p.status,
    CASE WHEN p.status IN ('FAILURE', 'REVOKED') THEN CAST(p.result AS text) END,
    CASE WHEN p.status IN ('FAILURE', 'REVOKED') THEN p.traceback END
FROM {given} {each}{edges} {into_b} {each_or_none}{jobs} {at_start_or_none}"""


class _Predecessor(NamedTuple):
    event: str
    id: str
    status: str | None
    """None: its row is gone, which counts as a success. Who takes its result fails of that, and says so."""
    error: str | None
    traceback: str | None


def let_go(store: Store, job_ids: Collection[str], now: Any = None) -> Steps[tuple[dict[str, str], bool]]:
    """Let those of these jobs go that are overdue: they may run, or fail with what they wait for, or are deleted.

    Returns what each is now, and whether any job may run.
    """
    graph = yield from graph_below(store, job_ids)
    found: defaultdict[str, list[_Predecessor]] = defaultdict(list)
    waiting = [job_id for job_id in job_ids if job_id in graph.blocked]
    for successor, *values in (yield statement(store, PREDECESSORS, ids=waiting)).rows:
        found[successor].append(_Predecessor(*values))
    overdue = {job_id: before for job_id, before in found.items() if not any(map(_may_end_yet, before))}
    failed = [each for before in overdue.values() for each in before if _tells_a_failure(each)]
    causes = {each.id: Ended(each.id, str(each.status), each.error, each.traceback) for each in failed}
    graph.follow(causes.values(), into=overdue)
    for job_id, before in overdue.items():
        if job_id not in graph.ended and job_id not in graph.fired:
            over = graph.lost if before[0].event == "error" else graph.over
            over[job_id] = graph.blocked[job_id].waits_for
    yield from apply(store, graph, now)
    dropped = graph.dropped()
    found_now = {job_id: DELETED if job_id in dropped else PENDING for job_id in overdue}
    found_now |= {job_id: graph.ended[job_id].status for job_id in overdue if job_id in graph.ended}
    return found_now, bool(graph.fired or graph.freed())


def _tells_a_failure(predecessor: _Predecessor) -> bool:
    """Bytes on SQLite are no id that an errback could be told of."""
    named = predecessor.event != "error" or isinstance(predecessor.id, str)
    return named and predecessor.status in (FAILURE, REVOKED)


def _may_end_yet(predecessor: _Predecessor) -> bool:
    return predecessor.status in (PENDING, RETRY, STARTED)
