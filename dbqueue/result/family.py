"""What leads from one result to others: its parents, and what it has started."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dbqueue.result.tree import DependencyGraph, IncompleteStream

if TYPE_CHECKING:
    from dbqueue.app import DBQueue


class ResultBase:
    """What all results have."""

    parent: Any = None
    """The result of what ran before it, in a chain."""

    def as_tuple(self) -> tuple[Any, Any]:
        """The result as data, for `result_from_tuple`."""
        raise NotImplementedError

    def as_list(self) -> list[str]:
        """Its id (of a group those of its results), and those of what ran before it."""
        return [each for node in self._line() for each in node._own_ids()]

    def _own_ids(self) -> list[str]:
        raise NotImplementedError

    def _line(self) -> Iterator[Any]:
        """It and its parents, the nearest first. A chain may be longer than Python recurses."""
        node: Any = self
        while node is not None:
            yield node
            node = node.parent

    def __json__(self) -> tuple[Any, Any]:
        """A task may return results: they are stored as data, as in Celery."""
        return self.as_tuple()


class Family(ResultBase):
    """The part of AsyncResult that knows its relatives."""

    id: str
    app: DBQueue

    def exists(self) -> bool:
        raise NotImplementedError

    @property
    def children(self) -> list[Any] | None:
        """The results of what it has started: calls sent by it, and what followed it in a workflow."""
        from dbqueue.store import family

        found = _grouped(family.children(self.app.database.store, self.id), self.app)
        return found or ([] if self.exists() else None)

    def iterdeps(self, intermediate: bool = False) -> Iterator[tuple[Any, Any]]:
        """Pairs of a parent (None for this result) and a result of the tree, those of one level together.

        Raises IncompleteStream at one that has not ended, unless `intermediate`.
        """
        rest: deque[tuple[Any, Any]] = deque([(None, self)])
        while rest:
            parent, node = rest.popleft()
            yield parent, node
            if node.ready():
                rest.extend((node, child) for child in node.children or ())
            elif not intermediate:
                raise IncompleteStream(f"{node} has not ended")

    def collect(self, intermediate: bool = False, **options: Any) -> Iterator[tuple[Any, Any]]:
        """Pairs of a result and its value, for all of the tree; `options` are those of `get`."""
        for _, node in self.iterdeps(intermediate):
            yield node, node.get(**options)

    def get_leaf(self) -> Any:
        """The value of the last result of the tree."""
        value = None
        for _, node in self.iterdeps():
            value = node.get()
        return value

    def build_graph(self, intermediate: bool = False, formatter: Any = None) -> DependencyGraph:
        """The tree as a graph."""
        graph = DependencyGraph()
        for parent, node in self.iterdeps(intermediate):
            graph.add_arc(node)
            if parent is not None:
                graph.add_edge(parent, node)
        return graph

    @property
    def graph(self) -> DependencyGraph:
        """The tree as a graph."""
        return self.build_graph()

    def as_tuple(self) -> tuple[Any, Any]:
        """The result as data, for `result_from_tuple`."""
        return (self.id, self.parent and self.parent.as_tuple()), None

    def _own_ids(self) -> list[str]:
        return [self.id]

    @property
    def supports_native_join(self) -> bool:
        return True


def _grouped(children: list[tuple[str, str | None]], app: DBQueue) -> list[Any]:
    """Results of ids; those of one group as a GroupResult."""
    from dbqueue.result.sets import GroupResult
    from dbqueue.result.single import AsyncResult

    found: list[Any] = []
    groups: dict[str, Any] = {}
    for job_id, group_id in children:
        result: Any = AsyncResult(job_id, app=app)
        if group_id is None:
            found.append(result)
        elif group_id in groups:
            groups[group_id].results.append(result)  # `add` looks through all for each
        else:
            groups[group_id] = GroupResult(group_id, [result], app=app)
            found.append(groups[group_id])
    return found
