"""The application of the tests of progress."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import dbqueue
from dbqueue import DBQueue
from tests.waiting import wait_until


def show(self: Any, state: str, meta: Any, release: str) -> str:
    self.update_state(state=state, meta=meta)
    wait_until(Path(release).exists, timeout=60)
    return "shown"


def flood(self: Any, times: int, release: str) -> str:
    for number in range(times):
        self.update_state(state="FLOOD", meta={"number": number})
    wait_until(Path(release).exists, timeout=60)
    return "flooded"


def show_from_thread(self: Any, release: str) -> None:
    job_id = self.request.id
    thread = threading.Thread(target=lambda: self.update_state(task_id=job_id, state="THREADED"))
    thread.start()
    thread.join()
    wait_until(Path(release).exists, timeout=60)


def show_and_retry(self: Any, release: str) -> None:
    self.update_state(state="BEFORE", meta={"a": 1})
    wait_until(lambda: self.app.AsyncResult(self.request.id).state == "BEFORE")
    raise self.retry(countdown=3600)


def refused(self: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"ends": []}
    for state in ("SUCCESS", "FAILURE", "REVOKED"):
        self.update_state(state=state)
        found["ends"].append(self.AsyncResult(self.request.id).state)
    for state in ("", "new\n"):
        try:
            self.update_state(state=state)
        except Exception as error:  # noqa: BLE001 - any is told
            found[state] = repr(error)
    try:
        self.update_state(state="OK", meta=object())
    except Exception as error:  # noqa: BLE001
        found["meta"] = repr(error)
    return found


def tracked(count: int, release: str) -> list[int]:
    done = list(dbqueue.track(range(count)))
    wait_until(Path(release).exists, timeout=60)
    return done


def tracked_generator(release: str) -> None:
    for _ in dbqueue.track(item for item in "ab"):
        pass
    wait_until(Path(release).exists, timeout=60)


def make_app(url: str, **settings: Any) -> DBQueue:
    app = DBQueue("reporting", broker=url, set_as_current=False, **settings)
    for bound in (show, flood, show_from_thread, show_and_retry, refused):
        app.task(name=f"reporting.{bound.__name__}", bind=True)(bound)
    for function in (tracked, tracked_generator):
        app.task(name=f"reporting.{function.__name__}")(function)
    return app
