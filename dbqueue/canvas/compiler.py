"""From a signature to a workflow: one row for each call, and an edge wherever one waits for another.

    add.s(1, 1) | group(add.s(2), add.s(3)) | tsum.s()

    add(1, 1) ──[]──► add(2) ──[0]──┐
         └──────[]──► add(3) ──[1]──┴─► tsum()

A `Feed` is what flows into a signature: the results of those before it, each with its place among
the arguments, or values that are known already. Compiling a signature with a feed writes its rows
and edges and gives its result; the feed of what follows is made of that result alone:

    the result of a call                 it is the first argument: the place `[]`
    a group's, of `n` results            a list is the first argument: the places `[0]` to `[n-1]`
    a group's in a group's               a list in that list: `[0, 0]`, `[0, 1]`, ...

So a chain is a loop, a group compiles its members with one feed, and a chord is a group and a body.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from dbqueue.calls import alone, follows, new_job, routes
from dbqueue.canvas import flat_groups, folding
from dbqueue.canvas.flat_groups import LINKS, MAPS, FlatGroup
from dbqueue.canvas.primitives import chain, chord, chunks, group, links, members
from dbqueue.canvas.signatures import Signature, as_list, maybe_signature
from dbqueue.jobs import NewJob, new_job_id
from dbqueue.result import AsyncResult, GroupResult
from dbqueue.workflows import ERRBACK, FIRST_ARGUMENT, JOIN, Edge, Event, Workflow

if TYPE_CHECKING:
    from dbqueue.app import DBQueue

Result: TypeAlias = AsyncResult[Any] | GroupResult
Watchers: TypeAlias = tuple[list[str], ...]
"""Lists of the ids whose failure calls an errback; each job adds its own to all of them."""

MAX_EDGES: Final = 1000
"""From so many edges between two groups on, one row between them collects the results: n + m edges, not n * m."""
OF_THE_LAST: Final = ("task_id", "group_id", "group_index", "chord")
"""Options of a chain that are for its last step; all others are for its first one."""


@dataclass(frozen=True, slots=True)
class Feed:
    """What comes before a signature."""

    inputs: tuple[tuple[str, str | None], ...] = ()
    """Ids of predecessors, and the places of their results."""
    args: tuple[Any, ...] = ()
    """Values that stand before the signature's own arguments."""
    kwargs: Mapping[str, Any] | None = None
    parent: Result | None = None
    """The `parent` of the signature's result."""
    on: Event = "success"
    joins: bool = False
    """Whether the results are those of a group: an error among them is a ChordError."""

    @property
    def is_list(self) -> bool:
        """Whether its results make a list, or none are taken: not arguments by name, nor what an errback is told."""
        return all(place is None or place.startswith("[") for _, place in self.inputs)


