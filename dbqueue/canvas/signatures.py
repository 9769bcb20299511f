"""Signatures: calls of tasks as values, to be sent later, changed, linked and put together.

A signature is a dict, so that it goes through JSON as an argument of a task; `signature(d)` makes it
one again. Its keys are Celery's: `task`, `args`, `kwargs`, `options`, `subtask_type`, `immutable`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from dbqueue.canvas import printing
from dbqueue.task.options import warn_of_unknown

if TYPE_CHECKING:
    from dbqueue.app import DBQueue

S = TypeVar("S", bound="Signature")

FIXED_OPTIONS = frozenset({"group_id", "stamped_headers"})
"""Options that a call does not change once a signature has them: others count on their values."""


def _key(name: str, meaning: str) -> Any:
    def get(self: Signature) -> Any:
        return self[name]

    def put(self: Signature, value: Any) -> None:
        self[name] = value

    return property(get, put, doc=meaning)


def _option(name: str, meaning: str) -> Any:
    def get(self: Signature) -> Any:
        return self.options.get(name)

    def put(self: Signature, value: Any) -> None:
        self.options[name] = value

    return property(get, put, doc=meaning)


class Signature(dict[str, Any]):
    """One call of a task: `add.s(2, 2)`, `add.signature((2, 2), countdown=10)`, `signature("tasks.add", (2, 2))`.

    `task` is a task, its name (which need not be registered here), or a dict with the keys of a
    signature. `options` are those of `Task.apply_async`. An `immutable` one takes no result of what
    runs before it. Arguments that are given later stand before those that it has; keyword arguments
    and options that are given later override its own.
    """

    TYPES: ClassVar[dict[str, type[Signature]]] = {}
    """The classes by `subtask_type`."""
    _app: DBQueue | None = None
    _type: Any = None

    task = _key("task", "The task's name.")
    args = _key("args", "Positional arguments.")
    kwargs = _key("kwargs", "Keyword arguments.")
    options = _key("options", "Options of the call, by the names of `Task.apply_async`.")
    subtask_type = _key("subtask_type", "`chain`, `group`, `chord`, ...; None for the call of a task.")
    immutable = _key("immutable", "Whether it takes no further arguments.")
    id = _option("task_id", "The id that the call will have, once `freeze` has given it one.")
    parent_id = _option("parent_id", "The id of the task that sends it.")
    root_id = _option("root_id", "The id of the first task of the workflow.")

    def __init__(
        self,
        task: Any = None,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        type: Any = None,
        subtask_type: str | None = None,
        immutable: bool = False,
        app: DBQueue | None = None,
        **more: Any,
    ) -> None:
        self._app = app
        # A large group makes very many of these, and `isinstance` of an abstract class is slow: it comes last.
        if not isinstance(task, str | dict) and hasattr(task, "name"):
            self._type, task = task, task.name
        elif isinstance(task, Mapping):
            super().__init__({**_EMPTY, "kwargs": {}, "options": {}, **task})
            return
        self.update(
            task=task,
            args=tuple(args) if args else (),
            kwargs=dict(kwargs) if kwargs else {},
            options={**options, **more} if options else more,
            subtask_type=subtask_type,
            immutable=immutable,
        )

    @classmethod
    def register_type(cls, name: str | None = None) -> Callable[[type[S]], type[S]]:
        """A decorator: signatures with this `subtask_type` (by default the class's name) are of the class."""

        def register(subclass: type[S]) -> type[S]:
            cls.TYPES[name or subclass.__name__] = subclass
            return subclass

        return register

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: DBQueue | None = None) -> Signature:
        """The signature that a dict holds, of the class that its `subtask_type` names."""
        kind = cls.TYPES.get(d.get("subtask_type") or "")
        if kind is not None and kind is not cls:
            return kind.from_dict(d, app=app)
        return Signature(d, app=app)

    # what it calls

    @property
    def name(self) -> str:
        """The task's name."""
        return str(self["task"])

    @property
    def type(self) -> Any:
        """The task; raises NotRegistered where this application does not know it."""
        return self._type or self.app.tasks[self["task"]]

    @property
    def app(self) -> DBQueue:
        """Its application: its own, its task's, its first member's, or the current one."""
        from dbqueue.shared import current_app

        return self._own_app() or current_app()

    def _own_app(self) -> DBQueue | None:
        if self._app is not None:
            return self._app
        if self._type is not None:
            app: DBQueue | None = getattr(self._type, "app", None)
            return app
        members = (member for member in self._members() if isinstance(member, Signature))
        return next((app for member in members if (app := member._own_app()) is not None), None)

    def _members(self) -> Sequence[Any]:
        """The signatures that it consists of; those of a JSON text are dicts still."""
        return ()

    # calling

    def __call__(self, *partial_args: Any, **partial_kwargs: Any) -> Any:
        """Call the task here and now, as a function."""
        args, kwargs, _ = self._merge(partial_args, partial_kwargs)
        return self.type(*args, **kwargs)

    def delay(self, *partial_args: Any, **partial_kwargs: Any) -> Any:
        """Send it, with these arguments before its own; see `apply_async`."""
        return self.apply_async(partial_args, partial_kwargs)

    async def adelay(self, *partial_args: Any, **partial_kwargs: Any) -> Any:
        """`delay` for asynchronous code, and for asynchronous connections."""
        return await self.aapply_async(partial_args, partial_kwargs)

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        connection: Any = None,
        **options: Any,
    ) -> Any:
        """Send it: all of its jobs in one transaction, or none.

        `args` stand before its own arguments, `kwargs` and `options` are added to its own;
        `connection` joins the caller's transaction, as in `Task.apply_async`. Returns the result: of
        a chain that of its last task, with `parent` links; of a group a GroupResult.
        """
        from dbqueue.canvas import sending

        return sending.send(self, args, kwargs, options, connection)

    async def aapply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        connection: Any = None,
        **options: Any,
    ) -> Any:
        """`apply_async` for asynchronous code, and for asynchronous connections."""
        from dbqueue.canvas import sending

        return await sending.asend(self, args, kwargs, options, connection)

    def apply(self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run it here and now, in this process; see `dbqueue.task.eager`."""
        from dbqueue.canvas import eager

        return eager.apply(self, args, kwargs, options)

    def __invert__(self) -> Any:
        """`~sig`: send it and wait for its result."""
        return self.apply_async().get()

    # changing

    def _merge(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        force: bool = False,
    ) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]:
        """Its arguments and options with these added; an immutable one keeps its arguments, unless by `force`."""
        fixed = FIXED_OPTIONS.union(self.options.get("stamped_headers") or ())
        new = {key: value for key, value in (options or {}).items() if key not in fixed or key not in self.options}
        merged = {**self.options, **new}
        if self.immutable and not force:
            return tuple(self.args), self.kwargs, merged
        return (*(args or ()), *self.args), {**self.kwargs, **(kwargs or {})}, merged

    def clone(self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """A copy, with these arguments before its own, and keyword arguments and options added."""
        args, kwargs, options = self._merge(args, kwargs, options)
        copied = {**self, "args": tuple(args), "kwargs": dict(kwargs), "options": _copied(options)}
        copy = Signature.from_dict(copied, app=self._app)
        copy._type = self._type
        return copy

    partial = clone

    def replace(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Any:
        """A copy with these in the place of its own; None leaves them as they are."""
        copy = self.clone()
        if args is not None:
            copy["args"] = tuple(args)
        for name, value in (("kwargs", kwargs), ("options", options)):
            if value is not None:
                copy[name] = dict(value)
        return copy

    def set(self, immutable: bool | None = None, **options: Any) -> Any:
        """Set options of the call; returns the signature itself."""
        if immutable is not None:
            self.set_immutable(immutable)
        warn_of_unknown(options)
        self.options.update(options)
        return self

    def set_immutable(self, immutable: bool) -> None:
        self["immutable"] = immutable

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> Any:
        """Give it the id that its call will have (`_id`, or a new one), and return its result.

        Members of a canvas get theirs too. Not to be sent twice after that.
        """
        from dbqueue.canvas import freezing

        ids = {"task_id": _id, "group_id": group_id, "chord": chord, "group_index": group_index}
        given = {**ids, "root_id": root_id, "parent_id": parent_id}
        return freezing.freeze(self, {name: value for name, value in given.items() if value is not None})

    # links

    def link(self, callback: Any) -> Any:
        """Call `callback` with the result when it has succeeded; returns the callback."""
        return self.append_to_list_option("link", callback)

    def link_error(self, errback: Any) -> Any:
        """Call `errback` when it has failed; returns the errback."""
        return self.append_to_list_option("link_error", errback)

    def on_error(self, errback: Any) -> Any:
        """`link_error`, but returns the signature itself."""
        self.link_error(errback)
        return self

    def append_to_list_option(self, key: str, value: Any) -> Any:
        """Add the value to the list that is the option `key`, unless it is there."""
        items = self._list_option(key)
        if value not in items:
            items.append(value)
        return value

    def extend_list_option(self, key: str, value: Any) -> None:
        """Add the value, or all values of a list, to the list that is the option `key`."""
        self._list_option(key).extend(as_list(value))

    def _list_option(self, key: str) -> list[Any]:
        items: list[Any] = as_list(self.options.get(key))
        self.options[key] = items
        return items

    def flatten_links(self) -> list[Any]:
        """The signature, and all that is linked to its success, and to theirs."""
        links = (maybe_signature(link, app=self._app) for link in as_list(self.options.get("link")))
        return [self, *(each for link in links for each in link.flatten_links())]

    # stamps

    def stamp(self, visitor: Any = None, append_stamps: bool = False, **headers: Any) -> Any:
        """Put stamps on the call: headers that are found again in `request.stamps`; see `dbqueue.canvas.stamping`."""
        from dbqueue.canvas import stamping

        return stamping.stamp(self, visitor, append_stamps, headers)

    def stamp_links(self, visitor: Any, append_stamps: bool = False, **headers: Any) -> None:
        """Put stamps on what is linked to the call."""
        from dbqueue.canvas import stamping

        stamping.stamp_links(self, visitor, append_stamps, headers)

    # putting together

    def __or__(self, other: Any) -> Any:
        from dbqueue.canvas import folding

        if not isinstance(other, Signature):
            return NotImplemented
        return folding.joined(self, other)

    def __ior__(self, other: Any) -> Any:
        return self.__or__(other)

    # as text and as data

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        """The call as text, with these arguments before its own."""
        args, kwargs, _ = self._merge(args, kwargs, {}, force=True)
        return printing.call(self["task"], args, kwargs)

    def __repr__(self) -> str:
        return self.reprcall()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copy = self.clone()
        memo[id(self)] = copy
        return copy

    def __reduce__(self) -> tuple[Any, ...]:
        return signature, (dict(self),)


_EMPTY: dict[str, Any] = {"task": None, "args": (), "subtask_type": None, "immutable": False}


def signature(varies: Any, *args: Any, **kwargs: Any) -> Any:
    """A signature of a task, of a task's name, of a dict (as JSON gives it), or a copy of a signature.

    `signature("tasks.add", args=(2, 2), kwargs=None, options=None, app=None, countdown=10)`
    """
    if isinstance(varies, Signature):
        return varies.clone()
    if isinstance(varies, Mapping):
        return Signature.from_dict(varies, app=kwargs.get("app"))
    return Signature(varies, *args, **kwargs)


subtask = signature


def maybe_signature(d: Any, app: DBQueue | None = None, clone: bool = False) -> Any:
    """A signature of a dict, a signature as it is (or a copy, with `clone`), or None of None."""
    if isinstance(d, Signature):
        d = d.clone() if clone else d
    elif isinstance(d, Mapping):
        d = signature(d)
    if app is not None and isinstance(d, Signature):
        d._app = app
    return d


maybe_subtask = maybe_signature


def as_list(value: Any) -> list[Any]:
    """A list option's value: a list, one value alone, or None."""
    if value is None:
        return []
    return value if isinstance(value, list) else list(value) if isinstance(value, tuple) else [value]


def _copied(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of their own: lists of links are not shared, nor are the links."""
    return {key: value if isinstance(value, _PLAIN) else deepcopy(value) for key, value in options.items()}


_PLAIN = (str, int, float, bool, type(None))
