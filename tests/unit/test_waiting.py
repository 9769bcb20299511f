"""Waiting for results: one question for all who wait, and nobody waits in vain."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from dbqueue import DBQueue
from dbqueue.result import AsyncResult, ResultSet, sets, waiting
from dbqueue.result.waiting import HeadStart, ResultWaiter
from tests.waiting import wait_until


class Database:
    """Answers which jobs have ended; a test ends them."""

    def __init__(self) -> None:
        self.ended: dict[str, str] = {}
        self.questions: list[list[str]] = []
        self.asking = 0
        self.error: Exception | None = None

    def finished(self, ids: Sequence[str]) -> dict[str, str]:
        self.asking += 1
        assert self.asking == 1, "two questions at once"
        self.questions.append(list(ids))
        try:
            if self.error is not None:
                raise self.error
            return {job_id: self.ended[job_id] for job_id in ids if job_id in self.ended}
        finally:
            self.asking -= 1


def waiter_of(database: Database) -> ResultWaiter[str]:
    return ResultWaiter(database.finished, lambda _: 0.003)


@pytest.fixture
def database() -> Database:
    return Database()


@pytest.fixture(autouse=True)
def woken_by_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is told of nothing would find out by itself, a second later."""
    monkeypatch.setattr(waiting, "LONGEST_SLEEP_SECONDS", 600.0)


def test_what_has_ended_needs_one_question(database: Database) -> None:
    database.ended["a"] = "done"
    assert waiter_of(database).wait("a", timeout=0, interval=0.5) == "done"
    assert database.questions == [["a"]]


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_a_timeout_is_none(database: Database, timeout: float) -> None:
    assert waiter_of(database).wait("a", timeout=timeout, interval=0.5) is None
    assert database.questions


def test_many_threads_share_their_questions(database: Database) -> None:
    waiter: ResultWaiter[str] = waiter_of(database)
    values: dict[int, str | None] = {}

    def wait(n: int) -> None:
        values[n] = waiter.wait(f"job-{n % 10}", timeout=30, interval=0.05)

    threads = [threading.Thread(target=wait, args=(n,)) for n in range(40)]
    for thread in threads:
        thread.start()
    for n in range(10):
        database.ended[f"job-{n}"] = f"value-{n}"
    for thread in threads:
        thread.join(60)
    assert values == {n: f"value-{n % 10}" for n in range(40)}


def test_nothing_is_remembered_when_nobody_waits(database: Database) -> None:
    waiter: ResultWaiter[str] = waiter_of(database)
    assert waiter.wait("a", timeout=0, interval=0.5) is None
    database.ended |= {"a": "first", "b": "other"}
    assert [waiter.wait(job_id, timeout=0, interval=0.5) for job_id in ("b", "a")] == ["other", "first"]
    database.ended["a"] = "second"
    assert waiter.wait("a", timeout=0, interval=0.5) == "second"
    assert database.questions == [["a"], ["b"], ["a"], ["a"]]


def test_the_interval_of_one_who_has_gone_shortens_no_more_pauses(database: Database) -> None:
    """It would for as long as the process lives; an equal one of another, who still waits, does."""
    waiter: ResultWaiter[str] = waiter_of(database)
    patient = in_thread(lambda: waiter.wait("b", timeout=None, interval=0.02))
    wait_until(lambda: waiter._intervals)
    for interval in (0.01, 0.02):
        assert waiter.wait("a", timeout=0, interval=interval) is None
    assert waiter._intervals == [0.02]
    database.ended["b"] = "done"
    patient.join(60)
    assert waiter._intervals == []


def test_one_who_gives_up_does_not_stop_the_others(database: Database) -> None:
    waiter: ResultWaiter[str] = waiter_of(database)
    values: list[str | None] = []
    patient = threading.Thread(target=lambda: values.append(waiter.wait("a", timeout=30, interval=0.05)))
    patient.start()
    assert waiter.wait("a", timeout=0.05, interval=0.05) is None
    database.ended["a"] = "late"
    patient.join(30)
    assert values == ["late"]


