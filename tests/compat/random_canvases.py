"""Random canvases, and what they come to: by a plain evaluator, and by their rows and edges.

Their task returns what it was called with, `[args, kwargs]`, so a result tells the whole story of its canvas. Some
have calls that are tried again, that fail, and that put another canvas in their place.
"""

from __future__ import annotations

import contextlib
import json
from random import Random
from typing import Any

from dbqueue import chain, chord, group, signature
from dbqueue.canvas.primitives import members
from dbqueue.result import GroupResult
from dbqueue.workflows import Workflow

NOTHING: Any = object()
MOST_ITEMS = 5_000


class Failed(Exception):
    """A canvas fails."""


def canvas(tasks: Any, random: Random, depth: int = 4, *, troubled: bool = False) -> Any:
    """A canvas that is at most this deep."""
    kind = random.choice(["call", "immutable", "chain", "group", "chord", "or", "chain", "group", "chord"])
    if depth <= 0 or kind == "call":
        return _troubled(tasks, random) if troubled else tasks["tasks.kw"].s(random.randrange(100))
    if kind == "immutable":
        return tasks["tasks.kw"].si(random.randrange(100), k=random.randrange(10))

    def parts(least: int, most: int) -> list[Any]:
        return [canvas(tasks, random, depth - 1, troubled=troubled) for _ in range(random.randint(least, most))]

    if kind == "chain":
        return chain(*parts(2, 4))
    if kind == "or":
        left, right = parts(2, 2)
        return left | right
    if kind == "group":
        return group(parts(1, 4))
    return chord(parts(0, 3), *parts(1, 1))


def _troubled(tasks: Any, random: Random) -> Any:
    """A call that may fail, is tried again, or is replaced by a canvas."""
    kind = random.choices(["kw", "retried", "rep", "fail"], [8, 4, 4, 1])[0]
    if kind == "rep":
        # What replaces it is called with nothing, and may be replaced in its turn.
        depth = random.randrange(3)
        return tasks["tasks.rep"].s(canvas(tasks, random, depth, troubled=depth > 0))
    return tasks[f"tasks.{kind}"].s(random.randrange(100))


def whole(tasks: Any, random: Random, *, troubled: bool = False) -> Any:
    """A canvas that ends in a call, and whose results have no more items than MOST_ITEMS."""
    # Each member of a group takes the whole result of the one before: a chain of them grows by powers, to gigabytes.
    last = tasks["tasks.kw"].s(-1)
    drawn = (chain(canvas(tasks, random, depth, troubled=troubled), last.clone()) for depth in (4, 3, 2, 1, 0))
    return next(each for each in drawn if is_small(each))


def is_small(sig: Any) -> bool:
    """Whether no result in it has more items than MOST_ITEMS; told without running it."""
    with contextlib.suppress(OverflowError):
        items(sig)
        return True
    return False


def items(sig: Any, value: int = 0) -> int:
    """How many items its result has, called with a value of so many. Raises OverflowError for too many."""
    if isinstance(sig, chain):
        for step in _steps(sig):
            value = items(step, value)
    elif isinstance(sig, group):
        value = 1 + sum(items(task, value) for task in members(sig))
    elif isinstance(sig, chord):
        value = items(sig.body, items(group(sig.tasks), value))
    elif sig.task == "tasks.rep":
        value = items(signature(sig.args[-1]))
    else:
        value = 4 + (0 if sig.immutable else value)
    if value > MOST_ITEMS:
        raise OverflowError
    return value


def evaluate(sig: Any, value: Any = NOTHING) -> Any:
    """What the canvas gives, called with this value. Raises Failed."""
    if isinstance(sig, chain):
        for step in _steps(sig):
            value = evaluate(step, value)
        return value
    if isinstance(sig, group):
        return [evaluate(task, value) for task in members(sig)]
    if isinstance(sig, chord):
        return evaluate(sig.body, evaluate(group(sig.tasks), value))
    if sig.task == "tasks.fail":
        raise Failed
    if sig.task == "tasks.rep":
        return evaluate(signature(sig.args[-1]))
    first = [] if value is NOTHING or sig.immutable else [value]
    return [[*first, *sig.args], dict(sig.kwargs)]


def _steps(sig: Any) -> list[Any]:
    """What a chain runs: empty groups are no step."""
    return [step for step in map(_unrolled, sig.tasks) if not (isinstance(step, group) and not len(step))]


def _unrolled(sig: Any) -> Any:
    return _unrolled(sig.tasks[0]) if isinstance(sig, group) and len(sig) == 1 else sig


def run(workflow: Workflow, result: Any) -> Any:
    """What the rows and edges give: each job once, after those that it waits for."""
    values: dict[str, Any] = {}
    jobs = list(workflow.jobs)
    while jobs:
        free = [job for job in jobs if all(edge.predecessor in values for edge in workflow.edges if edge[1] == job.id)]
        assert free, "jobs wait for each other"
        for job in free:
            edges = [edge for edge in workflow.edges if edge.successor == job.id]
            args, kwargs = json.loads(job.args), json.loads(job.kwargs)
            taken = [(json.loads(edge.place), values[edge.predecessor]) for edge in edges if edge.place is not None]
            if taken:
                args = [_list(taken) if taken[0][0] else taken[0][1], *args]
            values[job.id] = args[kwargs["index"]] if job.task == "celery.accumulate" else [args, kwargs]
            jobs.remove(job)
    return _value(result, values)


def _list(taken: list[tuple[list[int], Any]]) -> list[Any]:
    """The list whose items have these places."""
    length = 1 + max(path[0] for path, _ in taken)
    return [_item([(path[1:], value) for path, value in taken if path[0] == index]) for index in range(length)]


def _item(taken: list[tuple[list[int], Any]]) -> Any:
    return _list(taken) if taken[0][0] else taken[0][1]


def _value(result: Any, values: dict[str, Any]) -> Any:
    if isinstance(result, GroupResult):
        return [_value(each, values) for each in result]
    return values[result.id]
