"""link and link_error: what runs after a success and after a failure, on real workers.

Celery's pages: "Calling Tasks", the section "Linking (callbacks/errbacks)", and "Canvas: Designing
Work-flows". What is expected was seen with Celery 5.7 on Redis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dbqueue import DBQueue, chain, chord, group
from dbqueue.errors import ChordError, ImproperlyConfigured

pytestmark = pytest.mark.usefixtures("canvas_worker")

Noted = Callable[[int], list[Any]]


def get(result: Any) -> Any:
    return result.get(timeout=60)


def end_of_all(t: Any) -> None:
    """Wait until the worker has done all that was sent before: what has not run by then does not run."""
    for _ in range(3):
        get(t.const.delay())


class TestLink:
    def test_of_one_call(self, t: Any, noted: Noted) -> None:
        assert get(t.add.apply_async((1, 1), link=t.record.s())) == 2
        assert noted(1) == [[2]]

    def test_many(self, t: Any, noted: Noted) -> None:
        get(t.add.apply_async((1, 1), link=[t.record.s(), t.record.s("b"), t.record.si("i")]))
        assert noted(3) == [["i"], [2, "b"], [2]]

    def test_of_a_signature(self, t: Any, noted: Noted) -> None:
        sig = t.add.s(2, 2)
        sig.link(t.record.s())
        assert get(sig.delay()) == 4
        assert noted(1) == [[4]]

    def test_a_canvas(self, t: Any, noted: Noted) -> None:
        get(t.add.apply_async((1, 1), link=t.add.s(5) | t.record.s("chain")))
        get(t.add.apply_async((1, 1), link=chord([t.add.s(5), t.add.s(6)], t.record.s("chord"))))
        get(t.add.apply_async((1, 1), link=group(t.record.s("a"), t.record.s("b"))))
        assert noted(4) == [[2, "a"], [2, "b"], [7, "chain"], [[7, 8], "chord"]]

    def test_of_canvases(self, t: Any, noted: Noted) -> None:
        get((t.add.s(1, 1) | t.add.s(2)).apply_async(link=t.record.s("chain")))
        get(chord([t.add.s(1, 1)], t.tsum.s()).apply_async(link=t.record.s("chord")))
        own = t.add.s(1, 1) | t.add.s(3)
        own.link(t.record.s("own"))
        get(own.delay())
        members = group(t.add.s(1, 1), t.add.s(2, 2))
        members.link(t.record.s("group"))
        get(members.delay())
        assert noted(4) == [["group"], [2, "chord"], [4, "chain"], [5, "own"]]

    def test_not_of_a_group_as_a_whole(self, t: Any) -> None:
        with pytest.raises(TypeError, match="Cannot add link to group"):
            group(t.add.s(1, 1)).apply_async(link=t.record.s())
        with pytest.raises(TypeError, match="Cannot add link to group"):
            group(t.add.s(1, 1)).apply_async(link_error=t.old_errback.s())

    def test_not_after_a_failure(self, t: Any, noted: Noted) -> None:
        with pytest.raises(ValueError, match="bad"):
            get(t.fail.apply_async((), link=t.record.s("no")))
        get(t.add.apply_async((1, 1), link=t.record.s("yes"), link_error=t.old_errback.s()))
        end_of_all(t)
        assert noted(1) == [[2, "yes"]]

    def test_by_name(self, canvas_app: DBQueue, t: Any, noted: Noted) -> None:
        get(canvas_app.send_task("tasks.add", (1, 1), link=canvas_app.signature("tasks.record")))
        assert noted(1) == [[2]]

    def test_the_rest_of_a_chain_as_an_option(self, t: Any, noted: Noted) -> None:
        get(t.add.apply_async((1, 1), chain=[t.record.s("second"), t.add.s(10)]))
        assert noted(1) == [[12, "second"]]


class TestLinkError:
    def failing(self, sig: Any, **options: Any) -> Any:
        result = sig.apply_async(**options)
        with pytest.raises(ValueError, match="bad"):
            get(result)
        return result

    def test_the_older_form_gets_the_id(self, t: Any, noted: Noted) -> None:
        result = self.failing(t.fail.s(), link_error=t.old_errback.s())
        assert noted(1) == [["old", result.id]]

    def test_the_newer_form_gets_request_exception_and_traceback(self, t: Any, noted: Noted) -> None:
        result = self.failing(t.fail.s(), link_error=t.new_errback.s())
        assert noted(1) == [["new", result.id, "tasks.fail", "ValueError", "bad", "str"]]

    def test_an_immutable_one_gets_nothing(self, t: Any, noted: Noted) -> None:
        self.failing(t.fail.s().on_error(t.record.si("i")))
        assert noted(1) == [["i"]]

    def test_of_a_chain_is_called_once_for_the_one_that_failed(self, t: Any, noted: Noted) -> None:
        first = self.failing((t.fail.s() | t.add.s(1)).on_error(t.old_errback.s()))
        second = self.failing(t.add.s(1, 1) | t.fail.s() | t.add.s(1), link_error=t.old_errback.s())
        end_of_all(t)
        assert noted(2) == sorted([["old", first.parent.id], ["old", second.parent.id]])

    def test_of_a_step_that_was_not_reached(self, t: Any, noted: Noted) -> None:
        self.failing(t.fail.s() | t.add.s(1).on_error(t.old_errback.s()) | t.add.s(1))
        self.failing(t.fail.s().on_error(t.record.si("first")))
        end_of_all(t)
        assert noted(1) == [["first"]]

    def test_of_a_group_is_called_for_each_that_fails(self, t: Any, noted: Noted) -> None:
        members = group(t.fail.s(), t.fail.s(), t.add.s(1, 1))
        members.link_error(t.old_errback.s())
        result = self.failing(members)
        assert noted(2) == sorted(["old", each.id] for each in result[:2])

    def test_of_a_group_of_groups(self, t: Any, noted: Noted) -> None:
        members = group(group(t.fail.s(), t.fail.s()), t.fail.s())
        members.link_error(t.old_errback.s())
        result = self.failing(members)
        assert noted(3) == sorted(["old", each.id] for each in result)

    def test_set_on_a_group_it_is_of_each_call(self, t: Any, noted: Noted) -> None:
        own = t.fail.s().on_error(t.record.si("own"))
        self.failing(group(own, t.add.s(1, 1), t.fail.s()).set(link_error=t.record.si("group")))
        assert noted(3) == [["group"], ["group"], ["own"]]

    @pytest.mark.parametrize("fails", ["header", "body"])
    @pytest.mark.parametrize("how", ["option", "method"])
    def test_of_a_chord_with_a_group_as_its_body(self, t: Any, noted: Noted, how: str, fails: str) -> None:
        """Called for each call of the body that fails, or that a failed header kept from running."""
        own = t.tsum.s().on_error(t.record.si("own"))
        header, second = (t.fail.s(), t.tsum.s()) if fails == "header" else (t.add.s(2, 2), t.fail.si())
        sig = chord([t.add.s(1, 1), header], group(own, second))
        if how == "method":
            sig.link_error(t.record.si("chord"))
            self.failing(sig)
        else:
            self.failing(sig, link_error=t.record.si("chord"))
        end_of_all(t)
        assert noted(1) == ([["chord"], ["chord"], ["own"]] if fails == "header" else [["chord"]])


class TestChord:
    def test_the_body_fails_with_chord_error(self, canvas_app: DBQueue, t: Any) -> None:
        result = chord([t.fail.s(), t.add.s(1, 1)], t.tsum.s()).delay()
        with pytest.raises(ChordError) as caught:
            get(canvas_app.AsyncResult(result.id))
        assert str(caught.value) == f"Dependency {result.parent[0].id} raised ValueError('bad')"
        assert result.state == "FAILURE"
        assert isinstance(result.result, ChordError)
        assert 'raise ValueError("bad")' in result.traceback
        assert result.parent.completed_count() <= 1

    def test_whoever_holds_the_header_catches_its_error_too(self, t: Any) -> None:
        result = chord([t.fail.s(), t.add.s(1, 1)], t.tsum.s()).delay()
        with pytest.raises(ValueError, match="raised ValueError"):
            get(result)
        with pytest.raises(ChordError) as caught:
            get(result)
        assert isinstance(caught.value.__cause__, ValueError)
        assert isinstance(result.get(propagate=False), ChordError)

    def test_an_errback_gets_the_body(self, t: Any, noted: Noted) -> None:
        canvas = chord([t.fail.s(), t.fail.s(), t.add.s(1, 1)], t.tsum.s())
        canvas.link_error(t.old_errback.s())
        canvas.link_error(t.new_errback.s())
        result = canvas.delay()
        with pytest.raises(ChordError):
            get(result)
        new, old = noted(2)
        assert old == ["old", result.id]
        assert new[:4] == ["new", result.id, "tasks.tsum", "ChordError"]
        end_of_all(t)
        assert len(noted(2)) == 2

    def test_errbacks_of_the_body_and_of_a_header(self, t: Any, noted: Noted) -> None:
        result = chord([t.fail.s().on_error(t.old_errback.s())], t.tsum.s().on_error(t.old_errback.s())).delay()
        assert noted(2) == sorted([["old", result.id], ["old", result.parent[0].id]])

    def test_a_body_that_fails_itself(self, t: Any, noted: Noted) -> None:
        result = chord([t.add.s(1, 1)], t.fail.s().on_error(t.old_errback.s())).delay()
        with pytest.raises(ValueError, match=r"^bad$"):
            get(result)
        assert noted(1) == [["old", result.id]]

    def test_errbacks_of_the_header_by_the_setting(
        self, canvas_app: DBQueue, t: Any, noted: Noted, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(canvas_app.conf, "task_allow_error_cb_on_chord_header", True)
        canvas = chord([t.fail.s(), t.fail.s(), t.add.s(1, 1)], t.tsum.s())
        canvas.link_error(t.record.si("errback"))
        canvas.delay()
        assert noted(3) == [["errback"]] * 3

    def test_in_a_chain_with_an_errback(self, t: Any, noted: Noted) -> None:
        canvas = t.add.s(1, 1) | group(t.fail.s(), t.add.s(1)) | t.tsum.s() | t.add.s(1)
        result = canvas.on_error(t.old_errback.s()).delay()
        with pytest.raises(ChordError):
            get(result)
        body = result.parent
        assert noted(1) == [["old", body.id]]
        end_of_all(t)
        assert noted(1) == [["old", body.id]]

    def test_of_what_follows_a_body_is_not_called(self, t: Any, noted: Noted) -> None:
        result = (group(t.fail.s(), t.add.s(1, 1)) | t.tsum.s() | t.add.s(1).on_error(t.old_errback.s())).delay()
        with pytest.raises(ValueError, match="bad"):
            get(result)
        get(t.record.delay("end"))
        end_of_all(t)
        assert noted(1) == [["end"]]

    def test_a_chord_in_a_header(self, t: Any, noted: Noted) -> None:
        inner = chord([t.fail.s()], t.tsum.s())
        canvas = chord([inner, t.add.s(1, 1)], t.tsum.s())
        canvas.link_error(t.old_errback.s())
        result = canvas.delay()
        with pytest.raises(ChordError):
            get(result)
        assert noted(2) == sorted([["old", result.id], ["old", result.parent[0].id]])

    def test_a_retry_in_a_header_is_no_failure(self, t: Any) -> None:
        assert get(chord([t.flaky.s(3), t.add.s(1, 1)], t.tsum.s()).delay()) == 5

    def test_ignored_results_are_passed_on(self, t: Any) -> None:
        assert get(chord([t.ign.s(3), t.add.s(1, 1)], t.ident.s()).delay()) == [3, 2]
        assert get((t.ign.s(3) | t.ident.s()).delay()) == 3

    def test_states_of_what_was_not_reached(self, t: Any) -> None:
        result = (t.add.s(1, 1) | t.fail.s() | t.add.s(1) | t.add.s(2)).delay()
        with pytest.raises(ValueError, match="bad"):
            get(result)
        node, states = result, []
        while node is not None:
            states.append(node.state)
            node = node.parent
        assert states == ["FAILURE", "FAILURE", "FAILURE", "SUCCESS"]


class TestReplace:
    def test_links_stay_with_the_job(self, t: Any, noted: Noted) -> None:
        assert get(t.rep.apply_async((t.add.s(3, 4),), link=t.record.s())) == 7
        assert noted(1) == [[7]]

    def test_errbacks_stay_with_the_job(self, t: Any, noted: Noted) -> None:
        result = t.rep.apply_async((t.fail.s(),), link_error=t.old_errback.s())
        with pytest.raises(ValueError, match="bad"):
            get(result)
        assert noted(1) == [["old", result.id]]

    def test_errbacks_of_a_replacement_that_fails_early(self, t: Any, noted: Noted) -> None:
        result = t.rep.apply_async((t.fail.s() | t.add.s(1),), link_error=t.record.si("failed"))
        with pytest.raises(ValueError, match="bad"):
            get(result)
        assert noted(1) == [["failed"]]

    def test_its_own_links(self, t: Any, noted: Noted) -> None:
        sig = t.add.s(1, 1)
        sig.link(t.record.s("own"))
        assert get(t.rep.delay(sig)) == 2
        assert noted(1) == [[2, "own"]]

    def test_raising_what_replace_returns(self, t: Any, noted: Noted) -> None:
        assert get(t.second_order.delay()) == "done"
        assert noted(3) == [["in"], ["out"], ["within"]]

    def test_by_chunks(self, t: Any) -> None:
        chunks = t.add.chunks([(1, 1), (2, 2), (3, 3)], 2)
        for sig in (chunks, chain(t.add.s(1, 1), chunks), chord([t.add.s(1, 1)], chunks)):
            assert get(t.rep.delay(sig)) == [[2, 4], [6]]

    def test_by_an_empty_chain(self, t: Any) -> None:
        with pytest.raises(ImproperlyConfigured, match="Cannot replace with an empty chain"):
            get(t.rep.delay(chain()))

    def test_what_follows_waits_for_the_replacement(self, t: Any) -> None:
        deep = t.rep.s(t.rep.s(chain(t.add.s(1, 1), group(t.add.s(1), t.rep_with.s(t.add.s(2))))))
        assert get((deep | t.tsum.s() | t.add.s(1)).delay()) == 8


class TestAddToChord:
    def test_canvases(self, t: Any) -> None:
        added = chord([t.add.s(1, 4), t.add.s(2, 4), t.add.s(3, 4)], t.tsum.s())
        assert get((group([t.grow.s(added)]) | t.ident.s()).delay()) == [0, 18]
        members = group(t.add.s(1, 1), t.add.s(2, 2))
        assert get(chord([t.grow.s(members), t.add.s(1, 0)], t.ident.s()).delay()) == [0, 1, [2, 4]]

    def test_a_chain_that_grows_as_it_goes(self, t: Any) -> None:
        header = [t.add.s(1, 1) | t.atc.s(), t.atc.s(5)]
        assert sorted(get(chord(header, t.ident.s()).delay())) == [2, 5, 102, 105]

    def test_not_outside_of_a_chord(self, t: Any) -> None:
        with pytest.raises(ValueError, match="not member of any chord"):
            get(t.atc.delay(1))
        with pytest.raises(ValueError, match="not member of any chord"):
            get(group(t.atc.s(1)).delay())
