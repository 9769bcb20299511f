"""Serializers other than JSON: the registry, what they carry, and what is refused before it is read."""

from __future__ import annotations

import datetime as dt
import json
import pickle
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from dbqueue import DBQueue, codec
from dbqueue.codec import payloads, serializers
from dbqueue.codec.nesting import DEEPEST_KEPT
from dbqueue.errors import (
    ContentDisallowed,
    DecodeError,
    EncodeError,
    ImproperlyConfigured,
    InvalidTaskError,
    PayloadTooLarge,
    SoftTimeLimitExceeded,
)
from dbqueue.jobs import NewJob

LIMIT = 10_000


@pytest.fixture
def registry() -> Iterator[None]:
    before = dict(serializers.SERIALIZERS)
    yield
    serializers.SERIALIZERS.clear()
    serializers.SERIALIZERS.update(before)


def round_trip(name: str, value: Any, compression: str | None = None) -> Any:
    by = codec.serializer(name)
    content_type, content = codec.encode(value, by, what="it", max_bytes=LIMIT, compression=compression)
    return codec.decode(content_type, content, [name])


@pytest.mark.parametrize("compression", [None, "zlib", "gzip", "bzip2"])
@pytest.mark.parametrize("name", ["yaml", "msgpack", "pickle"])
def test_round_trip(name: str, compression: str | None) -> None:
    value = [[1, "ü", None, 2.5], {"a": [True]}]
    assert round_trip(name, value, compression) == value


def test_what_each_carries_beyond_json() -> None:
    assert round_trip("yaml", dt.date(2026, 1, 2)) == dt.date(2026, 1, 2)
    assert round_trip("msgpack", b"\0\xff") == b"\0\xff"
    assert round_trip("pickle", {(1, 2): {3}}) == {(1, 2): {3}}


def test_content_types_are_those_of_kombu() -> None:
    assert {
        name: each.content_type for name, each in serializers.SERIALIZERS.items() if name in serializers.BUILT_IN
    } == {
        "json": "application/json",
        "yaml": "application/x-yaml",
        "msgpack": "application/x-msgpack",
        "pickle": "application/x-python-serialize",
    }


def test_what_cannot_be_encoded() -> None:
    for name in ("yaml", "msgpack"):
        with pytest.raises(EncodeError, match=f"the arguments of x: {name} cannot carry it"):
            codec.encode([object()], codec.serializer(name), what="the arguments of x", max_bytes=LIMIT)
    with pytest.raises(EncodeError):
        codec.encode(lambda: None, codec.serializer("pickle"), what="it", max_bytes=LIMIT)
    with pytest.raises(PayloadTooLarge):
        codec.encode("x" * LIMIT, codec.serializer("yaml"), what="it", max_bytes=LIMIT)
    with pytest.raises(ImproperlyConfigured, match="no compression 'zip'"):
        codec.encode(1, codec.serializer("yaml"), what="it", max_bytes=LIMIT, compression="zip")
    with pytest.raises(ImproperlyConfigured, match="no compression \\['zlib'\\]"):
        codec.encode(1, codec.serializer("yaml"), what="it", max_bytes=LIMIT, compression=["zlib"])  # type: ignore[arg-type]


def test_what_cannot_even_say_why() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise ValueError("no text")

    class Stubborn:
        def __reduce__(self) -> str:
            raise MuteError

    with pytest.raises(EncodeError, match=r"pickle cannot carry it \(.*MuteError: <.*MuteError>\)"):
        codec.encode(Stubborn(), codec.serializer("pickle"), what="the arguments of x", max_bytes=LIMIT)


def test_the_limit_is_for_what_is_stored() -> None:
    value = "x" * (2 * LIMIT)
    assert round_trip("yaml", value, "zlib") == value


class Bomb:
    def __reduce__(self) -> Any:
        raise_it = "raise AssertionError('unpickled')"
        return exec, (raise_it,)


