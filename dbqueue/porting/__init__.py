"""Reads a program written for Celery, and lists what dbqueue makes of it. Nothing of it is imported or run.

Three kinds of things are looked at in each Python file: imports (and what hangs on them), settings
(of an application, or in a configuration module) and calls (`@app.task`, `apply_async`, ...). Where
the queue `celery` is named is found in files that start workers, too (`porting.queue_names`).
`porting.rules` judges them. What a name leads to is guessed from the file alone, so a finding may
concern something that only has Celery's name, and what is built at run time is not seen.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dbqueue.porting import queue_names
from dbqueue.porting.reader import FileReader, last_name, literal, setting_findings
from dbqueue.porting.rules import Kind, Verdict
from dbqueue.porting.urls import fill_in

SKIPPED_FOLDERS: Final = frozenset(
    {".git", ".hg", ".tox", ".nox", ".venv", "venv", "env", "node_modules", "site-packages", "__pycache__", "build"}
)
DEFAULT_NAMESPACE: Final = "CELERY"
"""The namespace of nearly all projects that have one: Celery's guide for Django."""


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One place; `path` is relative to the project, `line` counts from 1."""

    path: str
    line: int
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Report:
    """What was found, and the files that could not be read with the reason."""

    findings: list[Finding]
    unread: dict[str, str]
    files: int

    def of(self, kind: Kind) -> list[Finding]:
        return [finding for finding in self.findings if finding.kind == kind.value]


def check_project(root: Path) -> Report:
    """Read the Python file `root`, or all in the folder `root`."""
    trees: dict[Path, ast.Module] = {}
    unread: dict[str, str] = {}
    folder = root if root.is_dir() else root.parent
    for path in python_files(root):
        try:
            trees[path] = fill_in(ast.parse(path.read_bytes(), filename=str(path)))
        except (OSError, SyntaxError, ValueError, RecursionError) as error:
            unread[str(path.relative_to(folder))] = f"{type(error).__name__}: {error}"
    configured = {name: namespace for tree in trees.values() for name, namespace in _config_objects(tree)}
    findings: set[Finding] = set()
    for path, tree in trees.items():
        name = str(path.relative_to(folder))
        reader = FileReader()
        reader.visit(tree)
        settings = _module_settings(path.relative_to(folder), tree, configured)
        findings |= _findings(name, [*reader.found, *settings, *queue_names.in_code(tree)])
    for path in _command_files(root):
        text = path.read_text(errors="replace")
        findings |= _findings(str(path.relative_to(folder)), queue_names.in_text(text))
    return Report(sorted(findings), unread, len(trees))


def _findings(path: str, found: Iterable[tuple[int, Verdict]]) -> set[Finding]:
    return {Finding(path, line, verdict.kind.value, verdict.text) for line, verdict in found}


def _command_files(root: Path) -> Iterator[Path]:
    """What starts workers and is no Python, below a folder."""
    if root.is_dir():
        for path in queue_names.command_files(root):
            if not SKIPPED_FOLDERS.intersection(path.relative_to(root).parts[:-1]):
                yield path


def python_files(root: Path) -> Iterator[Path]:
    """The file itself, or those below the folder, without virtual environments and the like."""
    if root.is_file():
        yield root
        return
    for path in sorted(root.rglob("*.py")):
        if not SKIPPED_FOLDERS.intersection(path.relative_to(root).parts[:-1]):
            yield path


def _config_objects(tree: ast.Module) -> Iterator[tuple[str, str | None]]:
    """The modules that `config_from_object` names in text, with their namespaces."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and last_name(node.func) == "config_from_object" and node.args:
            name = literal(node.args[0])
            namespace = next((literal(each.value) for each in node.keywords if each.arg == "namespace"), None)
            if isinstance(name, str):
                yield name.removeprefix("django.conf:"), namespace if isinstance(namespace, str) else None


def _module_settings(path: Path, tree: ast.Module, configured: dict[str, str | None]) -> Iterator[tuple[int, Verdict]]:
    """The settings that are names of a module: one that is configured from, or that looks like it."""
    dotted = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    matching = [name for name in configured if dotted == name or dotted.endswith(f".{name}")]
    parts = path.with_suffix("").parts
    named_settings = any("settings" in part or "config" in part for part in parts)
    if matching:
        namespace = configured[matching[0]]
    elif named_settings:
        namespace = DEFAULT_NAMESPACE if path.stem != "celeryconfig" else None
    else:
        return
    for line, name, value in _assignments(tree.body):
        # In a settings module, only what has the namespace is Celery's.
        if matching or path.stem == "celeryconfig" or name.startswith(f"{DEFAULT_NAMESPACE}"):
            yield from setting_findings(line, name, value, namespace)


def _assignments(body: Sequence[ast.stmt]) -> Iterator[tuple[int, str, ast.expr | None]]:
    for statement in body:
        if isinstance(statement, ast.Assign):
            for target in statement.targets:
                if isinstance(target, ast.Name):
                    yield statement.lineno, target.id, statement.value
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            yield statement.lineno, statement.target.id, statement.value
        elif isinstance(statement, ast.If | ast.Try | ast.With | ast.ClassDef):
            yield from _assignments(statement.body)
            yield from _assignments(getattr(statement, "orelse", []))
