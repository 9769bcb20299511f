"""What type checkers must know of calls and results. Read by mypy and pyright, never run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from dbqueue import AsyncResult, DBQueue, Task, shared_task

app = DBQueue("typing")


@app.task
def add(x: int, y: int = 0) -> int:
    return x + y


@app.task(queue="slow", max_retries=None)
def shout(text: str) -> str:
    return text.upper()


@app.task(bind=True)
def bound(self: Task[Any, Any], text: str) -> str | None:
    return self.request.id or text


@app.task(bind=True)
def bound_untyped(self, number: int) -> int:  # type: ignore[no-untyped-def]
    return number + self.request.retries  # type: ignore[no-any-return]


@app.task
async def fetch(url: str) -> bytes:
    return url.encode()


@app.task(queue="io")
async def fetch_more(url: str, *, times: int) -> list[bytes]:
    return [url.encode()] * times


@app.task(bind=True)
async def bound_fetch(self: Task[Any, Any], url: str) -> bytes:
    return url.encode()


@shared_task
def shared(x: int) -> float:
    return x / 2


@shared_task(bind=True, name="other")
def shared_bound(self: Any, x: int) -> float:
    return x / 2


@shared_task
async def shared_async(x: int) -> float:
    return x / 2


assert_type(add.delay(1, y=2), AsyncResult[int])
assert_type(add.delay(1).get(timeout=1), int)
assert_type(add(1, 2), int)
assert_type(shout.delay("a"), AsyncResult[str])
assert_type(bound.delay("a"), AsyncResult[str | None])
assert_type(bound("a"), str | None)
assert_type(bound_untyped.delay(1), AsyncResult[int])
assert_type(fetch.delay("a"), AsyncResult[bytes])
assert_type(fetch.delay("a").get(), bytes)
assert_type(fetch_more.delay("a", times=2), AsyncResult[list[bytes]])
assert_type(bound_fetch.delay("a"), AsyncResult[bytes])
assert_type(shared.delay(1), AsyncResult[float])
assert_type(shared_bound.delay(1), AsyncResult[float])


class Greet(Task[[str], str]):
    name = "greet"

    def run(self, whom: str) -> str:
        return f"hello {whom}"


greet = app.register_task(Greet())
assert_type(greet.delay("you"), AsyncResult[str])
assert_type(app.register_task(Greet), Greet)
assert_type(shared_async.delay(1), AsyncResult[float])
assert_type(app.AsyncResult("id"), AsyncResult[Any])
assert_type(add.AsyncResult("id"), AsyncResult[int])
assert_type(app.send_task("any", [1]), AsyncResult[Any])
assert_type(add.enqueue_many([(1, 2), {"x": 1}]), list[AsyncResult[int]])
assert_type(add.apply((1,)).get(), int)
assert_type(add.delay(1).state, str)

assert_type(
    add.apply_async(
        (1,), {"y": 2}, countdown=1.5, expires=timedelta(hours=1), queue="slow", priority=3, serializer="yaml"
    ),
    AsyncResult[int],
)
assert_type(add.apply_async([1, 2], eta=datetime.now(UTC), ignore_result=True, headers={"a": 1}), AsyncResult[int])
add.update_state(state="PROGRESS", meta={"current": 1})


async def asynchronous() -> None:
    assert_type(await add.adelay(1), AsyncResult[int])
    assert_type(await (await add.adelay(1)), int)
    assert_type(await add.delay(1).aget(), int)
    assert_type(await add.aapply_async((1,), countdown=1), AsyncResult[int])
    assert_type(await fetch("a"), bytes)
    assert_type(await shared_async(1), float)
