"""A workflow by names: each call with the calls that it comes after. Beyond Celery.

    shop = dag()
    shop.add("orders", load_orders.s("2026-11"))
    shop.add("prices", load_prices.s())
    shop.add("report", write_report.s(), after=["orders", "prices"])

`write_report(orders=..., prices=...)` is called with the results of those before it, by their names.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any, TypeAlias

from dbqueue.canvas.compiler import Compiler, Feed
from dbqueue.canvas.signatures import Signature, maybe_signature
from dbqueue.result import AsyncResult, GroupResult, ResultSet
from dbqueue.result.single import DEFAULT_INTERVAL_SECONDS

if TYPE_CHECKING:
    from dbqueue.app import DBQueue
    from dbqueue.workflows import Workflow

After: TypeAlias = str | Iterable[str] | Mapping[str, str]


class dag:  # noqa: N801 - as chain, group and chord
    """Calls by name, and what each comes after.

    `dag({"a": sig, "b": (sig, ["a"])})`, or `add` for each. Raises ValueError when it is sent, if a
    name is missing or the calls wait for each other.
    """

    def __init__(self, calls: Mapping[str, Any] | None = None, *, app: DBQueue | None = None) -> None:
        self._app = app
        self.calls: dict[str, Any] = {}
        """Signatures by name."""
        self.after: dict[str, dict[str, str]] = {}
        """For each name, the names that it comes after, by the keyword arguments that their results become."""
        for name, call in (calls or {}).items():
            sig, after = call if isinstance(call, tuple) else (call, ())
            self.add(name, sig, after=after)

    def add(self, name: str, sig: Any, *, after: After = ()) -> dag:
        """Add a call: of a task, or a canvas whose first tasks get the results. Returns the dag.

        `after` is a name, names, or a mapping of keyword arguments to names. The results of these are
        keyword arguments of the call, under their own names or those of the mapping; an immutable
        signature only waits for them.
        """
        if name in self.calls:
            raise ValueError(f"the dag has a call named {name!r} already")
        if not isinstance(sig, Mapping):
            raise TypeError(f"{name} must be a signature, not {sig!r}")
        self.calls[name] = maybe_signature(sig)
        names = [after] if isinstance(after, str) else after
        self.after[name] = dict(names) if isinstance(names, Mapping) else {each: each for each in names}
        return self

    @property
    def app(self) -> DBQueue:
        return self._app or next(iter(self.calls.values()), Signature()).app

    def delay(self) -> DagResult:
        """Send it; see `apply_async`."""
        return self.apply_async()

    async def adelay(self) -> DagResult:
        """`delay` for asynchronous code."""
        return await self.aapply_async()

    def apply_async(self, *, connection: Any = None, **options: Any) -> DagResult:
        """Send all calls in one transaction; `options` are those of `Task.apply_async`, for all of them."""
        if self.app.conf.task_always_eager:
            return self.apply()
        workflow, result = self._plan(options)
        self.app.database.enqueue_workflow(workflow, connection)
        return result

    async def aapply_async(self, *, connection: Any = None, **options: Any) -> DagResult:
        """`apply_async` for asynchronous code, and for asynchronous connections."""
        if self.app.conf.task_always_eager:
            import asyncio

            return await asyncio.to_thread(self.apply)
        workflow, result = self._plan(options)
        await self.app.database.aenqueue_workflow(workflow, connection)
        return result

    def apply(self) -> DagResult:
        """Run it here and now, in this process: each call after those before it. The first error ends it."""
        results: dict[str, Any] = {}
        for name in self._ordered():
            values = {keyword: results[before].get() for keyword, before in self.after[name].items()}
            results[name] = self.calls[name].apply((), values)
        return DagResult({name: results[name] for name in self.calls}, self.app)

    def _plan(self, options: Mapping[str, Any]) -> tuple[Workflow, DagResult]:
        compiler = Compiler(self.app)
        results: dict[str, Any] = {}
        for name in self._ordered():
            feed = self._feed(compiler, {keyword: results[each] for keyword, each in self.after[name].items()})
            results[name] = compiler.compile(self.calls[name], feed, options)
        return compiler.workflow(), DagResult({name: results[name] for name in self.calls}, self.app)

    def _feed(self, compiler: Compiler, before: Mapping[str, Any]) -> Feed:
        """The results of these as keyword arguments; that of a group goes through a row that makes a list of it."""
        inputs = []
        for keyword, result in before.items():
            one = result if isinstance(result, AsyncResult) else compiler.collected(result)
            inputs.append((one.id, json.dumps(keyword)))
        parents = list(before.values())
        parent = parents[0] if len(parents) == 1 else GroupResult(None, parents, app=self.app) if parents else None
        return Feed(inputs=tuple(inputs), parent=parent)

    def _ordered(self) -> Iterator[str]:
        """The names, each after those that it comes after."""
        for name, before in self.after.items():
            unknown = [each for each in before.values() if each not in self.calls]
            if unknown:
                raise ValueError(f"{name} comes after {unknown[0]!r}, which the dag does not have")
        order = TopologicalSorter({name: before.values() for name, before in self.after.items()})
        try:
            return iter(list(order.static_order()))
        except CycleError as error:
            around = ", ".join(error.args[1])
            raise ValueError(f"the calls of the dag come after each other in a cycle: {around}") from None

    def __len__(self) -> int:
        return len(self.calls)

    def __repr__(self) -> str:
        lines = (f"{name}: {sig!r}{_shown(self.after[name])}" for name, sig in self.calls.items())
        return f"<dag {', '.join(lines)}>"


class DagResult(ResultSet):
    """The results of a dag by name: `result["report"].get()`, or `result.get()["report"]`."""

    def __init__(self, by_name: Mapping[str, Any], app: DBQueue | None = None) -> None:
        super().__init__(by_name.values(), app=app)
        self.by_name = dict(by_name)

    def __getitem__(self, name: Any) -> Any:
        return self.by_name[name] if isinstance(name, str) else super().__getitem__(name)

    def get(  # type: ignore[override]
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = DEFAULT_INTERVAL_SECONDS,
        **options: Any,
    ) -> dict[str, Any]:
        """Wait until all have ended, and return their values by name; see `ResultSet.get`."""
        values = super().get(timeout, propagate, interval, **options)
        return dict(zip(self.by_name, values, strict=True))

    async def aget(  # type: ignore[override]
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = DEFAULT_INTERVAL_SECONDS,
        *,
        disable_sync_subtasks: bool = True,
    ) -> dict[str, Any]:
        """`get` for asynchronous code."""
        values = await super().aget(timeout, propagate, interval, disable_sync_subtasks=disable_sync_subtasks)
        return dict(zip(self.by_name, values, strict=True))


def _shown(after: Mapping[str, str]) -> str:
    return f" after {', '.join(after.values())}" if after else ""
