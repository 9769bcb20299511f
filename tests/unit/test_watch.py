"""The lease as the worker itself counts it: never longer than the database does."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dbqueue import signals
from dbqueue.errors import OperationalError
from dbqueue.store.sessions import Sign
from dbqueue.worker import watch as watching
from dbqueue.worker.config import WorkerConfig
from dbqueue.worker.watch import Watch

LEASE, EVERY = 30.0, 10.0
START = 1000.0


class Heart:
    """A connection on which each heartbeat takes its time; `alive` is what the database answers."""

    def __init__(self, clock: list[float]) -> None:
        self._clock = clock
        self.seconds = 0.0
        self.alive = True
        self.beats: list[str] = []
        self.while_it_beats: Callable[[], None] = lambda: None

    def heartbeat(self, worker_id: str) -> bool:
        self.beats.append(worker_id)
        self._clock[0] += self.seconds
        self.while_it_beats()
        return self.alive


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [START]
    monkeypatch.setattr(watching, "boot_clock", lambda: now[0])
    return now


@pytest.fixture
def heart(clock: list[float]) -> Heart:
    return Heart(clock)


@pytest.fixture
def deaths() -> list[str]:
    return []


@pytest.fixture
def watch(deaths: list[str]) -> Watch:
    config = WorkerConfig("w@test", ("celery",), "solo", 1, lease_seconds=LEASE, heartbeat_seconds=EVERY)
    nobody: Any = SimpleNamespace()
    watch = Watch(
        nobody, config, desk=nobody, events=nobody, woken=lambda: None, declared_dead=lambda: deaths.append("dead")
    )
    watch.beat_for("first", START)
    return watch


def beat(watch: Watch, heart: Heart) -> None:
    """What its thread does when a heartbeat is due."""
    watch._watch(cast(Any, heart))


def test_the_lease_counts_from_the_moment_its_heartbeat_was_sent(
    watch: Watch, heart: Heart, clock: list[float]
) -> None:
    assert watch.deadline == START + 0.9 * LEASE
    clock[0], heart.seconds = START + EVERY, 7.0
    beat(watch, heart)
    assert heart.beats == ["first"]
    assert watch.deadline == START + EVERY + 0.9 * LEASE


def test_heartbeats_are_due_by_when_the_last_was_sent(watch: Watch, heart: Heart, clock: list[float]) -> None:
    """One that took longer than the interval is followed by the next at once."""
    clock[0], heart.seconds = START + EVERY, EVERY + 1.0
    for number in itertools.count(1):
        beat(watch, heart)
        assert len(heart.beats) == number
        if number == 3:
            break


def test_a_refused_heartbeat_lengthens_nothing(
    watch: Watch, heart: Heart, clock: list[float], deaths: list[str]
) -> None:
    clock[0], heart.alive = START + EVERY, False
    beat(watch, heart)
    assert (deaths, watch.declared_dead) == (["dead"], True)
    assert watch.deadline == START + 0.9 * LEASE
    watch.beat_for("second", clock[0])
    assert not watch.declared_dead


def test_a_heartbeat_of_the_former_identity_says_nothing_of_the_new_one(
    watch: Watch, heart: Heart, clock: list[float], deaths: list[str]
) -> None:
    """The worker has registered anew while it was under way: neither its answer nor its moment is the new lease's."""
    for heart.alive in (True, False):
        clock[0] += EVERY
        registered_at = clock[0] - 5.0
        heart.while_it_beats = lambda registered_at=registered_at: watch.beat_for("second", registered_at)  # type: ignore[misc]
        watch.beat_for("first", clock[0] - EVERY)
        beat(watch, heart)
        assert watch.deadline == registered_at + 0.9 * LEASE
    assert deaths == []


