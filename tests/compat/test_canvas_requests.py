"""Where the options of a canvas go, and what each task's request says of its place in it.

Celery's pages: "Calling Tasks" and "Canvas"; seen with Celery 5.7 on Redis.
"""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from dbqueue import DBQueue, chain, chord, group, using
from dbqueue.canvas import sending
from dbqueue.canvas.compiler import Compiler
from dbqueue.canvas.flat_groups import FEWEST
from dbqueue.jobs import NewJob

pytestmark = pytest.mark.usefixtures("canvas_worker")


def get(result: Any) -> Any:
    return result.get(timeout=60)


class TestRequests:
    def test_of_a_chain(self, t: Any) -> None:
        result = (t.info.s() | t.info.s() | t.info.s()).delay()
        last, middle, first = get(result), result.parent, result.parent.parent
        assert (last["root_id"], last["parent_id"]) == (first.id, middle.id)
        assert (get(middle)["root_id"], get(middle)["parent_id"]) == (first.id, first.id)
        assert (get(first)["root_id"], get(first)["parent_id"], last["group"]) == (first.id, None, None)

    def test_of_a_group(self, t: Any) -> None:
        result = group(t.info.s(), t.add.s(1, 1) | t.info.s()).delay()
        one, two = get(result)
        assert (one["group"], one["group_index"], one["root_id"], one["parent_id"]) == (result.id, 0, one["id"], None)
        assert (two["group"], two["group_index"], two["root_id"]) == (result.id, 1, result[1].parent.id)

    def test_of_a_chord_in_a_chain(self, t: Any) -> None:
        result = (t.add.s(1, 1) | group(t.info.s(), t.info.s()) | t.info.s()).delay()
        body, header = get(result), get(result.parent)
        first = result.parent.parent
        for index, each in enumerate(header):
            assert (each["root_id"], each["parent_id"]) == (first.id, first.id)
            assert (each["group"], each["group_index"]) == (result.parent.id, index)
        assert body["root_id"] == first.id
        assert body["parent_id"] in [each.id for each in result.parent]
        assert (body["group"], body["group_index"]) == (result.parent.id, None)

    def test_of_what_a_task_sends(self, t: Any) -> None:
        result = t.spawn.delay(2)
        group_id, other = get(result)
        children = result.children
        assert [str(child) for child in children] == [group_id, other]
        assert [get(child) for child in children[0]] == [0, 2]


class TestOptions:
    def test_of_a_chain_are_for_its_first(self, t: Any) -> None:
        result = (t.info.s() | t.info.s()).apply_async(priority=5, countdown=0.01, headers={"a": 1})
        last, first = get(result), get(result.parent)
        assert (first["priority"], first["eta"], first["headers"]) == (5, True, {"a": 1})
        assert (last["priority"], last["eta"], last["headers"]) == (0, False, None)

    def test_of_a_group_are_for_all(self, t: Any) -> None:
        one, two = get(group(t.info.s(), t.info.s() | t.info.s()).apply_async(priority=5, countdown=0.01))
        assert (one["priority"], one["eta"]) == (5, True)
        assert (two["priority"], two["eta"]) == (0, False)  # its first step has them

    def test_of_a_chord_are_for_both_but_a_countdown(self, t: Any) -> None:
        result = chord([t.info.s()], t.info.s()).apply_async(priority=5, countdown=0.01)
        body, header = get(result), get(result.parent[0])
        assert (header["priority"], header["eta"]) == (5, True)
        assert (body["priority"], body["eta"]) == (5, False)

    def test_a_task_id(self, t: Any) -> None:
        one = (t.add.s(1, 1) | t.add.s(2)).apply_async(task_id="a-chain")
        many = group(t.add.s(1, 1), t.add.s(2, 2)).apply_async(task_id="a-group")
        body = chord([t.add.s(1, 1)], t.tsum.s()).apply_async(task_id="a-chord")
        assert (one.id, get(one)) == ("a-chain", 4)
        assert (many.id, get(many)) == ("a-group", [2, 4])
        assert (body.id, get(body)) == ("a-chord", 2)

    def test_partial_arguments(self, t: Any) -> None:
        assert get(group(t.add.s(1), t.add.s(2))(5)) == [6, 7]
        assert get(group(t.kw.s(1), t.kw.si(2)).delay(5, z=1)) == [[[5, 1], {"z": 1}], [[2], {}]]
        assert get((t.kw.s(1) | t.kw.s(2)).delay(5, z=1)) == [[[[5, 1], {"z": 1}], 2], {}]
        assert get(chord([t.add.s(1), t.add.s(2)], t.tsum.s()).delay(5)) == 13
        assert get(chord([t.kw.s(1)], t.ident.s()).apply_async((5,), {"q": 1})) == [[[5, 1], {"q": 1}]]
        assert get(chord([t.add.s(1, 1)])(t.tsum.s())) == 2
        assert ~t.add.s(1, 1) == 2
        canvas = chain(chord([t.ident.s(), t.ident.s()], t.ident.s()), t.ident.s())
        assert get(canvas.apply_async(args=(1,))) == canvas.apply(args=(1,)).get() == [1, 1]
        assert get(chain(t.ident.s(), chord([t.ident.s(), t.ident.s()], t.ident.s())).apply_async((1,))) == [1, 1]

    def test_freezing_tells_the_ids_before(self, t: Any) -> None:
        canvas = t.add.s(1, 1) | group(t.add.s(2), t.add.s(3)) | t.tsum.s()
        frozen = canvas.freeze()
        result = canvas.delay()
        assert (result, result.parent, result.parent.parent) == (frozen, frozen.parent, frozen.parent.parent)
        assert get(frozen) == 9

    def test_nothing_to_send(self, t: Any) -> None:
        assert chain()() is None
        assert chain().apply_async() is None
        assert get(group().delay()) == []
        with pytest.raises(TypeError, match="a chord needs a body"):
            chord([t.add.s(1, 1)])()


