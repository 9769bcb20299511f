"""Signed jobs: what was changed in the table, or written by somebody without a key, is not run."""

from __future__ import annotations

import dataclasses
import hmac
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

import dbqueue
from dbqueue import DBQueue, testing
from dbqueue.errors import BadSignature, ImproperlyConfigured, InvalidTaskError, Reject
from dbqueue.jobs import NewJob
from dbqueue.services.beats import job_of, make_beat
from dbqueue.signing import SIGNATURE, Signer
from dbqueue.store import changes as operator_changes
from dbqueue.store.schedules import ScheduleRow
from dbqueue.task.eager import claimed
from dbqueue.workflows import ERRBACK
from tests.stores import count, row, run_sql
from tests.worker import canvas_tasks

OLD, NEW, OTHER = "an old key of 16 bytes", "a new key of 16 bytes or more", "the key of somebody else"


@pytest.fixture
def app(database_url: str) -> Iterator[DBQueue]:
    with make_app(database_url) as app:
        yield app


def make_app(url: str, keys: Any = (NEW, OLD), **settings: Any) -> DBQueue:
    app = DBQueue("safe", broker=url, set_as_current=False, task_signing_keys=keys and list(keys), **settings)

    @app.task(name="s.echo", bind=True)
    def echo(self: Any, *values: Any, retry: Any = None) -> Any:
        if retry is not None and self.request.retries == 0:
            raise self.retry(**retry)
        return list(values)

    @app.task(name="s.replaced", bind=True)
    def replaced(self: Any) -> Any:
        self.replace(dbqueue.chain(app.tasks["s.echo"].s(1), app.tasks["s.echo"].s(2)))

    @app.task(name="s.rejected", bind=True)
    def rejected(self: Any) -> str:
        if not self.request.delivery_info["redelivered"]:
            raise Reject("not yet", requeue=True)
        return "now"

    @app.task(name="s.told")
    def told(request: Any, error: Any, traceback: Any) -> None: ...

    @app.task(name="s.named")
    def named(user: Any, other: Any = None) -> Any:
        return [user, other]

    @app.task(name="s.fails")
    def fails() -> None:
        raise ValueError("no")

    return app


def drained(app: DBQueue) -> dict[str, int]:
    return testing.drain(app).counts


def call(app: DBQueue, *args: Any, **options: Any) -> Any:
    return app.tasks["s.echo"].apply_async(args, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"headers": {"a": "ü"}},
        {"expires": 60},
        {"countdown": -5},
        {"eta": datetime(2020, 1, 1, 0, 0, 0, 123456, tzinfo=UTC), "expires": datetime(2100, 1, 1, 1, 1, 1, 1, UTC)},
        {"shadow": "é", "time_limit": 2.5, "ignore_result": False},
        {"argsrepr": datetime(2026, 1, 1, tzinfo=UTC)},
        {"serializer": "pickle"},
        {"unique": "one", "limit_key": "some"},
    ],
)
def test_a_signed_job_runs(database_url: str, options: dict[str, Any]) -> None:
    with make_app(database_url, accept_content=["json", "pickle"]) as app:
        result = call(app, "x", "\u2028 snowman \u2603", **options)
        testing.drain(app)
        assert result.get(timeout=0) == ["x", "\u2028 snowman \u2603"]


def test_many_at_once_run(app: DBQueue) -> None:
    results = app.tasks["s.echo"].enqueue_many([(n,) for n in range(200)])
    assert drained(app) == {"SUCCESS": 200}
    assert results[7].get(timeout=0) == [7]


def test_retries_are_signed_anew(app: DBQueue) -> None:
    echo = app.tasks["s.echo"]
    changes: list[dict[str, Any]] = [{}, {"args": ["new"]}, {"args": ["new"], "queue": "other"}, {"kwargs": {}}]
    changes += [{"expires": 900}, {"headers": {"tenant": "tea"}}, {"time_limit": 5}, {"shadow": "ü"}]
    for terms in changes:
        result = echo.apply_async(["old"], {"retry": {"countdown": 0, **terms}}, expires=600, countdown=-1)
        assert drained(app) == {"RETRY": 1, "SUCCESS": 1}, terms
        assert result.get(timeout=0) == [*terms.get("args", ["old"])]


