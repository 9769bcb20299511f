"""Bytes that a fuzzer has made, read as the columns of a row: `python -m tests.fuzz.codec_target -max_total_time=60`.

The reading code is instrumented for coverage by atheris, so that its inputs find their way into the code's branches.
It may refuse what it reads by errors of its own. Whatever else it raises is a finding, and ends the program with the
input that made it.
"""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any, NamedTuple

import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]  # no wheel for most Pythons

with atheris.instrument_imports(include=["dbqueue"]):
    from dbqueue import codec
    from dbqueue.codec import payloads
    from dbqueue.codec.serializers import COMPRESSED
    from dbqueue.errors import DBQueueError, RemoteError

ACCEPTED = ("json", "yaml", "msgpack")
"""All but pickle, which runs what it reads."""
BINARY = ("application/x-yaml", "application/x-msgpack", "application/x-python-serialize")
CONTENT_TYPES = [None, "application/json", *BINARY, *(each + COMPRESSED for each in BINARY), "?"]


class Row(NamedTuple):
    args: str
    kwargs: str
    content_type: str | None
    content: bytes | None


def values(data: bytes) -> None:
    """JSON text, and what is written of its value is read as the same value."""
    text = data.decode(errors="replace")
    with contextlib.suppress(DBQueueError):
        value = codec.loads(text)
        written = codec.dumps(value, what="value", max_bytes=1 << 20)
        again = codec.dumps(codec.loads(written), what="value", max_bytes=1 << 20)
        if again != written:  # (sets are written in one order)
            raise AssertionError(f"{written!r} is read as {again!r}")


def calls(data: bytes) -> None:
    provider = atheris.FuzzedDataProvider(data)
    content_type = provider.PickValueInList(CONTENT_TYPES)
    args = provider.ConsumeUnicode(provider.ConsumeIntInRange(0, 64))
    content = provider.ConsumeBytes(provider.remaining_bytes()) if provider.ConsumeBool() else None
    with contextlib.suppress(DBQueueError):
        args_, kwargs = payloads.read_call(Row(args, args, content_type, content), ACCEPTED)
        assert isinstance(args_, list)
        assert isinstance(kwargs, dict)
    with contextlib.suppress(DBQueueError):
        payloads.read_result(args, content, ACCEPTED)


def errors(data: bytes) -> None:
    """What a failed job stores: any text is an exception, and one that can be told again."""
    text = data.decode(errors="replace")
    for made in (codec.rebuild_exception(text, None), codec.rebuild_exception(_as_error(text), text)):
        assert isinstance(made, Exception | RemoteError), type(made)
        codec.describe_exception(made, max_bytes=4096)
    codec.shown_exception(text)


def _as_error(text: str) -> str:
    """Names and arguments taken from the text, so that the fuzzer need not find the form."""
    name, _, rest = text.partition("\n")
    module, _, argument = rest.partition("\n")
    error: dict[str, Any] = {"exc_type": name, "exc_module": module, "exc_message": argument.split("\n")}
    return json.dumps(error, ensure_ascii=False)


TARGETS = (values, calls, errors)


def one(data: bytes) -> None:
    if data:
        TARGETS[data[0] % len(TARGETS)](data[1:])


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