class TestWriting:
    def jobs(self, app: DBQueue, sig: Any, **options: Any) -> list[NewJob]:
        return list(sending.plan(app, sig, (), {}, options).workflow.jobs)

    def test_routes_and_queues(self, canvas_app: DBQueue, t: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(canvas_app.conf, "task_routes", {"tasks.tsum": "sums", "tasks.add": "adds"})
        jobs = self.jobs(canvas_app, chord([t.add.s(1, 1), t.add.s(1, 1).set(queue="own")], t.tsum.s()))
        assert [job.queue for job in jobs] == ["adds", "own", "sums"]
        assert [job.queue for job in self.jobs(canvas_app, t.add.starmap([(1, 1)]))] == ["adds"]
        assert {job.queue for job in self.jobs(canvas_app, group(t.add.s(1, 1)), queue="all")} == {"all"}

    def test_members_of_a_large_group_keep_what_is_their_own(self, canvas_app: DBQueue, t: Any) -> None:
        """Those of one task are written from what they have in common, where they have all in common."""
        members = [t.add.s(1, 1) for _ in range(FEWEST)]
        for own in (t.add.s(1, 1).set(queue="own"), t.add.s(1, 1).set(priority=3), t.ident.s(1)):
            jobs = self.jobs(canvas_app, group([*members, own]))
            found = (jobs[-1].task, jobs[-1].queue, jobs[-1].priority)
            assert found == (own.task, own.options.get("queue", jobs[0].queue), own.options.get("priority", 0))

    def test_the_header_of_a_large_chord_is_made_at_once(
        self, canvas_app: DBQueue, t: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one_by_one: list[str] = []
        call = Compiler._call

        def noted(self: Compiler, sig: Any, *rest: Any) -> Any:
            one_by_one.append(sig.name)
            return call(self, sig, *rest)

        monkeypatch.setattr(Compiler, "_call", noted)
        jobs = self.jobs(canvas_app, chord([t.add.s(1, n) for n in range(FEWEST)], t.tsum.s()))
        assert (len(jobs), one_by_one) == (FEWEST + 1, ["tasks.tsum"])

    def test_many_edges_between_groups_go_through_one_row(self, canvas_app: DBQueue, t: Any) -> None:
        canvas = group(t.ident.s(i) for i in range(100)) | group(t.tsum.s() for _ in range(50)) | t.tsum.s()
        planned = sending.plan(canvas_app, canvas, (), {}, {})
        assert len(planned.workflow.jobs) == 100 + 1 + 50 + 1
        assert len(planned.workflow.edges) == 100 + 50 + 50
        assert get(canvas.delay()) == 50 * sum(range(100))

    def test_in_the_callers_transaction(self, canvas_url: str, t: Any) -> None:
        engine = sa.create_engine(canvas_url, poolclass=sa.NullPool)
        with engine.connect() as connection:
            lost = chord([t.add.s(1, 1)], t.tsum.s()).apply_async(connection=connection)
            connection.rollback()
        with engine.begin() as connection, using(connection):
            kept = chord([t.add.s(1, 1)], t.tsum.s()).delay()
            assert not kept.exists()
        assert get(kept) == 2
        assert not lost.exists()
        assert not lost.parent[0].exists()

    async def _twins(self, t: Any) -> list[Any]:
        results = [
            await t.add.s(1, 1).adelay(),
            await (t.add.s(1, 1) | t.add.s(2)).aapply_async(),
            await group(t.add.s(1, 1), t.add.s(2, 2)).adelay(),
            await chord([t.add.s(1, 1)], t.tsum.s()).aapply_async(priority=3),
            await t.add.aapply_async((1, 1), link=t.ident.s()),
        ]
        return [await result.aget(timeout=60) for result in results]

    def test_asynchronous_twins(self, t: Any) -> None:
        import asyncio

        assert asyncio.run(self._twins(t)) == [2, 4, [2, 4], 2, 2]