def test_a_signed_job_that_gave_itself_back_runs_again(app: DBQueue) -> None:
    result = app.tasks["s.rejected"].delay()
    drained(app)
    testing.drain(app, now=datetime.now(UTC) + timedelta(minutes=1))
    assert result.get(timeout=0) == "now"


def test_workflows_are_signed(app: DBQueue) -> None:
    echo = app.tasks["s.echo"]
    chain = dbqueue.chain(echo.s(1), echo.s(2).set(countdown=0.001, expires=600), app.tasks["s.replaced"].si())
    body = dbqueue.chord([echo.s(1), echo.s(2)], echo.s("body")).apply_async()
    failed = app.tasks["s.fails"].apply_async(link_error=echo.si("errback"))
    result = chain.apply_async()
    for _ in range(50):
        if result.ready():
            break
        testing.drain(app)
    assert result.get(timeout=0) == [[1], 2]
    assert body.get(timeout=0) == [[[1], [2]], "body"]
    assert isinstance(failed.result, ValueError)
    assert not testing.all_enqueued(app)


def test_a_signed_job_takes_results_in_every_form(app: DBQueue) -> None:
    echo, named = app.tasks["s.echo"], app.tasks["s.named"]
    inner = echo.si(2) | dbqueue.group(echo.s(3), echo.s(4))
    nested = (echo.s(0) | dbqueue.group(echo.s(1), inner) | named.s()).apply_async()
    again = (echo.s(1) | echo.s(retry={"countdown": 0, "queue": "other"})).apply_async()
    anew = (echo.s(1) | echo.s(retry={"countdown": 0, "args": ["new"]})).apply_async()
    names = dbqueue.dag({"user": echo.s(1), "other": echo.s(2), "last": (named.s(), ["user", "other"])}, app=app)
    by_name = names.apply_async()
    called = echo.apply_async(["x"], link=named.s(other="y"))
    testing.drain(app)
    assert nested.get(timeout=0) == [[[[0], 1], [[[2], 3], [[2], 4]]], None]
    assert again.get(timeout=0) == [[1]]
    assert anew.get(timeout=0) == ["new"]
    assert by_name["last"].get(timeout=0) == [[1], [2]]
    assert [each.get(timeout=0) for each in called.children or ()] == [[["x"], "y"]]


def test_an_errback_is_told_of_whichever_failed(app: DBQueue) -> None:
    echo, told = app.tasks["s.echo"], app.tasks["s.told"]
    dbqueue.chain(echo.si(), app.tasks["s.fails"].si(), echo.si()).apply_async(link_error=told.s())
    with app.database.store.connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM dbqueue_edges WHERE place = 'errback'")) > 1
    testing.drain(app)
    assert count(app.database.store, "task = 's.told' AND status = 'SUCCESS'") == 1


def test_a_chord_grows_though_its_body_was_signed(database_url: str, start_worker: Callable[..., Any]) -> None:
    start_worker(database_url, module="tests.worker.canvas_tasks", settings={"task_signing_keys": [NEW]})
    with canvas_tasks.make_app(database_url, task_signing_keys=[NEW]) as app:
        atc, total = app.tasks["tasks.atc"], app.tasks["tasks.tsum"]
        assert dbqueue.chord([atc.s(1), atc.s(2)], total.s()).apply_async().get(timeout=60) == 206


PLACES = ['"user"', '"other"', "[]", "[0]", "[1]", ERRBACK]


@pytest.mark.parametrize("place", PLACES)
def test_a_signed_job_is_given_no_arguments(app: DBQueue, place: str) -> None:
    """By whoever can write rows: the results of jobs that it was never to take."""
    result = app.tasks["s.named"].delay(user="me")
    link_forged(app, result.id, place)
    run_sql(app.database.store, "UPDATE dbqueue_jobs SET inputs = :yes WHERE id = :id", yes=True, id=result.id)
    testing.drain(app)
    assert isinstance(result.result, BadSignature)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("form", ["chain", "chord", "errback"])