def test_refused_content_is_not_read() -> None:
    content = pickle.dumps(Bomb())
    for accepted in (["json"], ["json", "yaml"], []):
        with pytest.raises(ContentDisallowed):
            codec.decode("application/x-python-serialize", content, accepted)
        with pytest.raises(ContentDisallowed):
            codec.decode("application/x-python-serialize; compression=zlib", zlib.compress(content), accepted)


def test_json_is_refused_as_others_are() -> None:
    call = NewJob(
        id="job", task="x", queue="celery", **payloads.written("x", [1], {}, serializer="json", max_bytes=LIMIT)
    )
    assert payloads.read_call(call, ["json"]) == ([1], {})
    for refused in (["yaml"], []):
        with pytest.raises(ContentDisallowed):
            payloads.read_call(call, refused)


def test_yaml_makes_plain_values_only() -> None:
    for content in (b"!!python/object/apply:os.getcwd []", b"!!python/tuple [1]"):
        with pytest.raises(DecodeError):
            codec.decode("application/x-yaml", content, ["yaml"])


@pytest.mark.parametrize(
    ("content_type", "content"),
    [
        ("application/x-yaml", b"a: [\xff"),
        ("application/x-msgpack", b"\xc1"),
        ("application/x-python-serialize", b"no pickle"),
        ("application/x-yaml; compression=zlib", b"no zlib"),
        ("application/x-yaml; compression=zlib", zlib.compress(b"a: 1")[:-3]),
        ("application/x-yaml; compression=gzip", b"a: 1"),
        ("application/x-unheard-of", b""),
        ("application/json", b"[]"),
    ],
)
def test_content_that_cannot_be_read(content_type: str, content: bytes) -> None:
    with pytest.raises((DecodeError, ContentDisallowed)):
        codec.decode(content_type, content, [*serializers.SERIALIZERS, content_type])


def test_a_decompression_bomb_is_not_inflated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serializers, "MAX_INFLATED_BYTES", 1000)
    with pytest.raises(DecodeError, match="longer than 1000 bytes"):
        codec.decode("application/x-yaml; compression=zlib", zlib.compress(b"x" * 2000), ["yaml"])


@pytest.mark.usefixtures("registry")
def test_a_serializer_of_ones_own() -> None:
    codec.register_serializer(
        "reversed", lambda value: repr(value)[::-1], lambda text: eval(text[::-1]), "text/reversed"
    )
    assert round_trip("reversed", [1, "a"]) == [1, "a"]
    codec.register_serializer("raw", bytes, bytes, "application/raw", "binary")
    assert round_trip("raw", b"\0\xff") == b"\0\xff"
    app = DBQueue("a", set_as_current=False, task_serializer="reversed", accept_content=["reversed"])
    assert app.conf.task_serializer == "reversed"
    codec.register_serializer("reversed", repr, str, "text/reversed")  # a module that is imported twice
    for name, content_type in (
        ("json", "x/y"), ("mine", "application/json"), ("mine", "text/reversed"), ("", "x/y"),
        ("yaml", "application/x-yaml"), ("mine", "x/y; compression=zlib"),
    ):  # fmt: skip
        with pytest.raises(ImproperlyConfigured):
            codec.register_serializer(name, repr, str, content_type)


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, SoftTimeLimitExceeded])
def test_interrupts_pass_through_a_serializer(error: type[BaseException]) -> None:
    def interrupted(_: Any) -> Any:
        raise error

    codec.register_serializer("slow", interrupted, interrupted, "application/slow")
    with pytest.raises(error):
        round_trip("slow", 1)
    with pytest.raises(error):
        codec.decode("application/slow", b"1", ["slow"])


@pytest.mark.parametrize("name", ["xml", ["json"], None])
def test_a_serializer_that_there_is_not(name: Any) -> None:
    known = ", ".join(sorted(serializers.SERIALIZERS))
    with pytest.raises(ImproperlyConfigured, match=f"known: {known}$"):
        codec.serializer(name)


