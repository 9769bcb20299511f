"""A deployment in progress: the previous release's worker on newer tables, under load, beside the new one's.

The previous release is built as a wheel from the history and installed into a virtual environment of its own; the new
code is this checkout with one more revision, which adds to the tables what a later release may add. Row D15 of the
faults is this (`make chaos ARGS='--row D15 --full'`), with the load that `DBQUEUE_ROLLING_JOBS=10000` has here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import venv
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.waiting import wait_until

pytestmark = [pytest.mark.packaging, pytest.mark.chaos("D15")]

CHECKOUT = Path(__file__).resolve().parents[2]
JOBS = int(os.environ.get("DBQUEUE_ROLLING_JOBS", "200"))
WAIT_SECONDS = 60 + JOBS / 20

RULE = "dbqueue/store/compatibility.py"
"""Code without this file refuses tables that are newer than itself."""

APPLICATION = """
import os
import time
from dbqueue import DBQueue, chain

app = DBQueue("rolling", broker=os.environ["ROLLING_URL"])


@app.task(bind=True, max_retries=1)
def record(self, path, n, seconds=0.002):
    if n % 10 == 3 and not self.request.retries:
        raise self.retry(countdown=0)
    time.sleep(seconds)
    with open(path, "a") as file:
        file.write(f"{n}\\n")


def enqueue(path, first, count):
    record.enqueue_many([(path, n) for n in range(first, first + count - 10)])
    for n in range(first + count - 10, first + count, 2):
        chain(record.si(path, n), record.si(path, n + 1)).delay()
"""

ENQUEUE_UNTIL = """
import os, sys, rolling
path, stop, n = sys.argv[1], sys.argv[2], 0
while not os.path.exists(stop):
    rolling.enqueue(path, n, 20)
    n += 20
print(n)
"""

ENQUEUE = "import sys, rolling; rolling.enqueue(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))"

ADDITIVE = """
import sqlalchemy as sa

revision, down_revision, branch_labels, depends_on = "9000", "{head}", None, None


def upgrade(op, schema):
    op.add_column("dbqueue_jobs", sa.Column("colour", sa.Text, server_default="red", nullable=False), schema=schema)
    op.add_column("dbqueue_workers", sa.Column("zone", sa.Text), schema=schema)
    op.create_index("dbqueue_jobs_colour", "dbqueue_jobs", ["colour"], schema=schema)
    op.create_table("dbqueue_colours", sa.Column("name", sa.Text, primary_key=True), schema=schema)


def downgrade(op, schema):
    op.drop_table("dbqueue_colours", schema=schema)
    op.drop_index("dbqueue_jobs_colour", "dbqueue_jobs", schema=schema)
    op.drop_column("dbqueue_workers", "zone", schema=schema)
    op.drop_column("dbqueue_jobs", "colour", schema=schema)
"""


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"the history is needed to build the previous release from: {done.stderr.strip()}")
    return done.stdout.strip()


def previous_commit() -> str:
    """The last release; before the first one, the newest commit with other revisions than now that knows the rule."""
    tags = git("tag", "--merged", "HEAD~1", "--sort=-version:refname", "--list", "v[0-9]*").split()
    if tags:
        return tags[0]
    for parents in git("log", "--format=%P", "--", "migrations/versions").splitlines():
        if parents and git("ls-tree", "--name-only", parents.split()[0], RULE):
            return parents.split()[0]
    return "HEAD"


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Code:
    """One version of dbqueue, as an installation that runs commands."""

    def __init__(self, python: Path, path: Path | None, folder: Path, url: str) -> None:
        self._python, self._folder = python, folder
        keep = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
        search = os.pathsep.join(map(str, [folder, *([path] if path else [])]))
        self._environment = keep | {"PYTHONPATH": search, "ROLLING_URL": url}

    def run(self, *arguments: str) -> str:
        return run(self._python, *arguments, cwd=self._folder, env=self._environment)

    def migrate(self) -> str:
        return self.run("-m", "dbqueue.cli", "-A", "rolling", "migrate")

    def enqueue(self, path: Path, first: int, count: int) -> None:
        self.run("-c", ENQUEUE, str(path), str(first), str(count))

    @contextlib.contextmanager
    def worker(self, name: str) -> Iterator[None]:
        """A worker that is ready; it ends in order, and its log holds no error."""
        log = self._folder / f"{name}.log"
        with log.open("wb") as file:
            options = ("-A", "rolling", "worker", "-c", "2", "-l", "info", "-n", f"{name}@%h")
            process = subprocess.Popen(
                [self._python, "-m", "dbqueue.cli", *options],
                cwd=self._folder,
                env=self._environment,
                stdout=file,
                stderr=file,
            )
        try:
            wait_until(lambda: " ready." in log.read_text() or process.poll() is not None, timeout=60)
            yield
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()
        said = log.read_text()
        assert "ERROR" not in said, said
        assert "Traceback" not in said, said


@pytest.fixture(scope="module")
def previous_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a virtual environment with the previous release's wheel."""
    folder = tmp_path_factory.mktemp("previous")
    commit = previous_commit()
    archive = folder / "source.tar"
    git("archive", "--output", str(archive), commit)
    with tarfile.open(archive) as source:
        source.extractall(folder / "source", filter="data")
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", folder, folder / "source", cwd=folder)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", python]
    run(*pip, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    # Its dependencies are those of the tests: a path file there adds the folder, and not what is editable in it.
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return python


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'rolling.db'}"
    return str(request.getfixturevalue("empty_postgres_url"))


