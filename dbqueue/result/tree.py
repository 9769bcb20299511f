"""Results as a tree: what a job has started, as a graph, and results as plain data."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator
from typing import IO, TYPE_CHECKING, Any, Final

from dbqueue.errors import TaskError

if TYPE_CHECKING:
    from dbqueue.app import DBQueue


class IncompleteStream(TaskError):
    """A job of the tree has not ended: there may be more results than are there yet."""


INDENT: Final = 5
"""Columns that a printed node stands to the right of the one above it, as in Celery."""


class DependencyGraph:
    """Which result has started which others: `graph[result]` is a list of those that it started."""

    def __init__(self) -> None:
        self.adjacent: dict[Any, list[Any]] = {}

    def add_arc(self, node: Any) -> None:
        """Add a node, unless it is there."""
        self.adjacent.setdefault(node, [])

    def add_edge(self, node: Any, child: Any) -> None:
        """Add a child of a node."""
        self.adjacent.setdefault(node, []).append(child)
        self.adjacent.setdefault(child, [])

    def edges(self) -> list[Any]:
        """The nodes that have children."""
        return [node for node, children in self.adjacent.items() if children]

    def valency_of(self, node: Any) -> int:
        """How many nodes are below this one."""
        return sum(1 + self.valency_of(child) for child in self.adjacent.get(node, ()))

    def topsort(self) -> list[Any]:
        """The nodes, each after those that it started."""
        found: dict[Any, None] = {}

        def visit(node: Any) -> None:
            if node not in found:
                for child in self.adjacent[node]:
                    visit(child)
                found[node] = None

        for node in self.adjacent:
            visit(node)
        return list(found)

    def to_dot(self, fh: IO[str], formatter: Any = None) -> None:
        """Write the graph for Graphviz."""
        fh.write("digraph dependencies {\n")
        for node, children in self.adjacent.items():
            fh.write(f'    "{node}";\n')
            for child in children:
                fh.write(f'    "{node}" -> "{child}";\n')
        fh.write("}\n")

    def items(self) -> ItemsView[Any, list[Any]]:
        return self.adjacent.items()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.adjacent)

    def __getitem__(self, node: Any) -> list[Any]:
        return self.adjacent[node]

    def __contains__(self, node: object) -> bool:
        return node in self.adjacent

    def __len__(self) -> int:
        return len(self.adjacent)

    def _lines(self, node: Any, depth: int) -> Iterator[str]:
        yield f"{' ' * INDENT * depth}{node}({self.valency_of(node)})"
        for child in self.adjacent[node]:
            yield from self._lines(child, depth + 1)

    def __repr__(self) -> str:
        """Each node, with what is below it."""
        return "\n".join(line for node in self.adjacent for line in self._lines(node, 0))


def result_from_tuple(r: Any, app: DBQueue | None = None) -> Any:
    """The result that `as_tuple` has made data of: `((id, parent), members)`, where only a group has members."""
    from dbqueue.result.sets import GroupResult, ResultSet
    from dbqueue.result.single import AsyncResult

    if isinstance(r, AsyncResult | ResultSet):
        return r
    if app is None:
        from dbqueue.shared import current_app

        app = current_app()
    own, members = r
    result_id, parent = own if isinstance(own, list | tuple) else (own, None)
    parent = result_from_tuple(parent, app) if parent else None
    if members is not None:
        return GroupResult(result_id, [result_from_tuple(each, app) for each in members], parent=parent, app=app)
    return AsyncResult[Any](result_id, app=app, parent=parent)
