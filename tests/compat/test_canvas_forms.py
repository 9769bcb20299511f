"""Signatures and canvases as values: how they print, combine and go through JSON.

Celery's page: "Canvas: Designing Work-flows".
"""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from dbqueue import DBQueue, Signature, chain, chord, group, maybe_signature, signature, subtask
from dbqueue.canvas import xmap, xstarmap
from dbqueue.errors import NotRegistered
from dbqueue.result import AsyncResult, GroupResult
from tests.compat.canvas_cases import CASES, Case
from tests.worker.canvas_tasks import make_app, namespace


@pytest.fixture
def app() -> Iterator[DBQueue]:
    app = make_app("sqlite://")
    app.set_current()
    yield app
    app.close()


@pytest.fixture
def t(app: DBQueue) -> Any:
    """The tasks and the primitives by name."""

    class Names:
        def __getattr__(self, name: str) -> Any:
            return namespace(app)[name]

    return Names()


@pytest.mark.parametrize("case", [case for case in CASES if case.printed], ids=lambda case: case.expression)
def test_printed_forms(app: DBQueue, case: Case) -> None:
    assert repr(eval(case.expression, namespace(app))) == case.printed


@pytest.mark.parametrize("case", [case for case in CASES if case.printed], ids=lambda case: case.expression)
def test_json_and_back_is_the_same(app: DBQueue, case: Case) -> None:
    sig = eval(case.expression, namespace(app))
    back = signature(json.loads(json.dumps(sig)), app=app)
    assert type(back) is type(sig)
    assert json.loads(json.dumps(back)) == json.loads(json.dumps(sig))


class TestSignature:
    def test_is_a_dict(self, t: Any) -> None:
        assert dict(t.add.s(2, 2)) == {
            "task": "tasks.add",
            "args": (2, 2),
            "kwargs": {},
            "options": {},
            "subtask_type": None,
            "immutable": False,
        }

    def test_ways_to_make_one(self, app: DBQueue, t: Any) -> None:
        same = [
            t.add.s(2, y=2),
            t.add.signature((2,), {"y": 2}),
            t.add.subtask((2,), {"y": 2}),
            signature("tasks.add", args=(2,), kwargs={"y": 2}),
            subtask("tasks.add", (2,), {"y": 2}),
            app.signature("tasks.add", (2,), {"y": 2}),
            Signature(t.add, (2,), {"y": 2}),
            Signature.from_dict({"task": "tasks.add", "args": (2,), "kwargs": {"y": 2}}),
        ]
        assert all(dict(each) == dict(same[0]) for each in same)

    def test_attributes(self, t: Any) -> None:
        sig = t.add.signature((2,), {"y": 3}, countdown=10)
        assert (sig.task, sig.name, sig.args, sig.kwargs) == ("tasks.add", "tasks.add", (2,), {"y": 3})
        assert (sig.options, sig.immutable, sig.subtask_type) == ({"countdown": 10}, False, None)
        assert sig.type is t.add
        assert (sig.id, sig.parent_id, sig.root_id) == (None, None, None)

    def test_partial_arguments_stand_before_its_own(self, t: Any) -> None:
        assert t.kw.s(1, a=1)(2, b=2) == [[2, 1], {"a": 1, "b": 2}]
        assert t.add.s(1).clone((2,)).args == (2, 1)
        assert t.kw.s(a=1).clone(kwargs={"a": 2}).kwargs == {"a": 2}

    def test_an_immutable_one_takes_none(self, t: Any) -> None:
        sig = t.add.si(2, 2)
        assert sig.immutable
        assert sig.clone((9,), {"z": 1}, countdown=3) == {**sig, "options": {"countdown": 3}}
        assert t.add.s(1, 1).set(immutable=True).immutable

    def test_set_and_clone_do_not_touch_the_original(self, t: Any) -> None:
        sig = t.add.s(2, 2)
        sig.link(t.mul.s(2))
        copied = sig.clone()
        copied.set(queue="q").link(t.mul.s(3))
        copied.kwargs["x"] = 1
        assert sig.options == {"link": [t.mul.s(2)]}
        assert sig.kwargs == {}
        assert sig.set(countdown=1) is sig
        assert sig.options["countdown"] == 1

    def test_replace(self, t: Any) -> None:
        sig = t.add.s(2, 2).set(queue="q")
        assert sig.replace(args=(5, 5)).args == (5, 5)
        assert sig.replace(kwargs={"z": 1}, options={}).options == {}
        assert sig.args == (2, 2)

    def test_links(self, t: Any) -> None:
        sig = t.add.s(1)
        assert sig.link(t.mul.s(1)) == t.mul.s(1)
        sig.link(t.mul.s(1))
        assert sig.options["link"] == [t.mul.s(1)]
        assert sig.link_error(t.old_errback.s()) == t.old_errback.s()
        assert sig.on_error(t.new_errback.s()) is sig
        assert sig.options["link_error"] == [t.old_errback.s(), t.new_errback.s()]
        assert sig.flatten_links() == [sig, t.mul.s(1)]

    def test_freeze(self, t: Any) -> None:
        sig = t.add.s(1, 1)
        result = sig.freeze()
        assert type(result) is AsyncResult
        assert sig.id == result.id == sig.freeze().id
        assert t.add.s().freeze("chosen", root_id="r", parent_id="p").id == "chosen"

    def test_an_unregistered_name(self, app: DBQueue) -> None:
        sig = app.signature("elsewhere.task", (1,))
        assert repr(sig) == "elsewhere.task(1)"
        with pytest.raises(NotRegistered):
            sig.type  # noqa: B018 - the property raises

    def test_maybe_signature(self, app: DBQueue, t: Any) -> None:
        sig = t.add.s(1)
        assert maybe_signature(None) is None
        assert maybe_signature(sig) is sig
        assert maybe_signature(sig, clone=True) is not sig
        assert maybe_signature(dict(sig), app=app).type is t.add

    def test_copies_and_pickles(self, t: Any) -> None:
        sig = t.add.s(1) | t.group(t.add.s(2), t.add.s(3))
        assert copy.deepcopy(sig) == sig
        assert pickle.loads(pickle.dumps(sig)) == sig

    def test_reprcall(self, t: Any) -> None:
        assert t.add.s(2).reprcall(1, z="a") == "tasks.add(1, 2, z='a')"


