"""`[tool.dbqueue]` of pyproject.toml: below flags and the environment, above defaults."""

from __future__ import annotations

import pytest

from tests.cli.commands import Commands


def write(commands: Commands, text: str) -> None:
    (commands.folder / "pyproject.toml").write_text(text)


def test_the_table_gives_options_their_defaults(dbqueue_sqlite: Commands) -> None:
    write(
        dbqueue_sqlite,
        '[tool.dbqueue]\napp = "cele"\n[tool.dbqueue.call]\nargs = "[1, 2]"\nqueue = "mail"\n'
        '[tool.dbqueue.jobs.list]\nqueue = ["mail"]\n',
    )
    assert dbqueue_sqlite.run("call", "cele.add").returncode == 0  # without -A
    dbqueue_sqlite.ok("call", "cele.add", "--queue", "other")
    assert [job["queue"] for job in dbqueue_sqlite.json("jobs", "list")] == ["mail"]
    assert [job["queue"] for job in dbqueue_sqlite.json("jobs", "list", "-Q", "other")] == ["other"]


@pytest.mark.parametrize(
    ("variables", "flags", "concurrency"),
    [({}, [], 3), ({"DBQUEUE_WORKER_CONCURRENCY": "2"}, [], 2), ({"DBQUEUE_WORKER_CONCURRENCY": "2"}, ["-c", "1"], 1)],
)
def test_flag_over_environment_over_table(
    dbqueue_sqlite: Commands, variables: dict[str, str], flags: list[str], concurrency: int
) -> None:
    write(dbqueue_sqlite, '[tool.dbqueue.worker]\nconcurrency = 3\npool = "threads"\nloglevel = "info"\n')
    dbqueue_sqlite.environment |= variables
    worker = dbqueue_sqlite.background("worker", *flags)
    worker.says(" ready.")  # the table's level of the log
    assert f".> concurrency: {concurrency} (threads)" in worker.output


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[tool.dbqueue]\nap = 'cele'", "has 'ap'"),
        ("[tool.dbqueue.worker]\nconcurency = 3", "[tool.dbqueue.worker] in pyproject.toml has 'concurency'"),
        ("[tool.dbqueue.worker]\nconcurrency = 0", "comes from [tool.dbqueue] in pyproject.toml"),
        ("[tool.dbqueue]\nworker = 3", "must be a table"),
        ("[tool.dbqueue\n", "pyproject.toml cannot be read"),
        ("[tool]\ndbqueue = 3 # tool.dbqueue", "must be a table"),
    ],
)
def test_what_the_table_cannot_say(dbqueue_sqlite: Commands, text: str, said: str) -> None:
    write(dbqueue_sqlite, text)
    done = dbqueue_sqlite.run("-A", "cele", "worker")
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_other_tables_are_not_read(dbqueue_sqlite: Commands) -> None:
    write(dbqueue_sqlite, "[project\n")
    dbqueue_sqlite.ok("-A", "cele", "queues")
