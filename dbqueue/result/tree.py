"""Results as a tree: what a job has started, as a graph, and results as plain data."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator
from typing import IO, TYPE_CHECKING, Any

from dbqueue.errors import TaskError

if TYPE_CHECKING:
    from dbqueue.app import DBQueue


class IncompleteStream(TaskError):
    """A job of the tree has not ended: there may be more results than are there yet."""


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
        """How many nodes are below this one, itself among them."""
        return 1 + sum(self.valency_of(child) for child in self.adjacent.get(node, ()))

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

    def __repr__(self) -> str:
        lines = (f"{node}({self.valency_of(node)})\n  {', '.join(map(str, below))}" for node, below in self.items())
        return "\n".join(lines)


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
