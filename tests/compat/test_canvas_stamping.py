"""Stamping: what a visitor and keyword arguments put on a canvas, what tasks see of it, revoking by it.

Celery's page: "Canvas", the section "Stamping". The expected stamps are those of Celery 5.7.
"""

from __future__ import annotations

from typing import Any

import pytest

from dbqueue import DBQueue, chain, chord, group
from dbqueue.canvas import GroupStampingVisitor, StampingVisitor
from dbqueue.cli.run import run
from dbqueue.errors import TaskRevokedError
from dbqueue.jobs import Retried
from tests.stores import TestWorker
from tests.workers import WorkerProcess


class Everything(StampingVisitor):
    def on_signature(self, sig: Any, **headers: Any) -> dict[str, Any]:
        return {"s": 1}

    def on_callback(self, callback: Any, **headers: Any) -> dict[str, Any]:
        return {"cb": True}

    def on_errback(self, errback: Any, **headers: Any) -> dict[str, Any]:
        return {"eb": True}

    def on_chord_body(self, sig: Any, **headers: Any) -> dict[str, Any]:
        return {"body": True}

    def on_group_start(self, group: Any, **headers: Any) -> dict[str, Any]:
        return {"grp": 1}

    def on_chain_start(self, chain: Any, **headers: Any) -> dict[str, Any]:
        return {"chn": 1}


def stamps(sig: Any) -> dict[str, Any]:
    assert set(sig.options["stamped_headers"]) <= set(sig.options)
    return {name: sig.options[name] for name in sig.options["stamped_headers"]}


class TestStamps:
    def test_of_a_call(self, t: Any) -> None:
        sig = t.add.s(1, 1)
        assert sig.stamp(Everything(), x="y") is sig
        assert stamps(sig) == {"s": 1, "x": "y"}
        assert stamps(t.add.s().stamp(customer="acme")) == {"customer": "acme"}

    def test_of_a_chain(self, t: Any) -> None:
        sig = t.add.s(1, 1) | t.add.s(2)
        sig.stamp(Everything(), x="y")
        assert [stamps(task) for task in sig.tasks] == [{"chn": 1, "s": 1, "x": "y"}] * 2

    def test_of_a_group_in_a_chain(self, t: Any) -> None:
        sig = chain(t.add.s(1, 1), group(t.add.s(1), t.add.s(2)))
        sig.stamp(visitor=Everything())
        assert stamps(sig.tasks[0]) == {"chn": 1, "s": 1}
        assert [stamps(task) for task in sig.tasks[1].tasks] == [{"chn": 1, "grp": 1, "s": 1}] * 2

    def test_of_a_chord(self, t: Any) -> None:
        sig = chord([t.add.s(1, 1)], t.tsum.s() | t.add.s(1))
        sig.stamp(visitor=Everything())
        assert stamps(sig.tasks.tasks[0]) == {"grp": 1, "s": 1}
        assert [stamps(task) for task in sig.body.tasks] == [{"body": True, "chn": 1, "grp": 1, "s": 1}] * 2

    def test_of_links(self, t: Any) -> None:
        sig = t.add.s(1, 1)
        sig.link(t.add.s(1))
        sig.link_error(t.old_errback.s())
        sig.stamp(visitor=Everything(), x="y")
        assert stamps(sig.options["link"][0]) == {"cb": True, "s": 1, "x": "y"}
        assert stamps(sig.options["link_error"][0]) == {"eb": True, "s": 1, "x": "y"}

    def test_twice(self, t: Any) -> None:
        assert stamps(t.add.s().stamp(a=1).stamp(a=2)) == {"a": 2}
        assert stamps(t.add.s().stamp(a=1).stamp(b=2)) == {"a": 1, "b": 2}
        assert stamps(t.add.s().stamp(a=1).stamp(a=2, append_stamps=True)) == {"a": [2, 1]}
        assert stamps(t.add.s().stamp(a=[1]).stamp(a=[2], append_stamps=True)) == {"a": [2, 1]}

    def test_only_some_of_the_headers_are_stamps(self, t: Any) -> None:
        class Selective(StampingVisitor):
            def on_signature(self, sig: Any, **headers: Any) -> dict[str, Any]:
                return {"mine": 1, "header": 2, "stamped_headers": ["mine"]}

        sig = t.add.s().stamp(Selective())
        assert sig.options["stamped_headers"] == ["mine"]
        assert sig.options["header"] == 2

    def test_calls_cannot_change_them(self, t: Any) -> None:
        sig = t.add.s(1, 1).stamp(a=1)
        assert stamps(sig.clone(a=2)) == {"a": 1}

    def test_groups(self, t: Any) -> None:
        sig = group(t.add.s(1, 1), group(t.add.s(2, 2)))
        sig.stamp(GroupStampingVisitor())
        assert stamps(sig.tasks[0]) == {"groups": [sig.id]}

    def test_a_visitor_must_say_what_to_do(self, t: Any) -> None:
        with pytest.raises(NotImplementedError):
            t.add.s().stamp(StampingVisitor())


