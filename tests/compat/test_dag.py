"""Workflows by names, on real workers and in place."""

from __future__ import annotations

from typing import Any

import pytest

from dbqueue import DBQueue, dag, group
from dbqueue.canvas import compiler
from dbqueue.errors import ChordError


@pytest.fixture
def shop(t: Any) -> dag:
    calls = dag()
    calls.add("one", t.kw.s(1))
    calls.add("two", t.kw.s(2), after="one")
    calls.add("three", t.kw.s(3), after=["one", "two"])
    calls.add("other", t.kw.si("alone"), after=["one"])
    return calls


ONE: Any = [[1], {}]
TWO: Any = [[2], {"one": ONE}]
EXPECTED: Any = {"one": ONE, "two": TWO, "three": [[3], {"one": ONE, "two": TWO}], "other": [["alone"], {}]}


class TestDag:
    @pytest.mark.usefixtures("canvas_worker")
    def test_results_by_name(self, shop: dag) -> None:
        result = shop.delay()
        assert result.get(timeout=60) == EXPECTED
        assert result["three"].get(timeout=60) == EXPECTED["three"]
        assert result[0] is result["one"]
        assert (result.ready(), result.completed_count(), len(result)) == (True, 4, 4)

    def test_in_place(self, shop: dag) -> None:
        assert shop.apply().get() == EXPECTED

    @pytest.mark.usefixtures("canvas_worker")
    def test_asynchronously(self, shop: dag) -> None:
        import asyncio

        async def main() -> Any:
            return await (await shop.adelay()).aget(timeout=60)

        assert asyncio.run(main()) == EXPECTED

    def test_asynchronously_in_place(self, shop: dag, canvas_app: DBQueue, monkeypatch: pytest.MonkeyPatch) -> None:
        import asyncio

        monkeypatch.setattr(canvas_app.conf, "task_always_eager", True)
        assert asyncio.run(shop.adelay()).get(timeout=60) == EXPECTED

    @pytest.mark.usefixtures("canvas_worker")
    def test_other_keywords_and_canvases(self, t: Any) -> None:
        calls = dag(
            {
                "end": (t.kw.s(), {"sums": "both", "first": "start"}),
                "start": t.add.s(1, 1),
                "both": (group(t.kw.s("a"), t.kw.s("b") | t.kw.s("c")), ["start"]),
            }
        )
        result = calls.apply_async(queue="celery", priority=3)
        b = [["b"], {"start": 2}]
        both = [[["a"], {"start": 2}], [[b, "c"], {}]]
        assert result.get(timeout=60) == {"end": [[], {"sums": both, "first": 2}], "start": 2, "both": both}
        assert calls.apply().get() == result.get()

    @pytest.mark.usefixtures("canvas_worker")
    def test_a_group_with_many_edges_takes_results_by_name(self, t: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(compiler, "MAX_EDGES", 1)
        calls = dag({"a": t.const.s(), "b": t.const.s(), "both": (group(t.kw.s(1), t.kw.s(2)), ["a", "b"])})
        by_name = {"a": 7, "b": 7}
        assert calls.delay().get(timeout=60) == by_name | {"both": [[[1], by_name], [[2], by_name]]}

    @pytest.mark.usefixtures("canvas_worker")
    def test_failures(self, t: Any) -> None:
        result = dag(
            {"bad": t.fail.s(), "good": t.add.s(1, 1), "one": (t.kw.s(), "bad"), "both": (t.kw.s(), ["bad", "good"])}
        )
        sent = result.delay()
        with pytest.raises(ValueError, match="bad"):
            sent["one"].get(timeout=60)
        with pytest.raises(ChordError, match="ValueError"):
            sent["both"].get(timeout=60)
        with pytest.raises(ValueError, match="bad"):
            sent.get(timeout=60)
        assert sent["good"].get(timeout=60) == 2
        values = sent.get(propagate=False, timeout=60)
        assert isinstance(values["bad"], ValueError)

    def test_revoking(self, lone: Any) -> None:
        result = dag({"one": lone.add.s(1, 1), "two": (lone.kw.s(2), "one"), "other": lone.add.s(2, 2)}).delay()
        result.revoke()
        assert {each.state for each in result} == {"REVOKED"}

    def test_faults(self, canvas_app: DBQueue, t: Any) -> None:
        with pytest.raises(ValueError, match="has a call named 'a' already"):
            dag({"a": t.const.s()}).add("a", t.const.s())
        with pytest.raises(ValueError, match="comes after 'b', which the dag does not have"):
            dag({"a": (t.const.s(), "b")}).delay()
        with pytest.raises(ValueError, match=r"come after each other in a cycle: (a, b, a|b, a, b)$"):
            dag({"a": (t.const.s(), "b"), "b": (t.const.s(), "a")}).delay()
        with pytest.raises(TypeError, match="must be a signature"):
            dag().add("a", t.const)

    def test_printed(self, t: Any) -> None:
        assert (
            repr(dag({"a": t.add.s(1, 1), "b": (t.kw.s(), "a")})) == "<dag a: tasks.add(1, 1), b: tasks.kw() after a>"
        )