class TestCanvases:
    def test_their_kinds(self, t: Any) -> None:
        assert (t.add.s() | t.add.s()).subtask_type == "chain"
        assert t.group(t.add.s()).subtask_type == "group"
        assert t.chord([t.add.s()], t.add.s()).subtask_type == "chord"
        assert isinstance(t.group(t.add.s()) | t.tsum.s(), chord)
        assert isinstance(t.add.s() | t.add.s(), chain)
        assert isinstance(t.tsum.map([[1]]), xmap)
        assert isinstance(t.add.starmap([(1, 1)]), xstarmap)

    def test_a_group_has_a_length_and_tasks(self, t: Any) -> None:
        sig = group(t.add.s(i, i) for i in range(3))
        assert len(sig) == 3
        assert [task.args for task in sig.tasks] == [(0, 0), (1, 1), (2, 2)]
        assert not group()
        assert not len(group([]))

    def test_or_leaves_its_parts_as_they_are(self, t: Any) -> None:
        first = t.add.s(1) | t.group(t.add.s(2), t.add.s(3))
        printed = repr(first)
        _ = first | t.tsum.s() | t.add.s(1)
        assert repr(first) == printed

    def test_in_place_or(self, t: Any) -> None:
        sig = t.add.s(1, 1)
        sig |= t.add.s(2)
        assert repr(sig) == "tasks.add(1, 1) | add(2)"

    def test_or_with_something_else(self, t: Any) -> None:
        with pytest.raises(TypeError):
            t.add.s(1) | 1

    def test_thousands_of_steps(self, t: Any) -> None:
        by_call = chain(t.add.s(1) for _ in range(10_000))
        by_operator = t.add.s(1)
        for _ in range(2_999):
            by_operator = by_operator | t.add.s(1)
        assert len(by_call.tasks) == 10_000
        assert len(by_operator.tasks) == 3_000
        assert len(repr(by_call)) > 10_000

    def test_links_of_a_chain_go_to_its_steps(self, t: Any) -> None:
        sig = t.add.s(1) | t.add.s(2)
        sig.link(t.mul.s(3))
        sig.link_error(t.old_errback.s())
        steps = (sig | t.add.s(4)).tasks
        assert ["link" in step.options for step in steps] == [False, True, False]
        assert ["link_error" in step.options for step in steps] == [True, True, False]
        assert sig.unchain_tasks() == steps[:2]

    def test_links_of_a_group_and_a_chord(self, t: Any) -> None:
        members = t.group(t.add.s(1), t.add.s(2))
        members.link(t.mul.s(1))
        assert members.tasks[0].options["link"] == [t.mul.si(1)]
        assert len(members.link_error(t.old_errback.s())) == 2
        sig = t.chord([t.add.s(1, 1)], t.tsum.s())
        sig.link(t.mul.s(1))
        sig.link_error(t.old_errback.s())
        assert sig.body.options == {"link": [t.mul.s(1)], "link_error": [t.old_errback.s()]}
        assert sig.tasks[0].options == {}

    def test_an_errback_of_the_header_too(self, app: DBQueue, t: Any) -> None:
        app.conf.task_allow_error_cb_on_chord_header = True
        sig = t.chord([t.add.s(1, 1), t.add.s(2, 2)], t.tsum.s())
        sig.link_error(t.old_errback.s())
        assert [task.options["link_error"] for task in sig.tasks] == [[t.old_errback.s()]] * 2
        assert sig.body.options["link_error"] == [t.old_errback.s()]

    def test_immutability_of_a_group_is_that_of_its_members(self, t: Any) -> None:
        members = t.group(t.add.s(1), t.add.s(2)).set(immutable=True)
        assert [task.immutable for task in members.tasks] == [True, True]

    def test_skew(self, t: Any) -> None:
        members = t.group(t.add.s(i, i) for i in range(4)).skew(start=1, stop=3)
        assert [task.options["countdown"] for task in members.tasks] == [1, 2, 3, 3]

    def test_freezing_gives_each_its_id(self, t: Any) -> None:
        sig = t.add.s(1, 1) | t.group(t.add.s(2), t.add.s(3)) | t.tsum.s()
        result = sig.freeze()
        header = result.parent
        assert isinstance(header, GroupResult)
        first, body = sig.tasks[0], sig.tasks[1].body
        assert (sig.id, body.id, first.id) == (result.id, result.id, header.parent.id)
        assert [task.id for task in sig.tasks[1].tasks.tasks] == [each.id for each in header]
        assert sig.tasks[1].id == header.id

    def test_the_same_signature_twice_has_two_ids(self, t: Any) -> None:
        once = t.add.s(1)
        result = chain(once, once).freeze()
        assert result.id != result.parent.id

    def test_app_has_them_too(self, app: DBQueue, t: Any) -> None:
        assert repr(app.chain(t.add.s(1), t.add.s(2))) == "tasks.add(1) | add(2)"
        assert repr(app.group([t.add.s(1)])) == "group([tasks.add(1)])"
        assert repr(app.chord([t.add.s(1)], t.tsum.s())) == "%tasks.tsum([add(1)])"
        assert app.canvas.chain is chain
        assert app.GroupResult("id", []).id == "id"
        assert not app.ResultSet([])


