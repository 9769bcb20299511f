"""A child's end of the socket: what it holds for its slots, gives back, is interrupted for, and answers."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dbqueue.jobs import ClaimedJob, Outcome, Progress, Succeeded
from dbqueue.pools import aio, child, interrupts, prefork, solo, threads, wire
from dbqueue.pools.child import Inbox, Link, RunSlots, import_modules
from tests.stores import claimed_job
from tests.waiting import wait_until

SLOTS = 3
JOB = claimed_job("job")


@pytest.fixture(autouse=True)
def errors_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the end of this process, which is none of a pool's."""

    def end_by_error() -> None:
        raise AssertionError("a pool process would end here") from sys.exception()

    for module in (child, threads, aio):
        monkeypatch.setattr(module, "end_by_error", end_by_error)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The child's, and the supervisor's."""
    ends = socket.socketpair()
    yield ends
    for end in ends:
        end.close()


@pytest.fixture
def link(ends: tuple[socket.socket, socket.socket]) -> Iterator[Link]:
    yield Link(ends[0], SLOTS)
    interrupts.forget(JOB.id)


@pytest.fixture
def supervisor(ends: tuple[socket.socket, socket.socket]) -> socket.socket:
    ends[1].setblocking(False)
    return ends[1]


def hear(link: Link, supervisor: socket.socket, *frames: bytes) -> None:
    """The child reads these, and then the end of the stream."""
    closed: list[bool] = []
    supervisor.sendall(b"".join(frames))
    supervisor.shutdown(socket.SHUT_WR)
    link.read(lambda: closed.append(True))
    assert closed == [True], "whoever is cut off is told"


def said(supervisor: socket.socket) -> list[tuple[Any, ...]]:
    try:
        return wire.Reader(supervisor).receive() or []
    except BlockingIOError:
        return []


def taken(inbox: Inbox) -> list[ClaimedJob | None]:
    """All that its slots would take."""
    return [inbox._jobs.get_nowait() for _ in range(inbox._jobs.qsize())]


def done(job: ClaimedJob) -> Succeeded:
    return Succeeded(job.id, job.lease, "1", 0.0)


def is_interrupted() -> bool:
    """Whether the next run of the job ends for what came for an earlier one."""
    return JOB.id in interrupts._due


def test_a_recall_takes_what_has_not_begun_and_undoes_no_stop() -> None:
    inbox = Inbox()
    for each in (claimed_job("a"), claimed_job("b"), None, None):
        inbox.put(each)
    assert [job.id for job in inbox.recall()] == ["a", "b"]
    assert inbox.recall() == []
    assert taken(inbox) == [None, None]


def test_each_slot_is_told_to_stop(link: Link, supervisor: socket.socket) -> None:
    hear(link, supervisor, wire.run_frame([JOB]), wire.frame(wire.STOP))
    assert taken(link.inbox) == [JOB, *[None] * SLOTS]


def test_what_was_given_back_is_not_interrupted(link: Link, supervisor: socket.socket) -> None:
    """It may come here again, and that run has done nothing."""
    interrupt = wire.frame(wire.INTERRUPT, JOB.id)
    hear(link, supervisor, wire.run_frame([JOB]), wire.frame(wire.RECALL), interrupt)
    assert said(supervisor) == [(wire.RECALLED, [JOB.id])]
    assert not is_interrupted()


@pytest.mark.parametrize("before", [False, True], ids=["after its answer", "before its answer"])
def test_an_interruption_is_for_one_run(link: Link, supervisor: socket.socket, *, before: bool) -> None:
    link._held.add(JOB.id)
    link.begins(JOB)
    if before:
        link._interrupt(JOB.id)
        assert is_interrupted()
    link.report(done(JOB))
    if not before:
        link._interrupt(JOB.id)
    assert not is_interrupted()


def test_the_next_run_of_a_job_may_come_as_soon_as_it_is_answered(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the slot that answered goes on. An interruption finds that run."""

    def send(data: bytes) -> None:
        link._held.add(JOB.id)

    link._held.add(JOB.id)
    link.begins(JOB)
    monkeypatch.setattr(link, "send", send)
    link.report(done(JOB))
    link._interrupt(JOB.id)
    assert is_interrupted()


