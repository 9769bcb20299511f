"""Faults of the engine's own: each a small change, the row of the suite that must find it, and what it must say.

A suite that passes proves little until it is seen to fail. The text that a mutant replaces must be in its
file exactly once, so that a line which has moved fails loudly.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
COPIED = ("dbqueue", "migrations", "tests", "pyproject.toml", "README.md")


class Edit(NamedTuple):
    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """`test` is the node that must fail, with `says` in what it prints."""

    edits: tuple[Edit, ...]
    test: str
    says: str


P4 = "test_stopped.py::test_a_stopped_supervisor"
P2 = "test_kills.py::test_the_supervisor_killed"
_POSTGRES_FINISH = """
FROM {source}
WHERE {{by_id_of_d}} AND j.lease = d.lease AND j.status = 'STARTED'"""
_SQLITE_FINISH = """    finished_at = {NOW}, started_at = {_shifted("-:seconds")}
WHERE id = :id AND lease = :lease AND status = 'STARTED'"""

MUTANTS: dict[str, Mutant] = {
    "the lease dropped from the WHERE (PostgreSQL)": Mutant(
        (Edit("store/postgres/sql.py", _POSTGRES_FINISH, _POSTGRES_FINISH.replace(" AND j.lease = d.lease", "")),),
        f"{P4}_writes_nothing[postgres-runs-complete-prefork]",
        "under which no run has finished|but its lease's run returned|lost its lease while",
    ),
    "the lease dropped from the WHERE (SQLite)": Mutant(
        (Edit("store/sqlite/sql.py", _SQLITE_FINISH, _SQLITE_FINISH.replace(" AND lease = :lease", "")),),
        f"{P4}_writes_nothing[sqlite-runs-complete-prefork]",
        "under which no run has finished|but its lease's run returned|lost its lease while",
    ),
    "the lease dropped from a retry's WHERE": Mutant(
        (
            Edit(
                "store/postgres/sql.py",
                """         options, queue, priority, expires_at, content, hold, headers)
WHERE {{by_id_of_d}} AND j.lease = d.lease AND""",
                """         options, queue, priority, expires_at, content, hold, headers)
