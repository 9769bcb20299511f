"""The application of the worker's tests: tasks that do what real ones do, and what they should not."""

from __future__ import annotations

import asyncio
import ctypes
import enum
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dbqueue import DBQueue
from dbqueue.errors import Ignore, Reject, SoftTimeLimitExceeded
from dbqueue.pools.child import Link
from tests.waiting import wait_until


class OutOfStock(Exception):
    """An exception with arguments of its own."""

    def __init__(self, sku: str, left: int) -> None:
        super().__init__(sku, left)
        self.sku, self.left = sku, left


class Queues(enum.StrEnum):
    MAIL = "mail"


class Priorities(enum.IntEnum):
    HIGH = 7


class Unprintable(Exception):
    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __str__(self) -> str:
        raise RuntimeError("no str")

    def __reduce__(self) -> Any:
        raise RuntimeError("no reduce")


class Stubborn(BaseException):
    """Not even an Exception, and whatever shows it raises another of its kind."""

    def __repr__(self) -> str:
        raise Stubborn

    __str__ = __repr__


class NoTraceback(Exception):
    @property
    def __traceback__(self) -> Any:
        raise RuntimeError("no traceback")

    @__traceback__.setter
    def __traceback__(self, value: Any) -> None:
        raise RuntimeError("no traceback")


class UnprintableValue:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def note(path: str, text: object) -> None:
    """Append a line in one write: readable while other processes write too, and never there without a line."""
    line = f"{text}\n".encode()
    if not Path(path).exists() and _begun(path, line):
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def _begun(path: str, line: bytes) -> bool:
    """Make the file of its first line; False where another was quicker."""
    new = Path(f"{path}.{os.getpid()}.{threading.get_ident()}")
    new.write_bytes(line)
    try:
        os.link(new, path)
    except FileExistsError:
        return False
    finally:
        new.unlink()
    return True


def add(x: Any, y: Any) -> Any:
    return x + y


async def aadd(x: Any, y: Any) -> Any:
    await asyncio.sleep(0)
    return x + y


def echo(value: Any) -> Any:
    return value


def pid() -> int:
    return os.getpid()


def record(path: str, text: Any) -> Any:
    note(path, text)
    return text


def record_slowly(path: str, text: Any, seconds: float) -> Any:
    note(path, text)
    while beyond_bound(path):
        time.sleep(0.01)
    time.sleep(seconds)
    return text


def beyond_bound(path: str) -> bool:
    try:
        bound = int(Path(f"{path}.bound").read_text())
    except FileNotFoundError:
        return False
    return Path(path).read_bytes().count(b"\n") > bound


def set_bound(path: Path, bound: int | None) -> None:
    """Let no run of `record_slowly` end that is beyond the first `bound` ones; None lets all go.

    So there is work left, and work in mid-run, when a fault comes, however long this process waited for a processor.
    """
    file = Path(f"{path}.bound")
    if bound is None:
        file.unlink()
    else:
        whole = Path(f"{file}.new")
        whole.write_text(str(bound))
        whole.replace(file)


def span(path: str, text: Any, seconds: float) -> None:
    """Note the start, the end, and each moment between, with the clock that all processes of the machine share."""
    place, began = os.environ.get("PLACE", "here"), time.monotonic()

    def tell(what: str) -> None:
        note(path, f"{what} {text} {place} {time.clock_gettime(time.CLOCK_MONOTONIC)}")

    tell("start")
    while time.monotonic() < began + seconds:
        time.sleep(0.02)
        tell("runs")
    tell("end")


def hold(started: str, release: str) -> str:
    """Run until the test makes the file `release`."""
    note(started, os.getpid())
    wait_until(Path(release).exists, timeout=60)
    return "released"


def freeze(path: str) -> str:
    """Stop the whole process, all of its threads, at the first run: as code that never lets go of the interpreter."""
    first = not Path(path).exists()
    note(path, os.getpid())
    if first:  # to this thread: were another one to take the signal, this one could run on until it does
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
    return "thawed"


def hold_alone(started: str, release: str) -> str:
    """As `hold`, and notes whether another run of it still goes on."""
    pids = Path(f"{started}.pids")
    beside = [pid for pid in (pids.read_text().split() if pids.exists() else ()) if Path("/proc", pid).exists()]
    note(str(pids), os.getpid())
    note(started, "beside" if beside else "alone")
    wait_until(Path(release).exists, timeout=60)
    return "released"


def wall_clock() -> float:
    return time.time()


def hold_softly(started: str, release: str) -> None:
    """As `hold`, and notes that it was interrupted."""
    try:
        hold(started, release)
    except SoftTimeLimitExceeded:
        note(started, "soft limit")
        raise


