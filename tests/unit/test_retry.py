"""Pauses between tries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbqueue.retry import backoff_seconds


@pytest.mark.parametrize(("retries", "seconds"), [(0, 2), (1, 4), (2, 8), (5, 64), (6, 100), (10_000, 100)])
def test_it_doubles_up_to_its_maximum(retries: int, seconds: float) -> None:
    assert backoff_seconds(retries, factor=2, maximum=100, jitter=None) == seconds


def test_jitter_draws_from_nothing_to_all_of_it() -> None:
    assert backoff_seconds(3, factor=1, maximum=100, jitter=lambda: 0.0) == 0
    assert backoff_seconds(3, factor=1, maximum=100, jitter=lambda: 0.5) == 4
    assert backoff_seconds(3, factor=1, maximum=100, jitter=lambda: 1.0) == 8


@given(
    st.integers(0, 10**6),
    st.floats(0, 1e6, allow_nan=False),
    st.floats(0, 1e6, allow_nan=False),
    st.none() | st.floats(0, 1).map(lambda number: lambda: number),
)
def test_it_is_never_negative_nor_above_the_maximum(
    retries: int, factor: float, maximum: float, jitter: object
) -> None:
    seconds = backoff_seconds(retries, factor=factor, maximum=maximum, jitter=jitter)  # type: ignore[arg-type]
    assert 0 <= seconds <= maximum
