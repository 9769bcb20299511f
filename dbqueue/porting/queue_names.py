"""Where a project names the queue `celery`, which a search and replace over whole files would rename.

The default queue is `celery` here, too. Where only some of its places say `dbqueue`, or jobs of the
time before still wait, a worker looks at one queue and the callers send to another. Python files are
read as code; for the worker's command line other files of a project are read as text.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dbqueue.porting.reader import last_name
from dbqueue.porting.rules import Verdict, changes

QUEUE: Final = "celery"
NAMING: Final = frozenset(
    {"queue", "queues", "default_queue", "task_default_queue", "routing_key", "task_default_routing_key"}
)
"""Keywords, keys and settings whose value is the name of a queue, or leads to one."""
CALLS: Final = frozenset({"Queue", "add_consumer", "cancel_consumer"})
"""Calls whose first argument is the name of a queue."""
FLAGS: Final = ("-Q", "--queues", "-X", "--exclude-queues")
_ON_A_LINE: Final = re.compile(r"(?:^|[\s\"'])(?:-Q|--queues|-X|--exclude-queues)[\s=\"',]*([\w.,*-]+)")

COMMAND_FILES: Final = (
    "Procfile*",
    "*Dockerfile*",
    "Makefile",
    "*.yml",
    "*.yaml",
    "*.sh",
    "*.service",
    "*.conf",
    "*.ini",
)
"""Files of a project that start workers, by their names."""
LARGEST_FILE: Final = 1_000_000
"""In bytes; what is longer is data."""

VERDICT: Final = changes(
    f"names the queue {QUEUE!r}: leave it as it is, for the default queue has this name here, too; "
    "replaced along with the imports it is another queue"
)


def in_code(tree: ast.Module) -> Iterator[tuple[int, Verdict]]:
    """The lines of a Python file that name the queue."""
    for node in ast.walk(tree):
        for value in _queue_values(node):
            if _names_it(value):
                yield value.lineno, VERDICT


def in_text(text: str) -> Iterator[tuple[int, Verdict]]:
    """The lines of another file that start a worker of the queue."""
    for number, line in enumerate(text.splitlines(), 1):
        if any(QUEUE in found.split(",") for found in _ON_A_LINE.findall(line)):
            yield number, VERDICT


def command_files(root: Path) -> Iterator[Path]:
    """The files below the folder `root` that may start workers."""
    for pattern in COMMAND_FILES:
        for path in root.rglob(pattern):
            if path.is_file() and path.stat().st_size <= LARGEST_FILE:
                yield path


def _queue_values(node: ast.AST) -> Iterator[ast.expr]:
    """The expressions right below `node` that give names of queues."""
    if isinstance(node, ast.keyword):
        yield from [node.value] if _naming(node.arg) else []
    elif isinstance(node, ast.Dict):
        yield from (value for key, value in zip(node.keys, node.values, strict=True) if _naming(_text(key)))
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        yield from _assigned(node)
    elif isinstance(node, ast.Call) and last_name(node.func) in CALLS:
        yield from node.args[:1]
    elif isinstance(node, ast.List | ast.Tuple):  # the words of a command line
        yield from (value for flag, value in zip(node.elts, node.elts[1:], strict=False) if _text(flag) in FLAGS)


def _assigned(node: ast.Assign | ast.AnnAssign) -> Iterator[ast.expr]:
    """The value of a setting; a variable `queue` is anybody's."""
    for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
        name = _text(target.slice) if isinstance(target, ast.Subscript) else last_name(target)
        if name not in ("queue", "queues") and _naming(name) and node.value is not None:
            yield node.value


def _text(node: ast.expr | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _naming(name: str | None) -> bool:
    """Also with a namespace, and in capitals: CELERY_TASK_DEFAULT_QUEUE."""
    return name is not None and name.lower().removeprefix("celery_") in NAMING


def _names_it(value: ast.expr) -> bool:
    if isinstance(value, ast.List | ast.Tuple | ast.Set):
        return any(_names_it(each) for each in value.elts)
    return QUEUE in (_text(value) or "").split(",")