def hold_stubbornly(started: str, release: str) -> str:
    """As `hold`, and goes on when it is interrupted."""
    try:
        return hold(started, release)
    except SoftTimeLimitExceeded:
        note(started, "told")
        wait_until(Path(release).exists, timeout=60)
        return "released"


def hold_on(started: str, release: str) -> str:
    """As `hold`, and is not ended by SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note(started, os.getpid())
    wait_until(Path(release).exists, timeout=600)
    return "released"


def hold_and_retry(self: Any, started: str, release: str) -> None:
    hold(started, release)
    raise self.retry(countdown=0)


def hold_and_quit(started: str, release: str) -> str:
    """As `hold`, and asks its worker, whose process it runs in, for a cold shutdown at once."""
    if not Path(release).exists():
        os.kill(os.getpid(), signal.SIGQUIT)
    return hold(started, release)


async def ahold(started: str, release: str) -> str:
    note(started, os.getpid())
    async with asyncio.timeout(60):
        while not os.path.exists(release):  # noqa: ASYNC110, ASYNC240 - another process makes the file
            await asyncio.sleep(0.01)
    return "released"


async def ahold_softly(started: str, release: str) -> str:
    """As `ahold`, and catches the exception of its limit."""
    try:
        async with asyncio.timeout(60):  # counts cancellations: one that is none must not be left over
            await asyncio.gather(ahold(started, release), ahold(started, release))
    except SoftTimeLimitExceeded:
        note(started, "soft limit")
        await asyncio.sleep(0)  # it may clean up
        return "caught"
    return "released"


async def ablock(started: str) -> None:
    """Blocks its loop."""
    note(started, os.getpid())
    time.sleep(60)  # noqa: ASYNC251 - it is what this task is for


async def exit_beside(path: str) -> None:
    """Its own code does nothing wrong; a task that it started ends the interpreter."""
    note(path, os.getpid())

    async def leave() -> None:
        raise SystemExit(3)

    beside = asyncio.create_task(leave())
    await asyncio.sleep(60)
    await beside


def fail(kind: str) -> None:
    raise {
        "value": ValueError("bad ü", 3),
        "own": OutOfStock("sku-1", 2),
        "unprintable": Unprintable(),
        "stubborn": Stubborn(),
        "no traceback": NoTraceback("hidden"),
        "exit": SystemExit(3),
        "interrupt": KeyboardInterrupt(),
        "generator": GeneratorExit(),
        "stop": StopIteration(5),
        "key": KeyError("absent"),
        "system": OSError(2, "No such file"),
        "unicode": UnicodeDecodeError("utf-8", b"\xff", 0, 1, "why"),
        "nul": ValueError("a\0b \ud800"),
        "cancelled": asyncio.CancelledError(),
        "timeout": TimeoutError("slow"),
        "group": ExceptionGroup("many", [ValueError(1), KeyError(2)]),
    }[kind]


async def afail(kind: str) -> None:
    await asyncio.sleep(0)
    fail(kind)


def fail_locally() -> None:
    class Local(Exception):
        pass

    raise Local("only here")


def fail_with_causes(depth: int) -> None:
    error: Exception = ValueError(0)
    for number in range(1, depth):
        try:
            raise ValueError(number) from error
        except ValueError as caught:
            error = caught
    raise error


def recurse() -> None:
    recurse()


def unstorable(kind: str) -> Any:
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    return {
        "nan": float("nan"),
        "infinity": [float("inf")],
        "nul": {"a": "x\0y"},
        "surrogate": "\ud800",
        "object": object(),
        "unprintable": UnprintableValue(),
        "large": "x" * 2_000_000,
        "cyclic": cyclic,
        "lambda": [lambda: None],
    }[kind]


def nested(depth: int) -> Any:
    sys.setrecursionlimit(20_000)
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def shout(size: int) -> int:
    line = "x" * 999
    for _ in range(size // 1000):
        print(line)  # noqa: T201 - a task may print
        print(line, file=sys.stderr)  # noqa: T201
    return size


def die(how: str, path: str | None = None) -> None:
    if path:
        note(path, os.getpid())
    if how == "exit":
        os._exit(0)
    if how == "segfault":
        ctypes.string_at(0)
    if how == "abort":
        os.abort()
    if how == "close":
        os.closerange(3, 256)
    if how == "cut off":  # as one does who closes a descriptor twice, which is another's by then
        link = next(each for each in gc.get_objects() if type(each) is Link)
        os.close(link._socket.fileno())


def die_first(path: str) -> str:
    """Dies in its first run, and succeeds in its second."""
    runs = len(Path(path).read_text().split()) if Path(path).exists() else 0
    note(path, os.getpid())
    if runs == 0:
        os._exit(9)
    return "second"


def leave_child(path: str) -> None:
    """Forks a process that outlives it with all its descriptors, then dies."""
    child = os.fork()
    if child == 0:
        note(path, os.getpid())
        time.sleep(60)
        os._exit(0)
    wait_until(Path(path).exists)
    os._exit(1)


def come_back_twice(how: str = "return") -> int:
    """Forks, and lets both processes come back; the original tells how its copy ended."""
    copy = os.fork()
    if copy == 0:
        if how == "raise":
            raise OutOfStock("sku-1", 0)
        return -1
    return os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1])


async def acome_back_twice(how: str = "return") -> int:
    return come_back_twice(how)


def get_inside(self: Any) -> Any:
    return self.app.AsyncResult("any").get(timeout=1)


def request_of(self: Any) -> dict[str, Any]:
    request = self.request
    return {
        "id": request.id,
        "task": request.task,
        "args": request.args,
        "kwargs": request.kwargs,
        "retries": request.retries,
        "queue": request.delivery_info["routing_key"],
        "priority": request.delivery_info["priority"],
        "headers": request.headers,
        "called_directly": request.called_directly,
        "eta": request.eta,
        "expires": request.expires,
    }


def retry_until(self: Any, path: str, times: int, countdown: float = 0.0) -> int:
    note(path, self.request.retries)
    if self.request.retries < times:
        raise self.retry(exc=OutOfStock("sku", self.request.retries), countdown=countdown)
    retries: int = self.request.retries
    return retries


def retry_oddly(self: Any, kind: str) -> None:
    options: dict[str, dict[str, Any]] = {
        "queue object": {"queue": object(), "countdown": 0},
        "priority": {"priority": 99_999, "countdown": 0},
        "priority text": {"priority": "high", "countdown": 0},
        "countdown text": {"countdown": "soon"},
        "countdown infinite": {"countdown": float("inf")},
        "countdown nan": {"countdown": float("nan")},
        "countdown huge": {"countdown": 1e15},
        "args": {"args": [object()], "countdown": 0},
        "queue nul": {"queue": "a\0b", "countdown": 0},
        "queue surrogate": {"queue": "\ud800", "countdown": 0},
        "members": {"queue": Queues.MAIL, "priority": Priorities.HIGH, "countdown": 0},
    }
    raise self.retry(max_retries=2, **options[kind])


def flaky(path: str) -> None:
    note(path, "run")
    raise OutOfStock("sku", 1)


def ignored(path: str) -> str:
    note(path, "run")
    return "value"


def loaded(module: str) -> bool:
    return module in sys.modules


def ask(what: str) -> Any:
    if what == "ignore":
        raise Ignore
    raise Reject("no", requeue=False)


def give_back(self: Any, path: str, times: int) -> bool:
    """Gives itself back so many times; whether it was delivered again."""
    note(path, "run")
    if len(Path(path).read_text().split()) <= times:
        raise Reject("not yet", requeue=True)
    redelivered: bool = self.request.delivery_info["redelivered"]
    return redelivered


def spawn(self: Any, path: str) -> str:
    """Enqueues from inside a job."""
    child_id: str = self.app.tasks["sample.record"].delay(path, self.request.id).id
    return child_id


def make_app(url: str, **settings: Any) -> DBQueue:
    app = DBQueue("sample", broker=url, set_as_current=False, **settings)
    plain: list[Callable[..., Any]] = [
        add, aadd, echo, pid, record, record_slowly, hold, ahold, ahold_softly, ablock, fail, afail, fail_locally,
        fail_with_causes, recurse, unstorable, nested, shout, die, die_first, leave_child, loaded, ask, hold_softly,
        hold_alone, hold_on, hold_stubbornly, hold_and_quit, span,
    freeze, wall_clock, exit_beside,
        come_back_twice, acome_back_twice,
    ]  # fmt: skip
    for function in plain:
        app.task(name=f"sample.{function.__name__}")(function)
    app.task(name="sample.die_once", acks_late=False)(die)
    app.task(name="sample.hold_once", acks_late=False)(hold)
    app.task(name="sample.record_once", acks_late=False)(record)
    app.task(name="sample.ignored", ignore_result=True)(ignored)
    app.task(name="sample.flaky", autoretry_for=(OutOfStock,), max_retries=2, default_retry_delay=0)(flaky)
    app.task(
        name="sample.backing_off", autoretry_for=(OutOfStock,), max_retries=3, retry_backoff=0.01, retry_jitter=True
    )(flaky)
    for bound in (get_inside, give_back, hold_and_retry, request_of, retry_until, retry_oddly, spawn):
        app.task(name=f"sample.{bound.__name__}", bind=True)(bound)
    return app
