"""`freeze`: ids before the call. The compiler goes over the signature, and leaves the ids in it instead of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dbqueue.canvas.compiler import Compiler, Feed, Result
from dbqueue.canvas.primitives import chain, chord, group, members
from dbqueue.canvas.signatures import Signature, maybe_signature
from dbqueue.context import current_request


def freeze(sig: Signature, options: Mapping[str, Any]) -> Result:
    """Give the signature and all that it consists of their ids, in place; its result."""
    _detach(sig)
    return Freezer(sig.app).compile(sig, Feed(), options)


def _detach(sig: Any) -> None:
    """Let the members be its own: the same signature may stand in it twice, and each is to have its id."""
    if isinstance(sig, chain):
        sig.tasks = [maybe_signature(task, app=sig._app, clone=True) for task in sig.tasks]
    elif isinstance(sig, group):
        sig.tasks = [task.clone() for task in members(sig, sig._app)]
    elif isinstance(sig, chord):
        sig.tasks = sig.tasks.clone() if isinstance(sig.tasks, group) else group(sig.tasks, app=sig._app)
        sig.body = maybe_signature(sig.body, app=sig._app, clone=True)
        _detach(sig.tasks)
        _detach(sig.body)
    for task in sig.tasks if isinstance(sig, chain | group) else ():
        _detach(task)


class Freezer(Compiler):
    """Writes ids into signatures."""

    def compile(self, sig: Any, feed: Feed, options: Mapping[str, Any], watchers: Any = ()) -> Result:
        result = super().compile(sig, feed, options, watchers)
        if isinstance(sig, chain):
            sig.options["task_id"] = result.id
        return result

    def _write(self, sig: Signature, options: dict[str, Any], feed: Feed) -> None:
        request = current_request.get()
        names = ("task_id", "group_id", "group_index", "root_id", "parent_id", "chord")
        sig.options.update({name: options[name] for name in names if options.get(name) is not None})
        self._roots[options["task_id"]] = options.get("root_id") or (request.root_id if request else None)

    def _flat(self, tasks: Sequence[Any], options: Mapping[str, Any]) -> None:
        """Each member is to have its id, and no rows are made."""

    def _name_group(self, sig: Signature, group_id: str) -> None:
        sig.options["task_id"] = group_id

    def _follow(self, *args: Any) -> None:
        """Links get no ids before they are sent."""

    def catch(self, errbacks: Sequence[Any], failing: Sequence[str]) -> list[Result]:
        """Nor do errbacks."""
        return []
