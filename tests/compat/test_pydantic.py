"""Celery's user guide, "Tasks", section "Argument validation with Pydantic"."""

from __future__ import annotations

import sys
from typing import Any, Optional

import pytest
from pydantic import BaseModel, Field, ValidationError, ValidationInfo, field_validator

from dbqueue import DBQueue, group
from dbqueue.calls.batches import FEW
from dbqueue.errors import EncodeError, ImproperlyConfigured, RemoteError


class ArgModel(BaseModel):
    value: int


class ReturnModel(BaseModel):
    value: str


class Seen(BaseModel):
    value: int

    @field_validator("value")
    @classmethod
    def see(cls, value: int, info: ValidationInfo) -> int:
        assert info.context is not None
        seen.append(info.context)
        return value


seen: list[dict[str, Any]] = []


@pytest.fixture
def app(sqlite_url: str) -> DBQueue:
    return DBQueue("pydantic", broker=sqlite_url, set_as_current=False, task_always_eager=True)


def test_the_guides_example(app: DBQueue) -> None:
    @app.task(pydantic=True)
    def x(arg: ArgModel) -> ReturnModel:
        assert isinstance(arg, ArgModel)
        return ReturnModel(value=f"example: {arg.value}")

    sent = x.delay({"value": 1})  # type: ignore[arg-type]
    assert sent.get() == {"value": "example: 1"}  # type: ignore[comparison-overlap]
    assert x.apply_async(kwargs={"arg": {"value": "2"}}).get() == {"value": "example: 2"}  # type: ignore[comparison-overlap]
    result = x.delay({"value": "no number"})  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        result.get()
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'arg'"):
        x.delay()  # type: ignore[call-arg]


def test_a_model_may_be_sent(app: DBQueue) -> None:
    """It goes as its dump, if it comes back equal from that; another one is refused as any object is."""

    class Changing(BaseModel):
        value: int = Field(exclude=True)

    class More(ArgModel):
        more: int = 0

    @app.task(pydantic=True)
    def x(arg: ArgModel, other: ArgModel | None = None) -> Any:
        return [repr(arg), repr(other)]

    @app.task(pydantic=True)
    def changing(arg: Changing) -> Any:
        return arg.value

    assert x.delay(ArgModel(value=1)).get() == ["ArgModel(value=1)", "None"]
    assert x.delay(ArgModel(value=1), other=ArgModel(value=2)).get() == ["ArgModel(value=1)", "ArgModel(value=2)"]
    assert x.s(ArgModel(value=3)).apply_async().get()[0] == "ArgModel(value=3)"
    with pytest.raises(EncodeError, match="has no JSON form"):
        changing.delay(Changing(value=1))
    with pytest.raises(EncodeError, match="has no JSON form"):
        x.delay(More(value=1))


@pytest.mark.parametrize("many", [2, FEW + 20])
def test_models_may_be_sent_many_at_once(sqlite_url: str, many: int) -> None:
    """By `enqueue_many`, and in a group."""
    with DBQueue("many", broker=sqlite_url, set_as_current=False) as app:

        @app.task(pydantic=True)
        def x(arg: ArgModel, other: ArgModel | None = None) -> Any: ...

        models = [ArgModel(value=n) for n in range(many)]
        results = x.enqueue_many([(model,) for model in models])
        results += x.enqueue_many([{"arg": model, "other": model} for model in models])
        results += group(x.s(model) for model in models).apply_async()
        found = app.database.store.fetch([result.id for result in results])
        calls = [(found[result.id].args, found[result.id].kwargs) for result in results]
        dumps = [f'{{"value":{n}}}' for n in range(many)]
        by_place = [(f"[{dump}]", "{}") for dump in dumps]
        assert calls == [*by_place, *(("[]", f'{{"arg":{dump},"other":{dump}}}') for dump in dumps), *by_place]
        assert models == [ArgModel(value=n) for n in range(many)]


def test_none_and_other_annotations(app: DBQueue) -> None:
    @app.task(pydantic=True)
    def x(a: Optional[ArgModel], b: ArgModel | None = None, c: list[ArgModel] = [], d: int = 0) -> Any:  # noqa: B006, UP045
        return [type(each).__name__ for each in (a, b, c, d)]

    assert x.apply_async((None,)).get() == ["NoneType", "NoneType", "list", "int"]
    assert x.apply_async(({"value": 1}, {"value": 2}, [{"value": 3}], "4")).get() == [
        "ArgModel",
        "ArgModel",
        "list",
        "str",
    ]


def test_a_value_that_is_no_model_is_returned_as_it_is(app: DBQueue) -> None:
    @app.task(pydantic=True)
    def x() -> ReturnModel:
        return {"anything": 1}  # type: ignore[return-value]

    assert x.delay().get() == {"anything": 1}  # type: ignore[comparison-overlap]


def test_options(app: DBQueue) -> None:
    @app.task(pydantic=True, pydantic_strict=True)
    def strict(arg: ArgModel) -> int:
        return arg.value

    with pytest.raises(ValidationError):
        strict.apply_async(({"value": "1"},)).get()

    @app.task(pydantic=True, pydantic_context={"mine": 1}, name="seeing")
    def seeing(arg: Seen) -> int:
        return arg.value

    assert seeing.apply_async(({"value": 1},)).get() == 1
    assert seen[-1]["mine"] == 1
    assert (seen[-1]["celery_app"], seen[-1]["celery_task_name"]) == (app, "seeing")

    @app.task(pydantic=True, pydantic_dump_kwargs={"exclude": {"value"}})
    def dumped() -> ReturnModel:
        return ReturnModel(value="a")

    assert dumped.delay().get() == {}  # type: ignore[comparison-overlap]


def test_bound_and_async_tasks(app: DBQueue) -> None:
    @app.task(bind=True, pydantic=True)
    def bound(self: Any, arg: ArgModel) -> str:
        return f"{self.request.id is not None} {arg.value}"

    assert bound.apply_async(({"value": 1},)).get() == "True 1"

    @app.task(pydantic=True)
    async def later(arg: ArgModel) -> ReturnModel:
        return ReturnModel(value=str(arg.value))

    assert later.is_async
    assert later.apply_async(({"value": 1},)).get() == {"value": "1"}  # type: ignore[comparison-overlap]


def test_called_as_a_function(app: DBQueue) -> None:
    @app.task(pydantic=True)
    def x(arg: ArgModel) -> ReturnModel:
        return ReturnModel(value=str(arg.value))

    assert x(ArgModel(value=1)) == {"value": "1"}  # type: ignore[comparison-overlap]


def test_the_callers_error_says_what_was_wrong() -> None:
    from dbqueue.codec import describe_exception, rebuild_exception

    with pytest.raises(ValidationError) as caught:
        ArgModel(value="x")  # type: ignore[arg-type]
    rebuilt = rebuild_exception(*describe_exception(caught.value, max_bytes=10_000))
    assert isinstance(rebuilt, RemoteError)
    assert "value is not a valid integer" in str(rebuilt) or "valid integer" in str(rebuilt)


def test_without_pydantic(app: DBQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydantic", None)
    with pytest.raises(ImproperlyConfigured, match=r"pip install 'dbqueue-sql\[pydantic\]'"):
        app.task(pydantic=True)(lambda: None)
