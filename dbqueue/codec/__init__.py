"""Values as JSON text and back, and exceptions as data; `serializers` has the other forms.

All that a job stores goes through here: arguments, results and failures. The text is such that PostgreSQL's `json`
takes it and `->>` gives it back: no NaN, no `\\u0000`, no half surrogate pairs. It is UTF-8 as it stands, not escaped
to ASCII, so that a person reads it in psql and a limit in bytes means what it says.
"""

from __future__ import annotations

import json
import re
import sys
import traceback as traceback_module
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from dbqueue.codec import nesting, typed_values
from dbqueue.codec.serializers import (
    COMPRESSIONS,
    JSON_CONTENT_TYPE,
    SERIALIZERS,
    Serializer,
    check_accepted,
    decode,
    encode,
    encode_as,
    register_serializer,
    serializer,
)
from dbqueue.codec.typed_values import register_type
from dbqueue.errors import (
    DecodeError,
    EncodeError,
    PayloadTooLarge,
    RemoteError,
    SoftTimeLimitExceeded,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "COMPRESSIONS",
    "JSON_CONTENT_TYPE",
    "SERIALIZERS",
    "Serializer",
    "check_accepted",
    "decode",
    "describe_exception",
    "dumps",
    "encode",
    "encode_as",
    "loads",
    "rebuild_exception",
    "register_serializer",
    "register_type",
    "serializer",
    "shown_exception",
]

TRACEBACK_BYTES: Final = 64 * 1024
"""Longest traceback that is stored. 400 frames fit; a chain of a thousand causes keeps its head and its tail."""
_SHORTENED_ARGS: Final = 8
"""How many arguments of an exception are kept once they do not fit: what tells it apart comes first."""

# An escaped backslash before `u0000` is text that a user wrote; an odd backslash makes it the character NUL.
_NUL: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_TYPE_KEY: Final = f'"{typed_values.TYPE}"'
_EMPTY: Final[dict[type, str]] = {dict: "{}", list: "[]", tuple: "[]"}


def _make_encoder() -> Callable[[Any], str]:
    """An encoder that is made once; the public JSONEncoder makes one at each call: 1.4 µs for `[1, 2]` against 0.35.

    Without its record of what it has met, it can be shared by threads, and a value that holds itself ends as a
    RecursionError. Where Python has no C encoder (PyPy), the public one does the same.
    """
    make = getattr(json.encoder, "c_make_encoder", None)
    quote = getattr(json.encoder, "c_encode_basestring", None)
    if make is None or quote is None:
        return json.JSONEncoder(
            ensure_ascii=False,
            check_circular=False,
            allow_nan=False,
            separators=(",", ":"),
            default=typed_values.json_form,
        ).encode
    # markers, default, encoder, indent, key and item separators, sort_keys, skipkeys, allow_nan
    chunks = make(None, typed_values.json_form, quote, None, ":", ",", False, False, False)
    return lambda value: "".join(chunks(value, 0))


_encode: Final = _make_encoder()


def dumps(value: Any, *, what: str, max_bytes: int, deepest: int = nesting.DEEPEST_WRITTEN) -> str:
    """`value` as JSON text of at most `max_bytes` bytes of UTF-8, and `deepest` lists and objects in each other.

    `what` says in errors what the value is, such as "arguments of proj.add". Tuples and named tuples become lists,
    and keys that are numbers, booleans or None become text, as in Celery; the types of `typed_values` come back as
    they are. Raises EncodeError with the reason, and PayloadTooLarge. Whatever the value's own code raises becomes
    an EncodeError too, but not KeyboardInterrupt, SystemExit or a soft time limit, which only happen to come then.
    """
    if not value and (empty := _EMPTY.get(type(value))) is not None:
        return empty  # most calls have no keyword arguments: 0.1 µs instead of 1 µs
    try:
        text = _encode_safely(value, deepest)
        size = len(text) if text.isascii() else len(text.encode())
    except (KeyboardInterrupt, SystemExit, GeneratorExit, SoftTimeLimitExceeded):
        raise
    except BaseException as exc:  # a value's own code may raise anything
        raise EncodeError(f"{what}: {_encode_reason(exc)}") from exc
    if "\\u0000" in text and _NUL.search(text):
        raise EncodeError(f"{what}: a string holds the character NUL, which PostgreSQL cannot store as text")
    if size > max_bytes:
        raise PayloadTooLarge(what, size, max_bytes)
    if nesting.is_deeper(text, deepest):
        raise EncodeError(f"{what}: it is nested too deeply (more than {deepest} lists and objects in each other)")
    return text


def _encode_safely(value: Any, deepest: int) -> str:
    if typed_values.needs_preparation():
        return _encode(typed_values.prepare(value))
    text = _encode(value)
    # A second walk, but only where something looks like an envelope: a user's dict, or the envelope of a date. It is
    # one of Python's own functions, for which what is refused anyway may be too deep.
    if _TYPE_KEY in text and not nesting.is_deeper(text, deepest) and typed_values.has_lookalike(value):
        return _encode(typed_values.prepare(value))
    return text


def _encode_reason(exc: BaseException) -> str:
    if isinstance(exc, EncodeError):
        return _text_of(exc)
    if isinstance(exc, RecursionError):
        return "it is nested too deeply, or refers to itself"
    if isinstance(exc, UnicodeEncodeError):
        return "a string holds half of a surrogate pair, which is no text"
    text = _text_of(exc)
    if text.startswith("Out of range float"):
        return "NaN and infinity have no JSON form"
    return f"{type(exc).__name__}: {text}"


def _refuse_constant(name: str) -> Any:
    raise DecodeError(f"{name} is not JSON")


