"""Results as text, and as JSON that later runs of other rows add to."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.results import Result, Rounds
from benchmarks.rows import OURS, OURS_ON_HOSTS, OURS_SQLITE, ROWS


def table(result: Result) -> str:
    """Each contestant's medians with their spread, what dbqueue is beside it, and the bars."""
    figure = result.row.figure
    lines = [f"\n{result.name}: {result.row.title} ({result.row.unit})"]
    for contestant, rounds in result.rounds.items():
        figures = [each for each in rounds if each]
        if not figures:
            lines.append(f"  {contestant:<28}{'failed' if rounds else 'not measured':>12}")
            continue
        values = [each[figure] for each in figures]
        ratio = result.ratio(own(result), figure, contestant, figure)
        compared = f"dbqueue is {ratio:.2f} x  " if ratio is not None and contestant != own(result) else ""
        others = ", ".join(f"{name} {result.median(contestant, name):,.2f}" for name in figures[0] if name != figure)
        spread = f"({number(min(values))} to {number(max(values))})"
        lines.append(
            f"  {contestant:<28}{number(result.median(contestant, figure)):>10} {spread:<22} {compared}{others}"
        )
    for verdict in result.verdicts():
        value = "" if verdict.value is None else f"{number(verdict.value)}: "
        lines.append(f"    bar: {verdict.bar.text}: {value}{verdict.word}")
    lines += [f"  FAILED {failure}" for failure in result.failures]
    return "\n".join(lines)


def own(result: Result) -> str:
    """The name under which dbqueue takes part in this row."""
    return next((each for each in (OURS_SQLITE, OURS_ON_HOSTS) if each in result.rounds), OURS)


def number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def save(path: Path, machine: dict[str, Any], missing: list[str], results: list[tuple[Result, int]]) -> None:
    """Add these rows to the file, in the place of what it had of them; each with its machine and its date."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = json.loads(path.read_text())["rows"] if path.exists() else {}
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    for result, jobs in results:
        kept[result.name] = {
            "title": result.row.title,
            "unit": result.row.unit,
            "jobs": jobs,
            "date": date,
            "machine": machine,
            "missing": missing,
            "figures": result.rounds,
            "bars": [{"bar": each.bar.text, "value": each.value, "verdict": each.word} for each in result.verdicts()],
            "failures": result.failures,
        }
    path.write_text(json.dumps({"rows": {name: kept[name] for name in ROWS if name in kept}}, indent=1) + "\n")


def load(path: Path) -> dict[str, tuple[Result, dict[str, Any]]]:
    """The rows of a file, each with all that the file says about it."""
    rows = json.loads(path.read_text())["rows"]
    found = {}
    for name, about in rows.items():
        rounds: dict[str, Rounds] = about["figures"]
        found[name] = (Result(name, ROWS[name], rounds, about["failures"]), about)
    return found