def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serializers, "_installed", lambda package: False)
    with pytest.raises(ImproperlyConfigured, match=r"needs the package msgpack: pip install 'dbqueue-sql\[msgpack\]'"):
        codec.serializer("msgpack")
    with pytest.raises(ImproperlyConfigured, match="needs the package yaml"):
        DBQueue("a", set_as_current=False, task_serializer="yaml")
    with pytest.raises(ImproperlyConfigured, match="needs the package yaml"):
        codec.decode("application/x-yaml", b"1", ["yaml"])
    codec.serializer("pickle")


def job(**columns: Any) -> NewJob:
    return NewJob(id="a", task="x", queue="celery", **columns)


def test_a_call_in_its_columns() -> None:
    columns = payloads.written("x", [1], {"b": 2}, serializer="msgpack", max_bytes=LIMIT, compression="zlib")
    assert (columns["args"], columns["kwargs"]) == ("[]", "{}")
    assert columns["content_type"] == "application/x-msgpack; compression=zlib"
    assert payloads.read_call(job(**columns), ["msgpack"]) == ([1], {"b": 2})
    changed = payloads.rewritten(job(**columns), [3], {"c": 4}, max_bytes=LIMIT)
    assert payloads.read_call(job(**{**columns, **changed}), ["msgpack"]) == ([3], {"c": 4})
    plain = payloads.written("x", [1], {}, serializer="json", max_bytes=LIMIT, compression="zlib")
    assert plain == {"args": "[1]", "kwargs": "{}"}
    assert payloads.rewritten(job(**plain), [2], {"c": 3}, max_bytes=LIMIT) == {"args": "[2]", "kwargs": '{"c":3}'}


@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_the_arguments_of_a_retry_may_be_no_longer_than_those_of_a_call(serializer: str) -> None:
    call = job(**payloads.written("x", ["short"], {}, serializer=serializer, max_bytes=LIMIT))
    for args, kwargs in (["a" * LIMIT], {}), ([], {"b": "a" * LIMIT}):
        with pytest.raises(PayloadTooLarge):
            payloads.rewritten(call, args, kwargs, max_bytes=LIMIT)


@pytest.mark.parametrize("content_type", [None, "application/x-msgpack"])
@pytest.mark.parametrize("value", [[[1]], [[1], {}, {}], {"a": 1}, [1, {}], [[1], [2]]])
def test_content_that_is_no_call(content_type: str | None, value: Any) -> None:
    _, content = codec.encode(value, codec.serializer("msgpack"), what="it", max_bytes=LIMIT)
    with pytest.raises(InvalidTaskError):
        payloads.read_call(job(content_type=content_type, content=content), ["json", "msgpack"])


def test_a_call_may_be_of_tuples() -> None:
    content = pickle.dumps(((1,), {"b": 2}))
    found = payloads.read_call(job(content_type="application/x-python-serialize", content=content), ["pickle"])
    assert found == ([1], {"b": 2})


@pytest.mark.parametrize("text", [None, "5", "{}", '{"content_type": 5}'])
def test_the_content_of_a_result_without_its_type(text: str | None) -> None:
    with pytest.raises(DecodeError, match="without a content_type"):
        payloads.read_result(text, b"x", ["json", "yaml"])


def test_what_is_made_of_results_may_be_nested_more_deeply_than_what_is_sent() -> None:
    """A retry's arguments, and a result: so what a task was given, it may return, and be retried with."""
    value = json.loads("[" * DEEPEST_KEPT + "]" * DEEPEST_KEPT)
    with pytest.raises(EncodeError, match="nested too deeply"):
        payloads.written("x", value, {}, serializer="json", max_bytes=LIMIT)
    text, _ = payloads.written_result(value, codec.serializer("json"), what="it", max_bytes=LIMIT)
    assert payloads.read_result(text, None, ["json"]) == value
    changed = payloads.rewritten(job(), value, {"a": value[0]}, max_bytes=LIMIT)
    assert payloads.read_call(job(**changed), ["json"]) == (value, {"a": value[0]})
    with pytest.raises(EncodeError, match="nested too deeply"):
        payloads.rewritten(job(), [value], {}, max_bytes=LIMIT)
