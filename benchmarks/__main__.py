"""`python -m benchmarks [ROW ...]`: measure, print a table with ratios and bars, write JSON and plots."""

from __future__ import annotations

import argparse
import platform
import signal
import sys
from pathlib import Path

from benchmarks import contestants, machine, plots, report, servers
from benchmarks.contestants import Contestant
from benchmarks.environments import Environments
from benchmarks.results import Result
from benchmarks.rows import OURS_ON_HOSTS, ROWS, Row


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the servers are ended
    names = options.rows or list(ROWS)
    with servers.start(brokers=options.peers, hosts="hosts" in names) as started:
        taking_part, missing, versions = contestants.ours(started), list[str](), dict[str, str]()
        if options.peers:
            environments = Environments.make()
            others, missing = contestants.peers(started, environments)
            taking_part += others
            versions = environments.versions()
        if started.no_hosts:
            missing.append(f"{OURS_ON_HOSTS}: {started.no_hosts}")
            names.remove("hosts")
        about = machine.describe(started, versions)
        print(about["summary"])
        for each in missing:
            print(f"missing: {each}")
        results: list[tuple[Result, int]] = []
        try:
            for name in names:
                results.append((_result(name, taking_part, options.only), _jobs(ROWS[name], options)))
                _measure(*results[-1], taking_part, options.rounds)
                print(report.table(results[-1][0]), flush=True)
        finally:  # what was measured is not lost when the run is interrupted
            if options.json:
                report.save(options.json, about, missing, [each for each in results if any(each[0].rounds.values())])
    if options.json and options.plots:
        plots.draw(options.json, options.plots)
    return 1 if any(result.failures for result, _ in results) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS], help="what to measure (all)", metavar="ROW")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured, in turns (3)")
    parser.add_argument(
        "--jobs", "--rows", type=int, help="how many jobs, rows or seconds, in the place of a row's own"
    )
    parser.add_argument("--short", action="store_true", help="few jobs: shows that each row runs")
    parser.add_argument("--full", action="store_true", help="what the bars are about: ten million rows, 30 minutes")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="dbqueue and the limits only")
    parser.add_argument(
        "--only", action="append", default=[], metavar="TEXT", help="contestants with this in their name"
    )
    parser.add_argument("--json", type=Path, help="add the figures to this file")
    parser.add_argument(
        "--plots", type=Path, metavar="FOLDER", help="draw what is in the --json file (needs matplotlib)"
    )
    return parser.parse_args()


def _jobs(row: Row, options: argparse.Namespace) -> int:
    if options.jobs:
        return int(options.jobs)
    if options.full and row.full:
        return row.full
    return row.short if options.short else row.jobs


def _result(name: str, taking_part: list[Contestant], only: list[str]) -> Result:
    """An empty one, of those who take part in the row."""
    wanted = [text.lower() for text in only]
    chosen = [each.name for each in taking_part if name in each.rows]
    return Result(
        name,
        ROWS[name],
        {each: [] for each in chosen if not wanted or any(text in each.lower() for text in wanted)},
    )


def _measure(result: Result, jobs: int, taking_part: list[Contestant], rounds: int) -> None:
    chosen = [each for each in taking_part if each.name in result.rounds]
    for number in range(rounds):  # in turns: a machine that slows down slows all of them
        for each in chosen if number % 2 == 0 else reversed(chosen):
            try:
                result.rounds[each.name].append(each.run(result.name, jobs))
            except Exception as error:  # noqa: BLE001 - the others are still worth measuring
                result.rounds[each.name].append(None)
                result.failures.append(str(error))


if __name__ == "__main__":
    sys.exit(main() if platform.system() != "Windows" else "the benchmarks start servers with POSIX tools")
