"""Exceptions as data, in Celery's shape, and back: nothing is imported, and what cannot be told does not hinder."""

from __future__ import annotations

import json
import sys
import traceback as traceback_module
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, Final

from dbqueue.codec.cautious import clean, shown, text_of, type_module, type_name
from dbqueue.codec.json_text import dumps, encode_text, loads
from dbqueue.errors import DecodeError, RemoteError

TRACEBACK_BYTES: Final = 64 * 1024
"""Longest traceback that is stored. 400 frames fit; a chain of a thousand causes keeps its head and its tail."""
_SHORTENED_ARGS: Final = 8
"""How many arguments of an exception are kept once they do not fit: what tells it apart comes first."""


def describe_exception(exc: BaseException, *, max_bytes: int) -> tuple[str, str | None]:
    """`exc` as the JSON that a failed job stores, in Celery's shape, and the text of its traceback.

    The JSON is `{"exc_type": qualified name, "exc_message": [arguments], "exc_module": module}`. An argument that
    JSON cannot carry is stored as its text. The traceback is None where the exception was never raised. Each of the
    two is at most `max_bytes` bytes long, the traceback also at most TRACEBACK_BYTES.

    Never raises: a failure that cannot be described would leave its job without an end. That includes interrupts
    raised by the exception's own methods.
    """
    name, module = type_name(type(exc)), type_module(type(exc))
    parts = [_describe_argument(argument, max_bytes) for argument in _arguments(exc)]
    error = _error_json(name, module, parts)
    if _utf8_length(error) > max_bytes:
        error = _shortened_error(name, module, parts, max_bytes)
    return error, _traceback_text(exc, min(TRACEBACK_BYTES, max_bytes))


def _error_json(name: str, module: str, encoded_arguments: list[str]) -> str:
    arguments = ",".join(encoded_arguments)
    return f'{{"exc_type":{encode_text(name)},"exc_message":[{arguments}],"exc_module":{encode_text(module)}}}'


def _shortened_error(name: str, module: str, parts: list[str], max_bytes: int) -> str:
    room = max_bytes - _utf8_length(_error_json(name, module, []))
    share = room // min(max(len(parts), 1), _SHORTENED_ARGS) - 1  # less its comma
    kept = [part if _utf8_length(part) <= share else _shortened_json(part, share) for part in parts[:_SHORTENED_ARGS]]
    for candidate in (_error_json(name, module, kept), _error_json(name, module, [])):
        if _utf8_length(candidate) <= max_bytes:
            return candidate
    return "{}"


def _shortened_json(encoded: str, limit: int) -> str:
    """The text of an encoded value as a JSON string of at most `limit` bytes, if two quotes fit."""
    text = json.loads(encoded) if encoded.startswith('"') else encoded
    room = limit
    while room > 0:
        shortened = encode_text(_clip(text, room))
        if _utf8_length(shortened) <= limit:
            return shortened
        room = room * 3 // 4  # a control character takes six bytes as JSON: the length is not known before
    return '""'


def _arguments(exc: BaseException) -> tuple[Any, ...]:
    try:
        # What an exception says although it has no arguments is kept too (pydantic's ValidationError), if it says more
        # than its name, as SoftTimeLimitExceeded does not.
        if not exc.args and type(exc).__str__ is not BaseException.__str__ and (text := str(exc)):
            return () if text == f"{type(exc).__name__}()" else (text,)
        return tuple(exc.args)
    except BaseException:  # noqa: BLE001 - `args` may be overridden
        return ()


def _describe_argument(value: Any, max_bytes: int) -> str:
    if not isinstance(value, str):
        try:
            # Twice the room: what is a little too long is shortened with the rest, and shown as it would be written.
            return dumps(value, what="argument", max_bytes=2 * max_bytes)
        except BaseException:  # noqa: BLE001 - as above
            return encode_text(shown(value))
    return encode_text(clean(str.__str__(value)))


def _clip(text: str, limit: int) -> str:
    """`text` in at most `limit` bytes of UTF-8, its middle left out where it is longer."""
    data = text.encode()
    if len(data) <= limit:
        return text
    marker = f"\n[... {len(data)} bytes in all, the middle left out ...]\n"
    room = limit - len(marker)
    if room <= 0:
        return data[:limit].decode(errors="ignore")
    # The tail is the larger part: a traceback ends with the exception that counts.
    head = room // 3
    return data[:head].decode(errors="ignore") + marker + data[head - room :].decode(errors="ignore")


