"""Celery's first steps, typed as its users type them."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.examples.running import Example, example
from tests.waiting import wait_until

ID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


@pytest.fixture
def walkthrough(tmp_path: Path, database_url: str) -> Example:
    return example("walkthrough", tmp_path, database_url, DBQUEUE_RESULT_BACKEND=database_url)


def test_what_a_repl_shows(walkthrough: Example) -> None:
    task, result, status, name = walkthrough.repl(
        "from cele import add", "add", "result = add.delay(1, 2); result", "result.status", "print(add.name)"
    )
    assert re.fullmatch(r"<@task: cele\.add of cele at 0x[0-9a-f]+>", task)
    assert re.fullmatch(rf"<AsyncResult: {ID}>", result)
    assert (status, name) == ("'PENDING'", "cele.add")


def test_a_direct_call_is_a_function_call(walkthrough: Example) -> None:
    assert walkthrough.repl("from cele import add", "add(1, 2)") == ["3"]


def test_arguments_are_checked_when_they_are_sent(walkthrough: Example) -> None:
    said = walkthrough.python("from cele import add; add.delay(1)", code=1)
    assert "TypeError: add() missing 1 required positional argument: 'y'" in said


def test_the_worker_shows_its_banner(walkthrough: Example) -> None:
    with walkthrough.worker("cele") as worker:
        banner = worker.said.split(" ready.")[0]
    assert re.search(r"app:\s+cele\b", banner)
    assert re.search(rf"concurrency:\s+{os.cpu_count()} \(prefork\)", banner)
    for part in ("[config]", "transport:", "results:", "[queues]", "celery", "[tasks]", ". cele.add"):
        assert part in banner


def test_the_log_says_which_process_ran_it_and_how_it_went(walkthrough: Example) -> None:
    with walkthrough.worker("cele", "--concurrency=2") as worker:
        task_id, result = walkthrough.value(
            "import json, cele; r = cele.add.delay(1, 2); print(json.dumps([r.id, r.get(timeout=30)]))"
        )
        line = worker.wait_for("succeeded")
        received = worker.wait_for("received")
    assert result == 3
    assert f"Task cele.add[{task_id}] received" in received
    assert re.search(rf"INFO/ForkPoolWorker-[12]\] Task cele\.add\[{task_id}\] succeeded in \d+\.\d+s: 3$", line)


def test_the_status_goes_from_pending_over_started_to_success(walkthrough: Example) -> None:
    watch = """
import json, pathlib, time
from cele_results import add
r = add.delay(1, 2)
seen = []
while not seen or seen[-1] != "SUCCESS":
    if r.status not in seen[-1:]:
        seen.append(r.status)
    pathlib.Path("watching").touch()
    time.sleep(0.01)
print(json.dumps([seen, r.result, r.get(timeout=1), r.ready(), r.successful()]))
"""
    with ThreadPoolExecutor(1) as threads:  # it looks from before the worker's start
        watching = threads.submit(walkthrough.value, watch)
        wait_until(lambda: (walkthrough.folder / "watching").exists() or watching.done(), what="the first look")
        with walkthrough.worker("cele_results", "--concurrency=1", CELE_SECONDS="3"):
            seen = watching.result(60)
    assert seen == [["PENDING", "STARTED", "SUCCESS"], 3, 3, True, True]


def test_get_gives_up_after_its_timeout(walkthrough: Example) -> None:
    said = walkthrough.python("from cele import add; add.delay(1, 2).get(timeout=0.2)", code=1)
    assert "TimeoutError: The operation timed out." in said


def test_an_ignored_result_is_not_kept(walkthrough: Example) -> None:
    with walkthrough.worker("cele_ignored", "--concurrency=1"):
        values = walkthrough.value(
            """
import json
from cele_ignored import app, count_words, log_visit
sent = [
    log_visit.delay("/tea"),                                           # ignored by the task
    count_words.apply_async(["one two"], ignore_result=True),          # by the call
    count_words.delay("one two"),                                      # kept
]
kept = sent[-1].get(timeout=30)
values = []
for result in sent:
    by_id = app.AsyncResult(result.id)
    by_id.get(timeout=30)
    values.append([by_id.status, by_id.result])
print(json.dumps(values))
"""
        )
    assert values == [["SUCCESS", None], ["SUCCESS", None], ["SUCCESS", 2]]


def test_the_setting_ignores_all_results(walkthrough: Example) -> None:
    with walkthrough.worker("cele", "--concurrency=1", DBQUEUE_TASK_IGNORE_RESULT="true"):
        value = walkthrough.value(
            "import json, cele; r = cele.app.AsyncResult(cele.add.delay(1, 2).id);"
            "print(json.dumps([r.get(timeout=30), r.status, r.result]))"
        )
    assert value == [None, "SUCCESS", None]
