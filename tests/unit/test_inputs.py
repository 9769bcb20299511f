"""What predecessors left, among the arguments; and the two forms in which an errback is called."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import pytest

from dbqueue import DBQueue
from dbqueue.errors import ContentDisallowed, InvalidTaskError
from dbqueue.jobs import ClaimedJob
from dbqueue.worker.running.inputs import placed, refuse_unread
from dbqueue.workflows import ERRBACK
from tests.stores import claimed_job

app = DBQueue("inputs", broker="sqlite://", set_as_current=False)

CALL = json.dumps(
    {
        "id": "failed-1",
        "task": "shop.pack",
        "queue": "celery",
        "priority": 0,
        "args": [1, {"__type__": "set"}],
        "kwargs": {"k": 2},
        "retries": 3,
        "root_id": None,
        "parent_id": "p",
        "group_id": "g",
        "headers": {"h": 1},
        "error": {"exc_type": "ValueError", "exc_message": ["bad"], "exc_module": "builtins"},
        "traceback": "Traceback: ...",
    }
)


@app.task
def wide(request: Any, exc: Any, traceback: Any) -> None: ...


@app.task
def narrow(task_id: str) -> None: ...


@app.task
def any_number(*args: Any) -> None: ...


@app.task
def by_place(request: Any, exc: Any, traceback: Any, /) -> None: ...


@app.task
def with_own(request: Any, own: Any) -> None: ...


@app.task(bind=True)
def bound(self: Any, request: Any, exc: Any) -> None: ...


class Written(app.Task):  # type: ignore[misc, name-defined]
    name = "written"

    def run(self, request: Any, exc: Any) -> None: ...


def job(*inputs: tuple[str, str | None, bytes | None]) -> ClaimedJob:
    return claimed_job(inputs=tuple(("predecessor", *each) for each in inputs))


def arguments(*inputs: tuple[str, str | None, bytes | None], args: tuple[Any, ...] = (), **kwargs: Any) -> Any:
    return placed(job(*inputs), narrow, list(args), kwargs, ["json"])


def test_the_first_argument() -> None:
    assert arguments(("[]", "7", None), args=(1,), k=2) == ([7, 1], {"k": 2})
    assert arguments(("[]", None, None)) == ([None], {})


def test_a_list_in_order_whatever_the_order_of_the_rows() -> None:
    assert arguments(("[2]", '"c"', None), ("[0]", '"a"', None), ("[1]", None, None)) == ([["a", None, "c"]], {})


def test_lists_in_lists() -> None:
    found = arguments(("[0]", "1", None), ("[1, 1]", "3", None), ("[1, 0]", "2", None), ("[2, 0, 0]", "4", None))
    assert found == ([[1, [2, 3], [[4]]]], {})


def test_a_keyword() -> None:
    assert arguments(('"rate"', "5", None), args=(1,)) == ([1], {"rate": 5})
    assert arguments(('"rate"', "5", None), rate=1, k=2) == ([], {"rate": 5, "k": 2}), "in the place of its own"


@pytest.mark.parametrize("place", ["7", "[-1]", '["a"]', "{}", "[true]", "[10000000]"])
def test_no_place(place: str) -> None:
    with pytest.raises(InvalidTaskError, match="place"):
        arguments((place, "1", None))


def test_too_large() -> None:
    with pytest.raises(InvalidTaskError, match="123 bytes"):
        refuse_unread(job()._replace(inputs=123))


def test_a_result_that_was_deleted() -> None:
    with pytest.raises(InvalidTaskError, match="the job step-1, which has none"):
        refuse_unread(job()._replace(inputs="step-1"))


def test_results_of_which_no_edge_says_what_they_are() -> None:
    """After a look at the signature: that tells of a changed row first."""
    lost = job()._replace(inputs=job().id)
    refuse_unread(lost)
    with pytest.raises(InvalidTaskError, match="no row of dbqueue_edges says of which"):
        placed(lost, narrow, [], {}, ["json"])


def test_a_result_in_a_refused_serializer() -> None:
    with pytest.raises(ContentDisallowed):
        arguments(("[]", '{"content_type": "application/x-python-serialize"}', b"x"))


def errback(task: Any, *args: Any, **kwargs: Any) -> list[Any]:
    found, _ = placed(job((ERRBACK, CALL, None)), task, list(args), kwargs, ["json"])
    return found


def test_the_new_form() -> None:
    request, exception, traceback = errback(wide)
    assert (request.id, request.task, request.args[0], request.kwargs) == ("failed-1", "shop.pack", 1, {"k": 2})
    assert (request.retries, request.root_id, request.group, request.headers) == (3, "failed-1", "g", {"h": 1})
    assert isinstance(exception, ValueError)
    assert exception.args == ("bad",)
    assert traceback == "Traceback: ..."
    assert len(errback(any_number)) == len(errback(by_place)) == 3


def test_whose_failure_it_was() -> None:
    """An errback may call it again, on the queue where it was."""
    request, *_ = errback(wide)
    assert (request.parent_id, request.correlation_id, request.called_directly) == ("p", "failed-1", False)
    assert request.delivery_info == {"exchange": "", "routing_key": "celery", "priority": 0}


@pytest.mark.parametrize(("accept", "seen"), [(["yaml"], ([1, "two"], {"k": 2})), (["json"], (None, None))])
def test_arguments_of_the_failed_call_in_another_serializer(accept: list[str], seen: tuple[Any, Any]) -> None:
    """What the settings refuse is not read here either: the failed call may be anybody's."""
    call = json.loads(CALL) | {"args": [], "kwargs": {}, "content_type": "application/x-yaml"}
    content = b"[[1, two], {k: 2}]"
    (request, *_), _ = placed(job((ERRBACK, json.dumps(call), content)), wide, [], {}, accept)
    assert (request.args, request.kwargs) == seen


@pytest.mark.parametrize(
    ("args", "seen"),
    [
        ([{"__type__": "date", "__value__": "2026-11-28"}], [date(2026, 11, 28)]),
        ([{"__type__": "no type", "__value__": 1}], None),
    ],
)
def test_the_arguments_of_the_failed_call(args: list[Any], seen: list[Any] | None) -> None:
    """None where they cannot be read, of which the failure itself tells."""
    call = json.dumps(json.loads(CALL) | {"args": args})
    (request, *_), _ = placed(job((ERRBACK, call, None)), wide, [], {}, ["json"])
    assert request.args == seen
    assert request.kwargs == (None if seen is None else {"k": 2})


@pytest.mark.parametrize("task", [narrow, bound, Written()], ids=["narrow", "bound", "class"])
def test_the_old_form(task: Any) -> None:
    assert errback(task) == ["failed-1"]


def test_its_own_arguments_count() -> None:
    assert errback(with_own, own=1) == ["failed-1"]
    assert errback(with_own, 5) == ["failed-1", 5]
    assert len(errback(any_number, 5)) == 4
