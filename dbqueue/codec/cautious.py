"""What values say of themselves, as text that a column takes, whatever their own code does or raises."""

from __future__ import annotations

import re
from typing import Any, Final

_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def shown(value: Any) -> str:
    """`repr(value)`, or its `str`, or its type's name: the first that the value's own code allows."""
    for show in (repr, str):
        try:
            return clean(str.__str__(show(value)))
        except BaseException:  # noqa: BLE001, S112 - its code may raise anything
            continue
    return f"<{type_name(type(value))}>"


def text_of(exc: BaseException) -> str:
    try:
        return clean(str.__str__(str(exc)))
    except BaseException:  # noqa: BLE001 - its __str__ may raise anything
        return f"<{type_name(type(exc))}>"


def clean(text: str) -> str:
    """`text` without what a text column refuses: NUL and half surrogate pairs are shown as escapes."""
    if "\0" in text:
        text = text.replace("\0", "\\x00")
    if not text.isascii():
        text = _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    return text


def type_name(cls: type) -> str:
    try:
        return clean(str.__str__(cls.__qualname__))
    except BaseException:  # noqa: BLE001 - a metaclass may do anything
        return "Exception"


def type_module(cls: type) -> str:
    try:
        return clean(str.__str__(cls.__module__))
    except BaseException:  # noqa: BLE001 - `__module__` is whatever a class body makes it
        return "builtins"