def test_a_signed_job_that_takes_results_is_given_no_more(app: DBQueue, form: str, place: str) -> None:
    """By whoever may only insert: edges to what waits already."""
    echo, named = app.tasks["s.echo"], app.tasks["s.named"]
    if form == "chain":
        (echo.si() | named.s()).apply_async()
    elif form == "chord":
        dbqueue.chord([echo.si(), echo.si()], named.s()).apply_async()
    else:
        app.tasks["s.fails"].apply_async(link_error=app.tasks["s.told"].s())
    store = app.database.store
    with store.connect() as connection:
        job_id = connection.scalar(sa.text("SELECT id FROM dbqueue_jobs WHERE waits_for > 0"))
    link_forged(app, job_id, place)
    testing.drain(app)
    assert isinstance(app.AsyncResult(job_id).result, BadSignature)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE dbqueue_edges SET place = '\"other\"'",
        "UPDATE dbqueue_edges SET place = '[0]'",
        "UPDATE dbqueue_edges SET place = 'errback'",
        "UPDATE dbqueue_edges SET place = NULL",
        "UPDATE dbqueue_edges SET predecessor = 'another'",
        "DELETE FROM dbqueue_edges",
        "UPDATE dbqueue_jobs SET inputs = false WHERE task = 's.named'",
    ],
)
def test_a_changed_edge_is_refused(app: DBQueue, change: str) -> None:
    second = app.tasks["s.named"].s(other="x").set(countdown=3600)
    result = (app.tasks["s.echo"].s(1) | second).apply_async()
    app.tasks["s.echo"].apply_async([2], task_id="another")
    assert drained(app) == {"SUCCESS": 2}
    run_sql(app.database.store, change)
    testing.drain(app, now=datetime.now(UTC) + timedelta(hours=2))
    assert isinstance(result.result, BadSignature)


def test_a_signed_job_does_not_run_without_the_result_that_it_waits_for(app: DBQueue) -> None:
    """Whoever may only insert can have it released, by the end of a job of his own, which need not be signed."""
    slow = app.tasks["s.echo"].s(1).set(countdown=3600)
    result = (slow | app.tasks["s.named"].s(other="x")).apply_async()
    store = app.database.store
    run_sql(store, "INSERT INTO dbqueue_jobs (id, task, successors) VALUES ('forged', 's.echo', :yes)", yes=True)
    sql = "INSERT INTO dbqueue_edges (predecessor, successor, event) VALUES ('forged', :id, 'end')"
    run_sql(store, sql, id=result.id)
    assert drained(app) == {"FAILURE": 2}
    with pytest.raises(InvalidTaskError, match="which has none"):
        result.get(timeout=0)


def test_an_edge_from_no_job_is_refused(app: DBQueue) -> None:
    result = (app.tasks["s.echo"].s(1) | app.tasks["s.named"].s(other="x")).apply_async()
    run_sql(
        app.database.store,
        "UPDATE dbqueue_jobs SET status = 'PENDING', ready_at = created_at,"
        " blocked_reason = NULL, waits_for = 0 WHERE task = 's.named'",
    )
    run_sql(app.database.store, "UPDATE dbqueue_edges SET predecessor = 'forged'")
    drained(app)
    assert isinstance(result.result, InvalidTaskError)


def test_an_operator_s_retry_runs(app: DBQueue) -> None:
    result = app.tasks["s.fails"].delay()
    assert drained(app) == {"FAILURE": 1}
    assert operator_changes.retry(app.database.store, [result.id]) == {result.id}
    assert drained(app) == {"FAILURE": 1}
    assert repr(result.result) == "ValueError('no')"


def test_a_beat_s_jobs_are_signed(app: DBQueue) -> None:
    app.schedules.set("often", "s.echo", 3600, args=["x"])
    app.schedules.run("often")
    assert drained(app) == {"SUCCESS": 1}
    fields = {field.name: None for field in dataclasses.fields(ScheduleRow)}
    due: Any = ScheduleRow(**fields | {"name": "n", "task": "s.echo", "args": "[1]", "kwargs": "{}", "options": "{}"})  # type: ignore[arg-type]
    job = job_of(app, due, due=datetime.now(UTC))
    assert isinstance(job, NewJob)
    Signer([NEW]).check(claimed(job))


