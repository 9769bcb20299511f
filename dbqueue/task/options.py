"""Options of a call that are none: told by a warning, for Celery hands to its broker whatever it does not know."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Final

from dbqueue.task.types import CallOptions

OF_A_MESSAGE: Final = frozenset(
    {
        "app_id", "cluster_id", "confirm_timeout", "content_encoding", "content_type", "declare", "expiration",
        "message_id", "timeout", "timestamp", "type", "user_id",
    }
)  # fmt: skip
"""What brokers take of a message beyond Celery's own options. There are no messages here, so that it has no effect."""
KNOWN: Final = frozenset(CallOptions.__annotations__) | OF_A_MESSAGE
_CLOSE: Final = 0.75
"""As for settings: how like a known name a misspelling is."""


def warn_of_unknown(options: Mapping[str, Any]) -> None:
    """Warn of each option that means nothing, where the program gives it. Names of stamps are options, too."""
    if options.keys() <= KNOWN:
        return
    stamped = options.get("stamped_headers") or ()
    if isinstance(stamped, str) or not isinstance(stamped, Iterable):  # what is no name either is refused later
        stamped = [stamped]
    for name in sorted(options.keys() - KNOWN - set(stamped)):
        warnings.warn(_unknown(name), UserWarning, stacklevel=_frames_of_ours())


def _frames_of_ours() -> int:
    """The `stacklevel` of the nearest frame that is not this package's, counted from the caller."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and f"{frame.f_globals.get('__name__')}.".startswith("dbqueue."):
        level, frame = level + 1, frame.f_back
    return level


@functools.lru_cache(maxsize=256)
def _unknown(name: str) -> str:
    import difflib  # only for mistakes

    close = difflib.get_close_matches(name, KNOWN, n=1, cutoff=_CLOSE)
    return f"the call option {name} is unknown and has no effect" + (f": did you mean {close[0]}?" if close else "")
