"""What `|` and `chain(...)` make of their parts: the rules by which a chain grows, in one pass.

    task  | task         a chain
    group | task         a chord
    chord | task         the chord, with a body that goes on
    chain | chain        one chain
    x     | group(task)  x | task
    x     | group()      x

They are Celery's, down to which parts are printed how.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dbqueue.canvas.signatures import Signature, as_list, maybe_signature


def joined(left: Signature, right: Signature) -> Any:
    """`left | right`."""
    from dbqueue.canvas.primitives import chain, chord, group

    if isinstance(left, group):
        return left if _is_empty_group(right) else _chord(left, right)
    right = _single(right)
    if isinstance(left, chain):
        if not left.tasks:
            return right
        steps = steps_of(left)
    else:
        if isinstance(left, chord) and not isinstance(right, chain | group):
            return _with_body(left, left.body | right)
        if _is_empty_group(right):
            return left
        if isinstance(right, chain):
            return chain.of([left, *steps_of(right)], left._app)
        steps = [left]
        if isinstance(right, group):
            return chain.of([left, right], left._app)
    _append(steps, right)
    return chain.of(steps, left._app)


def fold(tasks: Iterable[Any]) -> Any:
    """`a | b | c` of all tasks, in one pass."""
    from dbqueue.canvas.primitives import chain, group

    steps: list[Any] = []
    begins_with_group = False
    for task in tasks:
        part = _single(maybe_signature(task))
        if not isinstance(part, Signature):
            raise TypeError(f"a chain consists of signatures, such as task.s(), not of {part!r}")
        if not steps and isinstance(part, group):
            steps, begins_with_group = [part], True
        elif begins_with_group and len(steps) == 1 and isinstance(steps[0], group) and isinstance(part, group):
            steps[0] = joined(steps[0], part) if steps[0].tasks else part
        else:
            _append(steps, part)
    # A group alone is a group, and one that has become a chord is that.
    return steps[0] if begins_with_group and len(steps) == 1 and _is_canvas(steps[0]) else chain.of(steps)


def steps_of(sig: Signature, *, clone: bool = False) -> list[Any]:
    """The steps of a chain.

    The chain's own links go to its last step, and its errbacks to each of them: to copies of theirs.
    """
    links, errbacks = (as_list(sig.options.get(kind)) for kind in ("link", "link_error"))
    tasks = sig["kwargs"]["tasks"]
    if not (clone or links or errbacks):
        return list(tasks)  # nothing else for each of them: a chain may grow by ten thousand steps
    steps = [maybe_signature(task, app=sig._app, clone=True) for task in tasks]
    for link in links:
        steps[-1].link(link)
    for errback in errbacks:
        for step in steps:
            step.link_error(maybe_signature(errback, clone=True))  # each may get stamps of its own
    return steps


def _append(steps: list[Any], other: Any) -> None:
    """Add a part to the steps of a chain, by the rules above."""
    from dbqueue.canvas.primitives import chain, chord, group

    other = _single(other)
    last = steps[-1] if steps else None
    if isinstance(other, chain):
        for step in steps_of(other):
            _append(steps, step)
    elif isinstance(other, group):
        if isinstance(last, chord) and other.tasks:
            steps[-1] = _with_body(last, last.body | other)
        elif _is_empty_group(last):
            steps[-1] = other
        elif other.tasks or last is None:
            steps.append(other)
    elif isinstance(last, group):
        steps[-1] = _chord(last, other) if last.tasks else other
        if len(steps) > 1 and isinstance(steps[-2], chord) and isinstance(steps[-1], chord):
            following = steps.pop()
            steps[-1] = _with_body(steps[-1], steps[-1].body | following)
    elif isinstance(last, chord) and not isinstance(other, chord):
        steps[-1] = _with_body(last, last.body | other)
    else:
        steps.append(other)


def _single(sig: Any) -> Any:
    """A group of one is its member."""
    from dbqueue.canvas.primitives import group

    while isinstance(sig, group) and len(sig.tasks) == 1:
        sig = maybe_signature(sig.tasks[0], app=sig._app)
    return sig


def _is_empty_group(sig: Any) -> bool:
    from dbqueue.canvas.primitives import group

    return isinstance(sig, group) and not sig.tasks


def _is_canvas(sig: Any) -> bool:
    from dbqueue.canvas.primitives import chord, group

    return isinstance(sig, group | chord)


def _chord(header: Any, body: Any) -> Any:
    from dbqueue.canvas.primitives import chord

    return chord(header, body, app=header._app)


def _with_body(sig: Any, body: Any) -> Any:
    """The chord with another body: a new one, which shares the header."""
    from dbqueue.canvas.primitives import chord

    copy = chord.__new__(chord)
    kwargs = {**sig.kwargs, "header": list(sig.tasks), "body": body}
    copy.update({**sig, "kwargs": kwargs, "options": dict(sig.options)})
    copy._app = sig._app
    return copy
