"""A picture for each row in which something stands beside something: medians as bars, with the spread of the rounds.

`python -m benchmarks.plots FILE FOLDER`: FILE is what `--json` wrote.
"""

from __future__ import annotations

import statistics
import sys
import textwrap
from pathlib import Path

from benchmarks.report import load, number, own
from benchmarks.results import Result

OURS_COLOUR, LIMIT_COLOUR, PEER_COLOUR = "#1f6f8b", "#9aa5ab", "#d9a05b"
DOTS_PER_INCH = 90
"""The files are committed: under 60 KB each."""
LETTERS_A_LINE = 80
"""Of a title."""


def draw(file: Path, folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _draw(result, about["machine"]["cores"], folder / f"{name}.png")
        for name, (result, about) in load(file).items()
        if is_drawn(result)
    ]


def is_drawn(result: Result) -> bool:
    return len(_bars(result)) > 1


def _bars(result: Result) -> dict[str, list[float]]:
    """What each bar shows: the rounds of a contestant, or of one of dbqueue's own figures where it is alone."""
    figure, ours = result.row.figure, result.rounds.get(own(result), [])
    if len(result.rounds) > 1:
        rows = {name: (rounds, figure) for name, rounds in result.rounds.items()}
    else:
        rows = {name: (ours, of) for name, of in result.row.beside}
    bars = {name: [each[of] for each in rounds if each and of in each] for name, (rounds, of) in rows.items()}
    return {name: values for name, values in bars.items() if values}


def _draw(result: Result, cores: int, path: Path) -> Path:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    bars = _bars(result)
    medians = {name: statistics.median(values) for name, values in bars.items()}
    if len(result.rounds) > 1:
        names = sorted(medians, key=lambda name: medians[name], reverse="less is better" in result.row.unit)
    else:
        names = list(reversed(medians))  # the first stands above the others
    errors = [
        [medians[name] - min(bars[name]) for name in names],
        [max(bars[name]) - medians[name] for name in names],
    ]
    picture, axes = plt.subplots(figsize=(8, 0.9 + 0.36 * len(names)), layout="constrained")
    colours = [_colour(name, result) for name in names]
    axes.barh(names, [medians[name] for name in names], color=colours, xerr=errors, ecolor="#444444", capsize=2)
    for place, name in enumerate(names):
        axes.annotate(
            f" {number(medians[name])}", (medians[name], place), (2, 7), textcoords="offset points", fontsize=8
        )
    title = f"{result.row.title.split('(')[0].split(';')[0].strip()}; {cores} cores"
    axes.set_title(textwrap.fill(title, LETTERS_A_LINE), fontsize=10)
    axes.set_xlabel(result.row.unit, fontsize=9)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    picture.savefig(path, dpi=DOTS_PER_INCH)
    plt.close(picture)
    return path


def _colour(name: str, result: Result) -> str:
    if name == own(result) or name not in result.rounds:
        return OURS_COLOUR
    return LIMIT_COLOUR if name.startswith("bare") else PEER_COLOUR


if __name__ == "__main__":
    for drawn in draw(Path(sys.argv[1]), Path(sys.argv[2])):
        print(drawn)
