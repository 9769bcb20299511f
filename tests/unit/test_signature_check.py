"""Arguments are refused in Python's own words, and only where the function would refuse them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbqueue.calls.arguments import argument_checker


def plain(x, y): ...  # type: ignore[no-untyped-def]
def defaults(x, y=object(), *, z="a'b"): ...  # type: ignore[no-untyped-def]  # noqa: B008
def stars(*args, **kwargs): ...  # type: ignore[no-untyped-def]
def mixed(a, /, b, *rest, c, d=1, **more): ...  # type: ignore[no-untyped-def]
def positional(a, b=1, /): ...  # type: ignore[no-untyped-def]
def keyword(*, only): ...  # type: ignore[no-untyped-def]
def nothing(): ...  # type: ignore[no-untyped-def]
async def coroutine(x): ...  # type: ignore[no-untyped-def]
def annotated(x, y=3): ...  # type: ignore[no-untyped-def]
def unicode_names(größe, 名=1): ...  # type: ignore[no-untyped-def]  # noqa: PLC2401, N803


annotated.__annotations__ = {"x": "no such name", "return": "nor this"}


FUNCTIONS = [plain, defaults, stars, mixed, positional, keyword, nothing, coroutine, annotated, unicode_names]

NAMES = ["a", "b", "c", "x", "y", "z", "only", "größe", "名", "other"]
CALLS = st.tuples(
    st.lists(st.integers(), max_size=4),
    st.dictionaries(
        st.sampled_from(["a", "b", "c", "x", "y", "z", "only", "größe", "名", "other"]), st.integers(), max_size=4
    ),
)


@pytest.mark.parametrize("function", FUNCTIONS)
@given(call=CALLS)
def test_it_agrees_with_the_call(function: Callable[..., Any], call: tuple[list[int], dict[str, int]]) -> None:
    args, kwargs = call
    checker = argument_checker(function, skip_first=False)
    assert checker is not None
    assert refusal(checker, args, kwargs) == refusal(function, args, kwargs)


def refusal(function: Callable[..., Any], args: list[int], kwargs: dict[str, int]) -> str | None:
    try:
        value = function(*args, **kwargs)
    except TypeError as error:
        return str(error)
    if hasattr(value, "close"):
        value.close()  # a coroutine that nobody awaits
    return None


def test_self_is_left_out() -> None:
    checker = argument_checker(plain, skip_first=True)
    assert checker is not None
    checker(1)
    with pytest.raises(TypeError, match=r"plain\(\) takes 1 positional argument but 2 were given"):
        checker(1, 2)


def test_a_lambda_and_a_partial() -> None:
    checker = argument_checker(lambda x: x, skip_first=False)
    assert checker is not None
    with pytest.raises(TypeError, match="missing"):
        checker()
    partial = argument_checker(functools.partial(plain, 1), skip_first=False)
    assert partial is not None
    partial(2)
    with pytest.raises(TypeError):
        partial()


def test_what_has_no_signature_is_not_checked() -> None:
    assert argument_checker(type("NoSignature", (), {"__call__": None, "__signature__": 3})(), skip_first=False) is None
