"""Every setting as data: name, default, what it takes, what it does. `docs/settings.md` is made from these tables.

    calls.py, running.py   the tables
    setting.py, kinds.py   what a setting is, and what values it takes
    celery.py              Celery's names that never will have an effect here, and the spellings of Celery 3

Names and meanings are Celery's ("Configuration and defaults" in its documentation) unless the text says otherwise.
Each is honoured; a name that cannot be is in `celery.py`, with the reason.
"""

from __future__ import annotations

from typing import Any, Final

from dbqueue.settings.calls import CALLS
from dbqueue.settings.celery import WITHOUT_MEANING, new_name
from dbqueue.settings.kinds import URL
from dbqueue.settings.running import RUNNING
from dbqueue.settings.setting import ENVIRONMENT_PREFIX, Setting

__all__ = [
    "ENVIRONMENT_PREFIX",
    "GROUPS",
    "KNOWN",
    "SETTINGS",
    "URL_SETTINGS",
    "Setting",
    "check",
    "from_environment",
    "known_name",
    "nearest",
    "warning_for",
]

_CLOSE: Final = 0.75
"""How like a known name an unknown one must be to be taken for a misspelling (difflib's ratio; its default is 0.6)."""

GROUPS: Final[dict[str, tuple[Setting, ...]]] = CALLS | RUNNING
SETTINGS: Final[dict[str, Setting]] = {setting.name: setting for group in GROUPS.values() for setting in group}
KNOWN: Final = frozenset(SETTINGS) | frozenset(WITHOUT_MEANING)
"""Each lower-case name that is no mistake."""
URL_SETTINGS: Final = frozenset(name for name, setting in SETTINGS.items() if setting.kind is URL)


def known_name(name: str) -> str | None:
    """The lower-case name of a setting, given that or its spelling in Celery 3; None if it is not known."""
    return name if name in KNOWN else new_name(name, KNOWN)


def nearest(name: str) -> str | None:
    """The known name that `name` is most likely meant to be, if one is near."""
    import difflib  # only for mistakes

    close = difflib.get_close_matches(name.lower(), KNOWN, n=1, cutoff=_CLOSE)
    return close[0] if close else None


def check(name: str, value: Any) -> Any:
    """`value` as the setting `name` keeps it; a name that is not in SETTINGS keeps anything.

    Raises ImproperlyConfigured that names the setting and says what it takes.
    """
    setting = SETTINGS.get(name)
    return value if setting is None else setting.check(value)


def warning_for(name: str, value: Any) -> str | None:
    """What a person who sets `name` to `value` should be told; None if nothing."""
    if name in SETTINGS:
        return None
    if name in WITHOUT_MEANING:
        return f"{name} has no effect in dbqueue: {WITHOUT_MEANING[name]}"
    close = nearest(name)
    return f"unknown setting {name!r}" + (f": did you mean {close!r}?" if close else "")


def from_environment(environ: Any) -> dict[str, Any]:
    """The settings that DBQUEUE_* variables of `environ` give; an empty variable is as one that is not there.

    Raises ImproperlyConfigured that names the variable. Variables of no setting are left alone.
    """
    found = {}
    for setting in SETTINGS.values():
        text = environ.get(setting.variable)
        if text is not None and text.strip():
            found[setting.name] = setting.from_environment(text)
    return found