class Compiler:
    """Compiles signatures into one workflow."""

    def __init__(self, app: DBQueue) -> None:
        self.app = app
        self.jobs: list[NewJob] = []
        self.edges: list[Edge] = []
        self._roots: dict[str, str | None] = {}

    def compile(self, sig: Any, feed: Feed, options: Mapping[str, Any], watchers: Watchers = ()) -> Result:
        """Write the rows and edges of the signature, and return its result.

        `options` are added to the signature's own, as in `apply_async`.
        """
        merged = sig._merge(options=options)[2]
        if isinstance(sig, chunks):
            sig = sig.group()
        if isinstance(sig, chain):
            return self._chain(sig, _with_own(feed, sig, "tasks"), merged, watchers)
        if isinstance(sig, group):
            return self._group(sig, _with_own(feed, sig, "tasks"), merged, watchers)
        if isinstance(sig, chord):
            return self._chord(sig, _with_own(feed, sig, "header", "body", "kwargs"), merged, watchers)
        return self._call(sig, feed, merged, watchers)

    def workflow(self) -> Workflow:
        """All that was compiled."""
        return Workflow.of(self.jobs, self.edges)

    # the four kinds

    def _call(self, sig: Signature, feed: Feed, options: dict[str, Any], watchers: Watchers) -> AsyncResult[Any]:
        """One row: its edges from what feeds it, and what is linked to it."""
        task_id = options.get("task_id") or new_job_id()
        self._write(sig, {**options, "task_id": task_id}, feed)
        for predecessor, place in feed.inputs:
            self.edges.append(Edge(predecessor, task_id, feed.on, None if sig.immutable else place))
        result = AsyncResult[Any](task_id, app=self.app, ignored=self._ignores(sig, options), parent=feed.parent)
        for ids in watchers:
            ids.append(task_id)
        self._follow(sig, result, feed, options)
        self.catch(links(sig, options, "link_error"), [task_id])
        return result

    def _chain(self, sig: Signature, feed: Feed, options: dict[str, Any], watchers: Watchers) -> Result:
        steps = list(unrolled(sig))
        if not steps:
            raise ValueError("an empty chain has nothing to call")
        callbacks, errbacks = (links(sig, options, kind) for kind in ("link", "link_error"))
        for_last = {name: options[name] for name in OF_THE_LAST if name in options}
        for_first = {name: value for name, value in options.items() if name not in (*OF_THE_LAST, *LINKS)}
        failing: list[str] = []
        result: Result | None = None
        for number, step in enumerate(steps, start=1):
            own = (for_first if result is None else {}) | (for_last if number == len(steps) else {})
            result = self.compile(step, feed, own, (*watchers, failing) if errbacks else watchers)
            feed = self._after(result, feed)
        assert result is not None
        for callback in callbacks:
            self.compile(callback, feed, {})
        self.catch(errbacks, failing)
        return result

    def _group(
        self, sig: Signature, feed: Feed, options: dict[str, Any], watchers: Watchers, *, header: bool = False
    ) -> GroupResult:
        """The members side by side, all with the same feed."""
        tasks = list(members(sig, sig._app))
        parent, everywhere = feed.parent, not header or self.app.conf.task_allow_error_cb_on_chord_header
        if not (feed.inputs or feed.args or feed.kwargs) and (flat := self._flat(tasks, options)):
            return self._write_flat(flat, parent, watchers if everywhere else ())
        if len(feed.inputs) > 1 and len(feed.inputs) * len(tasks) > MAX_EDGES and feed.is_list:
            feed = self._after(self._collect(feed), feed)
        feed = replace(feed, parent=None)
        group_id, for_all = flat_groups.member_options(options)
        results = [
            self.compile(
                task,
                feed,
                {**for_all, **of_each(task, options), "group_index": index},
                watchers if everywhere or isinstance(task, chord) else (),
            )
            for index, task in enumerate(tasks)
        ]
        self._name_group(sig, group_id)
        return GroupResult(group_id, results, parent=parent, app=self.app)

    def _chord(self, sig: Any, feed: Feed, options: dict[str, Any], watchers: Watchers) -> Result:
        """The header as a group, and the body with the list of its results."""
        if sig.body is None:
            raise TypeError(f"a chord needs a body, to be called with the results of its header: {sig!r}")
        header = sig.tasks if isinstance(sig.tasks, group) else group(sig.tasks, app=sig._app)
        for_header = {name: value for name, value in options.items() if name not in (*OF_THE_LAST, *LINKS)}
        header_result = self._group(header, feed, header._merge(options=for_header)[2], watchers, header=True)
        # A countdown puts the header off: the body follows at once.
        for_body = {name: options[name] for name in options if name not in (*LINKS, *STARTS, "parent_id")}
        if sig.body.subtask_type is None:
            for_body.setdefault("group_id", header_result.id)  # as in Celery, `request.group` of a body
        callbacks, errbacks = (links(sig, options, kind) for kind in LINKS)
        if isinstance(sig.body, group) and errbacks:
            # As `link_error` of the group itself: called for each of its calls.
            for_body["link_error"], errbacks = [*as_list(sig.body.options.get("link_error")), *errbacks], []
        failing: list[str] = []
        following = self._after(header_result, feed)
        result = self.compile(sig.body, following, for_body, (*watchers, failing) if errbacks else watchers)
        for callback in callbacks:
            self.compile(callback, self._after(result, following), {})
        self.catch(errbacks, failing)
        return result

    # what follows

    def _after(self, result: Result, feed: Feed) -> Feed:
        """The feed of what follows a signature that was compiled with `feed`."""
        if isinstance(result, AsyncResult):
            return Feed(inputs=((result.id, FIRST_ARGUMENT),), parent=result)
        inputs = tuple(_places(result, ()))
        if inputs:
            return Feed(inputs=inputs, parent=result, joins=True)
        # An empty group: nothing to wait for but what came before it.
        return Feed(inputs=tuple((job_id, None) for job_id, _ in feed.inputs), args=([],), parent=result)

    def after(self, result: Result) -> Feed:
        """The feed of what follows a signature that nothing came before."""
        return self._after(result, Feed())

    def collected(self, result: GroupResult) -> AsyncResult[Any]:
        """A row whose result is the list of a group's results."""
        return self._collect(self.after(result))

    def _collect(self, feed: Feed) -> AsyncResult[Any]:
        collect = Signature("celery.accumulate", kwargs={"index": 0}, app=self.app)
        return self._call(collect, feed, {}, ())

    def _follow(self, sig: Signature, result: Result, feed: Feed, options: Mapping[str, Any]) -> None:
        """What the options of a call say to do with its result."""
        if not follows(options):
            return
        following = self._after(result, feed)
        for callback in links(sig, options, "link"):
            self.compile(callback, following, {})
        step = following
        for each in reversed(as_list(options.get("chain"))):  # Celery keeps the rest of a chain in reverse
            step = self._after(self.compile(maybe_signature(each, app=sig._app), step, {}), step)
        if options.get("chord"):
            body = maybe_signature(options["chord"], app=sig._app)
            self.compile(body, self._after(GroupResult(None, [result], app=self.app), feed), {})

    def catch(self, errbacks: Sequence[Any], failing: Sequence[str]) -> list[Result]:
        """Each errback is one row, however many jobs it may be called for: the first failure calls it.

        As in Celery they are a group: `result.children` of a call that failed has one with all of them.
        """
        if not (errbacks and failing):
            return []
        feed = Feed(inputs=tuple((job_id, ERRBACK) for job_id in failing), on="error")
        group_id = new_job_id()
        return [self.compile(errback, feed, {"group_id": group_id}) for errback in errbacks]

    # rows

    def _write(self, sig: Signature, options: dict[str, Any], feed: Feed) -> None:
        args, kwargs = list(sig.args), dict(sig.kwargs)
        if not sig.immutable:
            args, kwargs = [*feed.args, *args], {**kwargs, **(feed.kwargs or {})}
        if feed.inputs:
            predecessor = feed.inputs[-1][0]
            options |= {"parent_id": predecessor, "root_id": self._roots[predecessor], JOIN: feed.joins or None}
        task = sig._type or self.app.tasks.get(sig.name)
        if sig.name in MAPS:
            options |= _route_of(self.app, sig)
        job = new_job(self.app.conf, sig.name, task, args, kwargs, alone(options), checked=not feed.inputs)
        self.jobs.append(job)
        self._roots[job.id] = job.root_id or job.id

    def _flat(self, tasks: Sequence[Any], options: Mapping[str, Any]) -> FlatGroup | None:
        return flat_groups.of_members(self.app, tasks, options)

    def _write_flat(self, flat: FlatGroup, parent: Result | None, watchers: Watchers) -> GroupResult:
        jobs = list(flat.jobs)
        ids = [job.id for job in jobs]
        self.jobs += jobs
        self._roots.update((job.id, job.root_id or job.id) for job in jobs)
        for watching in watchers:
            watching.extend(ids)
        return flat.result(ids, parent)

    def _name_group(self, sig: Signature, group_id: str) -> None:
        """For `freezing`."""

    def _ignores(self, sig: Signature, options: Mapping[str, Any]) -> bool:
        chosen = options.get("ignore_result")
        if chosen is not None:
            return bool(chosen)
        task = sig._type or self.app.tasks.get(sig.name)
        return bool(task is not None and task.ignores_result)


