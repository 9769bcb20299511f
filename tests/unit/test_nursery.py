"""Births that fail: the nursery and its worker go on, and try again."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from dbqueue.pools import nursery as nurseries
from dbqueue.pools.nursery import Born, Died, Nursery, Unborn, describe_exit
from dbqueue.worker.config import WorkerConfig
from dbqueue.worker.supervising.crew import Crew
from tests.waiting import wait_until


@pytest.fixture
def nursery(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nursery]:
    """One whose first fork fails; a child of it has nothing to do."""
    forks: list[int] = []

    def fork() -> int:
        forks.append(1)
        if len(forks) == 2:  # the first makes the nursery itself
            raise OSError(errno.EAGAIN, "no room")
        return os.fork()

    monkeypatch.setattr(nurseries, "os", SimpleNamespace(**{**vars(os), "fork": fork}))
    nursery = Nursery(lambda connection, number: None)
    yield nursery
    nursery.close()


def next_events(nursery: Nursery) -> list[object]:
    events = wait_until(nursery.events, what="an event")
    assert events is not None
    return list(events)


def bear(nursery: Nursery, number: int) -> None:
    ours, theirs = socket.socketpair()
    nursery.bear(number, theirs)
    ours.close()
    theirs.close()


def test_a_fork_that_fails(nursery: Nursery) -> None:
    bear(nursery, 7)
    assert next_events(nursery) == [Unborn(7, errno.EAGAIN)]
    bear(nursery, 7)
    events = next_events(nursery)
    while len(events) < 2:
        events += next_events(nursery)
    born, died = events
    assert isinstance(born, Born)
    assert born.number == 7
    assert died == Died(born.pid, 0)


def test_a_nursery_that_has_just_died(nursery: Nursery) -> None:
    os.kill(nursery.pid, signal.SIGKILL)
    os.waitpid(nursery.pid, 0)
    bear(nursery, 1)
    assert nursery.events() is None


BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def test_what_was_printed_before_is_not_printed_by_each_process() -> None:
    """A pipe's text waits in the process that printed it, and a fork copies that."""
    program = """
from dbqueue.pools.nursery import Nursery
print("once")
Nursery(lambda connection, number: None).close()
"""
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, env=BUFFERED, check=True, timeout=60)
    assert printed.stdout.split() == [b"once"]


@pytest.mark.parametrize(("code", "told"), [(None, 1), (3, 3), ("text", 1)])
def test_how_a_child_has_ended_is_told(code: object, told: int) -> None:
    """One that leaves has not ended as one that was told to stop."""

    def leave(connection: socket.socket, number: int) -> None:
        raise SystemExit(code) if code is not None else ValueError

    nursery = Nursery(leave)
    bear(nursery, 1)
    events = next_events(nursery)
    while len(events) < 2:
        events += next_events(nursery)
    nursery.close()
    assert [describe_exit(event.status) for event in events if isinstance(event, Died)] == [f"exited with code {told}"]


@pytest.mark.parametrize(
    ("life", "said", "error"),
    [("print('last words'); raise IndexError", b"last words\n", b"IndexError"), ("sys.stdout.close()", b"", b"")],
)
def test_what_a_child_has_said_and_what_it_has_failed_of_is_shown(life: str, said: bytes, error: bytes) -> None:
    """And nothing else, though nobody has asked for the child's birth and death when the nursery is to end."""
    program = f"""
import socket, sys
from dbqueue.pools.nursery import Nursery
def live(connection, number):
    {life}
nursery = Nursery(live)
ours, theirs = socket.socketpair()
nursery.bear(1, theirs)
theirs.close()
ours.recv(1)
nursery.close()
"""
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, env=BUFFERED, check=True, timeout=60)
    assert (shown.stdout, (shown.stderr.split() or [b""])[-1]) == (said, error)


def test_an_event_may_come_in_parts(nursery: Nursery) -> None:
    theirs, ours = socket.socketpair()
    ours.setblocking(False)
    told = socket.socketpair()
    for event in (Born(1, 70), Died(70, 9)):
        nurseries._tell(told[0], event)
    data = told[1].recv(1000)
    found: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nursery, "socket", ours)
        for begin in range(0, len(data), 11):
            theirs.sendall(data[begin : begin + 11])
            found += nursery.events() or []
    assert found == [Born(1, 70), Died(70, 9)]
    for end in (theirs, ours, *told):
        end.close()