def test_a_beat_s_workflows_are_signed(app: DBQueue) -> None:
    """All of their jobs, and whose results these take."""
    echo, fails, told = (app.tasks[f"s.{name}"] for name in ("echo", "fails", "told"))
    app.add_periodic_task(60, echo.s("x").set(link=echo.s("linked"), expires=600), name="call")
    app.add_periodic_task(60, (fails.si() | echo.s("never")).on_error(told.s()), name="chain")
    beat = make_beat(app)
    for minute in range(3):
        while beat.turn(now=datetime(2031, 5, 5, 12, minute, tzinfo=UTC)) == 0.0:
            pass
    store = app.database.store
    assert count(store) == 2 * (2 + 3)
    named = f"options ->> '{SIGNATURE}' IS NOT NULL"
    assert count(store, named) == 2 * (2 + 3)
    run_sql(store, "UPDATE dbqueue_edges SET place = '[1]' WHERE successor = (SELECT min(successor) FROM"
                   " dbqueue_edges WHERE event = 'success' AND predecessor NOT IN"
                   " (SELECT id FROM dbqueue_jobs WHERE task = 's.fails'))")  # fmt: skip
    drained(app)
    for task, status, number in (("echo", "SUCCESS", 3), ("echo", "FAILURE", 1 + 2), ("fails", "FAILURE", 2)):
        assert count(store, f"task = 's.{task}' AND status = '{status}'") == number
    assert count(store, "task = 's.told' AND status = 'SUCCESS'") == 2
    assert count(store, "task = 's.echo' AND CAST(result AS text) LIKE '%BadSignature%'") == 1


def link_forged(app: DBQueue, job_id: str, place: str) -> None:
    """Let the job take the result of a row that nobody has signed."""
    store = app.database.store
    moment = "now()" if store.dialect == "postgresql" else "'2026-01-01 00:00:00.000'"
    columns = "id, task, status, ready_at, finished_at, result"
    run_sql(store, f"INSERT INTO dbqueue_jobs ({columns}) VALUES ('forged', 'x', 'SUCCESS', NULL, {moment}, '1')")
    sql = "INSERT INTO dbqueue_edges (predecessor, successor, event, place) VALUES ('forged', :id, 'success', :place)"
    run_sql(store, sql, id=job_id, place=place)


CHANGES: dict[str, tuple[str, str, Any]] = {
    "task": ("task", "text", "s.fails"),
    "args": ("args", "json", '["other"]'),
    "the same args in other bytes": ("args", "json", '[ "x"]'),
    "kwargs": ("kwargs", "json", '{"retry":null}'),
    "headers": ("headers", "json", "{}"),
    "options": ("options", "json", "{}"),
    "a signature that is none": ("options", "json", '{"signature": "\u00e9"}'),
    "options that are none": ("options", "json", "[]"),
    "content": ("content", "bytea", b"x"),
    "content type": ("content_type", "text", "application/x-python-serialize"),
    "eta": ("eta", "timestamptz", "2001-01-01 00:00:00"),
    "expiry": ("expires_at", "timestamptz", "2222-01-01 00:00:00"),
    "an expiry taken away": ("expires_at", "timestamptz", None),
    "id": ("id", "text", "another"),
    "queue": ("queue", "text", "elsewhere"),
}


def change_row(app: DBQueue, job_id: str, column: str, kind: str, value: Any) -> None:
    to = f"CAST(:value AS {kind})" if app.database.store.dialect == "postgresql" else ":value"
    sql = f"UPDATE dbqueue_jobs SET {column} = {to} WHERE id = :id"
    assert run_sql(app.database.store, sql, value=value, id=job_id) == 1


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_row_is_refused(database_url: str, change: str) -> None:
    with make_app(database_url, accept_content=["json", "pickle"]) as app:
        result = call(app, "x", expires=600, time_limit=2.5)
        change_row(app, result.id, *CHANGES[change])
        assert drained(app) == {"FAILURE": 1}
        job_id = "another" if change == "id" else result.id
        assert isinstance(app.AsyncResult(job_id).result, BadSignature)


def test_a_value_that_was_moved_to_another_column_is_refused(app: DBQueue) -> None:
    """An empty column is signed as one: a call that was to expire by then would run whenever, with that as its ETA."""
    result = call(app, "x", expires=600)
    moved = "UPDATE dbqueue_jobs SET eta = expires_at, ready_at = expires_at, expires_at = NULL"
    run_sql(app.database.store, moved)
    assert testing.drain(app, now=datetime.now(UTC) + timedelta(hours=1)).counts == {"FAILURE": 1}
    assert isinstance(app.AsyncResult(result.id).result, BadSignature)


