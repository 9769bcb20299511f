"""How values are printed."""

from __future__ import annotations

import pytest

from dbqueue.cli.checks import has_wal_bug
from dbqueue.cli.output import count, duration, print_table
from dbqueue.shown import harmless


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.0123, "0.012 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (90_061, "1 d 1 h"),
        (86_460, "1 d"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_counts() -> None:
    assert [count(number, "job") for number in (0, 1, 2)] == ["0 jobs", "1 job", "2 jobs"]


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert harmless("a\033[31mb\u202e\n") == "a\\x1b[31mb\\u202e\\n"
    assert harmless("one\n\ttwo\033", lines=True) == "one\n\ttwo\\x1b"


def test_wide_characters_take_two_columns(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("TASK", "N"), [("任务", 1), ("abcd", 10)], right=(1,))
    assert capsys.readouterr().out == "TASK   N\n任务   1\nabcd  10\n"


@pytest.mark.parametrize(
    ("version", "affected"),
    [
        ((3, 40, 1), True),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 50, 7), False),
        ((3, 50, 6), True),
        ((3, 44, 6), False),
        ((3, 52, 0), False),
    ],
)
def test_releases_of_sqlite_with_the_wal_bug(version: tuple[int, ...], affected: bool) -> None:
    assert has_wal_bug(version) is affected
