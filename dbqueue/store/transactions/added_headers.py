"""What a transactional task adds to its chord: noted by the call, and written at the end of the transaction.

Until then the body of the chord is not locked. The note is a setting of the transaction, which the server takes back
with the savepoint that the call was made in, or with all, whoever rolls it back and by whatever means.

RESET takes it back as well, and would lose jobs without a word. So the first note is marked by an advisory lock, which
the server frees with the savepoint, too, and for no RESET: a mark whose note is gone tells of one. Those that come
after the first need none, for what takes the setting away takes the first away. (A lock for each would fill the
server's table of locks.)

On SQLite there is one lock, which the transaction has from its first statement on: there the call writes at once.
"""

from __future__ import annotations

import secrets
from typing import Final

from dbqueue.jobs import ClaimedJob
from dbqueue.store.base import Store
from dbqueue.store.statements import Statement
from dbqueue.store.steps import Steps
from dbqueue.store.workflows.changes import add_header, can_add_header
from dbqueue.workflows import Workflow

LOST: Final = (
    "what add_to_chord has added is lost: the task has reset the settings of its connection (RESET ALL), and with them "
    "dbqueue.headers, which notes it until the commit; use SET LOCAL, which ends with the transaction by itself"
)

_NOTED: Final = "coalesce(current_setting('dbqueue.headers', true), '')"
# OFFSET 0: the setting is read before it is changed.
NOTE: Final = f"""
SELECT set_config('dbqueue.headers', before || :note, true),
       CASE WHEN before = '' THEN pg_try_advisory_xact_lock_shared(CAST(:mark AS bigint)) END
FROM (SELECT {_NOTED} AS before OFFSET 0) AS setting"""
NOTED: Final = f"""
SELECT {_NOTED}, ARRAY(
    SELECT (CAST(classid AS bigint) << 32) | CAST(objid AS bigint) FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 1 AND pid = pg_backend_pid())"""


class AddedHeaders:
    """Of one run."""

    def __init__(self, store: Store, job: ClaimedJob) -> None:
        self._store, self._job = store, job
        self._workflows: list[Workflow] = []
        self._marks: dict[int, int] = {}
        """The advisory locks that were taken, and the number of the note that each was taken with."""

    def add(self, workflow: Workflow) -> Steps[bool]:
        """As `add_header`, which is done now or by `write`."""
        job_id, lease = self._job.id, self._job.lease
        if self._store.dialect == "sqlite":
            return (yield from add_header(self._store, workflow, job_id, lease))
        if not (yield from can_add_header(self._store, job_id, lease)):
            return False
        number, mark = len(self._workflows), secrets.randbits(63)
        if (yield Statement(NOTE, {"note": f"{number} ", "mark": mark})).rows[0][1]:
            self._marks[mark] = number
        self._workflows.append(workflow)
        return True

    def write(self) -> Steps[bool]:
        """Write what was added and not taken back, before the job's end.

        False where that can no longer be: the job is another run's, or its chord is gone. Raises RuntimeError where
        it is not known any more what that was.
        """
        if not self._workflows:
            return True
        setting, locks = (yield Statement(NOTED, {})).rows[0]
        noted = list(map(int, setting.split()))
        if any(mark in self._marks and self._marks[mark] not in noted for mark in locks):
            raise RuntimeError(LOST)
        for number in noted:
            workflow = self._workflows[number]
            if not (yield from add_header(self._store, workflow, self._job.id, self._job.lease, promised=True)):
                return False
        return True
