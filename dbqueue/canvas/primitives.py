"""chain, group, chord, map, starmap and chunks: signatures that hold signatures.

Each class only says what it consists of and how it is printed. `folding` has the rules of `|`,
`compiler` makes rows and edges, `eager` runs in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

from dbqueue.bulk import gathered
from dbqueue.canvas import folding, printing
from dbqueue.canvas.signatures import Signature, as_list, maybe_signature, signature

if TYPE_CHECKING:
    from dbqueue.app import DBQueue


def _is_list(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, Mapping | str | bytes)


def _sequence(tasks: Any) -> Any:
    """The tasks as a list; a tuple stays one, for it is printed as one."""
    return tasks if isinstance(tasks, list | tuple) else gathered(tasks)


def _tasks(place: str, meaning: str) -> Any:
    def get(self: Signature) -> Any:
        return self.kwargs[place]

    def put(self: Signature, value: Any) -> None:
        self.kwargs[place] = value

    return property(get, put, doc=meaning)


@Signature.register_type("chain")
class chain(Signature):  # noqa: N801 - Celery's name
    """Tasks one after another, each with the result of the one before it.

    `chain(a, b, c)`, `chain([a, b, c])` or `a | b | c`. A group that is followed by something becomes
    a chord. Sent, it returns the result of its last task.
    """

    tasks = _tasks("tasks", "The signatures of the chain.")

    def __new__(cls, *tasks: Any, **options: Any) -> Any:
        """As `|` would put the tasks together, which may give a group or a chord."""
        if not options and (len(tasks) > 1 or (len(tasks) == 1 and _is_list(tasks[0]))):
            return folding.fold(tasks[0] if len(tasks) == 1 else tasks)
        return super().__new__(cls)

    def __init__(self, *tasks: Any, **options: Any) -> None:
        if self:
            return  # made by `__new__`
        steps = tasks[0] if len(tasks) == 1 and _is_list(tasks[0]) else tasks
        app = options.pop("app", None)
        super().__init__("celery.chain", (), {"tasks": list(steps)}, options, subtask_type="chain", app=app)

    @classmethod
    def of(cls, steps: list[Any], app: DBQueue | None = None, options: Mapping[str, Any] | None = None) -> chain:
        """A chain of exactly these steps."""
        self: chain = dict.__new__(cls)
        Signature.__init__(self, "celery.chain", (), {"tasks": steps}, options, subtask_type="chain", app=app)
        return self

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: DBQueue | None = None) -> Signature:
        self = cls.of([maybe_signature(task, app=app) for task in d["kwargs"]["tasks"]], app, d.get("options"))
        return _with_call(self, d)

    def _members(self) -> Sequence[Any]:
        return self.tasks[:1]  # type: ignore[no-any-return]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.apply_async(args, kwargs) if self.tasks else None

    def clone(self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        copy = super().clone(args, kwargs, **options)
        copy.tasks = [maybe_signature(task, app=self._app, clone=True) for task in copy.tasks]
        return copy

    def unchain_tasks(self) -> list[Any]:
        """Copies of its tasks, with its own links on the last and its own errbacks on each of them."""
        return folding.steps_of(self, clone=True)

    def __repr__(self) -> str:
        if not self.tasks:
            return f"<{type(self).__name__}@{id(self):#x}: empty>"
        return printing.without_repetition(self.tasks[0]["task"], " | ".join(map(repr, self.tasks)))


@Signature.register_type("group")
class group(Signature):  # noqa: N801 - Celery's name
    """Tasks side by side: `group(a, b)`, `group([a, b])`, `group(add.s(i, i) for i in range(10))`.

    Sent, it returns a GroupResult. Options are for all of its tasks; its `task_id` is the group's id.
    """

    tasks = _tasks("tasks", "The signatures of the group.")

    def __init__(self, *tasks: Any, **options: Any) -> None:
        members: Any = tasks
        if len(tasks) == 1:
            members = tasks[0]
            if isinstance(members, group):
                members = members.tasks
            elif isinstance(members, Signature):
                members = [members.clone()]
            elif isinstance(members, Mapping):
                members = [signature(members)]
        app = options.pop("app", None)
        super().__init__("celery.group", (), {"tasks": _sequence(members)}, options, subtask_type="group", app=app)

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: DBQueue | None = None) -> Signature:
        # In place, so that who holds the dict sees the same signatures.
        given = d["kwargs"]["tasks"]
        tasks = d["kwargs"]["tasks"] = type(given)(maybe_signature(task, app=app) for task in given)
        self = cls(tasks, app=app, **(d.get("options") or {}))
        return _with_call(self, d)

    def _members(self) -> Sequence[Any]:
        return self.tasks[:1]  # type: ignore[no-any-return]

    def __call__(self, *partial_args: Any, **options: Any) -> Any:
        return self.apply_async(partial_args, **options)

    def skew(self, start: float = 1.0, stop: float | None = None, step: float = 1.0) -> Any:
        """Set rising countdowns, in seconds: `start`, `start + step`, ... and no more than `stop`."""
        delay = start
        for task in self.tasks:
            task.set(countdown=delay)
            delay = delay + step if stop is None else min(delay + step, stop)
        return self

    def set_immutable(self, immutable: bool) -> None:
        for task in self.tasks:
            task.set_immutable(immutable)

    def link(self, callback: Any) -> Any:
        """Link to the first task: as in Celery, the others may run still. What follows a group is a chord."""
        return self.tasks[0].link(callback.clone().set(immutable=True))

    def link_error(self, errback: Any) -> Any:
        """Link an errback of its own to each of the tasks: it is called once for each that fails."""
        errback = maybe_signature(errback)
        return tuple(task.link_error(errback.clone()) for task in self.tasks)

    def __repr__(self) -> str:
        if not self.tasks:
            return "group(<empty>)"
        return printing.without_repetition(self.tasks[0]["task"], f"group({self.tasks!r})")

    def __len__(self) -> int:
        return len(self.tasks)


@Signature.register_type("chord")
class chord(Signature):  # noqa: N801 - Celery's name
    """A group, and a body that is called with the list of its results: `chord([a, b])(body)`, `group(a, b) | body`.

    With an empty header the body is called with `[]`. Where a task of the header fails, the body
    fails with ChordError.
    """

    tasks = _tasks("header", "The signatures of the header.")
    body = _tasks("body", "What is called with the results of the header.")

    @property
    def id(self) -> str | None:
        """The id of the header's group, once `freeze` has given it one; `body.id` is that of the result."""
        return self.tasks.id if isinstance(self.tasks, group) else None

    def __init__(
        self,
        header: Any,
        body: Any = None,
        task: str = "celery.chord",
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        app: DBQueue | None = None,
        **options: Any,
    ) -> None:
        options.pop("subtask_type", None)
        immutable = bool(options.pop("immutable", False))
        options = {**(options.pop("options", None) or {}), **options}
        own = {**(kwargs or {"kwargs": {}}), "header": _header(header, app), "body": maybe_signature(body, app=app)}
        super().__init__(task, args, own, options, subtask_type="chord", immutable=immutable, app=app)

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: DBQueue | None = None) -> Signature:
        given = dict(d)
        kwargs = dict(given.pop("kwargs"))
        header, body = kwargs.pop("header", None), kwargs.pop("body", None)
        return cls(header, body, kwargs=kwargs or None, app=app, **given)

    def _members(self) -> Sequence[Any]:
        tasks = self.tasks.tasks if isinstance(self.tasks, group) else self.tasks
        return [*tasks[:1], self.body]

    def __call__(self, body: Any = None, **options: Any) -> Any:
        return self.apply_async((), {"body": body} if body is not None else {}, **options)

    def clone(self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        copy = super().clone(args, kwargs, **options)
        copy.body = maybe_signature(copy.body, clone=True)
        return copy

    def link(self, callback: Any) -> Any:
        """Link to the body."""
        self.body.link(callback)
        return callback

    def link_error(self, errback: Any) -> Any:
        """Link to the body; with the setting `task_allow_error_cb_on_chord_header` to the tasks of the header too."""
        errback = maybe_signature(errback)
        on_header = self.app.conf.task_allow_error_cb_on_chord_header
        for task in self.tasks.tasks if isinstance(self.tasks, group) else self.tasks:
            if on_header:
                task.link_error(errback.clone())
            elif isinstance(task, chord):
                task.link_error(errback)
        self.body.link_error(errback)
        return errback

    def set_immutable(self, immutable: bool) -> None:
        """For the tasks of the header."""
        for task in self.tasks:
            task.set_immutable(immutable)

    def __length_hint__(self) -> int:
        """How many tasks the body waits for."""
        return sum(map(_ends, self.tasks.tasks if isinstance(self.tasks, group) else self.tasks))

    def __repr__(self) -> str:
        if self.body is None:
            return f"<chord without body: {self.tasks!r}>"
        if isinstance(self.body, chain) and self.body.tasks:
            first, *rest = self.body.tasks
            text = f"%({first.reprcall(self.tasks)} | {chain.of(rest)!r})" if rest else f"%{first.reprcall(self.tasks)}"
            return printing.without_repetition(first["task"], text)
        return "%" + printing.without_repetition(self.body["task"], self.body.reprcall(self.tasks))


class _map(Signature):  # noqa: N801
    """One job that calls a task for each item, one after another."""

    _task_name: ClassVar[str]
    _item: ClassVar[str]

    def __init__(self, task: Any, it: Iterable[Any], **options: Any) -> None:
        app = options.pop("app", None)
        own = {"task": maybe_signature(task), "it": _sequence(it)}
        super().__init__(self._task_name, (), own, options, subtask_type=type(self).__name__, immutable=True, app=app)

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: DBQueue | None = None) -> Signature:
        return cls(d["kwargs"]["task"], d["kwargs"]["it"], app=app, **(d.get("options") or {}))

    def _members(self) -> Sequence[Any]:
        return (self.kwargs["task"],)

    def __repr__(self) -> str:
        return f"[{self.kwargs['task']['task']}({self._item}) for x in {printing.shortened(repr(self.kwargs['it']))}]"