def has_ended(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the state of a process is read in /proc")
def test_children_that_die_at_once_are_all_told_of() -> None:
    """The kernel sends one signal for both."""
    nursery = Nursery(lambda connection, number: time.sleep(600))
    events: list[object] = []
    for number in (1, 2):
        bear(nursery, number)
    while len(events) < 2:
        events += next_events(nursery)
    pids = {event.pid for event in events if isinstance(event, Born)}
    os.kill(nursery.pid, signal.SIGSTOP)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: all(map(has_ended, pids)), what="their end")
    os.kill(nursery.pid, signal.SIGCONT)
    died: set[int] = set()
    while died != pids:
        died |= {event.pid for event in next_events(nursery) if isinstance(event, Died)}
    nursery.close()


def test_a_child_has_nothing_of_the_nursery_s_signals() -> None:
    """Its signals would be written to whatever has the descriptor by then: a connection, say."""

    def tell(connection: socket.socket, number: int) -> None:
        connection.sendall(f"{signal.set_wakeup_fd(-1)} {signal.getsignal(signal.SIGCHLD)!r}".encode())

    nursery = Nursery(tell)
    ours, theirs = socket.socketpair()
    nursery.bear(1, theirs)
    theirs.close()
    assert ours.recv(100).decode() == f"-1 {signal.SIG_DFL!r}"
    ours.close()
    nursery.close()


def test_one_that_somebody_has_stopped_bears_all_the_same() -> None:
    nursery = Nursery(lambda connection, number: None)
    os.kill(nursery.pid, signal.SIGSTOP)
    bear(nursery, 7)
    assert isinstance(next_events(nursery)[0], Born)
    nursery.close()


def test_one_that_somebody_has_stopped_ends_all_the_same() -> None:
    nursery = Nursery(lambda connection, number: None)
    os.kill(nursery.pid, signal.SIGSTOP)
    closing = threading.Thread(target=nursery.close)
    closing.start()
    try:
        wait_until(lambda: not closing.is_alive(), what="its end")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(nursery.pid, signal.SIGCONT)
        closing.join()


def test_one_that_has_ended_is_woken_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number may be another process's by then."""
    nursery = Nursery(lambda connection, number: None)
    nursery.close()
    woken: list[int] = []
    monkeypatch.setattr(nurseries, "os", SimpleNamespace(**{**vars(os), "kill": lambda pid, _: woken.append(pid)}))
    nursery.go_on()
    assert woken == []


def test_one_that_the_worker_may_not_wake_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the worker has changed its user."""

    def kill(pid: int, signum: int) -> None:
        raise PermissionError(errno.EPERM, "not yours")

    nursery = Nursery(lambda connection, number: None)
    monkeypatch.setattr(nurseries, "os", SimpleNamespace(**{**vars(os), "kill": kill}))
    bear(nursery, 7)
    assert isinstance(next_events(nursery)[0], Born)
    nursery.close()


def test_more_births_than_the_nursery_takes_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """The rest is asked for later; nothing is amiss."""
    count = 400
    crew = Crew(WorkerConfig("w@test", ("celery",), "prefork", count), None, lambda name: None)  # type: ignore[arg-type]
    crew.fork_nursery()
    assert crew._nursery is not None
    os.kill(crew._nursery.pid, signal.SIGSTOP)
    try:
        crew.start()
        assert 0 < len(crew.children) < count
        assert len(crew.children) + len(crew._missing) == count
        assert max(crew._missing.values()) <= time.monotonic(), "in the next turn"
        assert caplog.records == []
    finally:
        os.kill(crew._nursery.pid, signal.SIGKILL)
        crew.close()


def born(nursery: Nursery) -> tuple[socket.socket, int]:
    """A child that sleeps: the supervisor's end of its socket, and its pid."""
    ours, theirs = socket.socketpair()
    nursery.bear(1, theirs)
    theirs.close()
    ours.settimeout(60)
    (event,) = next_events(nursery)
    assert isinstance(event, Born)
    return ours, event.pid


@pytest.fixture
def sleeping(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nursery]:
    """One whose children sleep; none of them outlives the test, whatever becomes of it."""
    pids: set[int] = set()
    events = Nursery.events

    def noted(self: Nursery) -> list[Born | Died | Unborn] | None:
        found = events(self)
        pids.update(event.pid for event in found or () if isinstance(event, Born))
        return found

    monkeypatch.setattr(Nursery, "events", noted)
    nursery = Nursery(lambda connection, number: time.sleep(600))
    yield nursery
    nursery.close()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").exists() and has_ended(pid)  # whoever has it now may be slow to bury it


