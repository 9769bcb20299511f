"""What a transactional task adds to its chord: noted by the call, and written at the end of the transaction.

Until then the body of the chord is not locked. The note is a setting of the transaction, which the server takes back
with the savepoint that the call was made in, or with all, whoever rolls it back and by whatever means.

On SQLite there is one lock, which the transaction has from its first statement on: there the call writes at once.
"""

from __future__ import annotations

from typing import Final

from dbqueue.jobs import ClaimedJob
from dbqueue.store.base import Store
from dbqueue.store.inserts import Statement
from dbqueue.store.steps import Steps
from dbqueue.store.workflows.changes import add_header, can_add_header
from dbqueue.workflows import Workflow

_NOTED: Final = "coalesce(current_setting('dbqueue.headers', true), '')"
NOTED: Final = f"SELECT {_NOTED}"
NOTE: Final = f"SELECT set_config('dbqueue.headers', {_NOTED} || :note, true)"


class AddedHeaders:
    """Of one run."""

    def __init__(self, store: Store, job: ClaimedJob) -> None:
        self._store, self._job = store, job
        self._workflows: list[Workflow] = []

    def add(self, workflow: Workflow) -> Steps[bool]:
        """As `add_header`, which is done now or by `write`."""
        job_id, lease = self._job.id, self._job.lease
        if self._store.dialect == "sqlite":
            return (yield from add_header(self._store, workflow, job_id, lease))
        if not (yield from can_add_header(self._store, job_id, lease)):
            return False
        yield Statement(NOTE, {"note": f"{len(self._workflows)} "})
        self._workflows.append(workflow)
        return True

    def write(self) -> Steps[bool]:
        """Write what was added and not taken back, before the job's end.

        False where that can no longer be: the job is another run's, or its chord is gone.
        """
        if not self._workflows:
            return True
        noted = (yield Statement(NOTED, {})).rows[0][0].split()
        for number in map(int, noted):
            workflow = self._workflows[number]
            if not (yield from add_header(self._store, workflow, self._job.id, self._job.lease, promised=True)):
                return False
        return True
