"""Jobs and results in other serializers than JSON, from the caller through a real worker and back."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dbqueue import DBQueue
from dbqueue.errors import ContentDisallowed
from tests.stores import row
from tests.worker.content import make_app
from tests.workers import WorkerProcess, starting

TIMEOUT = 60.0
ALL = ["json", "yaml", "msgpack", "pickle", "shouting"]


@pytest.fixture
def start(database_url: str) -> Iterator[Callable[..., WorkerProcess]]:
    with starting() as start:
        yield lambda **settings: start(database_url, module="tests.worker.content", settings=settings)


def application(url: str, **settings: Any) -> DBQueue:
    app = make_app(url, **settings)
    app.database.store.ensure_schema()
    return app


def test_each_serializer_there_and_back(database_url: str, start: Any) -> None:
    start(accept_content=ALL, result_serializer="pickle")
    with application(database_url, accept_content=ALL) as app:
        echo = app.tasks["content.echo"]
        values: dict[str, Any] = {
            "json": {"a": [1, None]},
            "yaml": dt.date(2026, 1, 2),
            "msgpack": b"\0\xff",
            "pickle": {(1, 2): {3}},
            "shouting": [1, "a"],
        }
        results = {
            (name, compression): echo.apply_async((value,), serializer=name, compression=compression)
            for name, value in values.items()
            for compression in (None, "zlib")
        }
        for (name, compression), result in results.items():
            assert result.get(timeout=TIMEOUT) == values[name], (name, compression)
            assert (result.args, result.kwargs) == ([values[name]], {})
        stored = row(app.database.store, results["yaml", None].id)
        assert (stored["args"], stored["kwargs"]) in (("[]", "{}"), ([], {}))
        assert stored["content_type"] == "application/x-yaml"
        assert bytes(stored["content"]).startswith(b"- - 2026-01-02")
        assert bytes(stored["result_content"]).startswith(b"\x80")  # pickle
        plain = row(app.database.store, results["json", "zlib"].id)
        assert (plain["content_type"], plain["content"]) == (None, None)


def test_the_task_and_the_setting_choose(database_url: str, start: Any) -> None:
    start(accept_content=["json", "yaml", "msgpack"])
    with application(database_url, task_serializer="msgpack") as app:
        assert app.tasks["content.in_yaml"].delay(dt.date(2026, 1, 2)).get(timeout=TIMEOUT) == "date"
        assert app.tasks["content.kind"].delay(b"bytes").get(timeout=TIMEOUT) == "bytes"
        many = app.tasks["content.kind"].enqueue_many([[b"a"], [b"b"]])
        assert [result.get(timeout=TIMEOUT) for result in many] == ["bytes", "bytes"]
        sent = app.send_task("content.kind", [dt.date(2026, 1, 2)], serializer="yaml")
        assert sent.get(timeout=TIMEOUT) == "date"


def test_what_the_worker_does_not_accept_fails_unread(database_url: str, start: Any) -> None:
    worker = start()
    with application(database_url) as app:
        result = app.tasks["content.echo"].apply_async((1,), serializer="pickle")
        with pytest.raises(ContentDisallowed, match="application/x-python-serialize"):
            result.get(timeout=TIMEOUT)
        assert result.state == "FAILURE"
        with pytest.raises(ContentDisallowed):
            _ = result.args  # nor does the reader
    assert "refused" in worker.log.lower() or "ContentDisallowed" in worker.log


def test_what_the_reader_does_not_accept_is_not_read(database_url: str, start: Any) -> None:
    start(result_serializer="pickle")
    with application(database_url) as app, application(database_url, result_accept_content=["pickle"]) as trusting:
        result = app.tasks["content.echo"].delay((1, 2))
        assert trusting.AsyncResult(result.id).get(timeout=TIMEOUT) == [1, 2]
        with pytest.raises(ContentDisallowed):
            result.get(timeout=TIMEOUT)
        assert result.state == "SUCCESS"
        failed = app.tasks["content.boom"].delay()
        with pytest.raises(ValueError, match="bad"):
            failed.get(timeout=TIMEOUT)  # failures are JSON in every case


def test_a_retry_keeps_the_serializer(database_url: str, start: Any) -> None:
    start(accept_content=["json", "pickle"], result_serializer="pickle")
    with application(database_url, accept_content=["json", "pickle"]) as app:
        result = app.tasks["content.retry_with"].apply_async(({1},), serializer="pickle", compression="gzip")
        assert result.get(timeout=TIMEOUT) == ["again", {1}]
        assert result.args == [["again", {1}]]


def test_eager_calls_go_through_the_serializer(sqlite_url: str) -> None:
    with application(sqlite_url, task_always_eager=True, accept_content=["json", "yaml"]) as app:
        assert app.tasks["content.in_yaml"].delay(dt.date(2026, 1, 2)).get() == "date"
        refused = app.tasks["content.echo"].apply_async((1,), serializer="pickle")
        with pytest.raises(ContentDisallowed):
            refused.get()
