"""Batches: a group with callbacks, on real workers and in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dbqueue import DBQueue, batch, chord, group
from dbqueue.canvas import compiler
from dbqueue.canvas.flat_groups import FEWEST
from dbqueue.errors import ChordError

Noted = Callable[[int], list[Any]]


def callbacks(t: Any) -> dict[str, Any]:
    return {
        "on_success": t.record.s("success"),
        "on_failure": t.record.si("failure"),
        "on_complete": t.record.s("complete"),
    }


@pytest.mark.usefixtures("canvas_worker")
class TestOnWorkers:
    def test_all_succeed(self, t: Any, noted: Noted) -> None:
        result = batch((t.add.s(i, i) for i in range(3)), **callbacks(t)).delay()
        assert result.on_success.get(timeout=60) == [[0, 2, 4], "success"]
        assert result.on_complete.get(timeout=60) == [result.id, "complete"]
        assert result.get() == [0, 2, 4]
        assert len(noted(2)) == 2
        assert not result.on_failure.exists()

    def test_some_fail(self, t: Any, noted: Noted) -> None:
        calls = [t.fail.s(), t.add.s(1, 1), t.fail.s() | t.add.s(1), group(t.fail.s(), t.add.s(2, 2))]
        result = batch(calls, **callbacks(t)).delay()
        assert result.on_complete.get(timeout=60) == [result.id, "complete"]
        assert result.on_failure.get(timeout=60) == ["failure"]
        with pytest.raises(ChordError):
            result.on_success.get(timeout=60)
        assert [each.state for each in result] == ["FAILURE", "SUCCESS", "FAILURE", "FAILURE", "SUCCESS"]
        assert len(noted(2)) == 2

    def test_what_fails_has_an_errback_of_its_own(self, t: Any, noted: Noted) -> None:
        chained = (t.fail.s() | t.add.s(1)).set(link_error=t.record.si("chain"))
        chorded = chord([t.add.s(1, 1)], t.fail.si()).set(link_error=t.record.si("chord"))
        for call in (chained, chorded):
            result = batch([call], on_failure=t.record.si("batch")).delay()
            assert result.on_failure.get(timeout=60) == ["batch"]
        assert noted(4) == [["batch"], ["batch"], ["chain"], ["chord"]]

    def test_many_that_are_alike(self, t: Any, noted: Noted) -> None:
        result = batch((t.fail.s() for _ in range(FEWEST)), on_failure=t.record.si("failure")).delay()
        assert result.on_failure.get(timeout=60) == ["failure"]
        assert [each.get(timeout=60, propagate=False).args for each in result] == [("bad",)] * FEWEST

    def test_a_chord_in_a_header_tells_of_itself(self, t: Any, noted: Noted) -> None:
        inner = chord([t.fail.s()], t.tsum.s())
        result = batch([chord([inner, t.add.s(1, 1)], t.tsum.s())], on_failure=t.old_errback.s()).delay()
        assert noted(1) == [["old", result[0].parent[0].id]]

    def test_a_group_of_errbacks_of_many(self, t: Any, noted: Noted, monkeypatch: pytest.MonkeyPatch) -> None:
        """There is nothing to collect of what an errback is told, however many edges it takes."""
        monkeypatch.setattr(compiler, "MAX_EDGES", 1)
        result = batch([t.fail.s(), t.fail.s()], on_failure=group(t.old_errback.s(), t.record.si("failure"))).delay()
        told = noted(2)
        assert told[0] == ["failure"]
        assert told[1] in [["old", each.id] for each in result]

    def test_the_newer_form_of_an_errback(self, t: Any, noted: Noted) -> None:
        result = batch([t.fail.s()], on_failure=t.new_errback.s()).delay()
        result.on_failure.get(timeout=60)
        assert noted(1) == [["new", result[0].id, "tasks.fail", "ValueError", "bad", "str"]]

    def test_canvases_as_callbacks_and_partial_arguments(self, t: Any) -> None:
        result = batch([t.add.s(1), t.add.s(2)], on_success=t.tsum.s() | t.add.s(100)).delay(10)
        assert result.on_success.get(timeout=60) == 123
        assert (result.on_failure, result.on_complete) == (None, None)

    def test_an_empty_one(self, t: Any) -> None:
        result = batch([], **callbacks(t)).delay()
        assert result.on_success.get(timeout=60) == [[], "success"]
        assert result.on_complete.get(timeout=60) == [result.id, "complete"]

    def test_asynchronously(self, t: Any) -> None:
        import asyncio

        async def main() -> Any:
            return await (await batch([t.add.s(1, 1)], on_complete=t.const.si()).adelay()).on_complete.aget(timeout=60)

        assert asyncio.run(main()) == 7


def test_revoked(lone: Any) -> None:
    result = batch([lone.add.s(1, 1), lone.add.s(2, 2)], on_complete=lone.const.si()).delay()
    result.revoke()
    assert [each.state for each in result] == ["REVOKED", "REVOKED"]
    assert result.on_complete.state == "PENDING"


def test_in_place(t: Any, noted: Noted) -> None:
    result = batch([t.add.s(1, 1)], **callbacks(t)).apply()
    assert (result.on_success.get(), result.on_complete.get()) == ([[2], "success"], [result.id, "complete"])
    failed = batch([t.fail.s(), t.add.s(1, 1)], on_failure=t.new_errback.s(), on_complete=t.const.si()).apply()
    assert failed.on_complete.get() == 7
    (told,) = (note for note in noted(3) if note[0] == "new")
    assert told[:4] == ["new", failed[0].id, "tasks.fail", "ValueError"]
    assert repr(batch([t.const.s()])) == "<batch of 1: group([tasks.const()])>"


def test_asynchronously_in_place(t: Any, canvas_app: DBQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    monkeypatch.setattr(canvas_app.conf, "task_always_eager", True)
    result = asyncio.run(batch([t.add.s(1), t.add.s(2)], on_success=t.tsum.s()).adelay(10))
    assert (result.get(timeout=60), result.on_success.get(timeout=60)) == ([11, 12], 23)
