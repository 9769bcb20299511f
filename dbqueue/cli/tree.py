"""`dbqueue jobs tree`: a workflow in the terminal, for Graphviz, or as JSON."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import click

from dbqueue.cli.output import STATUS_COLOURS, json_option, no_such_job, print_json
from dbqueue.cli.target import Target
from dbqueue.shown import harmless

if TYPE_CHECKING:
    from dbqueue.store.workflows.reads import Graph, Member
    from dbqueue.workflows import Edge

EDGE_NAMES: Final = {"error": "on error: ", "end": "at the end: "}


@click.command("tree")
@click.argument("job_id", metavar="ID")
@click.option("--dot", is_flag=True, help="As a graph for Graphviz: dbqueue jobs tree ID --dot | dot -Tsvg > tree.svg")
@json_option
@click.pass_obj
def tree(target: Target, /, job_id: str, dot: bool, as_json: bool) -> None:
    """Show the workflow that a job belongs to, with the state of each of its jobs.

    What waits for a job stands below it. A job that waits for several stands below the last of them, and an arrow
    leads to it from the others.
    """
    from dbqueue.store.workflows.reads import workflow_of

    graph = workflow_of(target.store, job_id)
    if graph is None:
        raise click.ClickException(no_such_job(job_id))
    if as_json:
        print_json({"jobs": [asdict(job) for job in graph.jobs], "edges": [edge._asdict() for edge in graph.edges]})
    elif dot:
        for line in dot_lines(graph):
            click.echo(line)
    else:
        for line in tree_lines(graph):
            click.echo(line)


def tree_lines(graph: Graph) -> Iterator[str]:
    """The jobs, each under the last one that it waits for; a single follower stands under it without a branch."""
    by_id = {job.id: job for job in graph.jobs}
    below: defaultdict[str, list[Edge]] = defaultdict(list)
    aside: defaultdict[str, list[Edge]] = defaultdict(list)
    for edge in _last_edges(graph, by_id):
        below[edge.predecessor].append(edge)
    hung = {(edge.predecessor, edge.successor) for found in below.values() for edge in found}
    for edge in graph.edges:
        if edge.predecessor in by_id and edge.successor in by_id and (edge.predecessor, edge.successor) not in hung:
            aside[edge.predecessor].append(edge)
    waiting = {edge.successor for found in below.values() for edge in found}
    # A stack and not a recursion: a chain may have ten thousand jobs.
    todo = [(job, "", "", "") for job in reversed(graph.jobs) if job.id not in waiting]
    while todo:
        job, first, rest, label = todo.pop()
        yield f"{first}{label}{_shown(job, aside[job.id])}"
        found = below[job.id]
        for position, edge in reversed(list(enumerate(found))):
            name = EDGE_NAMES.get(edge.on, "")
            follower = by_id[edge.successor]
            if len(found) == 1:
                todo.append((follower, f"{rest}↓ ", rest, name))
            else:
                last = position == len(found) - 1
                todo.append((follower, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "), name))


def _last_edges(graph: Graph, by_id: dict[str, Member]) -> list[Edge]:
    """For each job that waits, the edge from the last of those that it waits for."""
    order = {job_id: position for position, job_id in enumerate(by_id)}
    last: dict[str, Edge] = {}
    for edge in graph.edges:
        if edge.predecessor in order and edge.successor in order:
            known = last.get(edge.successor)
            if known is None or order[edge.predecessor] > order[known.predecessor]:
                last[edge.successor] = edge
    return sorted(last.values(), key=lambda edge: order[edge.successor])


def _shown(job: Member, others: list[Edge]) -> str:
    text = f"{harmless(job.id)}  {harmless(job.task)}  {click.style(job.status, fg=STATUS_COLOURS.get(job.status))}"
    if job.blocked_reason == "predecessors":
        text += f", waits for {job.waits_for}"
    if job.error is not None:
        text += f"  {harmless(job.error)}"
    if others:
        text += "  → " + ", ".join(harmless(EDGE_NAMES.get(edge.on, "") + edge.successor) for edge in others)
    return text


def dot_lines(graph: Graph) -> Iterator[str]:
    """The graph in Graphviz's language."""
    yield "digraph workflow {"
    yield "  node [shape=box];"
    for job in graph.jobs:
        colour = STATUS_COLOURS.get(job.status)
        style = "" if colour is None else f", color={colour}"
        label = _quoted(f"{job.task}\n{job.id}\n{job.status}")
        yield f"  {_quoted(job.id)} [label={label}{style}];"
    for edge in graph.edges:
        style = {"error": " [style=dashed, color=red]", "end": " [style=dotted]"}.get(edge.on, "")
        yield f"  {_quoted(edge.predecessor)} -> {_quoted(edge.successor)}{style};"
    yield "}"


def _quoted(text: str) -> str:
    escaped = harmless(text, lines=True).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
