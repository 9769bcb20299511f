"""Canvases in place: `apply`, and `task_always_eager`.

Celery's page: "Testing with Celery", and its eager results; seen with Celery 5.7.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dbqueue import DBQueue, chain, chord, dag, group
from dbqueue.result import GroupResult
from dbqueue.task.eager import EagerResult
from tests.worker.canvas_tasks import NOTES, make_app, namespace, notes


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DBQueue]:
    monkeypatch.setenv(NOTES, str(tmp_path / "notes"))
    with make_app("sqlite://", task_always_eager=True) as app:
        app.set_current()
        yield app


@pytest.fixture
def t(app: DBQueue) -> Any:
    return SimpleNamespace(**namespace(app))


def test_each_primitive(t: Any) -> None:
    result = (t.add.s(1, 1) | t.add.s(2) | t.add.s(3)).delay()
    assert isinstance(result, EagerResult)
    assert (result.get(), result.parent.get(), result.parent.parent.get()) == (7, 4, 2)
    assert result.children is None
    members = group(t.add.s(1, 1), t.add.s(2, 2)).delay()
    assert isinstance(members, GroupResult)
    assert (members.get(), members.ready(), members.successful(), members.completed_count()) == ([2, 4], True, True, 2)
    assert chord([t.add.s(1, 1), t.add.s(2, 2)])(t.tsum.s()).get() == 6
    assert (t.add.s(1, 1) | group(t.add.s(2), t.add.s(3)) | t.tsum.s()).apply_async(countdown=60).get() == 9
    assert t.add.starmap([(1, 2)]).delay().get() == [3]
    assert t.add.chunks([(1, 2), (3, 4)], 1)().get() == [[3], [7]]
    assert dag({"a": t.add.s(1, 1), "b": (t.kw.s(), "a")}).delay()["b"].get() == [[], {"a": 2}]
    assert chain()() is None
    assert group().delay().get() == []


def test_partial_arguments(t: Any) -> None:
    assert group(t.add.s(1), t.add.s(2)).delay(10).get() == [11, 12]
    assert (t.kw.s(1) | t.kw.s(2)).delay(5, z=1).get() == [[[[5, 1], {"z": 1}], 2], {}]
    assert chord([t.add.s(1), t.add.s(2)], t.tsum.s()).delay(5).get() == 13
    assert (t.add.si(1, 1) | t.const.si()).delay(100).get() == 7


def test_links(t: Any, tmp_path: Path) -> None:
    t.add.apply_async((1, 1), link=[t.record.s("link"), t.add.s(1) | t.record.s("chain")])
    (t.add.s(1, 1) | t.add.s(2)).apply_async(link=t.record.s("of a chain"))
    chord([t.add.s(1, 1)], t.tsum.s()).apply_async(link=t.record.s("of a chord"))
    seen = [[2, "link"], [3, "chain"], [4, "of a chain"], [2, "of a chord"]]
    assert notes(tmp_path / "notes") == seen


def test_errbacks(t: Any, tmp_path: Path) -> None:
    result = t.fail.apply_async((), link_error=[t.old_errback.s(), t.new_errback.s(), t.record.si("i")])
    assert result.state == "FAILURE"
    old, new, immutable = notes(tmp_path / "notes")
    assert (old, immutable) == (["old", result.id], ["i"])
    assert new == ["new", result.id, "tasks.fail", "ValueError", "bad", "str"]


def test_the_first_error_ends_a_chain(t: Any, tmp_path: Path) -> None:
    canvas = t.add.s(1, 1) | t.fail.s() | t.record.s("not reached")
    with pytest.raises(ValueError, match="bad"):
        canvas.on_error(t.record.si("errback")).apply()
    assert notes(tmp_path / "notes") == [["errback"]]
    with pytest.raises(ValueError, match="bad"):
        chord([t.fail.s()], t.tsum.s()).apply()
    members = group(t.fail.s(), t.add.s(1, 1)).apply()
    assert [each.state for each in members] == ["FAILURE", "SUCCESS"]


def test_replace(t: Any) -> None:
    assert t.rep.delay(t.add.s(1, 1) | t.add.s(2)).get() == 4
    assert (t.rep.s(group(t.add.s(1, 1), t.add.s(2, 2))) | t.tsum.s()).delay().get() == 6
    assert t.rep.delay(t.rep.s(t.add.s(3, 4))).get() == 7


def test_what_a_task_sends(t: Any) -> None:
    assert len(t.spawn.delay(2).get()) == 2


def test_ids_of_requests(t: Any) -> None:
    members = group(t.info.s(), t.info.s()).apply_async(task_id="g")
    assert [(each["group"], each["group_index"]) for each in members.get()] == [("g", 0), ("g", 1)]
    result = (t.add.s(1, 1) | t.info.s()).apply_async(task_id="last")
    assert (result.id, result.get()["id"]) == ("last", "last")


def test_what_is_linked_to_a_canvas_that_ends_in_a_group_gets_the_list(t: Any, tmp_path: Path) -> None:
    """As on a worker, once; and the canvas itself keeps no callback."""
    ends = [t.add.s(10), t.add.s(20)]
    for sig in (
        t.add.s(1, 1) | group(ends),
        chord([t.add.s(1, 0), t.add.s(0, 1)], t.tsum.s() | group(ends)),
        t.add.s(1, 0) | chord([t.add.s(0), t.add.s(0)], t.tsum.s() | group(ends)),
    ):
        sig.apply_async(link=t.record.s("linked"))
        sig.apply_async()
        assert notes(tmp_path / "notes") == [[[12, 22], "linked"]]
        (tmp_path / "notes").unlink()