def test_a_socket_ends_with_its_child(sleeping: Nursery) -> None:
    ours, pid = born(sleeping)
    os.kill(pid, signal.SIGKILL)
    assert ours.recv(1) == b""
    ours.close()


def pipes(pid: int) -> set[str]:
    found: set[str] = set()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.add(os.readlink(each))
    return {link for link in found if link.startswith("pipe:")}


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux tells what a process has open")
def test_a_child_has_no_descriptor_of_the_nursery_s_own(sleeping: Nursery) -> None:
    ours, pid = born(sleeping)
    own = pipes(sleeping.pid) - pipes(os.getpid())
    assert own
    wait_until(lambda: not own & pipes(pid), what="their end in the child")
    ours.close()


def test_so_does_that_of_a_child_that_could_not_be_born(nursery: Nursery) -> None:
    ours, theirs = socket.socketpair()
    nursery.bear(7, theirs)
    theirs.close()
    ours.settimeout(60)
    assert ours.recv(1) == b""
    ours.close()


def test_nor_can_one_whose_socket_does_not_arrive(sleeping: Nursery) -> None:
    """The system drops it where the nursery has no descriptor left."""
    sleeping.socket.send(nurseries._REQUEST.pack(7))
    assert next_events(sleeping) == [Unborn(7, errno.EMFILE)]
    ours, _ = born(sleeping)
    ours.close()


def test_the_end_of_the_nursery_is_seen_while_a_child_lives(sleeping: Nursery) -> None:
    ours, pid = born(sleeping)
    os.kill(sleeping.pid, signal.SIGKILL)
    wait_until(lambda: sleeping.events() is None, what="the end of the nursery")
    os.kill(pid, signal.SIGKILL)
    assert ours.recv(1) == b""
    ours.close()


def test_so_is_the_end_of_one_that_had_something_left_to_do(sleeping: Nursery) -> None:
    """The system says that the connection was reset, and not that it has ended."""
    os.kill(sleeping.pid, signal.SIGSTOP)
    sleeping.socket.send(b"\0")
    os.kill(sleeping.pid, signal.SIGKILL)
    wait_until(lambda: sleeping.events() is None, what="the end of the nursery")


def test_a_nursery_ends_with_its_children_and_is_waited_for(sleeping: Nursery) -> None:
    ours, pid = born(sleeping)
    sleeping.close()
    with pytest.raises(ChildProcessError):
        os.waitpid(sleeping.pid, os.WNOHANG)
    wait_until(lambda: is_gone(pid), what="the end of the child")
    ours.close()


COPIED = """
import os, signal, socket, time
from dbqueue.pools.nursery import Nursery
nursery = Nursery(lambda connection, number: None)
ours, theirs = socket.socketpair()
nursery.bear(1, theirs)
while not nursery.events():
    time.sleep(0.01)
copy = os.fork()
if copy == 0:
    os.closerange(0, 3)
    time.sleep(600)
print(nursery.pid, copy, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("heard", [True, False])
def test_the_number_of_a_child_that_is_dead_is_forgotten(monkeypatch: pytest.MonkeyPatch, heard: bool) -> None:
    """It may be another process's when the nursery ends its children, as it does when nobody hears it any more."""
    deaths = iter([(4711, signal.SIGKILL), (0, 0)])
    monkeypatch.setattr(nurseries, "os", SimpleNamespace(**{**vars(os), "waitpid": lambda *_: next(deaths)}))
    children = {4711, 4712}
    ours, theirs = socket.socketpair()
    with ours, theirs:
        if not heard:
            ours.close()
        nurseries._report_deaths(theirs, children)
    assert children == {4712}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_a_nursery_ends_with_its_supervisor_though_a_copy_of_that_lives_on(tmp_path: Path) -> None:
    """A copy has its sockets: nobody sees an end of these."""
    with (tmp_path / "pids").open("w") as pids:
        subprocess.run([sys.executable, "-c", COPIED], stdout=pids, check=False)
    nursery, copy = map(int, (tmp_path / "pids").read_text().split())
    try:
        wait_until(lambda: is_gone(nursery), what="the end of the nursery")
    finally:
        os.kill(copy, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP])
def test_a_signal_to_all_processes_is_the_supervisor_s_to_heed(sleeping: Nursery, number: signal.Signals) -> None:
    """A terminal sends ^C to the whole group."""
    ours, _ = born(sleeping)  # it has begun
    os.kill(sleeping.pid, number)
    ours.close()
    ours, _ = born(sleeping)
    ours.close()