WHERE {{by_id_of_d}} AND""",
            ),
        ),
        f"{P4}_writes_nothing[postgres-runs-retry-prefork]",
        "still ran|lost its lease while",
    ),
    "the status not checked again (PostgreSQL)": Mutant(
        (Edit("store/postgres/sql.py", _POSTGRES_FINISH, _POSTGRES_FINISH.replace(" AND j.status = 'STARTED'", "")),),
        f"{P4}_does_not_undo_a_failure[postgres-prefork]",
        "a terminal state has changed|and in the end it is",
    ),
    "the status not checked again (SQLite)": Mutant(
        (Edit("store/sqlite/sql.py", _SQLITE_FINISH, _SQLITE_FINISH.replace(" AND status = 'STARTED'", "")),),
        f"{P4}_does_not_undo_a_failure[sqlite-prefork]",
        "a terminal state has changed|and in the end it is",
    ),
    "a rescue that does not ask for the lease's age (PostgreSQL)": Mutant(
        (
            Edit(
                "store/postgres/worker_rows.py",
                "    heartbeat_at < coalesce(%(now)s::timestamptz, now()) - {_LEASE}, extract",
                "    (%(now)s::timestamptz IS NULL OR true), extract",
            ),
        ),
        f"{P2}[postgres-prefork]",
        "was alive and well|had lost its lease|did not come true",
    ),
    "a rescue that does not ask for the lease's age (SQLite)": Mutant(
        (
            Edit(
                "store/sqlite/work_session.py",
                "worker_id: bool(late) or ages[worker_id] > min(lease_seconds, longest) or released(worker_id)",
                "worker_id: True",
            ),
        ),
        f"{P2}[sqlite-prefork]",
        "was alive and well|had lost its lease|did not come true",
    ),
    "a rescue of what has ended": Mutant(
        (
            Edit(
                "store/postgres/rescue.py",
                "WHERE worker = ANY(%(workers)s::text[]) AND status = 'STARTED' ORDER BY id FOR UPDATE",
                "WHERE worker = ANY(%(workers)s::text[]) ORDER BY id FOR UPDATE",
            ),
        ),
        f"{P2}[postgres-prefork]",
        "a terminal state has changed",
    ),
    "no rescue": Mutant(
        (
            Edit(
                "store/postgres/rescue.py",
                "    if not dead:\n        return []",
                "    if dead or True:\n        return []",
            ),
        ),
        f"{P2}[postgres-prefork]",
        "the end of all jobs did not come true",
    ),
    "completion before the run": Mutant(
        (
            Edit(
                "pools/prefork.py",
                "        link.report(execute.run(job))",
                "        from dbqueue.jobs import Succeeded\n\n"
                '        link.report(Succeeded(job.id, job.lease, "null", 0.0))\n'
                "        execute.run(job)",
            ),
        ),
        "test_kills.py::test_children_killed_at_a_point[postgres-start.before-prefork]",
        "it never ran|under which no run has finished|but its lease's run returned",
    ),
    "completions that are not durable": Mutant(
        (Edit("store/postgres/work_session.py", "durable=bool(outcomes or claim.once))", "durable=False)"),),
        "test_servers.py::test_an_answer_is_durable",
        "a reader was told",
    ),
    "a new id for each try": Mutant(
        (
            Edit(
                "store/postgres/store.py",
                "                self._run(lambda driver: self._enqueue_one(driver, job), settled=False)\n",
                "                ids = (job.id + '+' * tries for tries in range(100))\n"
                "                new = lambda: job._replace(id=next(ids))\n"
                "                self._run(lambda driver: self._enqueue_one(driver, new()), settled=False)\n",
            ),
        ),
        "test_servers.py::test_a_producer_that_is_cut_off[lost replies]",
        "invented: nobody has enqueued it",
    ),
    "one lease for each try of a claim": Mutant(
        (Edit("worker/claiming/rounds.py", "    return replace(claim, lease=str(uuid4()))", "    return claim"),),
        "test_network.py::test_connections_that_end_at_a_point[postgres-claim.after-raise-prefork]",
        r"was granted \d+ times",
    ),
    "no error where a transactional completion matches no row": Mutant(
        (
            Edit(
                "store/transactions/completing.py",
                "    if not ended:\n        raise LeaseLost",
                "    if ended is None:\n        raise LeaseLost",
            ),
        ),
        "test_exactly_once.py::test_effects_of_zombies[postgres-start.before-prefork]",
        "its transaction is rolled back|lost its lease while",
    ),
    "heartbeats under the task's own interpreter lock": Mutant(
        (
            Edit(
                "services/workers.py",
                "        pool = pool or conf.worker_pool\n",
                '        pool = "solo" if (pool or conf.worker_pool) == "prefork" else pool\n',
            ),
        ),
        "test_processes.py::test_a_task_that_holds_the_interpreter[postgres]",
        "still ran, which had lost its lease|was declared dead|the end of all jobs did not come true"
        r"|len\(it.starts\(job\)\) == 1",
    ),
    "a deferred BEGIN on SQLite": Mutant(
        (Edit("store/sqlite/driver.py", '    driver.execute("BEGIN IMMEDIATE")', '    driver.execute("BEGIN")'),),
        "test_sqlite.py::test_eight_processes[prefork]",
        "was refused the lock|Trying again|database is locked",
    ),
    "children that outlive their supervisor": Mutant(
        (
            Edit(
                "pools/nursery.py", "    for pid in children:\n        with", "    for pid in set[int]():\n        with"
            ),
            Edit("pools/child.py", "    os._exit(ORPHANED)\n", "    return\n"),
            Edit(
                "pools/child.py",
                '    if sys.platform == "linux":\n        pr_set',
                '    if sys.platform == "none":\n        pr_set',
            ),
        ),
        f"{P2}[postgres-prefork]",
        "the end of its processes did not come true",
    ),
    "a worker that is past its lease and lets its runs go on": Mutant(
        (
            Edit(
                "worker/supervising/fence.py",
                "        self._crew.kill()\n        return",
                "        return",
            ),
        ),
        "test_network.py::test_a_partition[longer-directions2-prefork]",
        "still ran, which had lost its lease",
    ),
    "broken sessions that are not closed": Mutant(
        (
            Edit(
                "worker/claiming/lasting_session.py",
                "            self.current.close()\n            self.current = None",
                "            self.current = None",
            ),
        ),
        "test_network.py::test_connections_that_end_at_a_point[postgres-claim.after-raise-prefork]",
        "as few as at the start did not come true|sessions of workers: at most 2",
    ),
    "engines carried over the fork": Mutant(
        (
            Edit(
                "database.py",
                "        elif not self.opened.in_memory:",
                "        elif self.opened.in_memory:",
            ),
        ),
        "test_processes.py::test_the_engine_used_before_the_fork[prefork]",
        "shared between processes",
    ),
}


def plant(mutant: Mutant, folder: Path) -> None:
    """Copy the package and its tests into the folder, with the mutant's changes."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, folder / name)
    for edit in mutant.edits:
        path = folder / "dbqueue" / edit.file
        text = path.read_text()
        found = text.count(edit.old)
        assert found == 1, f"{edit.file}: the text that this mutant replaces is there {found} times:\n{edit.old}"
        path.write_text(text.replace(edit.old, edit.new))
