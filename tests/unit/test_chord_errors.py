"""ChordError and its cause in one exception."""

from __future__ import annotations

from typing import Any, Self

import pytest

from dbqueue.errors import ChordError
from dbqueue.result.chord_errors import with_cause


class OutOfStock(Exception):
    def __init__(self, item: str) -> None:
        super().__init__(item)
        self.item = item


def test_it_is_caught_as_both_and_has_what_the_cause_had() -> None:
    cause = OutOfStock("jug")
    error: Any = with_cause(ChordError("Dependency raised OutOfStock"), cause)
    with pytest.raises(OutOfStock) as caught:
        raise error
    assert isinstance(caught.value, ChordError)
    assert (error.item, str(error), error.__cause__) == ("jug", "Dependency raised OutOfStock", cause)


class ByNumber(Exception):
    def __new__(cls, number: object) -> Self:
        return super().__new__(cls, 100 // int(str(number)))


@pytest.mark.parametrize("cause", [OSError(2, "No such file"), ByNumber(5)])
def test_where_python_cannot_make_such_a_class_it_stays_what_it_is(cause: Exception) -> None:
    error = with_cause(ChordError("Dependency raised"), cause)
    assert isinstance(error, ChordError)
    assert error.__cause__ is cause