def test_no_moment_shows_a_living_identity_with_a_lease_that_is_over(
    watch: Watch, heart: Heart, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop looks at any of them: it would take the new one for late, and claim nothing for a while."""
    clock[0], heart.alive = START + EVERY, False
    beat(watch, heart)
    clock[0] = START + 2 * LEASE
    seen: list[tuple[bool, bool]] = []

    def put(self: Watch, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        seen.append((self.declared_dead, clock[0] > self.deadline))

    monkeypatch.setattr(Watch, "__setattr__", put)
    watch.beat_for("second", clock[0])
    assert seen[-1] == (False, False)
    assert (False, True) not in seen


def test_a_new_connection_looks_for_what_was_announced_to_nobody(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs and commands that came between the end of the old one and its LISTEN."""
    did: list[str] = []

    def listen(name: str) -> Any:
        did.append("listen")
        return SimpleNamespace(close=lambda: did.append("close"))

    monkeypatch.setattr(watch, "_store", SimpleNamespace(watch_session=listen))
    monkeypatch.setattr(watch, "_woken", lambda: did.append("jobs"))
    monkeypatch.setattr(watch, "_desk", SimpleNamespace(heard=lambda: did.append("commands")))
    monkeypatch.setattr(watch, "_watch", lambda session: watch.stop())
    watch._run()
    assert did == ["listen", "jobs", "commands", "close"]


@pytest.mark.parametrize("survives", [False, True])
def test_a_connection_that_is_broken_is_replaced(
    watch: Watch, monkeypatch: pytest.MonkeyPatch, *, survives: bool
) -> None:
    """And no other: what has only met a conflict is tried again on the same one."""
    did: list[str] = []

    def listen(name: str) -> Any:
        did.append("listen")
        return SimpleNamespace(close=lambda: did.append("close"), survives=lambda _: survives)

    def beat(session: Any) -> None:
        did.append("beat")
        if did.count("beat") == 2:
            watch.stop()
        raise OperationalError("the connection is closed")

    monkeypatch.setattr(watch, "_store", SimpleNamespace(watch_session=listen))
    monkeypatch.setattr(watch, "_desk", SimpleNamespace(heard=lambda: None))
    monkeypatch.setattr(watch, "_watch", beat)
    watch._run()
    again = ["beat"] if survives else ["close", "listen", "beat"]
    assert did == ["listen", "beat", *again, "close"]


def test_inside_of_another_program_its_thread_has_ended_when_it_has_been_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The program may close the database."""
    config = WorkerConfig("w@test", ("celery",), "solo", 1, embedded=True)
    nobody: Any = SimpleNamespace()
    watch = Watch(nobody, config, desk=nobody, events=nobody, woken=lambda: None, declared_dead=lambda: None)
    monkeypatch.setattr(watch, "_watch", lambda session: watch._stopping.wait(60) and threading.Event().wait(0.1))
    watch.start(cast(Any, SimpleNamespace(close=lambda: None)), "w#1", 0.0)
    watch.stop()
    assert not watch.thread.is_alive()


def test_outside_of_another_program_nobody_waits_for_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may wait for a database that does not answer, and the process ends without it."""
    nobody: Any = SimpleNamespace()
    config = WorkerConfig("w@test", ("celery",), "solo", 1)
    watch = Watch(nobody, config, desk=nobody, events=nobody, woken=lambda: None, declared_dead=lambda: None)
    beats, answers = threading.Event(), threading.Event()

    def beat(session: Any) -> None:
        beats.set()
        assert answers.wait(60)

    monkeypatch.setattr(watch, "_watch", beat)
    watch.start(cast(Any, SimpleNamespace(close=lambda: None)), "w#1", 0.0)
    assert beats.wait(60)
    watch.stop()
    assert watch.thread.is_alive()
    answers.set()
    watch.thread.join(60)
    assert not watch.thread.is_alive()


def test_one_that_has_not_begun_can_be_stopped() -> None:
    """The worker around it could not be started."""
    nobody: Any = SimpleNamespace()
    config = WorkerConfig("w@test", ("celery",), "solo", 1, embedded=True)
    Watch(nobody, config, desk=nobody, events=nobody, woken=lambda: None, declared_dead=lambda: None).stop()


def test_trouble_is_told_once_and_the_pauses_grow(
    watch: Watch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it is: without this thread the worker is deaf, and soon dead. What comes after it begins anew."""
    pauses: list[float] = []
    fails = iter([True] * 10 + [False, True])

    def beat(session: Any) -> None:
        fault = next(fails, None)
        if fault is None:
            watch.stop()
        elif fault:
            raise ZeroDivisionError("whatever it is")

    session = SimpleNamespace(close=lambda: None, survives=lambda _: True)
    monkeypatch.setattr(watching, "random", SimpleNamespace(uniform=lambda low, high: high))
    monkeypatch.setattr(watch._stopping, "wait", pauses.append)
    monkeypatch.setattr(watch, "_store", SimpleNamespace(watch_session=lambda _: session))
    monkeypatch.setattr(watch, "_desk", SimpleNamespace(heard=lambda: None))
    monkeypatch.setattr(watch, "_watch", beat)
    watch._run()
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0, 5.0, 0.1]
    said = [record.message for record in caplog.records]
    assert said == ["The connection for heartbeats broke: whatever it is. Trying again."] * 2


def test_it_waits_no_longer_than_commands_and_events_may(
    watch: Watch, heart: Heart, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is to be written and read is, before it waits."""
    did: list[Any] = []
    bounds = [0.0, 0.0]

    def wait(seconds: float) -> Sign:
        did.append(seconds)
        return Sign(0)

    monkeypatch.setattr(heart, "wait", wait, raising=False)
    desk = SimpleNamespace(
        serve=lambda _, worker_id: did.append(worker_id), pause=lambda limit: min(limit, bounds[0]), scales=False
    )
    events = SimpleNamespace(write=lambda _: did.append("events"), pause=lambda limit: min(limit, bounds[1]))
    monkeypatch.setattr(watch, "_desk", desk)
    monkeypatch.setattr(watch, "_events", events)
    longest = []
    for bounds[:] in ([9.0, 9.0], [0.125, 9.0], [9.0, 0.0625], [-1.0, 9.0]):
        did.clear()
        beat(watch, heart)
        assert did[:2] == ["first", "events"]
        longest.append(did[2])
    assert longest == [9.0, 0.125, 0.0625, 0.0]


@pytest.mark.parametrize(
    ("embedded", "scales", "longest"),
    [(False, False, watching.WAIT_SECONDS), (False, True, 1.0), (True, False, 0.05), (True, True, 0.05)],
)
def test_how_long_it_waits_where_nothing_is_due(
    heart: Heart, clock: list[float], monkeypatch: pytest.MonkeyPatch, *, embedded: bool, scales: bool, longest: float
) -> None:
    """The worker's row is to show how many processes there are; who stops one inside of his program waits for it."""
    waits: list[float] = []
    desk = SimpleNamespace(serve=lambda *_: None, pause=lambda limit: limit, scales=scales)
    events = SimpleNamespace(write=lambda _: None, pause=lambda limit: limit)
    config = WorkerConfig(
        "w@test", ("celery",), "solo", 1, lease_seconds=300.0, heartbeat_seconds=100.0, embedded=embedded
    )
    nobody: Any = SimpleNamespace()
    watch = Watch(
        nobody,
        config,
        desk=cast(Any, desk),
        events=cast(Any, events),
        woken=lambda: None,
        declared_dead=lambda: None,
    )
    watch.beat_for("first", START)

    def wait(seconds: float) -> Sign:
        waits.append(seconds)
        return Sign(0)

    monkeypatch.setattr(heart, "wait", wait, raising=False)
    beat(watch, heart)
    assert (waits, heart.beats) == ([longest], [])


@pytest.mark.parametrize("alive", [True, False])
def test_each_heartbeat_that_is_taken_is_told_of(watch: Watch, heart: Heart, clock: list[float], alive: bool) -> None:
    told: list[Any] = []

    def tell(sender: Any, **_: Any) -> None:
        told.append(sender)

    signals.heartbeat_sent.connect(tell)
    try:
        clock[0], heart.alive = START + EVERY, alive
        beat(watch, heart)
    finally:
        signals.heartbeat_sent.disconnect(tell)
    assert told == ([watch] if alive else [])


@pytest.mark.parametrize("sign", [Sign.JOBS, Sign.COMMANDS, Sign.JOBS | Sign.COMMANDS])
def test_until_the_next_heartbeat_it_listens(
    watch: Watch, heart: Heart, clock: list[float], monkeypatch: pytest.MonkeyPatch, sign: Sign
) -> None:
    heard: list[str] = []
    waits: list[float] = []

    def wait(seconds: float) -> Sign:
        waits.append(seconds)
        return sign

    monkeypatch.setattr(heart, "wait", wait, raising=False)
    monkeypatch.setattr(watch, "_woken", lambda: heard.append("jobs"))
    desk = SimpleNamespace(
        serve=lambda *_: None, pause=lambda limit: limit, heard=lambda: heard.append("commands"), scales=False
    )
    monkeypatch.setattr(watch, "_desk", desk)
    monkeypatch.setattr(watch, "_events", SimpleNamespace(write=lambda _: None, pause=lambda limit: limit))
    clock[0] = START + EVERY
    beat(watch, heart)
    clock[0] += EVERY - 0.25
    beat(watch, heart)
    assert (heart.beats, waits) == (["first"], [0.25])
    assert heard == [each for each, part in (("jobs", Sign.JOBS), ("commands", Sign.COMMANDS)) if part in sign]
