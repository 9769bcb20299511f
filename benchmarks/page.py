"""Write the last figures and plots into docs: `python -m benchmarks.page FILE`, which `--json` wrote."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks import plots
from benchmarks.report import load, number, own
from benchmarks.results import Result

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
BEGIN, END = "<!-- MEASURED FIGURES: made by `python -m benchmarks.page` -->", "<!-- END OF MEASURED FIGURES -->"


def renew(file: Path) -> None:
    rows = load(file)
    before, rest = PAGE.read_text().split(BEGIN)
    after = rest.split(END)[1]
    parts = [BEGIN, _bars(rows), *(_figures(result, about) for result, about in rows.values()), _machine(rows), END]
    PAGE.write_text(before + "\n\n".join(parts) + after)
    plots.draw(file, PAGE.parent / "images")


def _bars(rows: dict[str, tuple[Result, dict[str, Any]]]) -> str:
    lines = ["| row | bar | measured | |", "|---|---|---|---|"]
    for name, (result, _) in rows.items():
        for verdict in result.verdicts():
            word = "**missed**" if verdict.word == "MISSED" else verdict.word
            lines.append(f"| {name} | {verdict.bar.text} | {number(verdict.value)} | {word} |")
    return "\n".join(lines)


def _figures(result: Result, about: dict[str, Any]) -> str:
    """The row's contestants, each with all its figures."""
    figure = result.row.figure
    names = [each for each in _figure_names(result) if each != figure]
    lines = [
        f"### {result.name}\n",
        (
            f"{result.row.title[0].upper()}{result.row.title[1:]}. {about['jobs']:,} (jobs, rows or seconds), "
            f"medians of {max(map(len, result.rounds.values()))}; {result.row.unit}.\n"
        ),
    ]
    if plots.is_drawn(result):
        lines.append(f"![{result.name}](images/{result.name}.png)\n")
    lines.append(f"| | {figure} | dbqueue is | {' | '.join(names)}{' |' if names else ''}")
    lines.append("|---" * (3 + len(names)) + "|")
    for contestant in result.rounds:
        ratio = result.ratio(own(result), figure, contestant, figure)
        cells = [contestant, number(result.median(contestant, figure))]
        cells.append("" if ratio is None or contestant == own(result) else f"{ratio:.2f} x")
        cells += [number(result.median(contestant, name)) for name in names]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _figure_names(result: Result) -> list[str]:
    names: dict[str, None] = {}
    for rounds in result.rounds.values():
        for each in rounds:
            names |= dict.fromkeys(each or {})
    return list(names)


def _machine(rows: dict[str, tuple[Result, dict[str, Any]]]) -> str:
    longest = max((about["machine"] for _, about in rows.values()), key=lambda machine: len(machine["versions"]))
    settings = ", ".join(f"{name} = {value}" for name, value in longest["postgres_settings"].items())
    missing = sorted({each for _, about in rows.values() for each in about["missing"]})
    dates = sorted(about["date"] for _, about in rows.values())
    lines = [
        f"Measured {dates[0]} to {dates[-1]} on {longest['summary']}; {longest['system']}; PostgreSQL's {settings}."
    ]
    lines += [f"Missing: {each}." for each in missing]
    return " ".join(lines)


if __name__ == "__main__":
    renew(Path(sys.argv[1]))