def test_a_job_that_is_held_from_before_its_eta_is_refused(app: DBQueue) -> None:
    """The tables see to it that no job is ready before its ETA; but one that waits for a permit is not ready at all."""
    result = call(app, "x", countdown=3600)
    store = app.database.store
    now = "now()" if store.dialect == "postgresql" else "strftime('%Y-%m-%d %H:%M:%f', 'now')"
    held = f"ready_at = NULL, held_at = {now}, blocked_reason = 'limit', limit_key = 'any'"
    run_sql(store, f"UPDATE dbqueue_jobs SET {held}")
    assert drained(app) == {"FAILURE": 1}
    with pytest.raises(BadSignature, match="before the time that was signed as its eta"):
        result.get(timeout=0)


@pytest.mark.parametrize("limit_key", [None, "some"])
def test_a_signed_job_runs_at_its_eta(app: DBQueue, limit_key: str | None) -> None:
    """And again after that, whoever puts it back."""
    echo, again = app.tasks["s.echo"], {"retry": {"countdown": 0}}
    result = echo.apply_async(["x"], again, countdown=3600, limit_key=limit_key)
    assert drained(app) == {}
    later = datetime.now(UTC) + timedelta(hours=2)
    assert testing.drain(app, now=later).counts == {"RETRY": 1, "SUCCESS": 1}
    assert operator_changes.retry(app.database.store, [result.id]) == {result.id}
    assert testing.drain(app, now=later).counts == {"RETRY": 1, "SUCCESS": 1}


def test_a_changed_option_is_refused(app: DBQueue) -> None:
    result = call(app, "x", time_limit=2.5)
    options = row(app.database.store, result.id)["options"]
    signed = json.loads(options) if isinstance(options, str) else options
    change_row(app, result.id, "options", "json", json.dumps({**signed, "time_limit": 9.5}))
    assert drained(app) == {"FAILURE": 1}


@pytest.mark.parametrize("signature", [5, None, ["x"]])
def test_a_signature_that_is_no_text_is_refused(app: DBQueue, signature: object) -> None:
    result = call(app, "x")
    change_row(app, result.id, "options", "json", json.dumps({"signature": signature}))
    assert drained(app) == {"FAILURE": 1}
    with pytest.raises(BadSignature, match="the job is not signed"):
        app.AsyncResult(result.id).get(timeout=0)


def test_plain_sql_is_refused(app: DBQueue) -> None:
    run_sql(app.database.store, "INSERT INTO dbqueue_jobs (id, task, args) VALUES ('plain', 's.echo', '[1]')")
    assert drained(app) == {"FAILURE": 1}
    with pytest.raises(BadSignature, match="the job is not signed"):
        app.AsyncResult("plain").get(timeout=0)


def test_the_signature_of_another_row_is_refused(app: DBQueue) -> None:
    first, second = call(app, 1), call(app, 2)
    options = row(app.database.store, first.id)["options"]
    text = options if isinstance(options, str) else json.dumps(options)
    change_row(app, second.id, "options", "json", text)
    assert drained(app) == {"SUCCESS": 1, "FAILURE": 1}


def test_keys_are_rotated_without_a_refusal(database_url: str) -> None:
    steps = [([OLD], [OLD]), ([OLD], [OLD, NEW]), ([NEW, OLD], [OLD, NEW]), ([NEW], [NEW, OLD]), ([NEW], [NEW])]
    for producer, worker in steps:
        with make_app(database_url, producer) as sender, make_app(database_url, worker) as runner:
            result = call(sender, 1)
            assert drained(runner) == {"SUCCESS": 1}, (producer, worker)
            assert result.get(timeout=0) == [1]


@pytest.mark.parametrize("keys", [[OTHER], None])
def test_a_producer_without_the_key_is_refused(database_url: str, keys: Any) -> None:
    with make_app(database_url, keys) as sender, make_app(database_url) as runner:
        result = call(sender, 1)
        assert drained(runner) == {"FAILURE": 1}
        assert isinstance(result.result, BadSignature)


def test_a_worker_without_keys_runs_all(database_url: str) -> None:
    with make_app(database_url, None) as runner, make_app(database_url) as sender:
        call(sender, 1)
        call(runner, 2)
        assert drained(runner) == {"SUCCESS": 2}


def test_a_real_worker_says_so(database_url: str, start_worker: Callable[..., Any]) -> None:
    worker = start_worker(database_url, settings={"task_signing_keys": [NEW]})
    with make_app(database_url, None) as app, pytest.raises(BadSignature):
        app.send_task("sample.add", [1, 2]).get(timeout=60)
    assert "cannot be run: the job is not signed" in worker.log
    assert NEW not in worker.log


