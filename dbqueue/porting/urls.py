"""URLs that a program puts together: what can be known of them without running it.

    REDIS_URL = os.getenv("REDIS_URL", "redis://localhost")       the default
    app = Celery(broker=REDIS_URL)                                the constant
    app = Celery(broker=f"redis://{HOST}/0")                      the text before the first value

A name or an expression that is such a URL is put in as the URL itself, before the file is judged.
"""

from __future__ import annotations

import ast
from typing import Final

from dbqueue.porting.reader import last_name

LOOKUPS: Final = frozenset({"getenv", "get", "env", "config", "str"})
"""Functions that take a variable's name and a default: of `os`, django-environ and decouple."""


def fill_in(tree: ast.Module) -> ast.Module:
    """The file with its URLs in the places where they are used."""
    folded: ast.Module = _Folder({}).visit(tree)
    known: dict[str, str] = {}
    for statement in ast.walk(folded):
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant):
            for target in statement.targets:
                if isinstance(target, ast.Name) and _is_url(statement.value.value):
                    known[target.id] = str(statement.value.value)
    changed: ast.Module = _Folder(known).visit(folded)
    return changed


class _Folder(ast.NodeTransformer):
    def __init__(self, known: dict[str, str]) -> None:
        self._known = known

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if last_name(node.func) in LOOKUPS:
            defaults = [*node.args[1:2], *(each.value for each in node.keywords if each.arg == "default")]
            for default in defaults:
                if isinstance(default, ast.Constant) and _is_url(default.value):
                    return ast.copy_location(ast.Constant(default.value), node)
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        first = node.values[0] if node.values else None
        if isinstance(first, ast.Constant) and _is_url(first.value):
            return ast.copy_location(ast.Constant(f"{str(first.value).partition('://')[0]}://host/name"), node)
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if isinstance(node.ctx, ast.Load) and node.id in self._known:
            return ast.copy_location(ast.Constant(self._known[node.id]), node)
        return node


def _is_url(value: object) -> bool:
    return isinstance(value, str) and "://" in value
