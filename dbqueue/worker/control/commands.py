"""The commands that change a worker, under Celery's names and with its replies."""

from __future__ import annotations

import signal as signals
from typing import Any

from dbqueue import stamped
from dbqueue.jobs import A_NAME, is_name
from dbqueue.limits import parse_rate
from dbqueue.pools.child import import_modules
from dbqueue.queue_patterns import is_pattern, matches
from dbqueue.shown import shown
from dbqueue.worker import log
from dbqueue.worker.control import WorkerState, control_command
from dbqueue.worker.supervising.limits import Limits

Reply = dict[str, Any]


def signal_number(name: str | int | None) -> int:
    """`TERM`, `SIGTERM` or a number, as a number; None is TERM. Raises ValueError for no signal."""
    if name is None:
        return int(signals.SIGTERM)
    if isinstance(name, int) or name.isdigit():
        return int(signals.Signals(int(name)))
    full = name.upper() if name.upper().startswith("SIG") else f"SIG{name.upper()}"
    try:
        return int(signals.Signals[full])
    except KeyError:
        raise ValueError(f"there is no signal {name!r} on this system") from None


def _number_of_processes(n: object) -> int:
    """`n`, which a command may have as anything. Raises ValueError: to shrink by -2 would be to grow."""
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ValueError(f"a pool grows and shrinks by a whole number of processes from 1, not {n!r}")
    return n


def _ids(one_or_many: str | list[str] | None) -> list[str]:
    return [one_or_many] if isinstance(one_or_many, str) else list(one_or_many or ())


@control_command(variadic="task_id", signature="[id1 [id2 [... [idN]]]]")
def revoke(
    state: WorkerState, task_id: str | list[str], terminate: bool = False, signal: str | int | None = None, **_: Any
) -> Reply:
    """Revoke tasks by their ids; those that run go on."""
    ids = _ids(task_id)
    state.revoker.revoke(ids, signal_number(signal) if terminate else None)
    return {"ok": f"terminate: {', '.join(ids)}" if terminate else f"tasks {', '.join(ids)} flagged as revoked"}


@control_command(variadic="headers", signature="[key1=value1 [key2=value2 [... [keyN=valueN]]]]")
def revoke_by_stamped_headers(
    state: WorkerState, headers: dict[str, Any] | list[str], terminate: bool = False, signal: Any = None, **_: Any
) -> Reply:
    """Revoke tasks by their stamps, those too that are sent later."""
    wanted = stamped.wanted(headers)
    number = signal_number(signal) if terminate else None
    state.revoker.revoke_stamped(wanted)
    # Only those that are here. The rows are the sender's: the loop does not wait for a database.
    state.revoker.revoke(state.revoker.having(wanted), number)
    return {"ok": f"headers {wanted} flagged as revoked" + ("" if terminate else ", but not terminated")}


@control_command(variadic="task_id", args=[("signal", str)], signature="<signal> [id1 [id2 [... [idN]]]]")
def terminate(state: WorkerState, signal: str | int | None, task_id: str | list[str], **_: Any) -> Reply:
    """Revoke tasks by their ids, and end those that run with a signal."""
    reply: Reply = revoke(state, task_id, terminate=True, signal=signal)
    return reply


@control_command(args=[("task_name", str), ("rate_limit", str)], signature="<task_name> <rate_limit (e.g., 5/s)>")
def rate_limit(state: WorkerState, task_name: str, rate_limit: str | float | None, **_: Any) -> Reply:
    """Change the rate limit of a task, in this worker and until it ends."""
    try:
        rate = parse_rate(rate_limit)
    except ValueError as error:
        return {"error": f"Invalid rate limit string: {error!r}"}
    task = state.app.tasks.get(task_name)
    if task is None:
        log.logger.error("Rate limit attempt for unknown task %s", task_name)
        return {"error": "unknown task"}
    task.rate_limit = 0 if rate is None else rate_limit  # None would be the setting's default
    if not state.app.conf.worker_disable_rate_limits:
        state.rates.set(task_name, rate)
        state.rounds.rates_changed()
    if rate is None:
        log.logger.info("Rate limits disabled for tasks of type %s", task_name)
        return {"ok": "rate limit disabled successfully"}
    log.logger.info("New rate limit for tasks of type %s: %s.", task_name, rate_limit)
    return {"ok": "new rate limit set successfully"}