def test_an_error_reaches_each_who_waits(database: Database) -> None:
    waiter: ResultWaiter[str] = waiter_of(database)
    database.error = RuntimeError("gone")
    caught: list[str] = []

    def wait() -> None:
        try:
            waiter.wait("a", timeout=30, interval=0.05)
        except RuntimeError as error:
            caught.append(str(error))

    threads = [threading.Thread(target=wait) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert caught == ["gone"] * 4
    database.error = None
    database.ended["a"] = "back"
    assert waiter.wait("a", timeout=5, interval=0.05) == "back"


def test_those_who_come_during_a_question_share_the_next(database: Database) -> None:
    free, plain = threading.Event(), database.finished

    def held_up(ids: Sequence[str]) -> dict[str, str]:
        if not database.questions:
            database.questions.append(list(ids))
            assert free.wait(60)
            return {}
        return plain(ids)

    waiter = ResultWaiter(held_up, lambda _: 0.003)
    values: dict[str, str | None] = {}

    def wait(job_id: str) -> None:
        values[job_id] = waiter.wait(job_id, timeout=60, interval=60)

    names = [f"job-{n}" for n in range(20)]
    database.ended = dict.fromkeys(names, "done")
    threads = [threading.Thread(target=wait, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
        wait_until(lambda: database.questions)  # the first one asks, for itself alone
    wait_until(lambda: len(waiter._awaited) == 20)
    free.set()
    for thread in threads:
        thread.join(60)
    assert values == database.ended
    assert [sorted(question) for question in database.questions] == [["job-0"], sorted(names)]


def in_thread(wait: Callable[[], Any]) -> threading.Thread:
    """One that would be left behind, should it hang."""
    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_a_question_of_another_wakes_those_whose_wait_has_no_end(database: Database) -> None:
    asked, free = threading.Event(), threading.Event()

    def held_up(ids: Sequence[str]) -> dict[str, str]:
        found = database.finished(ids)
        asked.set()
        assert free.wait(60)
        return found

    waiter, values = ResultWaiter(held_up, lambda _: 0.003), dict[str, str | None]()

    def wait(job_id: str) -> None:
        values[job_id] = waiter.wait(job_id, timeout=None, interval=0.01)

    database.ended["a"] = "done"
    first = in_thread(lambda: wait("a"))
    assert asked.wait(60)
    others = [in_thread(partial(wait, job_id)) for job_id in "bcd"]
    wait_until(lambda: len(waiter._awaited) == 4)
    database.ended |= dict.fromkeys("bcd", "done, too")
    free.set()
    for thread in (first, *others):
        thread.join(60)
        assert not thread.is_alive()
    assert values == database.ended


def test_a_question_that_takes_long_holds_up_only_who_asks_it(database: Database) -> None:
    """Others give up in their time, and what the answer says of their jobs is not kept for later."""
    given_up = threading.Event()
    leader: list[threading.Thread] = []

    def finished(ids: Sequence[str]) -> dict[str, str]:
        found = database.finished(ids)
        if threading.current_thread() not in leader or "hasty" not in ids:
            return found
        given_up.set()
        hasty.join(60)
        return found | {"hasty": "first", "patient": "done"}

    waiter, values = ResultWaiter(finished, lambda _: 0.003), list[str | None]()

    def give_up() -> None:
        while not given_up.is_set():
            assert waiter.wait("hasty", timeout=0.05, interval=0.01) is None

    def stay() -> None:
        leader.append(threading.current_thread())
        values.append(waiter.wait("patient", timeout=None, interval=0.01))

    hasty = in_thread(give_up)
    patient = in_thread(stay)
    hasty.join(60)
    assert not hasty.is_alive()
    patient.join(60)
    assert values == ["done"]
    database.ended["hasty"] = "second"
    assert waiter.wait("hasty", timeout=0, interval=0.01) == "second"


def test_a_pause_is_no_longer_than_the_interval_and_the_timeout(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "SHARE_OF_WAIT", 1e9)
    waiter, values = waiter_of(database), list[str | None]()
    hasty = in_thread(lambda: values.append(waiter.wait("a", timeout=0.05, interval=3600)))
    hasty.join(60)
    assert values == [None]
    patient = in_thread(lambda: values.append(waiter.wait("a", timeout=None, interval=0.01)))
    wait_until(lambda: len(database.questions) > 3)
    database.ended["a"] = "done"
    patient.join(60)
    assert values == [None, "done"]


def test_a_pause_is_no_longer_than_the_least_interval_of_all_who_wait(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever of them wakes first looks for both, and says when the next look is."""
    monkeypatch.setattr(waiting, "SHARE_OF_WAIT", 1e9)
    waiter, values = waiter_of(database), dict[str, str | None]()

    def wait_for(job_id: str, interval: float) -> None:
        values[job_id] = waiter.wait(job_id, timeout=None, interval=interval)

    threads = [in_thread(lambda: wait_for("seldom", 3600)), in_thread(lambda: wait_for("often", 0.001))]
    wait_until(lambda: sum(len(ids) == 2 for ids in database.questions) > 200)
    database.ended |= {"seldom": "a", "often": "b"}
    for thread in threads:
        thread.join(60)
    assert values == database.ended


def test_those_who_wait_share_their_pauses(database: Database) -> None:
    """A pause ends for all of them with one question; if each looked in its turn, there would be thirty."""
    waiter = waiter_of(database)
    threads = [
        threading.Thread(target=waiter.wait, args=(f"job-{n}",), kwargs={"timeout": 3, "interval": 60})
        for n in range(30)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    # Who comes begins the short pauses anew, so that those before depend on how fast the machine starts threads.
    all_wait = next(number for number, ids in enumerate(database.questions) if len(ids) == len(threads))
    # Ten at the shortest pause, then one for each tenth more of the time: 90. And one for each who goes.
    assert len(database.questions) - all_wait < 300


@pytest.mark.parametrize("timeout", [1e11, float("inf")])
def test_a_time_that_is_longer_than_a_thread_can_sleep(database: Database, timeout: float) -> None:
    """Also behind the question of another."""
    asked, free = threading.Event(), threading.Event()

    def held_up(ids: Sequence[str]) -> dict[str, str]:
        asked.set()
        assert free.wait(60)
        return database.finished(ids)

    waiter, values = ResultWaiter(held_up, lambda _: 0.003), dict[str, str | None]()

    def wait(job_id: str) -> None:
        values[job_id] = waiter.wait(job_id, timeout=timeout, interval=0.01)

    threads = [in_thread(lambda: wait("a"))]
    assert asked.wait(60)
    threads.append(in_thread(lambda: wait("b")))
    wait_until(lambda: len(waiter._awaited) == 2)
    time.sleep(0.05)
    database.ended |= {"a": "done", "b": "done, too"}
    free.set()
    for thread in threads:
        thread.join(60)
    assert values == database.ended


class Interrupt(BaseException):
    """What a signal's handler raises."""


def interrupted(number: int, wait: Callable[[], Any]) -> bool:
    """Raise Interrupt at the end of the so-manieth call that the module makes; whether there was one."""
    left = number

    def profile(frame: Any, event: str, argument: object) -> None:
        nonlocal left
        caller = frame if event == "c_return" else frame.f_back if event == "return" else None
        if caller is not None and caller.f_code.co_filename == waiting.__file__:
            left -= 1
            if left == 0:
                raise Interrupt

    sys.setprofile(profile)
    try:
        wait()
    except Interrupt:
        return True
    finally:
        sys.setprofile(None)
    return False


def test_one_who_is_interrupted_at_any_moment_leaves_the_question_to_the_next() -> None:
    """It is a signal's handler that does so: whoever was taken for the one who asks would never do."""

    def goes_on(number: int) -> bool:
        """Whether there was a call of that number."""
        database = Database()
        waiter, values = waiter_of(database), list[str | None]()
        was_interrupted = interrupted(number, lambda: waiter.wait("a", timeout=0.001, interval=0.0005))
        database.ended["b"] = "done"
        in_thread(lambda: values.append(waiter.wait("b", timeout=60, interval=0.01))).join(10)
        assert values == ["done"], f"after an interrupt at call {number}"
        return was_interrupted

    assert next(number for number in itertools.count(1) if not goes_on(number)) > 20


def test_who_waits_for_the_question_of_one_who_is_interrupted_asks_by_itself(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "LONGEST_SLEEP_SECONDS", 0.05)
    asked, free = threading.Event(), threading.Event()

    def held_up(ids: Sequence[str]) -> dict[str, str]:
        if not asked.is_set():
            asked.set()
            assert free.wait(60)
        return database.finished(ids)

    waiter, values = ResultWaiter(held_up, lambda _: 0.003), list[str | None]()
    tell = waiter._tell

    def tell_nobody(ended: dict[str, str] | None) -> None:
        monkeypatch.setattr(waiter, "_tell", tell)
        raise Interrupt

    monkeypatch.setattr(waiter, "_tell", tell_nobody)

    def be_interrupted() -> None:
        with contextlib.suppress(Interrupt):
            waiter.wait("a", timeout=60, interval=0.01)

    first = in_thread(be_interrupted)
    assert asked.wait(60)
    second = in_thread(lambda: values.append(waiter.wait("b", timeout=None, interval=0.01)))
    wait_until(lambda: len(waiter._awaited) == 2)
    database.ended["b"] = "done"
    free.set()
    for thread in (first, second):
        thread.join(60)
    assert values == ["done"]


class TestHeadStart:
    def test_it_goes_to_what_jobs_take_less_its_own_way(self) -> None:
        start = HeadStart()
        assert start.seconds == HeadStart.GUESS_SECONDS
        for _ in range(100):
            start.learn(0.006)
        assert start.seconds == pytest.approx(0.006 - HeadStart.AHEAD_SECONDS, rel=0.01)
        start.learn(0.0)
        assert 0 < start.seconds < 0.006 - HeadStart.AHEAD_SECONDS

    @pytest.mark.parametrize("took_seconds", [0.0101, 1.0, 3600.0, -0.001, float("nan"), float("inf")])
    def test_a_slow_job_says_nothing(self, took_seconds: float) -> None:
        start = HeadStart()
        start.learn(took_seconds)
        assert start.seconds == HeadStart.GUESS_SECONDS

    def test_the_first_look_waits_for_it(self, database: Database) -> None:
        asked_at: list[float] = []

        def finished(ids: Sequence[str]) -> dict[str, str]:
            asked_at.append(time.monotonic())
            return dict.fromkeys(ids, "done")

        waiter = ResultWaiter(finished, lambda _: 0.009)
        for _ in range(3):
            head_start, sent_at = waiter._head_start.seconds, time.monotonic()
            assert waiter.wait("a", timeout=60, interval=0.5, sent_at=sent_at) == "done"
            assert asked_at.pop() >= sent_at + head_start
            assert asked_at == []
            assert waiter._head_start.seconds > head_start  # a job of 9 ms: the next look comes later

    def test_what_was_enqueued_before_that_is_looked_for_at_once(self, database: Database) -> None:
        waiter, values = waiter_of(database), list[str | None]()
        waiter._head_start.seconds = 600.0
        database.ended["a"] = "done"
        sent_at = time.monotonic() - 601
        in_thread(lambda: values.append(waiter.wait("a", timeout=None, interval=0.5, sent_at=sent_at))).join(60)
        assert values == ["done"]

    def test_only_jobs_of_this_process_teach_it(self, database: Database) -> None:
        waiter = waiter_of(database)
        database.ended["a"] = "done"
        assert waiter.wait("a", timeout=60, interval=0.5) == "done"
        assert waiter._head_start.seconds == HeadStart.GUESS_SECONDS

    def test_a_shorter_timeout_goes_before_it(self, database: Database) -> None:
        database.ended["a"] = "done"
        assert waiter_of(database).wait("a", timeout=0, interval=0.5, sent_at=time.monotonic()) == "done"


@pytest.mark.parametrize("is_async", [False, True])
def test_a_set_shares_one_deadline(monkeypatch: pytest.MonkeyPatch, is_async: bool) -> None:
    now = [1000.0]
    left: list[float | None] = []

    class Slow(AsyncResult[int]):
        reads_row = False

        def get(self, timeout: float | None = None, *args: Any, **options: Any) -> int:
            left.append(timeout)
            now[0] += 2.0
            return len(left)

        async def aget(self, timeout: float | None = None, *args: Any, **options: Any) -> int:
            return self.get(timeout)

    monkeypatch.setattr(sets, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with DBQueue("sets", broker="sqlite://", set_as_current=False) as app:
        results = ResultSet([Slow(each, app=app) for each in "abcd"])
        values = asyncio.run(results.aget(timeout=5.0)) if is_async else results.get(timeout=5.0)
    assert values == [1, 2, 3, 4]
    assert left == [5.0, 3.0, 1.0, 0.0]