@Signature.register_type()
class xmap(_map):  # noqa: N801 - Celery's name
    """`task.map([a, b])` is `[task(a), task(b)]`, in one job."""

    _task_name = "celery.map"
    _item = "x"


@Signature.register_type()
class xstarmap(_map):  # noqa: N801 - Celery's name
    """`task.starmap([(a, b), (c, d)])` is `[task(a, b), task(c, d)]`, in one job."""

    _task_name = "celery.starmap"
    _item = "*x"


@Signature.register_type()
class chunks(Signature):  # noqa: N801 - Celery's name
    """`task.chunks([(a, b), (c, d), ...], n)`: a group of `starmap`, each with `n` of the calls."""

    def __init__(self, task: Any, it: Iterable[Any], n: int, **options: Any) -> None:
        app = options.pop("app", None)
        own = {"task": maybe_signature(task), "it": _sequence(it), "n": n}
        super().__init__("celery.chunks", (), own, options, subtask_type="chunks", immutable=True, app=app)

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: DBQueue | None = None) -> Signature:
        given = d["kwargs"]
        return cls(given["task"], given["it"], given["n"], app=app, **(d.get("options") or {}))

    def _members(self) -> Sequence[Any]:
        return (self.kwargs["task"],)

    def __call__(self, **options: Any) -> Any:
        return self.apply_async(**options)

    def group(self) -> group:
        """The group that it stands for."""
        items = iter(self.kwargs["it"])
        parts = iter(lambda: list(islice(items, self.kwargs["n"])), [])
        return group((xstarmap(self.kwargs["task"], part, app=self._app) for part in parts), app=self._app)

    @classmethod
    def apply_chunks(cls, task: Any, it: Iterable[Any], n: int, app: DBQueue | None = None) -> Any:
        """Send the chunks."""
        return cls(task, it, n, app=app)()


