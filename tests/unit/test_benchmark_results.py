"""What the benchmarks say of their figures: medians of ratios, bars that are met or missed, and what is unknown."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.results import Result, Rounds
from benchmarks.rows import CELERY, GRAPHILE, OURS, OURS_ON_HOSTS, OURS_SQLITE, ROWS, Bar, Row


def result(bars: tuple[Bar, ...], **rounds: Rounds) -> Result:
    row = Row("title", "jobs/s, more is better", jobs=1, short=1, bars=bars)
    return Result("drain", row, {OURS: rounds.pop("ours"), **rounds})


def test_a_ratio_is_of_figures_of_the_same_round() -> None:
    # The machine was four times slower in the second round, for both.
    measured = result((), ours=[{"rate": 400}, {"rate": 100}, {"rate": 420}], peer=[{"rate": 200}, {"rate": 50}, None])
    assert measured.ratio(OURS, "rate", "peer", "rate") == 2
    assert measured.median("peer", "rate") == 125


@pytest.mark.parametrize(
    ("bar", "word"),
    [
        (Bar("rate", 2.0, at_least=True, peer="peer"), "met"),
        (Bar("rate", 2.1, at_least=True, peer="peer"), "MISSED"),
        (Bar("rate", 2.0, at_least=False, peer="peer"), "met"),
        (Bar("rate", 300, at_least=True), "MISSED"),
        (Bar("p99", 3.0, at_least=False, peer=OURS, peer_figure="p50"), "met"),
        (Bar("rate", 1.0, at_least=True, peer="not installed"), "unknown"),
        (Bar("unheard of", 1.0, at_least=True), "unknown"),
    ],
)
def test_a_bar_is_met_missed_or_unknown(bar: Bar, word: str) -> None:
    measured = result((bar,), ours=[{"rate": 200, "p50": 1, "p99": 2.5}], peer=[{"rate": 100}])
    assert [verdict.word for verdict in measured.verdicts()] == [word]


def test_a_peer_that_failed_is_named_and_its_bars_are_unknown() -> None:
    measured = result((Bar("rate", 1.0, at_least=True, peer="peer"),), ours=[{"rate": 1}], peer=[None])
    measured.failures.append("peer failed at drain: no route")
    shown = report.table(measured)
    assert "peer                              failed" in shown
    assert "rate at least 1 x peer: unknown" in shown
    assert "FAILED peer failed at drain" in shown


def test_rows_are_added_to_a_file(tmp_path: Path) -> None:
    file = tmp_path / "results" / "figures.json"
    first = result((), ours=[{"rate": 1}])
    report.save(file, {"cores": 2}, [], [(first, 10)])
    report.save(file, {"cores": 2}, ["RQ: no Redis"], [(Result("single", ROWS["single"], {OURS: [{"rate": 7}]}), 5)])
    loaded = report.load(file)
    assert list(loaded) == ["drain", "single"]
    assert loaded["drain"][0].median(OURS, "rate") == 1
    assert loaded["single"][1]["missing"] == ["RQ: no Redis"]


def test_each_bar_is_about_a_figure_of_somebody_who_takes_part() -> None:
    compared = {bar.peer for row in ROWS.values() for bar in row.bars} - {None}
    assert {GRAPHILE, CELERY, OURS} <= compared
    assert {bar.own for row in ROWS.values() for bar in row.bars} == {OURS, OURS_SQLITE, OURS_ON_HOSTS}
