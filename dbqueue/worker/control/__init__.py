"""What a worker can be told and asked while it runs: the registry of commands, and how one is carried out.

    from dbqueue.worker.control import control_command, inspect_command

    @inspect_command()
    def free_slots(state):
        return {"free": sum(child.free for child in state.crew)}

A command runs on the worker's loop, between two turns, where nothing else touches children and
queues: it must be quick, and must not wait. What it returns is the worker's reply; what it raises
is one too, as `{"error": repr}`. A ValueError refuses what was asked for, and is one line of the
worker's log; anything else is there with its traceback. A command that only reads the database says
`reads_database=True`, and runs on the thread of the second connection. Names and options are
Celery's (`celery.worker.control`).

dbqueue's own are in `commands.py`, which change a worker, and `inspection.py`, which tell of it; `desk.py` brings them
from the database, and takes the replies there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from dbqueue import codec
from dbqueue.codec import nesting
from dbqueue.codec.cautious import shown, text_of
from dbqueue.errors import EncodeError
from dbqueue.shown import harmless
from dbqueue.worker import log
from dbqueue.worker.supervising.by_task import Totals

if TYPE_CHECKING:
    from dbqueue.store.base import Store
    from dbqueue.store.control import Command
    from dbqueue.worker.claiming.rates import TaskRates
    from dbqueue.worker.claiming.rounds import Rounds
    from dbqueue.worker.config import WorkerConfig
    from dbqueue.worker.events import EventSender
    from dbqueue.worker.supervising.autoscale import Autoscaler
    from dbqueue.worker.supervising.crew import Crew
    from dbqueue.worker.supervising.dispatch import Dispatcher
    from dbqueue.worker.supervising.limits import TimeLimits
    from dbqueue.worker.supervising.revoker import Revoker

MAX_REPLY_BYTES: Final = 16 * 1024 * 1024
"""A reply that is longer is an error that says so."""

Handler = Callable[..., Any]
H = TypeVar("H", bound=Handler)


@dataclass(slots=True)
class WorkerState:
    """What commands see of their worker. Custom ones may use it; its parts are not a stable interface."""

    app: Any
    """The application."""
    store: Store
    config: WorkerConfig
    crew: Crew
    dispatcher: Dispatcher
    rounds: Rounds
    limits: TimeLimits
    rates: TaskRates
    revoker: Revoker
    events: EventSender
    autoscaler: Autoscaler | None
    request_stop: Callable[[], None]
    """Ask for a warm shutdown."""
    started_at: float
    """When the worker started, on the monotonic clock."""
    clock: int = 0
    """How many commands it has carried out."""
    total: Totals = field(default_factory=Totals)
    """How many jobs it has run of each task."""

    @property
    def hostname(self) -> str:
        """The worker's name."""
        return self.config.name

    def resize(self, change: int) -> None:
        """Let this many more (or fewer) pool processes run tasks. Raises ValueError where the pool cannot."""
        self.crew.resize(change)
        self.dispatcher.slots = self.crew.slots

    def autoscale(self) -> None:
        """Let the pool follow its work, where the worker was started with bounds for it."""
        if self.autoscaler is not None:
            busy = sum(bool(child.held) and not child.stopping for child in self.crew)
            change = self.autoscaler.change(self.crew.slots, busy)
            if change:
                self.resize(change)


@dataclass(frozen=True, slots=True)
class CommandInfo:
    """A command as it was registered. `args` are names and converters of what the command line takes."""

    name: str
    handler: Handler
    type: str
    args: tuple[tuple[str, Callable[[str], Any]], ...] = ()
    variadic: str | None = None
    signature: str | None = None
    help: str = ""
    default_timeout: float = 1.0
    visible: bool = True
    reads_database: bool = False


class Panel:
    """All commands by name."""

    commands: Final[dict[str, CommandInfo]] = {}

    @classmethod
    def register(
        cls,
        *functions: Handler,
        type: str = "control",
        name: str | None = None,
        alias: str | None = None,
        args: Sequence[tuple[str, Callable[[str], Any]]] | None = None,
        variadic: str | None = None,
        signature: str | None = None,
        help: str | None = None,
        default_timeout: float = 1.0,
        visible: bool = True,
        reads_database: bool = False,
    ) -> Any:
        """A decorator, with or without options; see `control_command`."""

        def add(function: Handler) -> Handler:
            names = [name or function.__name__, *([alias] if alias else [])]
            text = help or (function.__doc__ or "").strip().partition("\n")[0]
            for each in names:
                cls.commands[each] = CommandInfo(
                    each,
                    function,
                    type,
                    tuple(args or ()),
                    variadic,
                    signature,
                    text,
                    default_timeout,
                    visible and each == names[0],
                    reads_database,
                )
            return function

        return add(functions[0]) if functions else add


@overload
def control_command(function: H, /) -> H: ...
@overload
def control_command(**options: Any) -> Callable[[H], H]: ...
def control_command(*functions: Handler, **options: Any) -> Any:
    """Register a command that changes the worker.

    `args=[("n", int)]` are what `dbqueue control` takes on its command line, `variadic` the name of
    an argument that takes all the rest, `signature` and `help` what it shows about them.
    """
    return Panel.register(*functions, type="control", **options)


@overload
def inspect_command(function: H, /) -> H: ...
@overload
def inspect_command(**options: Any) -> Callable[[H], H]: ...
def inspect_command(*functions: Handler, **options: Any) -> Any:
    """Register a command that only tells; options as for `control_command`."""
    return Panel.register(*functions, type="inspect", **options)


def carry_out(state: WorkerState, command: Command) -> str:
    """Do what a command says; the reply, as JSON text."""
    state.clock += 1
    known = Panel.commands.get(command.method)
    if known is None:
        return _encoded(command, {"error": f"this worker has no command {command.method!r}"})
    try:
        return _encoded(command, known.handler(state, **codec.loads(command.arguments)))
    except ValueError as error:  # of what was asked for, or where: no error of the worker's
        trace = log.logger.isEnabledFor(logging.DEBUG)
        log.logger.warning("The command %s was refused: %s", command.method, harmless(text_of(error)), exc_info=trace)
        return _encoded(command, {"error": shown(error)})
    except Exception as error:  # noqa: BLE001 - a custom command may raise anything
        log.logger.exception("The command %s failed; the worker goes on", command.method)
        return _encoded(command, {"error": shown(error)})


def _encoded(command: Command, value: Any) -> str:
    what = f"the reply to {command.method}"
    try:
        return codec.dumps(value, what=what, max_bytes=MAX_REPLY_BYTES, deepest=nesting.DEEPEST_READ)
    except EncodeError as error:
        return codec.dumps({"error": str(error)}, what=what, max_bytes=MAX_REPLY_BYTES)
