"""Reads one Python file of a Celery program, and has each name, setting and call judged."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any, Final

from dbqueue.calls import FOLLOWED
from dbqueue.porting import rules
from dbqueue.porting.rules import Kind, Verdict

_APP_NAMES: Final = ("app", "celery", "celery_app", "celeryapp", "current_app")
"""What an application is called where it is imported from another file."""
UNKNOWN: Final = object()
"""In the place of a value that only running the program would tell."""


def setting_findings(
    line: int, name: str, value: ast.expr | None, namespace: str | None
) -> Iterator[tuple[int, Verdict]]:
    """What a setting of this name and value means; nothing for a name that is none."""
    judged = rules.judge_setting(name, namespace=namespace)
    if judged is None:
        return
    known, verdict = judged
    content = UNKNOWN if value is None else literal(value)
    judgeable = content is not UNKNOWN and verdict.kind is Kind.WORKS
    objection = rules.judge_value(known, content) if judgeable else None
    yield line, objection or verdict


def literal(node: ast.expr) -> Any:
    """The value of a literal; `UNKNOWN` for anything that only running tells."""
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return UNKNOWN


def last_name(node: ast.expr) -> str | None:
    """The last name of `a.b.c`."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None


def _dotted(node: ast.expr) -> list[str]:
    """`a.b.c` as its names; empty for anything else."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return [node.id, *reversed(names)] if isinstance(node, ast.Name) else []


def _pairs(node: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """The names and values of a dict, of a call of `dict(...)`, or of one that takes what `dict` takes."""
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            name = key and literal(key)
            if isinstance(name, str):
                yield name, value
    elif isinstance(node, ast.Call):
        yield from ((each.arg, each.value) for each in node.keywords if each.arg)
        for argument in node.args:
            yield from _pairs(argument)


class FileReader(ast.NodeVisitor):
    """Walks one file; `found` has lines and verdicts."""

    def __init__(self) -> None:
        self.found: list[tuple[int, Verdict]] = []
        self._modules: dict[str, str] = {}
        """Names in the file that are modules of Celery's."""
        self._classes: dict[str, str] = {}
        """Names in the file that are things of Celery's, by where they come from."""
        self._apps: set[str] = set()

    def _add(self, node: ast.expr | ast.stmt, verdict: Verdict) -> None:
        self.found.append((node.lineno, verdict))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if rules.concerns(alias.name):
                bound = alias.asname or alias.name.partition(".")[0]
                self._modules[bound] = alias.name if alias.asname else bound
                self._add(node, rules.judge_name(alias.name))

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        foreign = node.module is not None and not node.level and rules.concerns(node.module)
        for alias in node.names:
            bound = alias.asname or alias.name
            if foreign:
                path = f"{node.module}.{alias.name}"
                self._classes[bound] = path
                self._add(node, rules.judge_name(path))
                if alias.name == "current_app":
                    self._apps.add(bound)
            elif alias.name in _APP_NAMES and (alias.name != "app" or "celery" in (node.module or "celery")):
                self._apps.add(bound)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        names = _dotted(node)
        if names and names[0] in self._modules:
            self._add(node, rules.judge_name(".".join((self._modules[names[0]], *names[1:]))))
            return
        if len(names) >= 2 and names[0] in self._apps and names[1] != "conf":
            if len(names) > 2 and names[1] == "control":
                self._add(node, rules.judge_command(names[2], inspect=False))
            else:
                self._add(node, rules.judge_app_attribute(names[1]))
            return
        self.generic_visit(node)

    # applications and their settings

    def _is_app(self, node: ast.expr) -> bool:
        path = self._path(node.func) if isinstance(node, ast.Call) else ""
        return path in ("celery.Celery", "celery.app.Celery", "celery.app.base.Celery")

    def _path(self, node: ast.expr) -> str:
        """Where a name of the file leads in Celery; empty for others."""
        names = _dotted(node)
        if not names:
            return ""
        start = self._modules.get(names[0]) or self._classes.get(names[0])
        return ".".join((start, *names[1:])) if start else ""

    def visit_Assign(self, node: ast.Assign) -> None:
        if self._is_app(node.value):
            self._apps |= {name for target in node.targets if (name := last_name(target))}
        for target in node.targets:
            names = _dotted(target)
            if len(names) == 3 and names[0] in self._apps and names[1] == "conf":
                self.found += setting_findings(node.lineno, names[2], node.value, None)
            elif isinstance(target, ast.Subscript) and _dotted(target.value)[1:] == ["conf"]:
                name = literal(target.slice)
                if isinstance(name, str):
                    self.found += setting_findings(node.lineno, name, node.value, None)
            elif isinstance(target, ast.Subscript) and last_name(target.value) == "config":
                self._of_flask(literal(target.slice), node.value)
        self.generic_visit(node)

    def _of_flask(self, key: object, value: ast.expr) -> None:
        """A key of Flask's `app.config`: CELERY_BROKER_URL, or CELERY for a dict of settings (as Flask's page says)."""
        if key == "CELERY":
            for name, each in _pairs(value):
                self.found += setting_findings(each.lineno, name, each, None)
        elif isinstance(key, str) and key.startswith("CELERY_"):
            self.found += setting_findings(value.lineno, key, value, "CELERY")

    # calls and decorators

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for decorator in node.decorator_list:
            call = decorator if isinstance(decorator, ast.Call) else None
            if self._makes_task(call.func if call else decorator):
                self._add(decorator, rules.works("a task declared by a decorator"))
                for each in call.keywords if call else ():
                    if each.arg:
                        self._add(decorator, rules.judge_task_option(each.arg))
                        self._value(decorator, each)
        self.generic_visit(node)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def _makes_task(self, node: ast.expr) -> bool:
        names = _dotted(node)
        # `app` may be imported from anywhere; other libraries' applications have no decorator of this name.
        own = len(names) == 2 and names[1] == "task" and (names[0] in self._apps or names[0] in _APP_NAMES)
        return own or self._path(node) in ("celery.shared_task", "celery.app.shared_task")

    def _value(self, node: ast.expr, option: ast.keyword) -> None:
        """A serializer that an option names must be known."""
        if option.arg == "serializer" and (value := literal(option.value)) is not UNKNOWN:
            objection = rules.judge_value("task_serializer", value)
            if objection is not None:
                self._add(node, objection)

    def visit_Call(self, node: ast.Call) -> None:
        names = _dotted(node.func)
        name = last_name(node.func)
        if self._is_app(node):
            self._application(node)
        elif name == "update" and self._is_conf(node.func):
            for each, value in _pairs(node):
                self.found += setting_findings(value.lineno, each, value, None)
        elif names[-2:] in (["config", "update"], ["config", "from_mapping"]):
            for each, value in _pairs(node):
                self._of_flask(each, value)
        elif isinstance(node.func, ast.Attribute) and self._is_inspect(node.func.value):
            self._add(node, rules.judge_command(str(name), inspect=True))
        elif isinstance(node.func, ast.Attribute) and names[:1] and names[0] not in self._modules:
            if name in rules.TASK_METHODS and names[0] not in self._apps and self._concerned(name):
                self._task_call(node, name)
            elif name in rules.CONTROL_METHODS and len(names) == 2 and "result" in names[0].lower():
                self._add(node, rules.judge_result_method(name))
        self.generic_visit(node)

    def _is_conf(self, method: ast.expr) -> bool:
        """`app.conf` of `app.conf.update`, whatever leads to the application in a file that has to do with Celery."""
        of = method.value if isinstance(method, ast.Attribute) else None
        return isinstance(of, ast.Attribute) and of.attr == "conf" and self._concerned("conf")

    def _is_inspect(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Call) and _dotted(node.func)[-2:] == ["control", "inspect"]

    def _concerned(self, name: str) -> bool:
        """Names that other libraries have too count only in a file that has to do with Celery."""
        return name in ("delay", "apply_async") or bool(self._modules or self._classes or self._apps)

    def _task_call(self, node: ast.Call, name: str) -> None:
        self._add(node, rules.judge_task_method(name))
        if name == "apply_async":
            for each in node.keywords:
                if each.arg:
                    self._add(node, rules.judge_call_option(each.arg))
                    self._value(node, each)
        elif name == "retry":
            for each in node.keywords:
                if each.arg in FOLLOWED:
                    self._add(node, rules.judge_retry_option(each.arg))

    def _application(self, node: ast.Call) -> None:
        positional = dict(zip(("main", "broker", "backend"), node.args, strict=False))
        for name, value in {**positional, **{each.arg: each.value for each in node.keywords if each.arg}}.items():
            setting = {"broker": "broker_url", "backend": "result_backend"}.get(name, name)
            if name in rules.OTHER_ARGUMENTS:
                self._add(node, rules.judge_argument(name))
            elif name not in ("main", "include", "set_as_current", "task_cls", "config_source", "namespace"):
                self.found += setting_findings(node.lineno, setting, value, None)