def _header(tasks: Any, app: DBQueue | None) -> Any:
    """The tasks of a chord's header; as in Celery those of a chain stand side by side."""
    if isinstance(tasks, Mapping):
        tasks = signature(tasks, app=app)
    if isinstance(tasks, group | chain):
        return tasks.tasks
    if isinstance(tasks, Signature):
        return [tasks]
    return [signature(task, app=app) for task in tasks or ()]


def _with_call(self: Signature, d: Mapping[str, Any]) -> Signature:
    """Arguments that a canvas was cloned with are for its first tasks."""
    self["args"] = tuple(d.get("args") or ())
    self["immutable"] = bool(d.get("immutable", False))
    self["kwargs"] = {**d["kwargs"], **self["kwargs"]}
    return self


def _ends(sig: Any) -> int:
    if isinstance(sig, group):
        return sum(map(_ends, sig.tasks))
    if isinstance(sig, chain):
        return next((ends for task in reversed(sig.tasks) if (ends := _ends(task))), 0)
    return _ends(sig.body) if isinstance(sig, chord) else 1


def members(tasks: Any, app: DBQueue | None = None) -> Iterator[Any]:
    """The members of a group: groups in it give theirs, empty chains nothing."""
    for task in tasks.tasks if isinstance(tasks, group) else tasks:
        each = maybe_signature(task, app=app)
        if isinstance(each, group):
            yield from members(each, app)
        elif not (isinstance(each, chain) and not each.tasks):
            yield each


def links(sig: Signature, options: Mapping[str, Any], kind: str) -> list[Any]:
    """The signatures linked by the option `link` or `link_error`; raises TypeError for what is none."""
    found = options.get(kind)
    linked = [maybe_signature(each, app=sig._app) for each in as_list(found)] if found else []
    for each in linked:
        if not isinstance(each, Signature):
            raise TypeError(f"{kind} takes signatures, as task.s(), not {each!r}")
    return linked
