"""Stamping: headers on every call of a canvas, put there by a visitor or by name.

    class InMonitoring(StampingVisitor):
        def on_signature(self, sig, **headers):
            return {"monitoring_id": uuid4().hex}

    canvas.stamp(visitor=InMonitoring())
    canvas.stamp(customer="acme")

A stamp is an option of the call under its own name, and `stamped_headers` lists the names. A task
sees them as `request.stamps`, and `app.control.revoke_by_stamped_headers` finds jobs by them.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from dbqueue.canvas.primitives import chain, chord, group
from dbqueue.canvas.signatures import Signature, as_list, maybe_signature

Stamps = dict[str, Any]


class StampingVisitor:
    """Says which stamps to put on what; a subclass defines `on_signature`, and the others as it needs them.

    Each gets the signature and, as keyword arguments, the stamps so far. It returns stamps to add; a
    `stamped_headers` among them lists those of its keys that are stamps, by default all of them.
    """

    def on_signature(self, sig: Any, **headers: Any) -> Stamps | None:
        """For the call of a task."""
        raise NotImplementedError("a StampingVisitor must define on_signature()")

    def on_group_start(self, group: Any, **headers: Any) -> Stamps | None:
        """Before the members of a group: for all of them."""
        return {}

    def on_group_end(self, group: Any, **headers: Any) -> None:
        """After the members of a group."""

    def on_chain_start(self, chain: Any, **headers: Any) -> Stamps | None:
        """Before the steps of a chain: for all of them."""
        return {}

    def on_chain_end(self, chain: Any, **headers: Any) -> None:
        """After the steps of a chain."""

    def on_chord_header_start(self, sig: Any, **headers: Any) -> Stamps | None:
        """Before the header of a chord; by default as a group."""
        if not isinstance(sig.tasks, group):
            sig.tasks = group(sig.tasks)
        return self.on_group_start(sig.tasks, **headers)

    def on_chord_header_end(self, sig: Any, **headers: Any) -> None:
        """After the header of a chord."""
        self.on_group_end(sig.tasks, **headers)

    def on_chord_body(self, sig: Any, **headers: Any) -> Stamps | None:
        """Before the body of a chord."""
        return {}

    def on_callback(self, callback: Any, **headers: Any) -> Stamps | None:
        """For what is linked to a success."""
        return {}

    def on_errback(self, errback: Any, **headers: Any) -> Stamps | None:
        """For what is linked to a failure."""
        return {}


class GroupStampingVisitor(StampingVisitor):
    """Stamps each call with the ids of the groups that it is in, as `groups`."""

    def __init__(self, groups: list[str] | None = None) -> None:
        self.groups = list(groups or ())

    def on_signature(self, sig: Any, **headers: Any) -> Stamps:
        return {"groups": list(self.groups), "stamped_headers": ["groups"]}

    def on_group_start(self, group: Any, **headers: Any) -> Stamps:
        if group.id is None:
            group.set(task_id=group.freeze().id)
        if group.id not in self.groups:
            self.groups.append(group.id)
        return {}

    def on_group_end(self, group: Any, **headers: Any) -> None:
        if group.id in self.groups:
            self.groups.remove(group.id)


def stamp(sig: Any, visitor: StampingVisitor | None, append_stamps: bool, headers: Stamps) -> Any:
    """`sig.stamp(visitor, append_stamps, **headers)`; returns the signature."""
    if isinstance(sig, chain):
        headers = _started(sig, visitor and visitor.on_chain_start, append_stamps, headers)
        stamp_links(sig, visitor, append_stamps, headers)
        for task in sig.tasks:
            task.stamp(visitor, append_stamps, **headers)
        if visitor is not None:
            visitor.on_chain_end(sig, **headers)
    elif isinstance(sig, group):
        headers = _started(sig, visitor and visitor.on_group_start, append_stamps, headers)
        stamp_links(sig, visitor, append_stamps, headers)
        sig.tasks = type(sig.tasks)(maybe_signature(task, app=sig._app) for task in sig.tasks)
        for task in sig.tasks:
            task.stamp(visitor, append_stamps, **headers)
        if visitor is not None:
            visitor.on_group_end(sig, **headers)
    elif isinstance(sig, chord):
        _stamp_chord(sig, visitor, append_stamps, headers)
    else:
        stamp_links(sig, visitor, append_stamps, headers)
        sig.options.update(_started(sig, visitor and visitor.on_signature, append_stamps, headers))
    return sig


def stamp_links(sig: Any, visitor: StampingVisitor | None, append_stamps: bool, headers: Stamps) -> None:
    """Stamps on what is linked to the call."""
    for kind, ask in (("link", "on_callback"), ("link_error", "on_errback")):
        own = deepcopy(headers)
        links = [maybe_signature(link, app=sig._app) for link in as_list(sig.options.get(kind))]
        if links:
            sig.options[kind] = links
        for link in links:
            added = (getattr(visitor, ask)(link, **own) or {}) if visitor is not None else None
            own = _merged(own, added, append_stamps)
            link.stamp(visitor, append_stamps, **own)


def _stamp_chord(sig: Any, visitor: StampingVisitor | None, append_stamps: bool, headers: Stamps) -> None:
    headers = _started(sig, visitor and visitor.on_chord_header_start, append_stamps, headers)
    stamp_links(sig, visitor, append_stamps, headers)
    for task in sig.tasks.tasks if isinstance(sig.tasks, group) else sig.tasks:
        task.stamp(visitor, append_stamps, **headers)
    if visitor is not None:
        visitor.on_chord_header_end(sig, **headers)
    if sig.body is not None:
        added = (visitor.on_chord_body(sig, **headers) or {}) if visitor is not None else None
        sig.body.stamp(visitor, append_stamps, **_with_own(sig, _merged(headers, added, append_stamps), append_stamps))


def _started(sig: Signature, ask: Any, append_stamps: bool, headers: Stamps) -> Stamps:
    """The stamps given, with those that the visitor adds, and those that the signature has."""
    added = (ask(sig, **headers) or {}) if ask else None
    return _with_own(sig, _merged(headers, added, append_stamps), append_stamps)


def _merged(headers: Mapping[str, Any], added: Mapping[str, Any] | None, append_stamps: bool) -> Stamps:
    """`headers` and what a visitor has added; of one name the visitor's counts, or both do with `append_stamps`."""
    merged = {"stamped_headers": list(headers), **headers}
    if added is None:
        return merged
    added = {"stamped_headers": list(added), **added}
    names = _union(merged["stamped_headers"], added["stamped_headers"])
    for name, value in added.items():
        merged[name] = _both(merged[name], value) if append_stamps and name in merged else value
    merged["stamped_headers"] = names
    return merged


def _with_own(sig: Signature, headers: Stamps, append_stamps: bool) -> Stamps:
    """The stamps that a signature has already stay, unless it gets new ones of the same names."""
    own = as_list(sig.options.get("stamped_headers"))
    merged = dict(headers)
    for name in own:
        if name in sig.options:
            value = sig.options[name]
            merged[name] = (
                _both(headers[name], value) if append_stamps and name in headers else headers.get(name, value)
            )
    merged["stamped_headers"] = _union(headers.get("stamped_headers", ()), own)
    return merged


def _both(first: Any, second: Any) -> list[Any]:
    first, second = (list(value) if isinstance(value, list | tuple | set) else [value] for value in (first, second))
    return [*first, *(value for value in second if value not in first)]


def _union(first: Any, second: Any) -> list[str]:
    return list(dict.fromkeys((*first, *second)))
