"""Waiting for a state with a deadline, never for a length of time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.01


def wait_until(predicate: Callable[[], T], timeout: float = 60.0, what: str = "the condition") -> T:
    """Call `predicate` until it is true, and return its value.

    Fails the test after `timeout` seconds, which is an upper limit for a slow machine and not a
    measure: choose it long.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"{what} did not come true within {timeout:g} s; the last value was {value!r}")
        time.sleep(POLL_SECONDS)
