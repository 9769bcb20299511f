"""The peers' own environments, made at the first run: `.venv-peers/` at the top of the checkout."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
FOLDER: Final = HERE.parent / ".venv-peers"
REQUIREMENTS: Final = HERE / "peers" / "requirements.txt"
OBAN_REQUIREMENTS: Final = HERE / "peers" / "requirements-oban.txt"
SUPPORTING: Final = {"sqlalchemy", "psycopg", "uvloop"}
"""What peers need, and is none of them."""
NEWER_PYTHONS: Final = ("python3.14", "python3.13", "python3.12")
"""Oban for Python needs 3.12. Looked for on the PATH and at pyenv; DBQUEUE_BENCH_NEWER_PYTHON names another."""


@dataclass(frozen=True, slots=True)
class Environments:
    python: str | None
    """The interpreter with the peers in Python; None where they could not be installed."""
    oban_python: str | None
    """The same for Oban, which needs a newer Python than the rest."""
    node: str | None
    """The folder with the peers in JavaScript and their scripts; None where they could not be installed."""

    @property
    def node_program(self) -> Path:
        """Which runs them: installed beside them, for their newest releases need a newer one than systems have."""
        return Path(self.node or "", "node_modules", ".bin", "node")

    @classmethod
    def make(cls) -> Environments:
        return cls(
            _virtual_environment(FOLDER / "python", sys.executable, REQUIREMENTS),
            _newer_environment(),
            _node_folder(FOLDER / "node"),
        )

    def versions(self) -> dict[str, str]:
        found: dict[str, str] = {}
        if self.python:
            found |= _installed(self.python, REQUIREMENTS)
        if self.oban_python:
            found |= _installed(self.oban_python, OBAN_REQUIREMENTS)
        if self.node:
            for name in ("graphile-worker", "pg-boss"):
                about = Path(self.node) / "node_modules" / name / "package.json"
                found[name] = json.loads(about.read_text())["version"]
            ask = [str(self.node_program), "--version"]
            found["Node"] = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip("v\n")
        return found


def _virtual_environment(folder: Path, interpreter: str, requirements: Path) -> str | None:
    """Its interpreter, after an installation if the requirements have changed since the last."""
    python = folder / "bin" / "python"
    if not _is_stale(folder, requirements):
        return str(python)
    made = subprocess.run([interpreter, "-m", "venv", "--clear", str(folder)], check=False).returncode == 0
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", str(requirements)]
    if not made or subprocess.run(pip, check=False).returncode:
        return None
    _stamp(folder, requirements)
    return str(python)


def _newer_environment() -> str | None:
    given = os.environ.get("DBQUEUE_BENCH_NEWER_PYTHON")
    managed = sorted(map(str, Path.home().glob(".pyenv/versions/3.*/bin/python")), reverse=True)
    for interpreter in (given,) if given else (sys.executable, *NEWER_PYTHONS, *managed):
        ask = [interpreter, "-c", "import sys; sys.exit(sys.version_info < (3, 12))"]
        # A name on the PATH may be the shim of a version manager, which fails where that version is not chosen.
        if shutil.which(interpreter) and subprocess.run(ask, capture_output=True, check=False).returncode == 0:
            return _virtual_environment(FOLDER / "oban", interpreter, OBAN_REQUIREMENTS)
    return None


def _installed(python: str, requirements: Path) -> dict[str, str]:
    command = [python, "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    wanted = {line.split("[")[0].split(">")[0] for line in _lines(requirements)} - SUPPORTING
    pairs = (line.split("==") for line in listed.splitlines() if "==" in line)
    return {name: version for name, version in pairs if name.lower().replace("_", "-") in wanted}


def _node_folder(folder: Path) -> str | None:
    if shutil.which("node") is None or shutil.which("npm") is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    # The scripts stand beside node_modules, where Node looks for what they import.
    for script in (HERE / "peers").glob("*.mjs"):
        shutil.copy(script, folder)
    about = HERE / "peers" / "package.json"
    if _is_stale(folder, about):
        shutil.copy(about, folder)
        if subprocess.run(
            ["npm", "install", "--silent", "--no-audit", "--no-fund"], cwd=folder, check=False
        ).returncode:
            return None
        _stamp(folder, about)
    return str(folder)


def _is_stale(folder: Path, requirements: Path) -> bool:
    stamp = folder / ".installed"
    return not stamp.exists() or stamp.read_text() != _digest(requirements)


def _stamp(folder: Path, requirements: Path) -> None:
    (folder / ".installed").write_text(_digest(requirements))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