def test_a_job_is_held_before_a_slot_can_take_it(
    link: Link, supervisor: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which may answer at once: it would count as held here ever after."""
    held: list[bool] = []
    monkeypatch.setattr(link.inbox, "put", lambda job: held.append(job.id in link._held))
    hear(link, supervisor, wire.run_frame([JOB]))
    assert held == [True]


def test_a_limit_that_is_over_before_the_job_begins_is_not_its_own(link: Link, supervisor: socket.socket) -> None:
    """What ran here kept it waiting; nor has it begun because an earlier run of it had."""
    for _ in range(2):
        link._held.add(JOB.id)
        link._interrupt(JOB.id, limit=True)
        assert not is_interrupted()
        assert said(supervisor) == [(wire.WAITING, JOB.id)]
        link.begins(JOB)
        link._interrupt(JOB.id, limit=True)
        assert is_interrupted()
        link.report(done(JOB))
        assert [message[0] for message in said(supervisor)] == [wire.DONE]


def test_one_that_is_revoked_as_it_begins_is_interrupted(link: Link, supervisor: socket.socket) -> None:
    """Others know of its end already: a slot has it in hand, and whether it has begun makes no difference."""
    link._held.add(JOB.id)
    link._interrupt(JOB.id)
    assert is_interrupted()
    assert said(supervisor) == []


def test_nothing_is_reported_of_a_job_that_has_ended(link: Link, supervisor: socket.socket) -> None:
    link.reports._latest[JOB.id] = Progress(JOB.id, JOB.lease, "PROGRESS", "{}")
    link.report(done(JOB))
    assert link.reports._latest == {}


def test_an_outcome_that_cannot_be_sent_is_a_failure(link: Link, supervisor: socket.socket) -> None:
    unsendable: Any = object()
    link.report(Succeeded(JOB.id, JOB.lease, unsendable, 0.0))
    ((_, kind, fields),) = said(supervisor)
    outcome = wire.read_outcome(kind, fields)
    assert (type(outcome).__name__, outcome.job_id, outcome.lease) == ("Failed", JOB.id, JOB.lease)


def test_it_asks_to_be_replaced_once(ends: tuple[socket.socket, socket.socket], supervisor: socket.socket) -> None:
    link = Link(ends[0], SLOTS, max_memory_kilobytes=1)
    for _ in range(2):
        link.report(done(JOB))
    link.retire("has no file descriptor left")
    heard = said(supervisor)
    assert [message[0] for message in heard] == [wire.DONE, wire.RETIRE, wire.DONE]
    assert heard[1][1] == "has grown past worker_max_memory_per_child"


def test_a_module_that_cannot_be_imported_keeps_no_other_from_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    imported: list[str] = []

    def import_module(name: str) -> None:
        if name == "broken":
            raise SyntaxError(name)
        imported.append(name)

    monkeypatch.setattr("importlib.import_module", import_module)
    import_modules(["broken", "whole"], reload=False)
    assert imported == ["whole"]
    assert "The module broken cannot be imported" in caplog.text


@pytest.mark.parametrize("error", [SystemExit, OSError])
def test_a_process_that_hears_nothing_more_ends(
    link: Link, supervisor: socket.socket, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """By itself a thread ends at SystemExit without a word, as where a module that is imported says `sys.exit()`."""

    def import_modules(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(child, "import_modules", import_modules)
    supervisor.sendall(wire.frame(wire.IMPORT, ["script"], False))
    with pytest.raises(AssertionError, match="a pool process would end here"):
        child._read(link)


@pytest.mark.parametrize("reload", [True, False])
def test_a_module_that_is_loaded_is_imported_anew_where_that_is_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, reload: bool
) -> None:
    (tmp_path / "counted_module.py").write_text("number = globals().get('number', 0) + 1")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "counted_module", raising=False)
    for _ in range(2):
        import_modules(["counted_module"], reload=reload)
    assert sys.modules.pop("counted_module").number == 1 + reload


@pytest.mark.parametrize("run_slots", [prefork.run_slots, threads.run_slots, aio.run_slots])
def test_a_slot_says_what_it_begins_and_answers_before_it_stops(
    link: Link, supervisor: socket.socket, run_slots: RunSlots
) -> None:
    """A limit counts from then on; and whoever is told to stop ends what it runs."""
    begun: list[bool] = []

    def run(job: ClaimedJob) -> Succeeded:
        begun.append(job.id in link._begun)
        time.sleep(0.05)
        return done(job)

    async def run_async(job: ClaimedJob) -> Succeeded:
        begun.append(job.id in link._begun)
        await asyncio.sleep(0.05)
        return done(job)

    for each in (claimed_job("a"), claimed_job("b"), *[None] * SLOTS):
        link.inbox.put(each)
    execute: Any = SimpleNamespace(run=run, run_async=run_async)
    run_slots(link, execute, SLOTS)
    assert begun == [True, True]
    ready, *answers = said(supervisor)
    assert ready == (wire.READY,)
    assert sorted(fields[0] for _, _, fields in answers) == ["a", "b"]


@pytest.mark.parametrize("run_slots", [prefork.run_slots, threads.run_slots, aio.run_slots])
def test_what_waits_behind_a_run_can_be_recalled(link: Link, supervisor: socket.socket, run_slots: RunSlots) -> None:
    """No slot takes a job before it can run it: the run may be a long one."""
    recalled: list[str] = []

    def run(job: ClaimedJob) -> Succeeded:
        time.sleep(0.05)
        recalled.extend(each.id for each in link.inbox.recall())
        link.inbox.put(None)
        return done(job)

    async def run_async(job: ClaimedJob) -> Succeeded:
        await asyncio.sleep(0)
        return await asyncio.to_thread(run, job)

    for each in ("runs", "waits"):
        link.inbox.put(claimed_job(each))
    execute: Any = SimpleNamespace(run=run, run_async=run_async)
    run_slots(link, execute, 1)
    assert recalled == ["waits"]


def test_functions_run_beside_an_event_loop_in_as_many_threads_as_it_has_slots(
    link: Link, supervisor: socket.socket
) -> None:
    """However few processors there are."""
    slots = 40  # more than a loop has of its own
    all_of_them = threading.Barrier(slots)

    async def run_async(job: ClaimedJob) -> Succeeded:
        await asyncio.get_running_loop().run_in_executor(None, all_of_them.wait, 60)
        return done(job)

    for number in range(slots):
        link.inbox.put(claimed_job(f"{number}"))
    link.inbox.put(None)
    execute: Any = SimpleNamespace(run_async=run_async)
    aio.run_slots(link, execute, slots)
    assert len(said(supervisor)) == 1 + slots


@pytest.mark.parametrize("error", [OSError, MemoryError, SystemExit])
@pytest.mark.parametrize("pool", [threads, aio])
def test_a_process_whose_slot_cannot_answer_ends(
    link: Link, monkeypatch: pytest.MonkeyPatch, pool: Any, error: type[BaseException]
) -> None:
    """Others share it, and it would go on beside a job of which nobody hears again."""
    ended: list[BaseException | None] = []

    def report(outcome: Outcome) -> None:
        raise error

    async def run_async(job: ClaimedJob) -> Succeeded:
        return done(job)

    monkeypatch.setattr(link, "report", report)
    monkeypatch.setattr(pool, "end_by_error", lambda: ended.append(sys.exception()))
    for each in (JOB, None):
        link.inbox.put(each)
    execute: Any = SimpleNamespace(run=done, run_async=run_async)
    pool.run_slots(link, execute, 1)
    assert [type(each) for each in ended] == [error]


def run_in_place(connection: socket.socket, execute: Any) -> None:
    """solo, on a thread that is not waited for for ever."""
    thread = threading.Thread(target=solo.run_in_place, args=(connection, execute), daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()


def test_solo_ends_with_its_slot_though_the_supervisor_is_there(ends: tuple[socket.socket, socket.socket]) -> None:
    ends[1].sendall(wire.frame(wire.STOP))
    run_in_place(ends[0], SimpleNamespace(report=None))


def test_solo_ends_when_its_supervisor_has_gone_without_a_word(ends: tuple[socket.socket, socket.socket]) -> None:
    """Its slot has nothing to do, and hears of that from its reader alone."""
    ends[1].shutdown(socket.SHUT_WR)
    run_in_place(ends[0], SimpleNamespace(report=None))


def test_solo_runs_nothing_more_when_its_supervisor_has_gone(ends: tuple[socket.socket, socket.socket]) -> None:
    ran: list[str] = []

    def run(job: ClaimedJob) -> Succeeded:
        ran.append(job.id)
        ends[1].close()
        here = [thread for thread in threading.enumerate() if thread.name == "reader"]
        wait_until(lambda: not any(thread.is_alive() for thread in here), what="the end of its reader")
        return done(job)

    ends[1].sendall(wire.run_frame([claimed_job("runs"), claimed_job("waits")]))
    run_in_place(ends[0], SimpleNamespace(report=None, run=run))
    assert ran == ["runs"]
