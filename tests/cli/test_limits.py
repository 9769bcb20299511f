"""`dbqueue limits`, as people type it."""

from __future__ import annotations

import pytest

from dbqueue.jobs import BLOCKED_BY_LIMIT
from tests.cli.commands import Commands
from tests.stores import new_job, opened


def test_limits_from_setting_to_clearing(dbqueue: Commands) -> None:
    assert dbqueue.here("limits", "list").stdout == "No limits, and no job waits for one.\n"
    assert dbqueue.ok("limits", "set", "mail", "--running", "2", "--rate", "10/m").startswith("mail: set.")
    with opened(dbqueue.url) as store:
        for key in ("mail", "rate:shop.pack", "free"):
            store.enqueue([new_job(f"of {key}", limit_key=key, blocked_reason=BLOCKED_BY_LIMIT)])
    assert dbqueue.json("limits", "list")[1] == {
        "key": "mail",
        "max_running": 2,
        "rate": "10/m",
        "source": "user",
        "task": None,
        "running": 0,
        "held": 1,
    }
    header, *rows = (line.split(maxsplit=5) for line in dbqueue.here("limits", "list").stdout.splitlines())
    assert header == ["KEY", "RUNNING", "AT", "ONCE", "RATE", "WAITING  FROM"]
    assert rows == [
        ["free", "0", "-", "-", "1", "no limit"],
        ["mail", "0", "2", "10/m", "1", "set here"],
        ["rate:shop.pack", "0", "-", "-", "1", "rate_limit of workers"],
    ]
    assert "PENDING (limit)" in dbqueue.here("jobs", "list").stdout
    assert dbqueue.json("jobs", "show", "of mail")["limit_key"] == "mail"
    assert dbqueue.here("limits", "set", "mail", "--running", "0").returncode == 0
    assert [each["max_running"] for each in dbqueue.json("limits", "list") if each["key"] == "mail"] == [0]
    assert dbqueue.ok("limits", "clear", "mail") == "mail: cleared."
    again = dbqueue.here("limits", "clear", "mail")
    assert (again.returncode, again.stdout) == (1, "mail: has no limit.\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["k"], "say how many"),
        (["k", "--rate", "often"], "could not convert"),
        (["k", "--rate", "1/d"], "10/m"),
        (["k", "--running", "-1"], "-1"),
        (["rate:shop.pack", "--running", "1"], "rate_limit's"),
    ],
)
def test_mistakes(dbqueue_sqlite: Commands, arguments: list[str], words: str) -> None:
    said = dbqueue_sqlite.here("limits", "set", *arguments)
    assert said.returncode == 2
    assert words in said.stderr


def test_a_rate_by_command(dbqueue: Commands) -> None:
    worker = dbqueue.worker("-n", "one@host", "-l", "info")
    worker.says("ready.")
    said = dbqueue.ok("control", "rate_limit", "cele.add", "10/m", "-t", "30")
    assert said == "->  one@host: OK\n    new rate limit set successfully"
    assert "    * cele.add [rate_limit=10/m]\n" in dbqueue.ok("inspect", "registered", "-t", "30")
    worker.says("New rate limit for tasks of type cele.add: 10/m.")