@pytest.fixture
def codes(tmp_path: Path, url: str, previous_python: Path) -> tuple[Code, Code]:
    """The old version and the new one, for one application on one database."""
    (tmp_path / "rolling.py").write_text(APPLICATION)
    new = tmp_path / "new"
    shutil.copytree(CHECKOUT / "dbqueue", new / "dbqueue", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(CHECKOUT / "migrations", new / "migrations", ignore=shutil.ignore_patterns("__pycache__"))
    head = max(path.name for path in (new / "migrations" / "versions").glob("[0-9]*.py")).partition("_")[0]
    (new / "migrations" / "versions" / "9000_colour.py").write_text(ADDITIVE.format(head=head))
    old = Code(previous_python, None, tmp_path, url)
    where = old.run("-c", "import dbqueue; print(dbqueue.__file__)")
    assert Path(where.strip()).is_relative_to(previous_python.parents[1])
    return old, Code(Path(sys.executable), new, tmp_path, url)


def runs(path: Path) -> Counter[int]:
    return Counter(map(int, path.read_text().split())) if path.exists() else Counter()


def statuses(url: str) -> dict[str, int]:
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        query = "SELECT status, count(*) FROM dbqueue_jobs GROUP BY status"
        found = {row[0]: int(row[1]) for row in connection.exec_driver_sql(query)}
    engine.dispose()
    return found


@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_the_previous_release_runs_on_newer_tables(
    codes: tuple[Code, Code], url: str, tmp_path: Path, when: str
) -> None:
    old, new = codes
    path = tmp_path / "runs"
    old.migrate()
    if when == "before":
        assert "9000" in new.migrate()
    with old.worker("old"):
        if when == "during":
            count = migrate_under_load(old, new, path, tmp_path / "stop")
            both_run(old, new, path, count)
        else:
            count = JOBS
            old.enqueue(path, 0, count)
            wait_until(lambda: len(runs(path)) > count // 10, timeout=WAIT_SECONDS)
    if when == "before":
        assert "Nothing to do" in old.migrate()
    if when == "after":
        assert "9000" in new.migrate()
    if when != "during":
        both_run(old, new, path, count)
    total = count + 2 * JOBS
    wait_until(lambda: statuses(url) == {"SUCCESS": total}, timeout=WAIT_SECONDS)
    assert runs(path) == Counter(range(total))


def migrate_under_load(old: Code, new: Code, path: Path, stop: Path) -> int:
    """How many jobs the old code's producer had enqueued when the migration was over."""
    with ThreadPoolExecutor(1) as threads:
        producer = threads.submit(old.run, "-c", ENQUEUE_UNTIL, str(path), str(stop))
        try:
            wait_until(lambda: len(runs(path)) > JOBS // 10 or producer.done(), timeout=WAIT_SECONDS)
            assert "9000" in new.migrate()
            ended = len(runs(path))
            wait_until(lambda: len(runs(path)) > ended + JOBS // 10 or producer.done(), timeout=WAIT_SECONDS)
        finally:
            stop.touch()
        return int(producer.result())


def both_run(old: Code, new: Code, path: Path, first: int) -> None:
    """The new code's worker, and jobs of both versions' producers."""
    with new.worker("new"):
        new.enqueue(path, first, JOBS)
        old.enqueue(path, first + JOBS, JOBS)
        wait_until(lambda: len(runs(path)) == first + 2 * JOBS, timeout=WAIT_SECONDS)