class TestRuns:
    @pytest.mark.usefixtures("canvas_worker")
    def test_tasks_see_them(self, t: Any) -> None:
        canvas = chord([t.info.s()], t.info.s())
        canvas.stamp(visitor=Everything(), a=[1, 2])
        result = canvas.delay()
        body, header = result.get(timeout=60), result.parent.get(timeout=60)[0]
        assert header["stamps"] == {"grp": 1, "s": 1, "a": [1, 2]}
        assert body["stamps"] == {"body": True, "grp": 1, "s": 1, "a": [1, 2]}
        assert set(header["stamped_headers"]) == {"grp", "s", "a"}

    @pytest.mark.usefixtures("canvas_worker")
    def test_a_call_without(self, t: Any) -> None:
        found = t.info.delay().get(timeout=60)
        assert (found["stamps"], found["stamped_headers"]) == ({}, None)

    def test_in_place(self, t: Any) -> None:
        assert t.info.s().stamp(a=1).apply().get()["stamps"] == {"a": 1}
        assert t.info.s().apply().get()["stamps"] is None  # as Celery's; on a worker it is {}

    def test_revoking(self, lone_app: DBQueue, lone: Any) -> None:
        one = lone.add.s(1, 1).stamp(customer="acme", run=["a", "b"]).delay()
        two = lone.add.s(1, 1).stamp(customer="other").delay()
        three = group(lone.add.s(1, 1), lone.add.s(2, 2)).stamp(customer="acme").delay()
        plain = lone.add.s(1, 1).delay()
        lone_app.control.revoke_by_stamped_headers({"run": ["b", "c"]})
        assert [one.state, two.state, three[0].state] == ["REVOKED", "PENDING", "PENDING"]
        three.results[0].revoke_by_stamped_headers({"customer": "acme"})
        assert [each.state for each in (two, three[0], three[1], plain)] == ["PENDING", "REVOKED", "REVOKED", "PENDING"]
        with pytest.raises(TaskRevokedError):
            one.get(timeout=5)
        assert lone_app.control.revoke_by_stamped_headers({"customer": "nobody"}) is None

    def test_revoking_what_runs(self, lone_app: DBQueue, lone: Any) -> None:
        """It goes on, and no other run begins: the next claim says that it was revoked."""
        result = lone.add.s(1, 1).stamp(customer="acme").delay()
        worker = TestWorker(lone_app.database.store)
        job = worker.claim_one()
        lone_app.control.revoke_by_stamped_headers({"customer": {"acme", "other"}}, timeout=0.01)
        assert result.state == "STARTED"
        worker.settle(Retried(job.id, job.lease, '{"exc_type": "ValueError", "exc_message": []}', None, 0.0))
        assert worker.claim_one().revoked
        worker.close()

    def test_revoking_on_the_command_line(
        self, lone_app: DBQueue, lone: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """It is in the rows, whether a worker answers or not."""
        called_off, other = (lone.add.s(1, 1).stamp(customer=name).delay() for name in ("acme", "other"))
        command = ("control", "revoke_by_stamped_headers")
        assert run(lone_app, (*command, "customer=acme")) == 69
        assert [called_off.state, other.state] == ["REVOKED", "PENDING"]
        assert run(lone_app, (*command, "customer")) == 2
        assert "NAME=VALUE" in capsys.readouterr().err

    def test_revoking_a_chain_by_the_stamp_of_its_first(
        self, canvas_app: DBQueue, t: Any, canvas_worker: WorkerProcess
    ) -> None:
        result = (t.add.s(1, 1).set(countdown=3600).stamp(customer="chained") | t.add.s(1)).delay()
        canvas_app.control.revoke_by_stamped_headers({"customer": "chained"})
        with pytest.raises(TaskRevokedError):
            result.get(timeout=60)

    def test_workers_refuse_what_is_sent_later(self, canvas_app: DBQueue, t: Any, canvas_worker: WorkerProcess) -> None:
        sig = t.add.s(1, 1).stamp(customer="late")
        result = sig.freeze()
        result.revoke_by_stamped_headers({"customer": ["nobody", "late"]})
        sig.delay()
        with pytest.raises(TaskRevokedError):
            result.get(timeout=60)
        assert t.add.s(1, 1).stamp(customer="later").delay().get(timeout=60) == 2
        replies = canvas_app.control.revoke_by_stamped_headers(["customer=later"], reply=True, timeout=60)
        assert [list(reply.values()) for reply in replies or ()] == [
            [{"ok": "headers {'customer': ['later']} flagged as revoked, but not terminated"}]
        ]
        (other,) = group(t.add.s(2, 2)).stamp(customer="later").delay()
        with pytest.raises(TaskRevokedError):
            other.get(timeout=60)
