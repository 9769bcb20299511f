"""A call's arguments as a row has them: JSON text in `args` and `kwargs`, or both together in `content`."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, Final, Protocol

from dbqueue import codec
from dbqueue.codec import nesting
from dbqueue.errors import DecodeError, InvalidTaskError


class Payload(Protocol):
    """A job, whatever it is just now: the columns that hold its arguments."""

    @property
    def args(self) -> str: ...
    @property
    def kwargs(self) -> str: ...
    @property
    def content_type(self) -> str | None: ...
    @property
    def content(self) -> bytes | None: ...


EMPTY: Final = {"args": "[]", "kwargs": "{}"}
"""The JSON columns where the arguments lie in `content`."""


def written(
    name: str,
    args: list[Any],
    kwargs: dict[str, Any],
    *,
    serializer: str,
    max_bytes: int,
    compression: str | None = None,
) -> dict[str, Any]:
    """The columns for a call of the task `name`.

    Compression is for serializers other than JSON: JSON stays text that people and SQL read, and
    PostgreSQL compresses it by itself. Raises EncodeError, PayloadTooLarge (`max_bytes` is for args
    and kwargs each in JSON, for both together otherwise), ImproperlyConfigured.
    """
    by = codec.serializer(serializer)
    if by.name != "json":
        what = f"the arguments of {name}"
        content_type, content = codec.encode(
            [args, kwargs], by, what=what, max_bytes=max_bytes, compression=compression
        )
        return {**EMPTY, "content_type": content_type, "content": content}
    return {
        "args": codec.dumps(args, what=f"the arguments of {name}", max_bytes=max_bytes) if args else "[]",
        "kwargs": codec.dumps(kwargs, what=f"the keyword arguments of {name}", max_bytes=max_bytes) if kwargs else "{}",
    }


def read_call(row: Payload, accept_content: Collection[str]) -> tuple[list[Any], dict[str, Any]]:
    """The positional and the keyword arguments.

    Raises ContentDisallowed before anything of a refused type is read, DecodeError for data that
    cannot be read, InvalidTaskError for what is no list and no dict.
    """
    if row.content is None:
        codec.check_accepted(row.content_type, accept_content)
        # Most calls have no keyword arguments.
        args, kwargs = codec.loads(row.args), {} if row.kwargs == EMPTY["kwargs"] else codec.loads(row.kwargs)
    else:
        if row.content_type is None:
            raise InvalidTaskError("the row has a content without a content_type")
        call = codec.decode(row.content_type, row.content, accept_content)
        if not isinstance(call, list | tuple) or len(call) != 2:
            raise InvalidTaskError("the content must be a list of args and kwargs")
        args, kwargs = call
    if not isinstance(args, list | tuple) or not isinstance(kwargs, dict):
        raise InvalidTaskError("args must be a JSON array, and kwargs a JSON object")
    return list(args), kwargs


def written_result(
    value: Any, by: codec.Serializer, *, what: str, max_bytes: int, compression: str | None = None
) -> tuple[str, bytes | None]:
    """The result column's JSON text, and the content beside it where another serializer wrote it.

    Raises EncodeError.
    """
    if by.name == "json":
        return codec.dumps(value, what=what, max_bytes=max_bytes, deepest=nesting.DEEPEST_KEPT), None
    content_type, content = codec.encode(value, by, what=what, max_bytes=max_bytes, compression=compression)
    return json.dumps({"content_type": content_type}), content


def read_result(text: str | None, content: bytes | None, accept_content: Collection[str]) -> Any:
    """The value of a success: JSON text, always accepted, or the content whose type the text tells.

    Raises ContentDisallowed and DecodeError.
    """
    value = None if text is None else codec.loads(text)
    if content is None:
        return value
    if not isinstance(value, dict) or not isinstance(value.get("content_type"), str):
        raise DecodeError("the result has a content without a content_type")
    return codec.decode(value["content_type"], content, accept_content)


def rewritten(row: Payload, args: Any, kwargs: Any, *, max_bytes: int) -> dict[str, Any]:
    """The columns that change where a retry has other arguments: in the form in which the row has them."""
    what, limit = "the arguments of the retry", max_bytes
    if row.content is None or row.content_type is None:
        return {
            "args": codec.dumps(args, what=what, max_bytes=limit, deepest=nesting.DEEPEST_KEPT),
            "kwargs": codec.dumps(kwargs, what=what, max_bytes=limit, deepest=nesting.DEEPEST_KEPT),
        }
    _, content = codec.encode_as(row.content_type, [args, kwargs], what=what, max_bytes=limit)
    return {"content": content}
