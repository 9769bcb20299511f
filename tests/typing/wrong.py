"""Calls that type checkers must refuse, each with the two checkers' codes. Never run.

Both report an `ignore` that ignores nothing, so a wrong call that is not refused fails the test.
"""

from __future__ import annotations

from typing import Any

from dbqueue import DBQueue, shared_task

app = DBQueue("typing")


@app.task
def add(x: int, y: int = 0) -> int:
    return x + y


@app.task(bind=True)
def bound(self: Any, text: str) -> str:
    return text


@app.task(queue="io")
async def fetch(url: str) -> bytes:
    return url.encode()


@shared_task
def shared(x: int) -> float:
    return x / 2


add.delay()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
add.delay("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
add.delay(1, 2, 3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
add.delay(1, z=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
add("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
bound.delay(None, "a")  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
bound.delay(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
fetch.delay(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
shared.delay("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
add.apply_async((1,), countdown="soon")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
add.apply_async((1,), countdwn=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
add.apply_async(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
app.send_task(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
text: str = add.delay(1).get()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
number: int = fetch.delay("a").get()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
data: bytes = fetch("a")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
