"""How deeply JSON may be nested.

Python reads nested values by recursion, and what comes to its limit there harms others: a finalizer that the collector
of garbage happens to run then cannot run, and its object's file or lock stays open. Data is refused before that, at a
depth that is the same in each version of Python.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Final

DEEPEST_WRITTEN: Final = 400
"""Lists and objects within each other, of what a caller enqueues."""
DEEPEST_KEPT: Final = 450
"""Of results, and of arguments that a retry writes with results among them: a chain's own result, the ids of its steps,
is two levels for each."""
DEEPEST_READ: Final = 500
"""More than what is written, for both are put into other things: an errback's call, a worker's reply."""

_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
"""One level up or down as signed bytes: 1, -1."""
_REST: Final = bytes(set(range(256)) - set(b'[{]}"'))


def is_deeper(text: str, limit: int) -> bool:
    """Whether more than `limit` lists and objects stand within each other in JSON text, be it sound or not."""
    # Nearly every text ends here: it is too short, or has too few of them in all.
    if len(text) <= limit or text.count("[") + text.count("{") <= limit:
        return False
    # Without escapes each quote begins or ends a string: every second part is outside of them. Of what is no JSON the
    # answer may be wrong, but only behind the place where a reader stops.
    bare = text.replace("\\\\", "").replace('\\"', "").encode("ascii", "ignore").translate(_STEPS, _REST)
    steps = b"".join(bare.replace(b'""', b"").split(b'"')[::2])
    return max(accumulate(memoryview(steps).cast("b")), default=0) > limit