@control_command(
    args=[("task_name", str), ("soft", float), ("hard", float)], signature="<task_name> <soft_secs> [hard_secs]"
)
def time_limit(
    state: WorkerState, task_name: str, hard: float | None = None, soft: float | None = None, **_: Any
) -> Reply:
    """Change the time limits of a task, in seconds; for runs that begin from now on."""
    if task_name not in state.app.tasks:
        return {"error": "unknown task"}
    if soft is not None and hard is not None and soft > hard:
        return {"error": "soft time limit must be less than the hard one"}
    state.limits.by_task[task_name] = Limits(soft, hard)
    return {"ok": "time limits set successfully"}


@control_command(args=[("queue", str)], signature="<queue>")
def add_consumer(state: WorkerState, queue: str, **_: Any) -> Reply:
    """Take jobs from one more queue."""
    if not is_name(queue):  # no claim could read it, nor any other beside it
        return _no_queue(queue)
    if queue in state.rounds.queues:
        return {"ok": f"already consuming from {queue!r}"}
    state.rounds.consume([*state.rounds.queues, queue])
    return {"ok": f"add consumer {queue}"}


@control_command(args=[("queue", str)], signature="<queue>")
def cancel_consumer(state: WorkerState, queue: str, **_: Any) -> Reply:
    """Take no more jobs from a queue."""
    if queue not in state.rounds.queues and not is_name(queue):
        return _no_queue(queue)
    left = [each for each in state.rounds.queues if each != queue]
    pattern = next((each for each in left if matches(queue, [each])), None)
    if pattern is not None and not is_pattern(queue) and not matches(queue, state.config.excluded):
        return {"error": f"{queue} fits {pattern!r}, which this worker consumes from: cancel that, or pause the queue"}
    state.rounds.consume(left)
    return {"ok": f"no longer consuming from {queue}"}


def _no_queue(name: object) -> Reply:
    return {"error": f"the name of a queue is {A_NAME}, not {shown(name)}"}


@control_command(args=[("n", int)], signature="[N=1]")
def pool_grow(state: WorkerState, n: int = 1, **_: Any) -> Reply:
    """Add pool processes."""
    if state.autoscaler is not None:
        return {"error": "pool_grow is not supported with autoscale. Adjust autoscale range instead."}
    state.resize(_number_of_processes(n))
    return {"ok": "pool will grow"}


@control_command(args=[("n", int)], signature="[N=1]")
def pool_shrink(state: WorkerState, n: int = 1, **_: Any) -> Reply:
    """Let pool processes go, idle ones first; running tasks end."""
    if state.autoscaler is not None:
        return {"error": "pool_shrink is not supported with autoscale. Adjust autoscale range instead."}
    state.resize(-_number_of_processes(n))
    return {"ok": "pool will shrink"}


@control_command(variadic="modules", signature="[module1 [module2 [... [moduleN]]]]")
def pool_restart(
    state: WorkerState, modules: list[str] | None = None, reload: bool = False, reloader: Any = None, **_: Any
) -> Reply:
    """Replace the pool's processes, and import modules in them."""
    if not state.config.pool_restarts:
        raise ValueError("Pool restarts not enabled: set worker_pool_restarts")
    import_modules(modules or (), reload=reload)
    state.crew.restart(modules or (), reload=reload)
    return {"ok": "reload started"}


@control_command(args=[("max", int), ("min", int)], signature="[max [min]]")
def autoscale(state: WorkerState, max: int | None = None, min: int | None = None, **_: Any) -> Reply:
    """Change the bounds of --autoscale."""
    scaler = state.autoscaler
    if scaler is None:
        raise ValueError("Autoscale not enabled")
    scaler.update(max, min)
    return {"ok": f"autoscale now max={scaler.maximum} min={scaler.minimum}"}


@control_command
def shutdown(state: WorkerState, msg: str = "Got shutdown from remote", **_: Any) -> Reply:
    """Shut the worker down, warmly: running tasks end."""
    state.request_stop()
    return {"ok": "shutting down"}


@control_command
def enable_events(state: WorkerState, **_: Any) -> Reply:
    """Send events about tasks to monitors."""
    return {"ok": "task events enabled" if state.events.enable(True) else "task events already enabled"}


@control_command
def disable_events(state: WorkerState, **_: Any) -> Reply:
    """Send no events about tasks."""
    return {"ok": "task events disabled" if state.events.enable(False) else "task events already disabled"}


@control_command(visible=False)
def heartbeat(state: WorkerState, **_: Any) -> None:
    """Send a heartbeat to monitors now: what one that begins to read asks for."""
    state.events.beat(sum(len(child.running) for child in state.crew))
