"""Results of many calls: a set, and the group that `group(...)` returns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from dbqueue import codec
from dbqueue.codec import nesting
from dbqueue.errors import ChordError, DecodeError
from dbqueue.jobs import FAILURE, PENDING, SUCCESS, TERMINAL
from dbqueue.result.chord_errors import first_error_above, with_cause
from dbqueue.result.family import ResultBase
from dbqueue.result.single import DEFAULT_INTERVAL_SECONDS, AsyncResult
from dbqueue.result.tree import result_from_tuple
from dbqueue.result.waiting_rules import refuse_to_wait

if TYPE_CHECKING:
    from dbqueue.app import DBQueue
    from dbqueue.services.backend import Backend


class ResultSet(ResultBase):
    """Results in an order; each is an AsyncResult or a GroupResult."""

    def __init__(self, results: Iterable[Any] | None = None, app: DBQueue | None = None, **_: Any) -> None:
        self._app = app
        self.results: list[Any] = list(results or ())
        self.parent: Any = None

    @property
    def app(self) -> DBQueue:
        if self._app is None:
            from dbqueue.shared import current_app

            self._app = self.results[0].app if self.results else current_app()
        return self._app

    @app.setter
    def app(self, app: DBQueue) -> None:
        self._app = app

    @property
    def backend(self) -> Backend:
        """Results, under the names of Celery's result backends."""
        return self.app.backend

    # members

    def add(self, result: Any) -> None:
        """Add a result, unless it is a member."""
        if result not in self.results:
            self.results.append(result)

    def remove(self, result: Any) -> None:
        """Remove a member, or the one with this id. Raises KeyError where there is none."""
        try:
            self.results.remove(result)
        except ValueError:
            raise KeyError(result) from None

    def discard(self, result: Any) -> None:
        """Remove a member, if it is one."""
        if result in self.results:
            self.results.remove(result)

    def update(self, results: Iterable[Any]) -> None:
        """Add results that are no members."""
        for result in results:
            self.add(result)

    def clear(self) -> None:
        """Remove all members."""
        self.results.clear()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.results)

    def __getitem__(self, index: Any) -> Any:
        return self.results[index]

    def __len__(self) -> int:
        return len(self.results)

    def __eq__(self, other: object) -> bool:
        return self.results == other.results if isinstance(other, ResultSet) else NotImplemented

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: [{', '.join(str(result.id) for result in self.results)}]>"

    @property
    def children(self) -> list[Any]:
        return self.results

    def _own_ids(self) -> list[str]:
        return [leaf.id for leaf in self._leaves()]

    # states

    def _leaves(self) -> Iterator[AsyncResult[Any]]:
        """The results of calls, those of groups in it too."""
        for result in self.results:
            if isinstance(result, ResultSet):
                yield from result._leaves()
            else:
                yield result

    def _look(self) -> None:
        """Read what is not final: one query, however many results there are."""
        waiting = [leaf for leaf in self._leaves() if leaf.reads_row and not leaf.is_final]
        if waiting:
            found = self.app.database.store.fetch(list({leaf.id for leaf in waiting}))  # two may be of one job
            for leaf in waiting:
                leaf.take(found.get(leaf.id))

    def _states(self) -> list[str]:
        self._look()
        return [leaf.last_status or PENDING for leaf in self._leaves()]

    def ready(self) -> bool:
        """Whether all have ended."""
        return all(state in TERMINAL for state in self._states())

    def waiting(self) -> bool:
        """Whether any has not ended."""
        return not self.ready()

    def successful(self) -> bool:
        """Whether all have succeeded."""
        return all(state == SUCCESS for state in self._states())

    def failed(self) -> bool:
        """Whether any has failed."""
        return any(state == FAILURE for state in self._states())

    def completed_count(self) -> int:
        """How many have succeeded."""
        return sum(state == SUCCESS for state in self._states())

    def maybe_throw(self, callback: Callable[[str, Any], Any] | None = None, propagate: bool = True) -> None:
        """Raise the exception of the first that has failed."""
        self._look()
        for result in self.results:
            result.maybe_throw(callback=callback, propagate=propagate)

    maybe_reraise = maybe_throw

    # waiting

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = DEFAULT_INTERVAL_SECONDS,
        callback: Callable[[str, Any], Any] | None = None,
        no_ack: bool = True,
        on_message: Any = None,
        disable_sync_subtasks: bool = True,
        on_interval: Any = None,
    ) -> Any:
        """Wait until all have ended, and return their values in order; raise the first exception, as `AsyncResult.get`.

        `timeout` is in seconds, for all of them together. With `callback`, it is called with each
        id and value, and nothing is returned. With `propagate=False` exceptions stand among the
        values. Other parameters are Celery's and have no effect.
        """
        if disable_sync_subtasks:
            refuse_to_wait()
        values: list[Any] = []
        for result, value in self._each(timeout, propagate, interval, **_told(on_message, on_interval)):
            if callback is not None:
                callback(result.id, value)
            else:
                values.append(value)
        return values if callback is None else None

    def join(self, *args: Any, **kwargs: Any) -> Any:
        """`get`; with a `callback`, returns an empty list, as Celery's."""
        values = self.get(*args, **kwargs)
        return [] if values is None else values

    join_native = get

    async def aget(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = DEFAULT_INTERVAL_SECONDS,
        *,
        disable_sync_subtasks: bool = True,
    ) -> list[Any]:
        """`get` for asynchronous code, and refused inside a task as that is."""
        if disable_sync_subtasks:
            refuse_to_wait()
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            return [
                await result.aget(_left(deadline), propagate, interval, disable_sync_subtasks=False)
                for result in self.results
            ]
        except ChordError as error:
            whole = self._with_cause(error)
            raise whole from whole.__cause__

    def iterate(
        self, timeout: float | None = None, propagate: bool = True, interval: float = DEFAULT_INTERVAL_SECONDS
    ) -> Iterator[Any]:
        """The values, each as soon as those before it have ended too."""
        return (value for _, value in self._each(timeout, propagate, interval))

    def iter_native(
        self,
        timeout: float | None = None,
        interval: float = DEFAULT_INTERVAL_SECONDS,
        no_ack: bool = True,
        on_message: Any = None,
        on_interval: Any = None,
    ) -> Any:
        """Pairs of ids and `{"status": ..., "result": ...}`."""
        for result, value in self._each(timeout, False, interval, **_told(on_message, on_interval)):
            yield result.id, {"task_id": result.id, "status": getattr(result, "state", None), "result": value}

    @property
    def supports_native_join(self) -> bool:
        return True

    def _each(self, timeout: float | None, propagate: bool, interval: float, **told: Any) -> Iterator[tuple[Any, Any]]:
        deadline = None if timeout is None else time.monotonic() + timeout
        rest = [leaf for leaf in self._leaves() if leaf.reads_row]
        for result in self.results:
            if isinstance(result, AsyncResult) and result.reads_row and not result.is_final:
                # Those that have ended meanwhile come with one query.
                rest = [leaf for leaf in rest if not leaf.is_final]
                found = self.app.database.store.finished([leaf.id for leaf in rest])
                for leaf in rest:
                    if leaf.id in found:
                        leaf.take(found[leaf.id])
            try:
                value = result.get(_left(deadline), propagate, interval=interval, disable_sync_subtasks=False, **told)
            except ChordError as error:
                whole = self._with_cause(error)
                raise whole from whole.__cause__
            yield result, value

    def _with_cause(self, error: ChordError) -> ChordError:
        """As the body of a chord, a group has the header for its parent: its members have none."""
        cause = None if type(error) is not ChordError else first_error_above(self)
        return error if cause is None else with_cause(error, cause)

    def then(
        self, callback: Callable[[Any], Any], on_error: Callable[[Any], Any] | None = None, weak: bool = False
    ) -> Any:
        """Call `callback` with this set when all are known to have ended: at once, or as their values are got.

        `on_error` is called with each that has failed.
        """
        leaves = list(self._leaves())
        missing = {leaf.id for leaf in leaves}

        def ended(result: Any) -> None:
            if result.id in missing:  # two may be of one job
                missing.discard(result.id)
                if not missing:
                    callback(self)

        def failed(result: Any) -> None:
            if on_error is not None:
                on_error(result)
            ended(result)

        for leaf in leaves:
            leaf.then(ended, failed)
        if not leaves:
            callback(self)
        return self

    # changing

    def forget(self) -> None:
        """Delete the rows of those that have ended, and their results with them."""
        for result in self.results:
            result.forget()

    _forget_own = forget

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: str | int | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Call all of them off; see `AsyncResult.revoke`."""
        eager = [leaf for leaf in self._leaves() if not leaf.reads_row]
        for leaf in eager:
            leaf.revoke()
        ids = [leaf.id for leaf in self._leaves() if leaf.reads_row]
        if ids:
            self.app.control.revoke(
                ids,
                terminate=terminate,
                signal=signal or "SIGTERM",
                reply=wait,
                timeout=1.0 if timeout is None else timeout,
            )


class GroupResult(ResultSet):
    """The results of a group: a set with an id, which can be saved under it."""

    def __init__(
        self,
        id: str | None = None,
        results: Iterable[Any] | None = None,
        parent: Any = None,
        app: DBQueue | None = None,
        **_: Any,
    ) -> None:
        super().__init__(results, app=app)
        self.id, self.parent = id, parent

    def save(self, backend: Any = None) -> GroupResult:
        """Write down which results belong to the group, for `restore`; kept as long as results are. Gives the group."""
        from dbqueue.store import groups

        limit = self.app.conf.max_payload_bytes
        text = codec.dumps(self.as_tuple(), what="the group's ids", max_bytes=limit, deepest=nesting.DEEPEST_KEPT)
        groups.save(self.app.database.store, str(self.id), text)
        return self

    def delete(self, backend: Any = None) -> None:
        """Forget what `save` wrote; the results stay."""
        from dbqueue.store import groups

        groups.delete(self.app.database.store, str(self.id))

    @classmethod
    def restore(cls, id: str, backend: Any = None, app: DBQueue | None = None) -> GroupResult | None:
        """The group that was saved under this id; None where there is none. Raises DecodeError where it is none."""
        from dbqueue.store import groups

        if app is None:
            from dbqueue.shared import current_app

            app = current_app()
        text = groups.restore(app.database.store, id)
        if text is None:
            return None
        try:
            restored = result_from_tuple(codec.loads(text), app)
        except (TypeError, ValueError, RecursionError):
            restored = None
        if not isinstance(restored, GroupResult):
            raise DecodeError(f"what is saved under the id {id!r} is no group")
        return restored

    def as_tuple(self) -> tuple[Any, Any]:
        """The group as data, for `result_from_tuple`."""
        return (self.id, self.parent and self.parent.as_tuple()), [result.as_tuple() for result in self.results]

    def __bool__(self) -> bool:
        return bool(self.id or self.results)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, GroupResult):
            return (self.id, self.results, self.parent) == (other.id, other.results, other.parent)
        return other == self.id if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return str(self.id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id} [{', '.join(str(result.id) for result in self.results)}]>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _group, (self.id, self.results, self.parent)


def _group(group_id: str, results: list[Any], parent: Any) -> GroupResult:
    return GroupResult(group_id, results, parent=parent)


def _told(on_message: Any, on_interval: Any) -> dict[str, Any]:
    """Those that are to be told: nothing else has another way to wait."""
    return {name: call for name, call in (("on_message", on_message), ("on_interval", on_interval)) if call is not None}


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
