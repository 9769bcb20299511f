"""A picture for each row in which others take part: medians as bars, with the spread of the rounds.

`python -m benchmarks.plots FILE FOLDER`: FILE is what `--json` wrote.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.report import load, number, own
from benchmarks.results import Result

OURS_COLOUR, LIMIT_COLOUR, PEER_COLOUR = "#1f6f8b", "#9aa5ab", "#d9a05b"
DOTS_PER_INCH = 90
"""The files are committed: under 60 KB each."""


def draw(file: Path, folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _draw(result, about["machine"]["cores"], folder / f"{name}.png")
        for name, (result, about) in load(file).items()
        if sum(1 for contestant in result.rounds if _median(result, contestant) is not None) > 1
    ]


def _median(result: Result, contestant: str) -> float | None:
    return result.median(contestant, result.row.figure)


def _draw(result: Result, cores: int, path: Path) -> Path:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure = result.row.figure
    medians = {name: value for name in result.rounds if (value := _median(result, name)) is not None}
    names = sorted(medians, key=lambda name: medians[name], reverse="less is better" in result.row.unit)
    spread = [[each[figure] for each in result.rounds[name] if each] for name in names]
    errors = [
        [medians[name] - min(values) for name, values in zip(names, spread, strict=True)],
        [max(values) - medians[name] for name, values in zip(names, spread, strict=True)],
    ]
    picture, axes = plt.subplots(figsize=(8, 0.9 + 0.36 * len(names)), layout="constrained")
    colours = [_colour(name, own(result)) for name in names]
    axes.barh(names, [medians[name] for name in names], color=colours, xerr=errors, ecolor="#444444", capsize=2)
    for place, name in enumerate(names):
        axes.annotate(
            f" {number(medians[name])}", (medians[name], place), (2, 7), textcoords="offset points", fontsize=8
        )
    axes.set_title(f"{result.row.title.split('(')[0].split(';')[0].strip()}; {cores} cores", fontsize=10)
    axes.set_xlabel(result.row.unit, fontsize=9)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    picture.savefig(path, dpi=DOTS_PER_INCH)
    plt.close(picture)
    return path


def _colour(name: str, ours: str) -> str:
    if name == ours:
        return OURS_COLOUR
    return LIMIT_COLOUR if name.startswith("bare") else PEER_COLOUR


if __name__ == "__main__":
    for drawn in draw(Path(sys.argv[1]), Path(sys.argv[2])):
        print(drawn)
