"""The rows of docs/faults.md: which are run, how often, and the table of what came of them."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.campaign import POOLS, Campaign
from tests.chaos.checker import OVERTAKEN

EVERY_POOL = (*POOLS, "solo")
"""For faults of databases, networks and whole workers; solo has no pool processes, and its hard limit ends nothing."""
SAMPLED = 1
"""How many variants of each test a run has that names no row: CI has two and a half minutes for all."""
INVALID_RUNS = 6
"""How many runs of a test may prove nothing, each of which is repeated: on a busy machine a fault can come too late."""
FULL = {
    "P1": 3500,
    "P2": 300,
    "P3": 50,
    "P4": 1000,
    "P5": 50,
    "P6": 200,
    "P7": 10_000,
    "P8": 100,
    "P9": 50,
    "D1": 100,
    "D3": 2000,
    "D4": 1000,
    "D5": 100,
    "D7": 50_000,
    "D8": 30,
    "D9": 20,
    "D10": 3,
    "D11": 500,
    "D12": 4000,
    "D16": 20,
    "J1": 600,
    "J2": 160,
    "S1": 1000,
    "F1": 500,
    "D14": 10_000_000,
    "D15": 10_000,
}
"""How many tries `--full` makes of each row; the variants of its tests share them evenly."""
ON_REQUEST = ("D14", "D15")
"""Rows that are run where they are named, or with `--full`: a large table is filled, and a wheel is built."""
STOPS_ALL = "a process that is stopped with SQLite's write lock stops all others: docs/transactions.md"
"""Why a variant is `void`."""
PROGRESS = ".chaos"
"""Where a long run notes how far it has come, so that the next goes on from there."""
VARIANTS = pytest.StashKey[Counter[str]]()
"""How many variants each row's tests have."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("chaos")
    group.addoption(
        "--row", action="append", default=[], help="only this row of the matrix (P1, D4, ...); may be repeated"
    )
    group.addoption(
        "--full", action="store_true", help="as many tries as docs/faults.md names; goes on where it stopped"
    )
    group.addoption(
        "--all", action="store_true", help="all variants of each test (pools, databases, points), not a few"
    )
    group.addoption("--tries", type=int, default=None, help="this many tries of each test instead")
    group.addoption(
        "--heal-timeout", type=float, default=120.0, help="seconds for all jobs to end after the last fault"
    )
    group.addoption("--table", type=Path, default=None, help="write the table of rows to this file, as JSON lines")


def pytest_configure(config: pytest.Config) -> None:
    if unknown := set(config.getoption("--row", default=[])) - FULL.keys():
        raise pytest.UsageError(f"there is no row {', '.join(sorted(unknown))}; there are {', '.join(FULL)}")
    if config.getoption("--full", default=False):  # D15 goes by this, for `make packaging` runs it too
        os.environ.setdefault("DBQUEUE_ROLLING_JOBS", str(FULL["D15"]))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if (mark := item.get_closest_marker("void")) and _is_void(item):
            item.add_marker(pytest.mark.skip(reason=mark.args[0]))
    config.stash[VARIANTS] = Counter(row for item in items if (row := _row(item)) and not _is_void(item))
    rows = config.getoption("--row", default=[])
    if rows:
        chosen = [item for item in items if _row(item) in rows]
    elif config.getoption("--full", default=True) or config.getoption("-k"):
        return
    else:
        unasked = [item for item in items if _row(item) not in ON_REQUEST]
        all_variants = config.getoption("--all")
        chosen = unasked if all_variants else [item for item in unasked if not _row(item)] + _sample(unasked)
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


def _row(item: pytest.Item) -> str | None:
    mark = item.get_closest_marker("chaos")
    return mark.args[0] if mark else None


def _is_void(item: pytest.Item) -> bool:
    """Whether it is a variant that cannot be (`void`), and has no share of its row's tries."""
    mark = item.get_closest_marker("void")
    if mark is None or not isinstance(item, pytest.Function):
        return False
    return all(item.callspec.params[name] in values for name, values in mark.kwargs.items())