_decode_plain: Final = json.JSONDecoder(parse_constant=_refuse_constant).decode
_decode_typed: Final = json.JSONDecoder(parse_constant=_refuse_constant, object_hook=typed_values.object_hook).decode


def loads(text: str, *, typed: bool = True) -> Any:
    """The value of JSON text as `dumps` or Celery wrote it; without `typed`, envelopes stay the objects that they are.

    Raises DecodeError for anything that is not such text. Nothing is imported or evaluated; only the `decode` of
    types that this process registered is called.
    """
    try:
        if nesting.is_deeper(text, nesting.DEEPEST_READ):
            raise DecodeError("the data is nested too deeply")
        return _decode_typed(text) if typed and _TYPE_KEY in text else _decode_plain(text)
    except DecodeError:
        raise
    except RecursionError as exc:
        raise DecodeError("the data is nested too deeply") from exc
    except json.JSONDecodeError as exc:
        raise DecodeError(f"the data is no JSON: {exc}") from exc
    except Exception as exc:
        # The text of such an error quotes the data, which belongs in no log; it is there as the cause.
        raise DecodeError(f"the data is not valid: {type(exc).__name__} in the value of a type") from exc


SERIALIZERS["json"] = Serializer("json", JSON_CONTENT_TYPE, dumps, loads)


def describe_exception(exc: BaseException, *, max_bytes: int) -> tuple[str, str | None]:
    """`exc` as the JSON that a failed job stores, in Celery's shape, and the text of its traceback.

    The JSON is `{"exc_type": qualified name, "exc_message": [arguments], "exc_module": module}`. An argument that
    JSON cannot carry is stored as its text. The traceback is None where the exception was never raised. Each of the
    two is at most `max_bytes` bytes long, the traceback also at most TRACEBACK_BYTES.

    Never raises: a failure that cannot be described would leave its job without an end. That includes interrupts
    raised by the exception's own methods.
    """
    name, module = _type_name(type(exc)), _type_module(type(exc))
    parts = [_describe_argument(argument, max_bytes) for argument in _arguments(exc)]
    error = _error_json(name, module, parts)
    if _utf8_length(error) > max_bytes:
        error = _shortened_error(name, module, parts, max_bytes)
    return error, _traceback_text(exc, min(TRACEBACK_BYTES, max_bytes))


def _error_json(name: str, module: str, encoded_arguments: list[str]) -> str:
    arguments = ",".join(encoded_arguments)
    return f'{{"exc_type":{_encode(name)},"exc_message":[{arguments}],"exc_module":{_encode(module)}}}'


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
        shortened = _encode(_clip(text, room))
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
            return _encode(_shown(value))
    return _encode(_clean(str.__str__(value)))


def _shown(value: Any) -> str:
    """`repr(value)`, or its `str`, or its type's name: the first that the value's own code allows."""
    for show in (repr, str):
        try:
            return _clean(str.__str__(show(value)))
        except BaseException:  # noqa: BLE001, S112 - its code may raise anything
            continue
    return f"<{_type_name(type(value))}>"


def _text_of(exc: BaseException) -> str:
    try:
        return _clean(str.__str__(str(exc)))
    except BaseException:  # noqa: BLE001 - its __str__ may raise anything
        return f"<{_type_name(type(exc))}>"


def _clean(text: str) -> str:
    """`text` without what a text column refuses: NUL and half surrogate pairs are shown as escapes."""
    if "\0" in text:
        text = text.replace("\0", "\\x00")
    if not text.isascii():
        text = _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    return text


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


def _type_name(cls: type) -> str:
    try:
        return _clean(str.__str__(cls.__qualname__))
    except BaseException:  # noqa: BLE001 - a metaclass may do anything
        return "Exception"


def _type_module(cls: type) -> str:
    try:
        return _clean(str.__str__(cls.__module__))
    except BaseException:  # noqa: BLE001 - `__module__` is whatever a class body makes it
        return "builtins"


def _traceback_text(exc: BaseException, limit: int) -> str | None:
    try:
        if exc.__traceback__ is None and exc.__cause__ is None and exc.__context__ is None:
            return None
        text = "".join(traceback_module.format_exception(exc))
    except BaseException:  # noqa: BLE001 - RecursionError, or an attribute of the exception that raises
        text = _plain_traceback(exc)
    try:
        return _clip(_clean(text), limit)
    except BaseException:  # noqa: BLE001 - MemoryError: without the traceback the failure is still told
        return None


def _plain_traceback(exc: BaseException) -> str:
    try:
        frames = "".join(traceback_module.format_tb(exc.__traceback__))
    except BaseException:  # noqa: BLE001 - as above
        frames = ""
    return f"Traceback (most recent call last):\n{frames}{_type_name(type(exc))}: {_text_of(exc)}\n"


def rebuild_exception(error: str | None, traceback: str | None) -> BaseException:
    """The exception of a failed job, from what `describe_exception` (or Celery) stored.

    It is of its own class where that is loaded in this process already, is a subclass of Exception and is reached
    by its dotted name; nothing is imported. A constructor that refuses the stored arguments is passed over, so that
    `except MyError` catches the failure all the same. In every other case, malformed data included, it is a
    RemoteError with the names and texts that were stored.
    """
    try:
        name, module, arguments = _parse_error(error)
    except (DecodeError, TypeError):
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
    except (DecodeError, TypeError):
        return "Exception()"
    return f"{name.rpartition('.')[2]}({', '.join(map(_shown, arguments))})"


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
        return arguments[0] if isinstance(arguments[0], str) else _shown(arguments[0])
    return _shown(arguments) if arguments else ""


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
    except (KeyError, AttributeError):
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