def test_eagerly_and_by_hand_nothing_is_signed_or_refused(app: DBQueue) -> None:
    assert app.tasks["s.echo"].apply([1]).get() == [1]
    assert testing.perform_job(app.tasks["s.echo"], 1).result == [1]


def test_keys_are_never_shown(database_url: str) -> None:
    with make_app(database_url) as app:
        for shown in (app.conf.humanize(with_defaults=True), repr(app.conf.table()), app.bugreport(), repr(app)):
            assert NEW not in shown
            assert OLD not in shown


@pytest.mark.parametrize("keys", [["short"], "short", [""], [b"bytes of sufficient length"], 7])
def test_keys_that_are_none(keys: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="task_signing_keys must be a list of secrets") as caught:
        DBQueue(task_signing_keys=keys)
    assert "short" not in str(caught.value)


@pytest.mark.parametrize("given", ["f", "0" * 64, ""])
def test_signatures_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    """How long a refusal takes must not tell how much of the signature was right."""
    compared: list[tuple[bytes, bytes]] = []
    plain = hmac.compare_digest

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return plain(a, b)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    signed = Signer([NEW]).sign(NewJob("a", "s.echo", "celery"))
    forged = signed._replace(options=json.dumps({SIGNATURE: given}))
    with pytest.raises(BadSignature):
        Signer([NEW, OLD]).check(claimed(forged))
    right = json.loads(signed.options or "")[SIGNATURE].encode()
    assert [b for _, b in compared] == [given.encode()] * 2
    assert compared[0][0] == right


def test_a_bad_signature_is_an_invalid_task() -> None:
    assert issubclass(BadSignature, InvalidTaskError)


texts = st.text(max_size=20)
fields = st.fixed_dictionaries(
    {
        "id": texts,
        "task": texts,
        "queue": texts,
        "args": texts,
        "kwargs": texts,
        "headers": st.none() | texts,
        "content_type": st.none() | texts,
        "content": st.none() | st.binary(max_size=20),
        "options": st.none() | st.dictionaries(st.sampled_from(["shadow", "time_limit", "x"]), texts).map(json.dumps),
    }
)


@given(fields, fields)
def test_no_two_jobs_have_the_same_signature(one: dict[str, Any], other: dict[str, Any]) -> None:
    signer = Signer([NEW])
    signed = signer.sign(NewJob(**one))
    signer.check(claimed(signed))
    assert signed.options is not None
    signature = json.loads(signed.options)[SIGNATURE]
    own = json.loads(other["options"] or "{}")
    stolen = NewJob(**other)._replace(options=json.dumps({**own, SIGNATURE: signature}))
    if {**other, "options": own} == {**one, "options": json.loads(one["options"] or "{}")}:
        signer.check(claimed(stolen))
    else:
        with pytest.raises(BadSignature):
            signer.check(claimed(stolen))


@given(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)), st.integers(1, 10_000))  # noqa: DTZ001
def test_times_are_signed_to_the_millisecond(moment: datetime, more: int) -> None:
    signer = Signer([NEW])
    moment = moment.replace(tzinfo=UTC)
    signed = signer.sign(NewJob("id", "task", "queue", eta=moment))
    rounded = moment + timedelta(microseconds=-moment.microsecond % 1000)
    for same in (moment, rounded):
        signer.check(due(signed, str(same)))
    with pytest.raises(BadSignature, match="fits none"):
        signer.check(due(signed, str(rounded + timedelta(milliseconds=more))))


def due(job: NewJob, moment: str) -> Any:
    """As it is claimed at its ETA."""
    return claimed(job)._replace(eta=moment, ready_at=moment)


def with_inputs(job: NewJob, *places: str) -> Any:
    """As it is claimed, with a result at each of these places."""
    return claimed(job)._replace(inputs=tuple((f"of {place}", place, "1", None) for place in places))


def test_the_order_of_options_means_nothing() -> None:
    """It is not the same in jsonb, through which a row may have come."""
    signed = Signer([NEW]).sign(NewJob("id", "task", "queue", options='{"shadow": "x", "time_limit": 5}'))
    options = json.loads(signed.options or "")
    turned = json.dumps({name: options[name] for name in reversed(options)})
    assert turned != signed.options
    Signer([NEW]).check(claimed(signed)._replace(options=turned))