def _sample(items: list[pytest.Item]) -> list[pytest.Item]:
    """Of each test a few of its variants, spread over pools, databases and points; the same ones each time."""
    by_test: dict[str, list[pytest.Item]] = {}
    for item in sorted(items, key=lambda item: item.nodeid):
        if _row(item) and not _is_void(item):
            by_test.setdefault(item.nodeid.partition("[")[0], []).append(item)
    chosen = []
    for number, (_, variants) in enumerate(sorted(by_test.items())):
        few = min(SAMPLED, len(variants))
        chosen += [variants[(number + index * len(variants) // few) % len(variants)] for index in range(few)]
    return chosen


class Tries:
    """How often a test is to try, and what came of it; see `Row`."""

    def __init__(self, row: str, variant: str, config: pytest.Config, properties: list[tuple[str, object]]) -> None:
        self.row, self.variant = row, variant
        self._config, self._properties = config, properties
        self._path = Path(config.rootpath, PROGRESS, f"{variant}.json")
        self.done = {"tries": 0, "violations": 0, "heal_seconds": 0.0}
        if self.full and self._path.exists():
            self.done = json.loads(self._path.read_text())

    @property
    def heal_timeout(self) -> float:
        return float(self._config.getoption("--heal-timeout", default=120.0))

    @property
    def full(self) -> bool:
        return bool(self._config.getoption("--full", default=False))

    def wanted(self, short: int) -> int:
        given: int | None = self._config.getoption("--tries", default=None)
        share = math.ceil(FULL[self.row] / self._config.stash[VARIANTS][self.row])
        return given if given is not None else share if self.full else short

    def until(self, short: int) -> Iterator[int]:
        """Attempts, by the number of tries that are left, until enough have been noted; `short` is for CI."""
        wanted = self.wanted(short)
        while (left := wanted - self.done["tries"]) > 0:
            yield int(left)

    def note(self, tries: int, violations: int = 0, heal_seconds: float = 0.0) -> None:
        self.done["tries"] += tries
        self.done["violations"] += violations
        self.done["heal_seconds"] = max(self.done["heal_seconds"], round(heal_seconds, 2))
        if self.full:
            self._path.parent.mkdir(exist_ok=True)
            self._path.write_text(json.dumps(self.done))

    def close(self) -> None:
        self._properties.append(("chaos", json.dumps({"row": self.row, "variant": self.variant, **self.done})))


@pytest.fixture
def tries(request: pytest.FixtureRequest) -> Iterator[Tries]:
    mark = request.node.get_closest_marker("chaos")
    variant = request.node.name.replace("/", "-")
    tries = Tries(mark.args[0], variant, request.config, request.node.user_properties)
    yield tries
    tries.close()


class Judge:
    """Opens campaigns of a test, and judges each."""

    def __init__(self, tries: Tries, fresh: Callable[[], str], folder: Path) -> None:
        self._tries, self._fresh, self._folder, self._count = tries, fresh, folder, 0
        self._invalid = 0

    @contextlib.contextmanager
    def __call__(self, url: str | None = None, *, counts: int | None = None, **settings: Any) -> Iterator[Campaign]:
        """A campaign on a new database; what it has violated fails the test. `counts`: as so many tries.

        One that proves nothing counts as none, so that `Tries.until` asks for another; not for ever.
        """
        self._count += 1
        folder = self._folder / f"campaign-{self._count}"
        folder.mkdir()
        with Campaign(url or self._fresh(), folder, **settings) as campaign:
            campaign.heal_timeout = self._tries.heal_timeout
            yield campaign
            verdict = campaign.verdict()
            starved = campaign.starved and all(each.endswith(OVERTAKEN) for each in verdict.violations)
            proves_nothing = starved if verdict.violations else campaign.void or not verdict.valid
            if proves_nothing and self._invalid < INVALID_RUNS:
                self._invalid += 1
                return
            self._tries.note(
                verdict.faults if counts is None else counts, len(verdict.violations), campaign.heal_seconds
            )
            if verdict.violations:
                logs = "\n\n".join(worker.log[-3000:] for worker in campaign.workers)
                pytest.fail("\n".join([*verdict.violations[:20], logs]), pytrace=False)
            proved = verdict.valid and not campaign.void
            assert proved, f"no fault met a job that ran, in {self._invalid} runs: {verdict}"


@pytest.fixture
def campaign(tries: Tries, request: pytest.FixtureRequest, tmp_path: Path) -> Judge:
    """`with campaign() as it:`; each time on a new database of the kind that the test asks for (`kind`)."""
    kind = request.getfixturevalue("kind") if "kind" in request.fixturenames else "postgres"
    return Judge(tries, request.getfixturevalue(f"fresh_{kind}"), tmp_path)


@pytest.fixture(params=["sqlite", "postgres"])
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def fresh_sqlite(sqlite_template: Path, tmp_path: Path) -> Callable[[], str]:
    """Makes a new, migrated SQLite file each time."""

    def fresh() -> str:
        path = tmp_path / f"jobs-{time.monotonic_ns()}.db"
        path.write_bytes(sqlite_template.read_bytes())
        return f"sqlite:///{path}"

    return fresh


@pytest.fixture
def fresh_postgres(postgres_server: Any, postgres_template: str) -> Iterator[Callable[[], str]]:
    """Makes a new, migrated PostgreSQL database each time; all are dropped in the end."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(postgres_server.database(postgres_template))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    found = [
        json.loads(value)
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "teardown"
        for name, value in report.user_properties
        if name == "chaos"
    ]
    if not found:
        return
    terminalreporter.section("faults")
    found.sort(key=lambda each: (each["row"], each["variant"]))
    for each in found:
        line = f"{each['row']:<4} {each['variant']:<64} {each['tries']:>6} tries {each['violations']:>3} violations"
        terminalreporter.write_line(f"{line}  healed in {each['heal_seconds']:.1f} s")
    table: Path | None = config.getoption("--table", default=None)
    if table is not None:
        table.write_text("".join(f"{json.dumps(each)}\n" for each in found))
