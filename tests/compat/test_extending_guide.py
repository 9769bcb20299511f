"""Celery's guide "Extensions and Bootsteps": steps in a worker's life, options and commands of a program's own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from dbqueue import DBQueue, bootsteps
from dbqueue.bootsteps import in_order
from dbqueue.contrib.testing.worker import start_worker
from dbqueue.exceptions import ImproperlyConfigured
from dbqueue.services.timer import Timer
from tests.cli.commands import Commands
from tests.waiting import wait_until

EXTENDED = """
import os

from click import Option

from dbqueue import DBQueue, bootsteps, signals

app = DBQueue("cele", broker=os.environ["CELE_URL"])
app.user_options["worker"].add(Option(("--enable-my-option",), is_flag=True, help="Enable custom option."))
app.user_options["preload"].add(Option(("-Z", "--template"), default="default", help="Configuration template."))


@signals.user_preload_options.connect
def on_preload_parsed(options, app, **kwargs):
    print("template", options["template"], app.main, flush=True)


class MyBootstep(bootsteps.Step):
    def __init__(self, parent, enable_my_option=False, **options):
        super().__init__(parent, **options)
        if enable_my_option:
            print("party", parent.hostname.startswith("celery@"), flush=True)


class LivenessProbe(bootsteps.StartStopStep):
    requires = {"dbqueue.worker.components:Timer"}

    def __init__(self, parent, **kwargs):
        self.requests = []
        self.tref = None

    def start(self, parent):
        self.tref = parent.timer.call_repeatedly(0.01, self.update, (parent,), priority=10)

    def stop(self, parent):
        self.tref.cancel()
        print("probe stopped", flush=True)

    def terminate(self, parent):
        print("probe terminated", flush=True)

    def update(self, parent):
        open("alive", "w").close()


app.steps["worker"].update([MyBootstep, LivenessProbe])
"""

PLUGIN = """
import click

@click.command()
@click.option("--port", default=8888, type=int)
def flower(port):
    print("Running our command on", port)
