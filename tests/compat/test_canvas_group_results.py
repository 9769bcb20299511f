"""Results of canvases: GroupResult and ResultSet, parents, children and graphs.

Celery's pages: "Canvas", the section "Group Results" and "Graphs", and the reference of `celery.result`.
"""

from __future__ import annotations

import asyncio
import io
import json
import pickle
from types import SimpleNamespace
from typing import Any

import pytest

from dbqueue import DBQueue, chord, dag, group
from dbqueue.errors import ChordError, DecodeError, TaskRevokedError
from dbqueue.errors import TimeoutError as ResultTimeout
from dbqueue.jobs import Succeeded
from dbqueue.result import (
    AsyncResult,
    GroupResult,
    IncompleteStream,
    ResultSet,
    allow_join_result,
    denied_join_result,
    result_from_tuple,
)
from dbqueue.result.tree import DependencyGraph
from dbqueue.services.periodic import new_entry
from dbqueue.store import groups
from tests.stores import TestWorker


def get(result: Any) -> Any:
    return result.get(timeout=60)


class TestWaiting:
    """Without a worker."""

    def test_states(self, lone: Any) -> None:
        result = group(lone.add.s(1, 1), lone.add.s(2, 2)).delay()
        assert isinstance(result, GroupResult)
        assert (result.ready(), result.waiting(), result.successful(), result.failed()) == (False, True, False, False)
        assert result.completed_count() == 0
        with pytest.raises(ResultTimeout):
            result.get(timeout=0.01)

    def test_revoking_a_group_revokes_all(self, lone: Any) -> None:
        result = group(lone.add.s(1, 1), group(lone.add.s(2, 2)), lone.add.s(1, 1) | lone.add.s(2)).delay()
        result.revoke()
        assert [each.state for each in result] == ["REVOKED"] * 3
        assert (result.ready(), result.successful(), result.failed()) == (True, False, False)
        with pytest.raises(TaskRevokedError):
            get(result)

    def test_the_parents_of_a_long_chain(self, lone_app: DBQueue) -> None:
        """More of them than Python recurses."""
        result = AsyncResult[Any]("0", app=lone_app)
        for number in range(1, 1200):
            result = AsyncResult[Any](str(number), app=lone_app, parent=result)
        assert result.as_list() == [str(number) for number in reversed(range(1200))]
        result.forget()

    def test_told_when_they_end_and_not_before(self, lone_app: DBQueue, lone: Any) -> None:
        """Of what was called off as of a failure."""
        result, off = lone.add.delay(1, 1), lone.add.delay(2, 2)
        told: list[Any] = []
        for each in (result, off):
            each.then(told.append, on_error=lambda error: told.append(("error", error)))
        assert (result.ready(), off.ready(), told) == (False, False, [])
        off.revoke()
        worker = TestWorker(lone_app.database.store)
        worker.settle(Succeeded(result.id, worker.claim_one().lease, "2", 0.0))
        worker.close()
        assert (off.ready(), result.ready(), told) == (True, True, [("error", off), result])
        AsyncResult[Any](result.id, app=lone_app).then(told.append)
        nothing = ResultSet([], app=lone_app)
        nothing.then(told.append)
        twice = ResultSet([result, AsyncResult[Any](result.id, app=lone_app)], app=lone_app)
        twice.then(told.append)
        assert told[2:] == [result, nothing, twice]

    def test_told_once_however_often_its_row_is_read(self, lone_app: DBQueue, lone: Any) -> None:
        result = lone.add.delay(1, 1)
        told: list[Any] = []
        result.then(told.append)
        worker = TestWorker(lone_app.database.store)
        worker.settle(Succeeded(result.id, worker.claim_one().lease, "2", 0.0))
        worker.close()
        found = lone_app.database.store.fetch([result.id])
        for _ in range(2):
            result.take(found[result.id])
        assert told == [result]

    def test_the_timeout_is_for_all_together(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = iter([100.0, 103.0, 109.0])
        monkeypatch.setattr("dbqueue.result.sets.time", SimpleNamespace(monotonic=lambda: next(now)))
        given: list[float] = []
        each = SimpleNamespace(id="x", reads_row=False, get=lambda timeout, *_, **__: given.append(timeout))
        ResultSet([each, each]).get(timeout=10.0)
        assert given == [7.0, 1.0]

    def test_the_timeout_is_for_all_together_in_a_coroutine_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = iter([100.0, 103.0, 109.0])
        monkeypatch.setattr("dbqueue.result.sets.time", SimpleNamespace(monotonic=lambda: next(now)))
        given: list[float] = []

        async def aget(timeout: float, *_: Any, **__: Any) -> None:
            given.append(timeout)

        each = SimpleNamespace(id="x", reads_row=False, aget=aget)
        asyncio.run(ResultSet([each, each]).aget(timeout=10.0))
        assert given == [7.0, 1.0]

    def test_children_of_nobody(self, lone_app: DBQueue, lone: Any) -> None:
        assert (AsyncResult[Any]("nobody", app=lone_app).children, lone.add.delay(1, 1).children) == (None, [])

    def test_revoking_what_has_run_in_place(self, lone: Any) -> None:
        result = group(lone.add.s(1, 1), lone.add.s(2, 2)).apply()
        result.revoke()
        assert [each.state for each in result] == ["REVOKED"] * 2

    def test_how_a_group_is_revoked(self, lone_app: DBQueue, lone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[Any] = []
        monkeypatch.setattr(lone_app.control, "revoke", lambda *args, **options: asked.append((*args, options)))
        result = group(lone.add.s(1, 1), lone.add.s(2, 2)).delay()
        result.revoke(terminate=True, signal="SIGKILL", wait=True, timeout=3)
        options = {"terminate": True, "signal": "SIGKILL", "reply": True, "timeout": 3}
        assert asked == [([each.id for each in result], options)]

    def test_which_groups_are_the_same(self) -> None:
        one, other = GroupResult("g", [AsyncResult("a")]), GroupResult("g", [AsyncResult("a")])
        assert one == other == "g"
        other.parent = AsyncResult[Any]("before")
        assert one != other
        assert (bool(GroupResult("g", [])), bool(GroupResult(None, []))) == (True, False)

    def test_a_tree_is_walked_level_by_level(self, lone_app: DBQueue) -> None:
        below = {"a": "bc", "b": "d", "c": "", "d": ""}

        class Node(AsyncResult[str]):
            @property
            def children(self) -> list[Any]:
                return [Node(each, app=lone_app) for each in below[self.id]]

            def ready(self) -> bool:
                return True

            def get(self, *args: Any, **options: Any) -> Any:
                return self.id, options

        tree = Node("a", app=lone_app)
        pairs = [(parent and parent.id, node.id) for parent, node in tree.iterdeps()]
        assert pairs == [(None, "a"), ("a", "b"), ("a", "c"), ("b", "d")]
        assert [value for _, value in tree.collect(propagate=False)] == [
            (each, {"propagate": False}) for each in "abcd"
        ]
        assert tree.get_leaf() == ("d", {})
        assert [node.id for node in tree.graph.topsort()] == ["d", "b", "c", "a"]

    def test_incomplete_graphs(self, lone: Any) -> None:
        result = (lone.add.s(1, 1) | lone.add.s(2)).delay()
        with pytest.raises(IncompleteStream):
            result.parent.graph  # noqa: B018 - the property raises
        assert list(result.parent.build_graph(intermediate=True)) == [result.parent]


@pytest.mark.usefixtures("canvas_worker")
class TestGroupResult:
    def test_in_order(self, t: Any) -> None:
        result = group(t.add.s(i, i) for i in range(20)).delay()
        assert get(result) == [2 * i for i in range(20)]
        assert result.join(timeout=1) == result.join_native() == list(result.iterate()) == get(result)
        assert (result.ready(), result.successful(), result.failed(), result.waiting()) == (True, True, False, False)
        assert result.completed_count() == len(result) == 20
        assert [get(each) for each in result] == get(result)
        assert get(result[3]) == 6
        assert result.supports_native_join

    def test_errors(self, t: Any) -> None:
        result = group(t.add.s(1, 1), t.fail.s()).delay()
        with pytest.raises(ValueError, match="bad"):
            get(result)
        value, error = result.get(propagate=False)
        assert (value, str(error)) == (2, "bad")
        assert (result.ready(), result.successful(), result.failed()) == (True, False, True)
        assert result.completed_count() == 1
        with pytest.raises(ValueError, match="bad"):
            result.maybe_throw()

    def test_the_error_of_a_header(self, t: Any) -> None:
        """In the group that is a chord's body, and in one that has the chord in it, however it is waited for."""
        header = group(t.add.s(1, 1), t.fail.s())
        body, member = (header | group(t.add.s(1), t.add.s(2))).delay(), group(header | t.tsum.s()).delay()
        outer = group(chord([header | t.tsum.s(), t.add.s(1, 1)], t.tsum.s())).delay()
        for result in (body, member, outer):
            for wait in (get, lambda result: asyncio.run(result.aget(timeout=60))):
                with pytest.raises(ValueError, match="bad") as caught:
                    wait(result)
                assert isinstance(caught.value, ChordError)
                assert type(caught.value.__cause__) is ValueError

    def test_the_traceback_of_an_error_of_a_header(self, canvas_app: DBQueue, t: Any) -> None:
        """Where nobody knows the header: with `task_remote_tracebacks`."""
        canvas_app.conf.task_remote_tracebacks = True
        body = (group(t.add.s(1, 1), t.fail.s()) | t.tsum.s()).delay()
        try:
            with pytest.raises(ChordError) as caught:
                get(ResultSet([AsyncResult(body.id, app=canvas_app)]))
        finally:
            canvas_app.conf.task_remote_tracebacks = False
        assert "ValueError: bad" in str(caught.value.__cause__)

    def test_a_callback_is_for_values(self, t: Any) -> None:
        """A failure that is raised is no value; as in Celery."""
        seen: list[Any] = []
        result = t.fail.delay()
        for wait in (result.get, result.maybe_throw):
            with pytest.raises(ValueError, match="bad"):
                wait(callback=lambda *each: seen.append(each))
        assert seen == []
        error = result.get(propagate=False, callback=lambda *each: seen.append(each))
        assert seen == [(result.id, error)]

    def test_callbacks(self, t: Any) -> None:
        result = group(t.add.s(1, 1), t.add.s(2, 2)).delay()
        seen: list[Any] = []
        ready: list[Any] = []
        result.then(ready.append)
        assert result.get(timeout=60, callback=lambda task_id, value: seen.append((task_id, value))) is None
        assert seen == [(result[0].id, 2), (result[1].id, 4)]
        assert ready == [result]
        assert result.join(callback=lambda *_: None) == []
        result[0].then(ready.append)
        assert ready == [result, result[0]]

    def test_callbacks_of_failures(self, t: Any) -> None:
        """Those that have failed have ended."""
        result = group(t.add.s(1, 1), t.fail.s(), t.fail.s()).delay()
        ready: list[Any] = []
        failed: list[Any] = []
        result.then(ready.append, on_error=failed.append)
        result.get(timeout=60, propagate=False)
        assert (ready, set(failed)) == ([result], {result[1], result[2]})

    def test_save_and_restore(self, canvas_app: DBQueue, t: Any) -> None:
        result = (t.add.s(1, 1) | group(t.add.s(1), t.add.s(2) | group(t.add.s(3), t.add.s(4)))).delay()
        assert result.save() is result
        result.save()
        restored = GroupResult.restore(result.id, app=canvas_app)
        assert restored == result
        assert get(restored) == [3, [7, 8]]
        result.delete()
        assert GroupResult.restore(result.id) is None

    @pytest.mark.parametrize("text", ['[["alone", null], null]', "[]", "7"])
    def test_what_was_saved_and_is_no_group(self, lone_app: DBQueue, text: str) -> None:
        groups.save(lone_app.database.store, "g", text)
        with pytest.raises(DecodeError, match="'g' is no group"):
            GroupResult.restore("g", app=lone_app)

    def test_as_data(self, canvas_app: DBQueue, t: Any) -> None:
        result = (t.add.s(1, 1) | group(t.add.s(1), t.add.s(2)) | t.tsum.s()).delay()
        first, header = result.parent.parent, result.parent
        members = [((each.id, None), None) for each in header]
        assert result.as_tuple() == ((result.id, ((header.id, ((first.id, None), None)), members)), None)
        assert result.as_list() == [result.id, header[0].id, header[1].id, first.id]
        back = result_from_tuple(json.loads(json.dumps(result.as_tuple())), canvas_app)
        assert (back, back.parent, back.parent.parent) == (result, header, first)
        assert get(back) == 7
        assert result_from_tuple(back) is back
        again = pickle.loads(pickle.dumps(result))
        assert (again, again.parent) == (result, header)

    def test_returned_by_a_task(self, canvas_app: DBQueue, t: Any) -> None:
        """A result is awaitable, but no task waits for one that it returns: a worker of one child would hang."""
        back = result_from_tuple(get(t.sends.delay(t.add.s(1, 1) | group(t.add.s(1), t.add.s(2)))), canvas_app)
        assert get(back) == [3, 4]
        assert isinstance(t.sends.apply(args=(t.add.s(1, 1),)).get(), AsyncResult)

    def test_printed(self) -> None:
        result = GroupResult("g", [AsyncResult("a"), AsyncResult("b")])
        assert repr(result) == "<GroupResult: g [a, b]>"
        assert str(result) == "g"
        assert repr(ResultSet([AsyncResult("a")])) == "<ResultSet: [a]>"

    def test_forget(self, t: Any) -> None:
        result = (t.add.s(1, 1) | t.add.s(2)).delay()
        assert get(result) == 4
        result.forget()
        assert not result.exists()
        assert not result.parent.exists()

    def test_not_within_a_task(self, canvas_app: DBQueue, t: Any) -> None:
        result = group(t.add.s(1, 1)).delay()

        @canvas_app.task(name="tasks.waits")
        def waits() -> Any:
            return result.get(timeout=60)

        @canvas_app.task(name="tasks.may_wait")
        def may_wait() -> Any:
            with allow_join_result():
                return result.get(timeout=60)

        @canvas_app.task(name="tasks.may_wait_no_more")
        def may_wait_no_more() -> Any:
            with allow_join_result():
                pass
            return result.get(timeout=60)

        for task in (waits, may_wait_no_more):
            with pytest.raises(RuntimeError, match="Never call"):
                task.apply(throw=True)
        assert may_wait.apply().get() == [2]
        with denied_join_result(), pytest.raises(RuntimeError, match="Never call"):
            result.get(timeout=60)
        waits.push_request(id="a test's own")
        assert get(result) == [2]
        waits.pop_request()

    def test_not_within_a_coroutine_either(self, canvas_app: DBQueue, t: Any) -> None:
        one, many = t.add.delay(1, 1), group(t.add.s(1, 1)).delay()
        named = dag().add("x", t.add.s(1, 1)).delay()
        waiting: list[tuple[Any, Any]] = [(one, 2), (many, [2]), (named, {"x": 2})]

        @canvas_app.task(name="tasks.waits_async")
        async def waits(number: int, **options: Any) -> Any:
            return await waiting[number][0].aget(timeout=60, **options)

        @canvas_app.task(name="tasks.awaits")
        async def awaits() -> Any:
            return await one

        @canvas_app.task(name="tasks.may_wait_async")
        async def may_wait(number: int) -> Any:
            with allow_join_result():
                return await waiting[number][0].aget(timeout=60)

        for number, (result, value) in enumerate(waiting):
            with pytest.raises(RuntimeError, match="Never call"):
                waits.apply((number,), throw=True)
            assert waits.apply((number,), {"disable_sync_subtasks": False}).get() == value
            assert may_wait.apply((number,)).get() == value
            assert asyncio.run(result.aget(timeout=60)) == value
        with pytest.raises(RuntimeError, match="Never call"):
            awaits.apply(throw=True)

    def test_the_backend_waits_within_a_task_as_celery_s(self, canvas_app: DBQueue, t: Any) -> None:
        """Who calls it knows what for: programs that have a waiting of their own."""
        result = t.add.delay(1, 1)

        @canvas_app.task(name="tasks.waits_by_backend")
        def waits() -> Any:
            return canvas_app.backend.wait_for(result.id, timeout=60)["result"]

        assert waits.apply().get() == 2


@pytest.mark.usefixtures("canvas_worker")
class TestResultSet:
    def test_members(self, t: Any) -> None:
        one, two = t.add.delay(1, 1), t.add.delay(2, 2)
        results = ResultSet([one])
        results.add(two)
        results.add(two)
        assert len(results) == 2
        assert get(results) == [2, 4]
        results.remove(one)
        with pytest.raises(KeyError):
            results.remove(one)
        results.discard(one)
        results.update([one, two])
        assert results == ResultSet([two, one])
        results.clear()
        assert get(results) == []

    def test_two_of_one_job(self, canvas_app: DBQueue, t: Any) -> None:
        """As a call that is sent twice under one `task_id` gives them."""
        one = t.add.delay(1, 1)
        assert get(one) == 2
        results = ResultSet([AsyncResult(one.id, app=canvas_app) for _ in range(2)])
        assert (results.ready(), results.successful(), results.completed_count()) == (True, True, 2)
        assert get(results) == [2, 2]

    def test_asynchronously(self, t: Any) -> None:
        result = group(t.add.s(1, 1), t.add.s(2, 2)).delay()
        assert asyncio.run(result.aget(timeout=60)) == [2, 4]


@pytest.mark.usefixtures("canvas_worker")
class TestTree:
    def test_parents_and_children(self, t: Any) -> None:
        result = (t.add.s(1, 1) | t.add.s(2) | t.add.s(3)).delay()
        assert get(result) == 7
        middle, first = result.parent, result.parent.parent
        assert get(first) == 2
        assert (first.children, middle.children, result.children) == ([middle], [result], [])
        assert [value for _, value in first.collect()] == [2, 4, 7]
        assert first.get_leaf() == 7

    def test_graph(self, t: Any) -> None:
        result = (t.add.s(1, 1) | group(t.add.s(1), t.add.s(2)) | t.tsum.s()).delay()
        assert get(result) == 7
        header, first = result.parent, result.parent.parent
        graph = first.graph
        (node,) = graph[first]
        assert (node.id, graph[node]) == (header.id, list(header))
        assert graph[header[1]] == [result]
        assert graph.topsort().index(result) < graph.topsort().index(first)
        text = io.StringIO()
        graph.to_dot(text)
        assert f'"{first.id}" -> "{header.id}"' in text.getvalue()

    def test_collect_what_tasks_send(self, t: Any) -> None:
        result = t.spawn.delay(3)
        get(result)
        leaves = [child.id for child, _ in _settled(result) if not child.children]
        assert len(leaves) == 4

    def test_results_that_a_task_returns_are_data(self, canvas_app: DBQueue, t: Any) -> None:
        sent = get(t.sends.delay(t.add.s(1, 1) | group(t.add.s(3), t.add.s(4))))
        assert len(sent) == 2
        result = result_from_tuple(sent, canvas_app)
        assert get(result) == [5, 6]
        assert get(result.parent) == 2

    def test_a_canvas_as_the_task_of_a_schedule(self, canvas_app: DBQueue, t: Any) -> None:
        for canvas, value in (
            (t.add.s(1, 1) | t.add.s(2), 4),
            (group(t.add.s(1, 1), t.add.s(2, 2)), [2, 4]),
            (chord([t.add.s(1, 1)], t.tsum.s()), 2),
        ):
            _, entry = new_entry(60, canvas, (), None, None, {})
            sent = get(canvas_app.send_task(entry["task"], entry["args"], entry["kwargs"]))
            assert get(result_from_tuple(sent, canvas_app)) == value

    def test_errbacks_are_children(self, t: Any) -> None:
        result = t.fail.s().on_error(t.record.si(1)).on_error(t.record.si(2)).delay()
        with pytest.raises(ValueError, match="bad"):
            get(result)
        (errbacks,) = result.children
        assert get(errbacks) == [[1], [2]]

    def test_parent_of_a_chord_is_its_header(self, t: Any) -> None:
        result = (group(t.add.s(1, 1), t.add.s(2, 2)) | t.tsum.s() | t.add.s(1)).delay()
        assert isinstance(result.parent, GroupResult)
        assert get(result.parent) == [2, 4]
        assert chord([t.add.s(1, 1)], t.tsum.s()).delay().parent.get(timeout=60) == [2]


def _settled(result: Any) -> list[tuple[Any, Any]]:
    """The results of the tree, once all have ended."""
    for child in result.children:
        get(child)
    return list(result.collect())


def test_a_graph_as_the_guide_prints_it() -> None:
    graph = DependencyGraph()
    graph.add_edge("first", "second")
    graph.add_edge("second", "third")
    assert [graph.valency_of(node) for node in graph] == [2, 1, 0]
    assert (graph.edges(), graph.topsort()) == (["first", "second"], ["third", "second", "first"])
    assert repr(graph).splitlines() == [
        "first(2)",
        "     second(1)",
        "          third(0)",
        "second(1)",
        "     third(0)",
        "third(0)",
    ]
