"""The application of the tests of serializers and of pydantic tasks."""

from __future__ import annotations

import contextlib
from typing import Any

from dbqueue import DBQueue, codec
from dbqueue.errors import ImproperlyConfigured

with contextlib.suppress(ImproperlyConfigured):
    codec.register_serializer(
        "shouting", lambda value: repr(value).upper(), lambda text: eval(text.lower()), "application/x-shouting"
    )


def echo(value: Any) -> Any:
    return value


def kind(value: Any) -> str:
    return type(value).__name__


def retry_with(self: Any, value: Any) -> Any:
    if self.request.retries == 0:
        raise self.retry(args=[["again", value]], countdown=0)
    return value


def boom() -> None:
    raise ValueError("bad")


def make_app(url: str, **settings: Any) -> DBQueue:
    app = DBQueue("content", broker=url, set_as_current=False, **settings)
    for function in (echo, kind, boom):
        app.task(name=f"content.{function.__name__}")(function)
    app.task(name="content.retry_with", bind=True)(retry_with)
    app.task(name="content.in_yaml", serializer="yaml")(kind)
    return app
