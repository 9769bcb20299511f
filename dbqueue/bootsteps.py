"""Steps of a program's own in the life of a worker: Celery's guide "Extensions and Bootsteps".

    class LivenessProbe(bootsteps.StartStopStep):
        def start(self, worker):
            self.call = worker.timer.call_repeatedly(1.0, HEARTBEAT_FILE.touch)

        def stop(self, worker):
            self.call.cancel()

    app.steps["worker"].add(LivenessProbe)

The parts of dbqueue's own worker are no steps and cannot be exchanged: what `requires` says of them has no effect,
for all of them are there when a step starts. Steps live in the worker's main process. Both kinds of steps get the
worker; those of `app.steps["consumer"]` start when it takes jobs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, NoReturn

from dbqueue.errors import ImproperlyConfigured
from dbqueue.utils.imports import qualname, symbol_by_name

if TYPE_CHECKING:
    from dbqueue.services.workers import Worker

__all__ = ["ConsumerStep", "StartStopStep", "Step"]

logger: Final = logging.getLogger("dbqueue.worker")


class StepType(type):
    """A class of steps is printed as `step:module.Name{(requires)}`."""

    def __repr__(cls) -> str:
        required = ", ".join(repr(each) for each in getattr(cls, "requires", ()))
        return f"step:{qualname(cls)}{{({required})}}"


class Step(metaclass=StepType):
    """One step. `requires` are other steps, as classes or `module:Class`, that start before it."""

    name: str | None = None
    enabled = True
    requires: Iterable[Any] = ()
    last = False

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        """Runs when the worker is made; `kwargs` are the worker's options, those of the program's own among them."""

    def include_if(self, parent: Any) -> bool:
        """Whether the step is wanted."""
        return self.enabled

    def create(self, parent: Any) -> Any:
        """What `start`, `stop` and `terminate` are handed on to, where the step does not define them itself."""
        return None

    def include(self, parent: Any) -> bool:
        """Make the step part of the worker; whether it is wanted."""
        wanted = self.include_if(parent)
        if wanted:
            self.create(parent)
        return bool(wanted)


class StartStopStep(Step):
    """A step that starts and stops, or that makes an object which does."""

    obj: Any = None

    def include(self, parent: Any) -> bool:
        if not self.include_if(parent):
            return False
        self.obj = self.create(parent)
        return True

    def start(self, parent: Any) -> Any:
        return self.obj.start() if self.obj else None

    def stop(self, parent: Any) -> Any:
        return self.obj.stop() if self.obj else None

    def close(self, parent: Any) -> Any:
        """Runs when the worker is asked to end."""

    def terminate(self, parent: Any) -> Any:
        """In the place of `stop`, when the worker ends without waiting for its tasks."""
        return getattr(self.obj, "terminate", self.obj.stop)() if self.obj else None


class ConsumerStep(StartStopStep):
    """In Celery, a step that reads messages of a queue of its own. There are none here."""

    def __init__(self, parent: Any, **kwargs: Any) -> NoReturn:
        raise ImproperlyConfigured(
            f"{qualname(self)} is a ConsumerStep, which reads messages from a broker, of which there is none: "
            "let its senders enqueue a task instead"
        )


class Steps:
    """The steps of one worker, of one kind, in their order."""

    def __init__(self, classes: Iterable[Any], parent: Worker, options: dict[str, Any]) -> None:
        steps = [cls(parent, **options) for cls in in_order({symbol_by_name(each) for each in classes})]
        self._parent = parent
        self._steps = [step for step in steps if step.include(parent)]
        self._started: list[Any] = []

    def start(self) -> None:
        """Start each. One that raises keeps the worker from starting."""
        for step in self._steps:
            self._started.append(step)
            if hasattr(step, "start"):
                step.start(self._parent)

    def stop(self, *, how: str = "stop") -> None:
        """`stop`, `terminate` or `shutdown` each that was started, the last one first. What raises is logged."""
        for step in reversed(self._started):
            act = getattr(step, how, None)
            try:
                if act is not None:
                    act(self._parent)
            except Exception:
                logger.exception("The step %s failed to %s; the worker goes on", qualname(step), how)


def in_order(classes: set[Any]) -> list[Any]:
    """Steps after those that they require; by their names otherwise. Raises ImproperlyConfigured for a circle."""
    left = sorted(classes, key=lambda cls: (bool(cls.last), qualname(cls)))
    ordered: list[Any] = []
    while left:
        ready = next((cls for cls in left if not _required(cls, left)), None)
        if ready is None:
            raise ImproperlyConfigured(f"these steps require each other: {', '.join(map(qualname, left))}")
        left.remove(ready)
        ordered.append(ready)
    return ordered


def _required(cls: Any, among: list[Any]) -> list[Any]:
    """Those of the classes that must come before `cls`; what it requires of Celery's own parts is none of them."""
    named = {each.replace(":", ".") if isinstance(each, str) else qualname(each) for each in cls.requires}
    return [each for each in among if each is not cls and qualname(each) in named]