"""


@pytest.fixture
def extended(tmp_path: Path, sqlite_url: str) -> Iterator[Commands]:
    commands = Commands(tmp_path, sqlite_url)
    (tmp_path / "cele.py").write_text(EXTENDED)
    yield commands
    commands.close()


class TestTheCommandLine:
    def test_options_and_steps_of_a_worker(self, extended: Commands) -> None:
        worker = extended.worker("--enable-my-option", "-Z", "other")
        worker.says("party True")
        wait_until((extended.folder / "alive").exists)
        assert worker.stop() == 0
        assert "template other cele" in worker.output
        assert "probe stopped" in worker.output
        assert "probe terminated" not in worker.output

    def test_options_of_every_command(self, extended: Commands) -> None:
        assert "template mine cele" in extended.ok("report", "--template", "mine")
        assert "--template" in extended.ok("queues", "--help")
        done = extended.run("-A", "cele", "queues", "--enable-my-option")
        assert done.returncode == 2

    def test_a_command_of_another_package(self, extended: Commands) -> None:
        (extended.folder / "flower.py").write_text(PLUGIN)
        info = extended.folder / "flower-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: flower\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[dbqueue.commands]\nflower = flower:flower\n")
        done = extended.run("flower", "--port", "99")
        assert done.stdout == "Running our command on 99\n", done.stderr
        assert "flower" in extended.run("--help").stdout


class Recorded(bootsteps.StartStopStep):
    """Writes down what is asked of it."""

    calls: ClassVar[list[tuple[str, str]]] = []

    def _note(self, what: str) -> None:
        self.calls.append((type(self).__name__, what))

    def start(self, parent: Any) -> None:
        assert parent.controller is parent
        self._note("start")

    def stop(self, parent: Any) -> None:
        self._note("stop")

    def terminate(self, parent: Any) -> None:
        self._note("terminate")

    def shutdown(self, parent: Any) -> None:
        self._note("shutdown")


class First(Recorded):
    pass


class Second(Recorded):
    requires = frozenset({First, "dbqueue.worker.components:Pool"})


class Failing(Recorded):
    requires = (f"{__name__}:Second",)

    def stop(self, parent: Any) -> None:
        raise ValueError("bad")


class OfTheConsumer(Recorded):
    pass


class Unwanted(Recorded):
    enabled = False


@pytest.fixture
def app(tmp_path: Path) -> Iterator[DBQueue]:
    Recorded.calls.clear()
    with DBQueue("app", broker=f"sqlite:///{tmp_path / 'jobs.db'}", set_as_current=False) as app:
        yield app


class TestSteps:
    def test_their_order(self, app: DBQueue) -> None:
        app.steps["worker"].update([Failing, Second, First, Unwanted])
        app.steps["consumer"].add(OfTheConsumer)
        with start_worker(app):
            assert Recorded.calls == [
                ("First", "start"),
                ("Second", "start"),
                ("Failing", "start"),
                ("OfTheConsumer", "start"),
            ]
            Recorded.calls.clear()
        assert Recorded.calls == [
            ("OfTheConsumer", "stop"),
            ("OfTheConsumer", "shutdown"),
            ("Second", "stop"),
            ("First", "stop"),
        ]

    def test_an_object_that_acts_for_the_step(self, app: DBQueue) -> None:
        called: list[str] = []

        class Server:
            def start(self) -> None:
                called.append("start")

            def stop(self) -> None:
                called.append("stop")

        class Serving(bootsteps.StartStopStep):
            def create(self, parent: Any) -> Server:
                return Server()

        app.steps["worker"].add(Serving)
        with start_worker(app):
            assert called == ["start"]
        assert called == ["start", "stop"]
        step = Serving(None)
        step.include(None)
        step.terminate(None)
        assert called == ["start", "stop", "stop"]

    def test_one_that_reads_messages_is_refused(self, app: DBQueue) -> None:
        class Reader(bootsteps.ConsumerStep):
            pass

        app.steps["consumer"].add(Reader)
        with pytest.raises(ImproperlyConfigured, match="Reader is a ConsumerStep"):
            app.Worker()

    def test_a_circle_is_refused(self) -> None:
        class One(bootsteps.Step):
            pass

        class Two(bootsteps.Step):
            requires = (One,)

        One.requires = (Two,)
        with pytest.raises(ImproperlyConfigured, match="require each other"):
            in_order({One, Two})

    def test_how_they_are_printed(self) -> None:
        assert repr(First) == f"step:{__name__}.First{{()}}"


class TestTimer:
    """`worker.timer`: `call_after`, `call_repeatedly`, `call_at`."""

    def test_calls_at_their_times(self) -> None:
        called: list[Any] = []
        both = threading.Event()
        timer = Timer()
        timer.call_after(60, called.append, ("late",))
        timer.call_after(0.01, called.append, ["after"])
        timer.call_at(time.monotonic() + 0.02, called.append, ("at",))
        timer.call_at(datetime.now(UTC) + timedelta(seconds=0.04), both.set)
        assert both.wait(30)
        timer.stop()
        timer.stop()
        assert called == ["after", "at"]

    def test_a_call_that_is_called_off(self) -> None:
        called: list[str] = []
        later = threading.Event()
        timer = Timer()
        timer.call_after(0.01, called.append, ("called off",)).cancel()
        timer.call_after(0.02, later.set)
        assert later.wait(30)
        timer.stop()
        assert called == []

    @pytest.mark.parametrize("never", [1e11, float("inf")])
    def test_one_that_never_comes_keeps_no_other_from_it(self, never: float) -> None:
        """Its time is longer than a thread can sleep."""
        called, timer = threading.Event(), Timer()
        timer.call_after(never, print)
        time.sleep(0.05)
        timer.call_after(0, called.set)
        assert called.wait(30)
        timer.stop()

    def test_one_that_stops_the_timer(self, caplog: pytest.LogCaptureFixture) -> None:
        called, timer = threading.Event(), Timer()

        def stop() -> None:
            timer.stop()
            called.set()

        timer.call_after(0, stop)
        assert called.wait(30)
        timer.stop()
        assert caplog.text == ""

    def test_calls_that_were_missed_are_not_made_up_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = [1000.0]
        monkeypatch.setattr("dbqueue.services.timer.time", SimpleNamespace(monotonic=lambda: now[0]))
        called: list[float] = []
        later = threading.Event()
        timer = Timer()
        timer.call_repeatedly(10, lambda: called.append(now[0]))
        now[0] = 1100.0
        timer.call_after(0, later.set)
        assert later.wait(30)
        timer.stop()
        assert set(called) == {1100.0}
        assert len(called) <= 2, "once for those that were missed, and at most one that is due now"

    def test_one_that_is_late_once_keeps_its_pace(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = [1000.0]
        monkeypatch.setattr("dbqueue.services.timer.time", SimpleNamespace(monotonic=lambda: now[0]))
        called: list[float] = []
        timer = Timer()
        timer.call_repeatedly(10, lambda: called.append(now[0]))
        for now[0] in (1011.0, 1020.0):
            timer.call_after(0, lambda: None)  # it looks at the time
            wait_until(lambda: now[0] in called)
        timer.stop()
        assert called == [1011.0, 1020.0]

    def test_calls_of_one_time_come_in_the_order_in_which_they_were_asked_for(self) -> None:
        called: list[int] = []
        timer, soon = Timer(), time.monotonic() + 0.01
        for number in range(5):
            timer.call_at(soon, lambda *, number: called.append(number), kwargs={"number": number})
        wait_until(lambda: len(called) == 5)
        timer.stop()
        assert called == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize("zone", [None, UTC, timezone(timedelta(hours=5))])
    def test_a_time_without_a_zone_is_in_utc_as_in_celery(self, zone: tzinfo | None) -> None:
        called = threading.Event()
        timer = Timer()
        soon = datetime.now(zone or UTC) + timedelta(seconds=0.01)
        timer.call_at(soon.replace(tzinfo=zone), called.set)
        assert called.wait(30)
        timer.stop()

    def test_one_that_fails_comes_again_until_it_is_cancelled(self, caplog: pytest.LogCaptureFixture) -> None:
        calls: list[int] = []
        timer = Timer()

        def fail() -> None:
            calls.append(1)
            if len(calls) == 3:
                timer.cancel(entry)
            raise ValueError("bad")

        entry = timer.call_repeatedly(0.001, fail)
        wait_until(lambda: entry.cancelled and caplog.text.count("ValueError: bad") == 3)
        timer.stop()
        assert len(calls) == 3

    def test_system_exit_ends_the_worker(self, app: DBQueue) -> None:
        class Deadlocked(bootsteps.StartStopStep):
            def start(self, parent: Any) -> None:
                parent.timer.call_after(0.01, self.detect)

            def detect(self) -> None:
                raise SystemExit

        app.steps["worker"].add(Deadlocked)
        assert app.Worker(pool="solo", embedded=True).start() == 0