def test_the_names_of_other_modules_are_printed_whole(app: DBQueue) -> None:
    names = ("app.tasks.a", "webapp.tasks.b", "my-app.tasks.c", "app.tasks.d")
    assert repr(group(signature(name, app=app) for name in names)) == (
        "group([app.tasks.a(), webapp.tasks.b(), my-app.tasks.c(), d()])"
    )


def test_a_chain_refuses_what_is_no_signature(t: Any) -> None:
    for wrong in (object(), t.add, "tasks.add"):
        with pytest.raises(TypeError, match=r"a chain consists of signatures, such as task\.s\(\), not of"):
            chain(t.add.s(1, 1), wrong)
        with pytest.raises(TypeError):
            chain(t.add.s(1, 1), wrong, t.add.s(1))


def test_the_errbacks_of_a_chain_are_each_step_s_own(t: Any) -> None:
    """A visitor may stamp each in its own way."""
    inner = chain(t.add.s(5), t.add.s(6), t.add.s(8))
    inner.link_error(t.record.si("failed"))
    built = chain(t.add.s(1, 1), inner)
    errbacks = [errback for step in built.tasks for errback in (step.options.get("link_error") or [])]
    assert len(errbacks) == len({id(errback) for errback in errbacks}) == 3


@pytest.mark.parametrize("empty", ["chain()", "chain(chain())", "chain(chain(), chain(chain()))"])
def test_chains_of_nothing_are_nothing(t: Any, empty: str) -> None:
    nothing = eval(empty, {"chain": chain})
    assert chain(group(), nothing).freeze().results == []
    assert chain(t.add.s(1, 1), nothing).apply().get() == 2
    assert chain(nothing, t.add.s(1, 1), nothing).apply().get() == 2
    assert nothing.apply_async() is None
