"""Real workers as processes: started, watched, signalled and always ended.

`python -m tests.workers '{"url": ...}'` is such a process: the application of `tests.worker.sample`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.waiting import wait_until

ROOT = Path(__file__).parents[1]

FAST: dict[str, Any] = {"worker_lease_seconds": 30.0, "task_max_losses": 2}
"""Settings of workers that a test does not choose itself."""


class WorkerProcess:
    """One worker; `options` are those of `app.Worker`, `settings` those of the application.

    `inside` is a command that runs its arguments in another place, as `ip netns exec` does; `folder` is where its log
    goes, by default a temporary folder, which whoever starts it removes.
    """

    def __init__(
        self,
        url: str,
        *,
        pool: str = "prefork",
        concurrency: int = 2,
        settings: dict[str, Any] | None = None,
        ready: bool = True,
        module: str = "tests.worker.sample",
        environment: dict[str, str] | None = None,
        inside: Sequence[str] = (),
        folder: Path | None = None,
        loglevel: str = "INFO",
        **options: Any,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dbqueue-worker-", dir=folder))
        self.log_path = self.folder / "log"
        order = {
            "url": url,
            "module": module,
            "options": {"pool": pool, "concurrency": concurrency, **options},
            "settings": FAST | (settings or {}),
            "ready": str(self.folder / "ready"),
            "loglevel": loglevel,
        }
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [*inside, sys.executable, "-X", "faulthandler", "-m", "tests.workers", json.dumps(order)],
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # its group can be ended as a whole, and no signal of the terminal's comes
            )
        self.pid = self.process.pid
        if ready:
            self.wait_ready()

    def wait_ready(self) -> None:
        def is_ready() -> bool:
            assert self.process.poll() is None, f"the worker ended at its start:\n{self.log}"
            return (self.folder / "ready").exists()

        wait_until(is_ready, what="the worker's start")

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def says(self, text: str) -> None:
        """Wait until it has logged the text."""
        try:
            wait_until(lambda: text in self.log, what=f"{text!r} in the worker's log")
        except AssertionError as error:
            raise AssertionError(f"{error}:\n{self.log[-4000:]}") from None

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def term(self) -> None:
        self.signal(signal.SIGTERM)

    def wait(self, timeout: float = 60.0) -> int:
        """Its exit code; the test fails where it does not end."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the worker did not end:\n{self.log[-4000:]}") from None

    def stop(self) -> int:
        self.term()
        return self.wait()

    def kill(self) -> None:
        """The supervisor alone; its processes are to see to themselves."""
        self.process.kill()
        self.process.wait()

    def family(self) -> list[int]:
        """Every process of the worker's session that lives, itself included."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    # pid (name) state ppid pgrp session ...; the name may hold blanks
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    if int(fields[3]) == self.pid and fields[0] not in "ZX":
                        found.append(int(entry.name))
        return sorted(found)

    def end(self) -> None:
        """Whatever is left of it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def starting() -> Iterator[Callable[..., WorkerProcess]]:
    """A function that starts workers, which end with the block."""
    workers: list[WorkerProcess] = []

    def start(url: str, **options: Any) -> WorkerProcess:
        worker = WorkerProcess(url, **{**options, "ready": False})
        workers.append(worker)
        if options.get("ready", True):
            worker.wait_ready()
        return worker

    try:
        yield start
    finally:
        for worker in workers:
            worker.end()
            shutil.rmtree(worker.folder, ignore_errors=True)


def mend_sleep() -> None:
    """Under libfaketime a sleep until a moment is refused, and all of Python's are such."""

    def sleep(seconds: float) -> None:
        select.select([], [], [], seconds)

    if "faketime" in os.environ.get("LD_PRELOAD", ""):
        time.sleep = sleep  # type: ignore[assignment]


def main() -> int:
    mend_sleep()
    order = json.loads(sys.argv[1])
    from importlib import import_module

    make_app = import_module(order["module"]).make_app

    logging.basicConfig(level=order["loglevel"], format="%(asctime)s %(process)d %(levelname)s %(message)s")
    app = make_app(order["url"], **order["settings"])
    worker = app.Worker(on_ready=Path(order["ready"]).touch, **order["options"])
    code: int = worker.start()
    app.close()
    return code


if __name__ == "__main__":
    sys.exit(main())
