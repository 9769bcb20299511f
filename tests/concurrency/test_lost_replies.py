"""The server has done it, and its reply is lost: an enqueue is tried again under its id, and is there once.

Every request of every operation in its turn: the network loses the first reply, then the second, until it would
have to lose one more than there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from dbqueue import chain, chord
from dbqueue.app import DBQueue
from dbqueue.jobs import new_job_id
from dbqueue.store.base import Store
from tests.chaos.proxy import Proxy
from tests.stores import count, new_job, opened
from tests.worker.sample import make_app

Enqueue = Callable[[DBQueue], object]
MOST_REQUESTS = 20
"""More than any of these has."""


def stored(app: DBQueue) -> Store:
    return app.database.store


def chained(app: DBQueue) -> object:
    add = app.tasks["sample.add"]
    return chain(add.s(1, 2), add.s(3), add.s(4)).apply_async()


def joined(app: DBQueue) -> object:
    add = app.tasks["sample.add"]
    return chord([add.s(n, n) for n in range(3)], add.si(1, 1)).apply_async()


ENQUEUES: dict[str, tuple[Enqueue, int]] = {
    "one": (lambda app: stored(app).enqueue([new_job()]), 1),
    "several": (lambda app: stored(app).enqueue([new_job() for _ in range(5)]), 5),
    "many, by COPY": (lambda app: stored(app).enqueue([new_job() for _ in range(60)]), 60),
    "one of a unique key": (lambda app: stored(app).enqueue([new_job(unique_key=new_job_id())]), 1),
    "by its task": (lambda app: app.tasks["sample.add"].delay(1, 2), 1),
    "a chain": (chained, 3),
    "a chord": (joined, 4),
}


@pytest.fixture
def proxy(postgres_url: str) -> Iterator[Proxy]:
    with Proxy(postgres_url) as proxy:
        yield proxy


@pytest.mark.parametrize("what", ENQUEUES)
def test_an_enqueue_whose_reply_is_lost_is_there_once(
    postgres_url: str, proxy: Proxy, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue, jobs = ENQUEUES[what]
    with make_app(proxy.url) as app, opened(postgres_url) as direct:
        monkeypatch.setattr(stored(app), "wake", lambda: None)  # whose own replies nobody waits for
        for losses in range(MOST_REQUESTS):
            app.AsyncResult("nobody").exists()  # on a connection that stands: the next request is the enqueue's
            faults = proxy.faults
            proxy.lose_reply(losses + 1)
            answer = enqueue(app)
            assert count(direct) == (losses + 1) * jobs, f"when reply {losses + 1} was lost"
            if isinstance(answer, dict):
                assert answer == {}, "its own row is nobody else's"
            if proxy.faults == faults:
                break
        assert 0 < losses < MOST_REQUESTS - 1
