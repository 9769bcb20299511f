"""Every example in README and docs does what it says: each page is run on both databases."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import blocks

ROOT = Path(__file__).resolve().parents[2]
ALL_PAGES = [*sorted(ROOT.glob("README*.md")), *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [page for page in ALL_PAGES if any("skip" not in block.marks for block in blocks(page))]

SKIPPED = {
    "make bench": "measures for many minutes",
    "make demo": "tests/examples/test_demo.py runs its program",
    "make test": "would run this test",
    "pip install": "installs into the reader's environment; tests/packaging tries it",
    "git clone": "is typed where there is no checkout yet",
    'eval "$(_DBQUEUE_COMPLETE=': "is a line of the reader's shell; tests/cli asks for the script",
    "_DBQUEUE_COMPLETE=fish_source": "the same, of another shell",
}
"""What a page may show and no test types, and why."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder in which a page's commands are typed, and `dbqueue` and `python` for them in `bin`."""
    folder = tmp_path / "page"
    (folder / "bin").mkdir(parents=True)
    script = folder / "bin" / "dbqueue"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dbqueue.cli "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IEXEC)
    (folder / "bin" / "python").symlink_to(script.with_name("python-of-the-tests"))
    python = script.with_name("python-of-the-tests")
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(python.stat().st_mode | stat.S_IEXEC)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page(page: Path, folder: Path, database_url: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DBQUEUE_")}
    environment |= {
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(folder))),
        "PYTHONUNBUFFERED": "1",
        "NO_COLOR": "1",
    }
    ended = subprocess.run(
        [sys.executable, "-m", "tests.docs.run_page", str(page), database_url],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: page.name)
def test_what_is_not_run_has_a_reason(page: Path) -> None:
    for block in blocks(page):
        if "skip" in block.marks:
            for line in block.text.splitlines():
                command = line.removeprefix("$ ").partition("#")[0].strip()
                assert not command or command.startswith(tuple(SKIPPED)), f"{page.name}:{block.line}: {line}"


def test_a_wrong_example_is_found(folder: Path, sqlite_url: str, tmp_path: Path) -> None:
    """The collector can fail: in each language."""
    for language, text in {
        "python": "assert 1 == 2",
        "pycon": ">>> 1 + 1\n3",
        "sql": "SELECT nonsense FROM dbqueue_jobs;",
        "console": "$ echo one\ntwo",
    }.items():
        page = tmp_path / f"{language}.md"
        page.write_text(f"# A page\n\n```{language}\n{text}\n```\n")
        ended = subprocess.run(
            [sys.executable, "-m", "tests.docs.run_page", str(page), sqlite_url],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == 1, language
