"""Every canvas expression on real workers, with the results that Celery gives.

Celery's page: "Canvas: Designing Work-flows", the section "The Primitives".
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from dbqueue import DBQueue
from dbqueue.canvas.primitives import chunks
from dbqueue.errors import EncodeError
from tests.compat.canvas_cases import CASES, IN_ORDER, PARTIAL, Case, Raises
from tests.worker.canvas_tasks import make_app, namespace
from tests.workers import starting

ALL = (*CASES, *IN_ORDER)


@pytest.fixture
def app(database_url: str) -> Iterator[DBQueue]:
    with make_app(database_url) as app:
        app.set_current()
        yield app


def sent(app: DBQueue, case: Case) -> Any:
    canvas = eval(case.expression, namespace(app))
    if isinstance(canvas, chunks):
        return canvas()
    return canvas.delay(*((10,) if case.expression in PARTIAL else ()))


def got(result: Any) -> Any:
    try:
        return json.loads(json.dumps(result.get(timeout=60)))
    except Exception as error:  # noqa: BLE001 - the classes of it are the value
        return [each.__name__ for each in type(error).__mro__]


def test_on_workers(app: DBQueue, database_url: str) -> None:
    with starting() as start:
        start(database_url, module="tests.worker.canvas_tasks", concurrency=2)
        wrong = {}
        results: list[tuple[Case, Any]] = []
        for case in ALL:
            try:
                results.append((case, sent(app, case)))
            except (TypeError, EncodeError) as error:
                # As Celery does: the first calls are checked when they are sent.
                if case.result != Raises(type(error).__name__):
                    wrong[case.expression] = (case.result, repr(error))
        for case, result in results:
            value = got(result)
            expected = case.result
            if not (expected.name in value if isinstance(expected, Raises) else value == expected):
                wrong[case.expression] = (expected, value)
    assert not wrong


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.expression)
def test_in_place(case: Case) -> None:
    with make_app("sqlite://") as app:
        app.set_current()
        if "atc" in case.expression:
            pytest.skip("a header that grows is a matter of rows")
        canvas = eval(case.expression, namespace(app))
        try:
            value = json.loads(json.dumps(canvas.apply((10,) if case.expression in PARTIAL else ()).get()))
        except Exception as error:  # noqa: BLE001 - the classes of it are the value
            value = [each.__name__ for each in type(error).__mro__]
        expected = case.result
        if isinstance(expected, Raises):
            assert expected.name in value or expected.name == "ChordError"
        elif case.expression == "group(add.s(1, 1) | group(add.s(2), add.s(3)))":
            assert value == [expected]  # as Celery's eager mode
        else:
            assert value == expected