def test_a_signature_is_that_of_every_version() -> None:
    """What waits in the table when workers are replaced by newer ones is still what was signed."""
    job = NewJob(
        "id", "task", "queue", '["ü"]', '{"a":1}', headers="{}", options='{"shadow":"é"}',
        content_type="application/x-yaml", content=b"\x00",
        eta=datetime(2026, 1, 2, 3, 4, 5, 678901, UTC), expires_at=datetime(2027, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    signed = Signer([NEW]).sign(job, [("of", "[0]"), ("other", '"name"')])
    assert json.loads(signed.options or "") == {
        "shadow": "é",
        "signed_items": 1,
        "signature": "8e117b89c35d95282dc03b6739f47ed63f444f8d684fd33f2aead66486dc94d3",
    }


@pytest.mark.parametrize("eta", ["no time", "2026-01-01 00:00:00", b"2026-01-01 00:00:00+00:00", 7])
def test_columns_that_nobody_can_have_signed(eta: Any) -> None:
    """SQLite keeps anything in any column."""
    signed = Signer([NEW]).sign(NewJob("id", "task", "queue", eta=datetime(2026, 1, 1, tzinfo=UTC)))
    with pytest.raises(BadSignature):
        Signer([NEW]).check(claimed(signed)._replace(eta=eta, ready_at="2026-01-01 00:00:00.000"))


@pytest.mark.parametrize("options", ["{", "7", "[" * 5000, '"signature"'])
def test_options_that_nobody_can_have_signed(options: str) -> None:
    with pytest.raises(BadSignature, match="no JSON object"):
        Signer([NEW]).check(claimed(NewJob("id", "task", "queue"))._replace(options=options))


def test_a_list_that_was_signed_in_the_list_is_not_replaced() -> None:
    signer, places = Signer([NEW]), ("[0]", "[1, 0]", "[1, 1]")
    signed = signer.sign(NewJob("id", "task", "queue"), [(f"of {place}", place) for place in places])
    signer.check(with_inputs(signed, *places))
    signer.check(with_inputs(signed, *places, "[2]", "[3, 0]"))
    for added in ("[1]", "[1, 2]", "[0, 0]"):
        with pytest.raises(BadSignature):
            signer.check(with_inputs(signed, *places, added))


def test_half_a_character_is_no_signature() -> None:
    signed = Signer([NEW]).sign(NewJob("id", "task", "queue"))
    with pytest.raises(BadSignature, match="fits none"):
        Signer([NEW]).check(claimed(signed)._replace(options=json.dumps({SIGNATURE: "\ud800"})))


def test_results_come_in_any_order() -> None:
    signer, places = Signer([NEW]), ("[0]", "[1]", "[2]")
    signed = signer.sign(NewJob("id", "task", "queue"), [(f"of {place}", place) for place in places])
    for order in (places, places[::-1]):
        signer.check(with_inputs(signed, *order))
    with pytest.raises(BadSignature):
        signer.check(with_inputs(signed, *places[:2]))


@pytest.mark.parametrize("new", [{"args": "[7]"}, {"content": b"7"}], ids=["JSON", "another serializer"])
def test_a_retry_with_new_arguments_takes_no_results_from_then_on(new: dict[str, Any]) -> None:
    """What may be added to a signed list is not to be added to these."""
    signer = Signer([NEW])
    signed = signer.sign(NewJob("id", "task", "queue"), [("of [0]", "[0]")])
    changes = signer.changed(with_inputs(signed, "[0]"), new)
    again = signed._replace(**changes)
    signer.check(claimed(again)._replace(inputs=False))
    with pytest.raises(BadSignature):
        signer.check(with_inputs(again, "[1]"))


def test_no_part_goes_on_in_the_next_one() -> None:
    signer = Signer([NEW])
    signed = signer.sign(NewJob("id", "a+b", "c"))
    with pytest.raises(BadSignature):
        signer.check(claimed(signed._replace(task="a", queue="b+c")))


def test_other_keys_are_used_at_once() -> None:
    app = DBQueue("safe", set_as_current=False, task_signing_keys=[OLD])
    job = NewJob("id", "task", "queue")
    app.database.signed(job)
    app.conf.task_signing_keys = [NEW]
    Signer([NEW]).check(claimed(app.database.signed(job)))
