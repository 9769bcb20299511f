"""The serializers by name, and content in any other than JSON: bytes, maybe compressed.

JSON is text in columns that people and SQL read (see `codec`). Every other serializer's data is
bytes in a column of its own, beside its content type: `application/x-yaml`, or
`application/x-yaml; compression=zlib`. Names and content types are those of Celery (kombu), and
packages are imported when they are first used.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any, Final

from dbqueue import descriptors
from dbqueue.codec.cautious import text_of, type_name
from dbqueue.errors import (
    ContentDisallowed,
    DecodeError,
    EncodeError,
    ImproperlyConfigured,
    PayloadTooLarge,
    SoftTimeLimitExceeded,
)

JSON_CONTENT_TYPE: Final = "application/json"
COMPRESSIONS: Final = frozenset({"zlib", "gzip", "bzip2", "bzip", "lzma", "xz", "zstd", "zstandard", "brotli"})
"""Names that Celery takes; here each of them means zlib, which Python always has."""
COMPRESSED: Final = "; compression=zlib"
"""Ends the content type of compressed bytes."""
MAX_INFLATED_BYTES: Final = 256 * 1024 * 1024
"""Most bytes that compressed content may become: a megabyte of zlib can hold a gigabyte. Not `max_payload_bytes`, which
is the limit of what is stored: to store more than that is what compression is for."""


@dataclass(frozen=True, slots=True)
class Serializer:
    """One way to write values: its name in settings, its content type on the row, and its two functions.

    Those of JSON are `codec.dumps` and `codec.loads`, between a value and text; of all others
    `dumps(value)` gives bytes (or text, kept as UTF-8) and `loads` takes them back.
    """

    name: str
    content_type: str
    dumps: Callable[..., Any]
    loads: Callable[[Any], Any]
    package: str | None = None
    """What must be installed, as `dbqueue-sql[name]` does."""
    text: bool = False
    """Whether `loads` takes text rather than bytes."""


SERIALIZERS: Final[dict[str, Serializer]] = {}


def register_serializer(
    name: str,
    dumps: Callable[[Any], str | bytes],
    loads: Callable[[Any], Any],
    content_type: str,
    content_encoding: str = "utf-8",
) -> None:
    """Let `serializer=name`, the settings and `accept_content` name a serializer of your own.

    `dumps(value)` returns text or bytes, and `loads` takes text, or bytes where `content_encoding`
    is "binary": as kombu's `register`. Callers and workers must both register it, before the
    application's settings name it. What it reads may come from anyone who may enqueue: it must not
    run code. Raises ImproperlyConfigured for the name or content type of another serializer.
    """
    if not name or not content_type or ";" in content_type:
        raise ImproperlyConfigured("a serializer needs a name, and a content type without parameters")
    other = SERIALIZERS.get(name) or _by_content_type(content_type)
    if other is not None and (other.name in BUILT_IN or (other.name, other.content_type) != (name, content_type)):
        raise ImproperlyConfigured(f"there is a serializer {other.name!r} for {other.content_type} already")
    SERIALIZERS[name] = Serializer(name, content_type, dumps, loads, text=content_encoding != "binary")


def _by_content_type(content_type: str) -> Serializer | None:
    return next((each for each in SERIALIZERS.values() if each.content_type == content_type), None)


def serializer(name: str) -> Serializer:
    """The serializer of that name; ImproperlyConfigured if there is none, or its package is not installed."""
    try:
        found = SERIALIZERS[name]
    except (KeyError, TypeError):
        known = ", ".join(sorted(SERIALIZERS))
        raise ImproperlyConfigured(f"there is no serializer {name!r}; known: {known}") from None
    if found.package is not None and not _installed(found.package):
        raise ImproperlyConfigured(
            f"the serializer {name!r} needs the package {found.package}: pip install 'dbqueue-sql[{name}]'"
        )
    return found


@cache
def _installed(package: str) -> bool:
    return find_spec(package) is not None


def check_accepted(content_type: str | None, accept_content: Collection[str]) -> None:
    """Raise ContentDisallowed unless `accept_content` has `content_type`, by itself or by its serializer's name.

    None as `content_type` is JSON, as on a row; that it is compressed makes no difference.
    """
    if content_type is None and "json" in accept_content:
        return  # nearly every call
    content_type = JSON_CONTENT_TYPE if content_type is None else content_type.removesuffix(COMPRESSED)
    for accepted in accept_content:
        known = SERIALIZERS.get(accepted)
        if content_type == (accepted if known is None else known.content_type):
            return
    accepted_names = ", ".join(sorted(accept_content)) or "nothing"
    raise ContentDisallowed(f"content of type {content_type!r} is refused: accept_content allows {accepted_names}")


def encode(
    value: Any, by: Serializer, *, what: str, max_bytes: int, compression: str | None = None
) -> tuple[str, bytes]:
    """The content type and the bytes of a value in a serializer other than JSON.

    `max_bytes` limits what is stored, compressed if it is. Raises EncodeError with the reason,
    PayloadTooLarge, and ImproperlyConfigured for an unknown compression.
    """
    if compression is not None and compression not in tuple(COMPRESSIONS):  # a list has no hash
        raise ImproperlyConfigured(f"there is no compression {compression!r}; known: {', '.join(sorted(COMPRESSIONS))}")
    try:
        data = by.dumps(value)
        content = data.encode() if isinstance(data, str) else bytes(data)
    except (KeyboardInterrupt, SystemExit, GeneratorExit, SoftTimeLimitExceeded, ImproperlyConfigured):
        raise
    except BaseException as exc:  # a value's own code may raise anything
        raise EncodeError(f"{what}: {by.name} cannot carry it ({type_name(type(exc))}: {text_of(exc)})") from exc
    content_type = by.content_type
    if compression is not None:
        content, content_type = zlib.compress(content), content_type + COMPRESSED
    if len(content) > max_bytes:
        raise PayloadTooLarge(what, len(content), max_bytes)
    return content_type, content


def encode_as(content_type: str, value: Any, *, what: str, max_bytes: int) -> tuple[str, bytes]:
    """As `encode`, in the form that a content type names, with its compression; DecodeError where none has it."""
    by = _by_content_type(content_type.removesuffix(COMPRESSED))
    if by is None:
        raise DecodeError(f"no serializer is registered for content of type {content_type!r}")
    compression = "zlib" if content_type.endswith(COMPRESSED) else None
    return encode(value, by, what=what, max_bytes=max_bytes, compression=compression)


def decode(content_type: str, content: bytes, accept_content: Collection[str]) -> Any:
    """The value of content as `encode` wrote it; ContentDisallowed before anything of it is read, DecodeError."""
    check_accepted(content_type, accept_content)
    by = _by_content_type(content_type.removesuffix(COMPRESSED))
    if by is None or by.name == "json":
        raise DecodeError(f"no serializer is registered for content of type {content_type!r}")
    serializer(by.name)
    try:
        if content_type.endswith(COMPRESSED):
            content = _inflated(content)
        return by.loads(content.decode() if by.text else content)
    except (KeyboardInterrupt, SystemExit, GeneratorExit, SoftTimeLimitExceeded, DecodeError):
        raise
    except BaseException as exc:  # whatever a serializer makes of foreign data
        if descriptors.are_used_up(exc):  # its package is imported by its first use
            raise
        raise DecodeError(f"the data is no {by.name} content: {type(exc).__name__}") from exc


def _inflated(content: bytes) -> bytes:
    stream = zlib.decompressobj()
    data = stream.decompress(content, MAX_INFLATED_BYTES)
    if stream.unconsumed_tail:
        raise DecodeError(f"the data would be longer than {MAX_INFLATED_BYTES} bytes when it is decompressed")
    if not stream.eof:
        raise DecodeError("the compressed data is cut short")
    return data


# The serializers of Celery. YAML is the safe one: it makes plain values only. Pickle runs what it reads, so
# nothing accepts it until `accept_content` names it.


def _dumps_yaml(value: Any) -> str:
    import yaml

    return str(yaml.safe_dump(value, allow_unicode=True))


def _loads_yaml(text: str) -> Any:
    import yaml

    return yaml.safe_load(text)


def _dumps_msgpack(value: Any) -> bytes:
    import msgpack

    return bytes(msgpack.packb(value, use_bin_type=True))


def _loads_msgpack(data: bytes) -> Any:
    import msgpack

    return msgpack.unpackb(data, raw=False)


def _dumps_pickle(value: Any) -> bytes:
    import pickle

    return pickle.dumps(value, protocol=pickle.DEFAULT_PROTOCOL)


def _loads_pickle(data: bytes) -> Any:
    import pickle

    return pickle.loads(data)  # noqa: S301 - only where accept_content names it


SERIALIZERS["yaml"] = Serializer("yaml", "application/x-yaml", _dumps_yaml, _loads_yaml, package="yaml", text=True)
SERIALIZERS["msgpack"] = Serializer(
    "msgpack", "application/x-msgpack", _dumps_msgpack, _loads_msgpack, package="msgpack"
)
SERIALIZERS["pickle"] = Serializer("pickle", "application/x-python-serialize", _dumps_pickle, _loads_pickle)
BUILT_IN: Final = frozenset({"json", "yaml", "msgpack", "pickle"})