def _utf8_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _traceback_text(exc: BaseException, limit: int) -> str | None:
    try:
        if exc.__traceback__ is None and exc.__cause__ is None and exc.__context__ is None:
            return None
        text = "".join(traceback_module.format_exception(exc))
    except BaseException:  # noqa: BLE001 - RecursionError, or an attribute of the exception that raises
        text = _plain_traceback(exc)
    try:
        return _clip(clean(text), limit)
    except BaseException:  # noqa: BLE001 - MemoryError: without the traceback the failure is still told
        return None


def _plain_traceback(exc: BaseException) -> str:
    try:
        frames = "".join(traceback_module.format_tb(exc.__traceback__))
    except BaseException:  # noqa: BLE001 - as above
        frames = ""
    return f"Traceback (most recent call last):\n{frames}{type_name(type(exc))}: {text_of(exc)}\n"


def rebuild_exception(error: str | None, traceback: str | None) -> BaseException:
    """The exception of a failed job, from what `describe_exception` (or Celery) stored.

    It is of its own class where that is loaded in this process already, is a subclass of Exception and is reached
    by its dotted name; nothing is imported. A constructor that refuses the stored arguments is passed over, so that
    `except MyError` catches the failure all the same. In every other case, malformed data included, it is a
    RemoteError with the names and texts that were stored.
    """
    try:
        name, module, arguments = _parse_error(error)
    except DecodeError:
        return RemoteError("Exception", "the failure was recorded in a form that cannot be read", traceback)
    cls = _loaded_class(module, name)
    if cls is not None and (made := _make_exception(cls, arguments)) is not None:
        return made
    dotted = name if module in ("", "builtins") else f"{module}.{name}"
    return RemoteError(dotted, _message_of(arguments), traceback)


def shown_exception(error: str | None) -> str:
    """The exception that `describe_exception` wrote, as Python shows one: `ValueError('bad', 3)`."""
    try:
        name, _, arguments = _parse_error(error)
    except DecodeError:
        return "Exception()"
    return f"{name.rpartition('.')[2]}({', '.join(map(shown, arguments))})"


def _parse_error(error: str | None) -> tuple[str, str, tuple[Any, ...]]:
    data = loads(error) if error is not None else None
    if not isinstance(data, dict) or not isinstance(data.get("exc_type"), str):
        raise DecodeError("not the description of an exception")
    module, message = data.get("exc_module"), data.get("exc_message")
    if message is None:
        message = ()
    elif not isinstance(message, (list, tuple)):
        message = (message,)
    return data["exc_type"], module if isinstance(module, str) else "", tuple(message)


def _message_of(arguments: tuple[Any, ...]) -> str:
    if len(arguments) == 1:
        return arguments[0] if isinstance(arguments[0], str) else shown(arguments[0])
    return shown(arguments) if arguments else ""


def _loaded_class(module_name: str, dotted: str) -> type[Exception] | None:
    """The class of that name in a module that is loaded, looked up in plain namespaces.

    `getattr` would run a module's `__getattr__` and import what the module offers lazily.
    """
    found: Any = sys.modules.get(module_name)
    if not isinstance(found, ModuleType):
        return None
    try:
        namespace = object.__getattribute__(found, "__dict__")
        for part in dotted.split("."):
            found = namespace[part]
            namespace = type.__dict__["__dict__"].__get__(found) if isinstance(found, type) else {}
    except KeyError:
        return None
    return found if isinstance(found, type) and issubclass(found, Exception) else None


def _make_exception(cls: type[Exception], arguments: tuple[Any, ...]) -> Exception | None:
    made = _constructed(cls, cls, arguments)
    if made is None and (made := _constructed(cls, partial(cls.__new__, cls), arguments)) is not None:
        try:
            str(made)
        except BaseException:  # noqa: BLE001 - it misses what its constructor would have set: SQLAlchemy's errors do
            return _printable(cls, arguments)
    return made


def _printable(cls: type[Exception], arguments: tuple[Any, ...]) -> Exception | None:
    """One of a subclass that is shown as Python shows an exception: by its arguments."""
    metaclass: Any = type(cls)
    own = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__str__": Exception.__str__}
    try:
        plain: type[Exception] = metaclass(cls.__name__, (cls,), own)
    except BaseException:  # noqa: BLE001 - a class may refuse to have subclasses
        return None
    return _constructed(cls, partial(plain.__new__, plain), arguments)


def _constructed(cls: type[Exception], construct: Callable[..., Any], arguments: tuple[Any, ...]) -> Exception | None:
    try:
        made = construct(*arguments)
        # `isinstance` would ask a `__class__` that may lie.
        if not issubclass(type(made), cls):
            return None
        # A constructor may make its message of its arguments; these are the finished ones already.
        if made.args != arguments:
            made.args = arguments
    except BaseException:  # noqa: BLE001 - a constructor may raise anything, interrupts included
        return None
    return made  # type: ignore[no-any-return]