STARTS: Final = ("countdown", "eta")


def of_each(task: Any, options: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What is linked to a group is linked to each of its calls, beside what they have."""
    return {kind: [*as_list(task.options.get(kind)), *as_list(options[kind])] for kind in LINKS if options.get(kind)}


def unrolled(sig: Any) -> Iterator[Any]:
    """The steps of a chain that call something: a group of one gives its member."""
    steps = [folding._single(maybe_signature(step, app=sig._app)) for step in sig.tasks]
    full = [step for step in steps if not is_nothing(step)]
    # One of empty groups alone is a group without results.
    return iter(full or [step for step in steps if isinstance(step, group)][:1])


def is_nothing(step: Any) -> bool:
    """An empty chain or group, or a chain of nothing else; not of a group, whose result is an empty list."""
    if isinstance(step, chain):
        return not any(isinstance(each, group) or not is_nothing(each) for each in step.tasks)
    return isinstance(step, group) and not step.tasks


def _places(result: Any, path: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    """The jobs of a group's result, with their places in the list that it is."""
    for index, each in enumerate(result.results):
        if isinstance(each, GroupResult):
            yield from _places(each, (*path, index))
        else:
            yield each.id, json.dumps([*path, index])


def _with_own(feed: Feed, sig: Signature, *not_arguments: str) -> Feed:
    """The feed with the arguments that a canvas was cloned with, for its first tasks."""
    own = {name: value for name, value in sig.kwargs.items() if name not in not_arguments}
    if isinstance(sig, chord):
        own |= sig.kwargs.get("kwargs") or {}
    if not (sig.args or own):
        return feed
    return replace(feed, args=(*feed.args, *sig.args), kwargs={**own, **(feed.kwargs or {})})


def _route_of(app: DBQueue, sig: Signature) -> dict[str, Any]:
    """A map goes where its task's calls go."""
    inner = sig.kwargs["task"]
    name = inner["task"]
    return dict(routes.route(app.conf, name, app.tasks.get(name), [], {}, {}))
