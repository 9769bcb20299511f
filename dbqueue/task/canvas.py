"""What a task has of canvas: signatures of its calls, and the change of the workflow that it runs in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dbqueue.app import DBQueue
    from dbqueue.canvas.signatures import Signature
    from dbqueue.context import Context
    from dbqueue.services.backend import Backend


@cache
def _signature_class() -> type[Signature]:
    """Imported at the first use, not with the first task; and once, for an `import` takes longer than the signature."""
    from dbqueue.canvas.signatures import Signature

    return Signature


class CanvasTask:
    """The part of Task that makes and sends signatures."""

    app: DBQueue
    name: str

    @property
    def request(self) -> Context:
        raise NotImplementedError

    @property
    def backend(self) -> Backend:
        """Results, under the names of Celery's result backends; see `dbqueue.services.backend`."""
        return self.app.backend

    def signature(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Any:
        """A call of this task as a value; see `dbqueue.canvas.Signature`. `options` are those of `apply_async`."""
        return _signature_class()(self, args, kwargs, options, app=self.app, **more)

    subtask = signature

    def __reduce__(self) -> Any:
        """Pickled as its name: where it is unpickled, it is the task that the current application has by it."""
        from dbqueue.shared import task_named

        return task_named, (self.name, type(self).__module__)

    def s(self, *args: Any, **kwargs: Any) -> Any:
        """`signature` with these arguments: `add.s(2, 2)`."""
        return self.signature(args, kwargs)

    def si(self, *args: Any, **kwargs: Any) -> Any:
        """As `s`, for a call that takes no result of what runs before it."""
        return self.signature(args, kwargs, immutable=True)

    def signature_from_request(
        self,
        request: Context | None = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        queue: str | None = None,
        **options: Any,
    ) -> Any:
        """The call that is running as a signature, with the same id."""
        request = self.request if request is None else request
        info = request.delivery_info or {}
        own = {
            "task_id": request.id,
            "root_id": request.root_id,
            "parent_id": request.parent_id,
            "group_id": request.group,
            "queue": queue or info.get("routing_key"),
            "priority": info.get("priority"),
            "headers": request.headers,
            "shadow": request.shadow,
        }
        given = {name: value for name, value in own.items() if value is not None}
        return self.signature(
            request.args if args is None else args, request.kwargs if kwargs is None else kwargs, {**given, **options}
        )

    subtask_from_request = signature_from_request

    def map(self, it: Iterable[Any]) -> Any:
        """One job that calls the task for each item: `[task(item) for item in it]`."""
        from dbqueue.canvas import xmap

        return xmap(self.s(), it, app=self.app)

    def starmap(self, it: Iterable[Any]) -> Any:
        """One job that calls the task for each list of arguments: `[task(*item) for item in it]`."""
        from dbqueue.canvas import xstarmap

        return xstarmap(self.s(), it, app=self.app)

    def chunks(self, it: Iterable[Any], n: int) -> Any:
        """A group of jobs, each of which calls the task for `n` lists of arguments."""
        from dbqueue.canvas import chunks

        return chunks(self.s(), it, n, app=self.app)

    def replace(self, sig: Any) -> Any:
        """End this run, and let the signature take its place: its result is this job's result.

        `sig` may be any canvas; what follows this job waits for it. Write `return self.replace(...)`,
        for in a worker it does not return. Raises ImproperlyConfigured for an empty chain.
        """
        from dbqueue.canvas import replacing

        return self.on_replace(replacing.replacement(self, sig))

    def on_replace(self, sig: Any) -> Any:
        """How `replace` does it; to be overridden, and to be called by what overrides it."""
        from dbqueue.canvas import replacing

        return replacing.replace(self, sig)

    def add_to_chord(self, sig: Any, lazy: bool = False) -> Any:
        """Add a call to the header of the chord that this job is in: the body waits for it too.

        Raises ValueError where the job is in no chord.
        """
        from dbqueue.canvas import replacing

        return replacing.add_to_chord(self, sig, lazy=lazy)
