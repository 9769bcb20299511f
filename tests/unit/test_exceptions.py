"""Exceptions as data: described whatever they are, and made again as they were."""

from __future__ import annotations

import json
import sys
import types
from datetime import UTC, datetime
from decimal import Decimal
from itertools import product
from traceback import format_exception
from typing import TYPE_CHECKING, Any, NoReturn, cast

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from dbqueue import codec, errors
from tests.unit.awkward_values import LIMIT, Hostile, circular, deep, dumps

if TYPE_CHECKING:
    from collections.abc import Callable


class MyError(Exception):
    pass


class TwoArguments(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


class Decorated(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"failed with {code}")


class OnlyText:
    def __repr__(self) -> NoReturn:
        raise ValueError("no repr")

    def __str__(self) -> str:
        return "text"


class Outer:
    class Inner(Exception):
        pass


class Explodes(Exception):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        raise SystemExit


class Unprintable(Exception):
    """Takes other arguments than it keeps, and its text needs what its constructor would have set."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")

    def __str__(self) -> str:
        raise KeyboardInterrupt


class Childless(Unprintable):
    def __init_subclass__(cls) -> None:
        raise RuntimeError("no subclasses")


class Impostor(Exception):
    def __new__(cls, *args: Any) -> Any:
        return "no exception"


class MakesLiars(Exception):
    """Makes what says that it is an exception, and cannot be raised."""

    def __new__(cls, *args: Any) -> Any:
        return type("Liar", (), {"args": (), "__class__": cls})()


def raised(exc: BaseException) -> BaseException:
    try:
        raise exc
    except BaseException as caught:  # noqa: BLE001 - of any kind
        return caught


def describe(exc: BaseException, max_bytes: int = LIMIT) -> tuple[dict[str, Any], str | None]:
    error, traceback = codec.describe_exception(exc, max_bytes=max_bytes)
    assert len(error.encode()) <= max_bytes
    assert traceback is None or len(traceback.encode()) <= min(max_bytes, codec.exceptions.TRACEBACK_BYTES)
    assert "\0" not in (traceback or "")
    data = codec.loads(error)
    dumps(data)  # no NUL, no surrogates
    return data, traceback


def rebuilt(exc: BaseException) -> BaseException:
    return codec.rebuild_exception(*codec.describe_exception(exc, max_bytes=LIMIT))


def test_the_description_has_celerys_shape() -> None:
    error, traceback = describe(raised(MyError("bad", 5)))
    assert error == {"exc_type": "MyError", "exc_message": ["bad", 5], "exc_module": __name__}
    assert traceback is not None
    assert traceback.startswith("Traceback (most recent call last):")
    assert traceback.endswith("MyError: ('bad', 5)\n")


def test_an_exception_that_was_never_raised_has_no_traceback() -> None:
    assert describe(errors.TimeLimitExceeded(1))[1] is None


def test_arguments_that_json_cannot_carry_are_shown() -> None:
    error, _ = describe(MyError(object, {1, 2}, "a\0b\ud800\udfff", float("nan"), Hostile(), OnlyText(), Decimal(1)))
    assert error["exc_message"] == [
        "<class 'object'>",
        {1, 2},
        "a\\x00b\\ud800\\udfff",
        "nan",
        "<Hostile>",
        "text",
        Decimal(1),
    ]


class BadArgs(Exception):
    @property
    def args(self) -> Any:  # type: ignore[override]
        raise KeyboardInterrupt


class BadCause(Exception):
    @property
    def __cause__(self) -> Any:  # type: ignore[override]
        raise ValueError

    @property
    def __traceback__(self) -> Any:  # type: ignore[override]
        raise SystemExit


class BadReduce(Exception):
    def __reduce__(self) -> NoReturn:
        raise ValueError


class Interrupting(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt

    def __repr__(self) -> str:
        raise SystemExit


class StrangeString(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise ValueError

    def encode(self, *args: Any) -> NoReturn:
        raise ValueError

    def replace(self, *args: Any) -> NoReturn:
        raise ValueError


class Endless(Exception):
    def __repr__(self) -> str:
        return repr(self)

    def __str__(self) -> str:
        return str(self)


class Meta(type):
    def __getattribute__(cls, name: str) -> Any:
        raise ValueError(name)


class WithMeta(Exception, metaclass=Meta):
    pass


def with_odd_notes() -> MyError:
    exc = MyError("noted")
    exc.__notes__ = [5, "\0"]  # type: ignore[list-item]
    return exc


HOSTILE: dict[str, Callable[[], BaseException]] = {
    "args": lambda: BadArgs("x"),
    "cause and traceback": lambda: BadCause("x"),
    "reduce": lambda: BadReduce("x"),
    "interrupts": lambda: Interrupting("x"),
    "endless repr": lambda: Endless("x"),
    "arguments": lambda: MyError(Interrupting(), Endless(), StrangeString("text"), circular(), deep(3000)),
    "string": lambda: MyError(StrangeString("\0")),
    "long": lambda: MyError("x" * 3_000_000, "\x01" * 3_000_000, ["é"] * 500_000, object()),
    "many": lambda: MyError(*range(100_000)),
    "exit": lambda: SystemExit(1),
    "base": BaseException,
    "undecodable": lambda: UnicodeDecodeError("utf-8", b"\xff\0", 0, 1, "why\0"),
    "group": lambda: ExceptionGroup("many", [ValueError(1), ExceptionGroup("inner", [Hostile()])]),
    "syntax": lambda: SyntaxError("bad", ("file\0", 1, 2, "text\0\ud800", 1, 3)),
    "module": lambda: cast("BaseException", type("Named", (Exception,), {"__module__": 5})("x")),
    "name": lambda: cast("BaseException", type("N" * 5000, (Exception,), {})("x")),
    "notes": with_odd_notes,
}


@pytest.mark.parametrize("max_bytes", [2, 50, 1000, LIMIT])
@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_no_exception_escapes_description_or_its_limit(make: Callable[[], BaseException], max_bytes: int) -> None:
    exc = make()
    for each in (exc, raised(exc)):
        described = codec.describe_exception(each, max_bytes=max_bytes)
        describe(each, max_bytes)
        assert isinstance(codec.rebuild_exception(*described), BaseException)


def test_a_metaclass_that_raises() -> None:
    error, _ = describe(raised(WithMeta("x")))
    assert error["exc_message"] == ["x"]


def test_a_long_chain_of_causes_keeps_head_and_tail() -> None:
    exc: BaseException = MyError("first\0")
    for number in range(1000):
        try:
            raise MyError(f"cause {number}") from exc
        except MyError as caught:
            exc = caught
    _, traceback = describe(exc)
    assert traceback is not None
    assert "first\\x00" in traceback
    assert "middle left out" in traceback
    assert traceback.endswith("MyError: cause 999\n")
    assert len(traceback.encode()) <= codec.exceptions.TRACEBACK_BYTES
    head, _, tail = traceback.partition("middle left out")
    assert 0 < len(head) < len(tail), "the exception that counts is at the end"


@pytest.mark.parametrize("link", ["__cause__", "__context__"])
def test_one_that_was_never_raised_tells_of_its_cause(link: str) -> None:
    exc = MyError("result")
    setattr(exc, link, raised(MyError("reason")))
    traceback = describe(exc)[1]
    assert traceback is not None
    assert "MyError: reason" in traceback


def test_a_cause_that_is_its_own_cause() -> None:
    one, two = MyError("one"), MyError("two")
    one.__cause__, two.__cause__ = two, one
    assert "one" in (describe(raised(one))[1] or "")


def test_endless_recursion_is_described() -> None:
    def recurse() -> None:
        recurse()

    with pytest.raises(RecursionError) as caught:
        recurse()
    assert describe(caught.value)[0]["exc_type"] == "RecursionError"


def test_what_does_not_fit_is_shortened_not_dropped() -> None:
    error, _ = describe(MyError("a" * 10_000 + "the end", 7), max_bytes=1000)
    assert error["exc_message"][0].startswith("aaa")
    assert error["exc_message"][0].endswith("the end")
    assert error["exc_message"][1] == 7


def test_of_many_arguments_that_do_not_fit_the_first_are_kept() -> None:
    error, _ = describe(MyError(*(f"{number}{'a' * 500}" for number in range(20))), max_bytes=1000)
    assert [argument[0] for argument in error["exc_message"]] == list("01234567")


def test_of_arguments_that_nearly_fit_none_is_dropped() -> None:
    """Each is in its share of the room, and the commas between them are too much."""
    for max_bytes, length in product(range(1000, 1010), range(100, 125)):
        error, _ = describe(MyError(*["a" * length] * 8), max_bytes=max_bytes)
        assert len(error["exc_message"]) == 8


@given(st.lists(st.text() | st.binary() | st.floats() | st.dictionaries(st.text(), st.text())), st.integers(100, 3000))
def test_descriptions_are_always_readable(arguments: list[Any], max_bytes: int) -> None:
    describe(raised(MyError(*arguments)), max_bytes)


@pytest.mark.parametrize(
    "exc",
    [
        MyError("bad", 5),
        MyError(),
        ValueError("x", datetime(2026, 1, 1, tzinfo=UTC)),
        KeyError("k"),
        OSError(2, "No such file"),
        Outer.Inner("x"),
        TwoArguments(1, 2),
        Decorated(5),
        BadReduce("x"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "why"),
        errors.PayloadTooLarge("x", 2, 1),
        errors.NotRegistered("proj.add"),
        errors.TimeoutError(),
        errors.Reject("why", True),
        errors.MaxRetriesExceededError("Can't retry"),
        errors.WorkerLostError("lost"),
        errors.RemoteError("a.B", "m", "tb"),
    ],
)
def test_exceptions_come_back_as_they_were(exc: Exception) -> None:
    returned = rebuilt(exc)
    assert type(returned) is type(exc)
    assert returned.args == exc.args
    assert str(returned) == str(exc)


def test_what_is_shown_where_the_constructor_cannot_be_used() -> None:
    """SQLAlchemy's errors are shown by what it sets: to print one would raise, and its message be lost."""
    returned = rebuilt(sa.exc.OperationalError("SELECT 1", {}, Exception("the disk is full")))
    assert isinstance(returned, sa.exc.OperationalError)
    assert str(returned) == "(builtins.Exception) the disk is full"
    assert "sqlalchemy.exc.OperationalError: (builtins.Exception) the disk is full" in "".join(
        format_exception(returned)
    )


@pytest.mark.parametrize("cls", [Explodes, Impostor, MakesLiars, Unprintable, Childless])
def test_a_constructor_that_cannot_be_used(cls: type[Exception]) -> None:
    error = json.dumps({"exc_type": cls.__name__, "exc_message": ["x"], "exc_module": __name__})
    returned = codec.rebuild_exception(error, None)
    assert issubclass(type(returned), (cls, errors.RemoteError))  # `isinstance` would believe an impostor
    assert "x" in str(returned)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("no.such.module", "Error"),
        ("builtins", "SystemExit"),
        ("builtins", "KeyboardInterrupt"),
        ("builtins", "BaseException"),
        ("builtins", "print"),
        ("builtins", "int"),
        ("builtins", "ValueError.__init__"),
        ("builtins", ""),
        ("builtins", "."),
        ("os", "path.exists"),
        ("wsgiref", "handlers"),
    ],
)
def test_only_loaded_subclasses_of_exception_are_made(module: str, name: str) -> None:
    error = json.dumps({"exc_type": name, "exc_message": ["text"], "exc_module": module})
    returned = codec.rebuild_exception(error, "tb")
    assert isinstance(returned, errors.RemoteError)
    assert (returned.message, returned.traceback) == ("text", "tb")
    assert returned.type_name == (name if module == "builtins" else f"{module}.{name}")


class AsksNobody:
    """What a program may put in the place of a module."""

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        pytest.fail("asked for its names")


def test_rebuilding_imports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    lazy = types.ModuleType("lazy_for_test")
    lazy.__getattr__ = lambda name: pytest.fail("asked for an attribute")  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "lazy_for_test", lazy)
    monkeypatch.setitem(sys.modules, "none_for_test", None)
    monkeypatch.setitem(sys.modules, "no_module_for_test", AsksNobody())
    for module in ("lazy_for_test", "none_for_test", "no_module_for_test", "antigravity"):
        error = json.dumps({"exc_type": "Error", "exc_message": [], "exc_module": module})
        assert isinstance(codec.rebuild_exception(error, None), errors.RemoteError)
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    "error",
    [
        None,
        "",
        "{",
        "null",
        "[]",
        "5",
        "{}",
        '{"exc_type": 5}',
        '{"exc_type": null, "exc_message": 1}',
        '{"exc_type": "ValueError", "exc_message": {"__type__": "x", "__value__": 1}}',
    ],
)
def test_malformed_errors_are_remote_errors(error: str | None) -> None:
    returned = codec.rebuild_exception(error, "tb")
    assert isinstance(returned, errors.RemoteError)
    assert returned.traceback == "tb"
    assert codec.shown_exception(error) == "Exception()"


def test_it_is_shown_without_being_made() -> None:
    error, _ = codec.describe_exception(Outer.Inner("x", 3), max_bytes=LIMIT)
    assert codec.shown_exception(error) == "Inner('x', 3)"


def test_older_shapes_of_celery() -> None:
    returned = codec.rebuild_exception(
        '{"exc_type": "ValueError", "exc_message": "why", "exc_module": "builtins"}', None
    )
    assert isinstance(returned, ValueError)
    assert returned.args == ("why",)
    unknown = codec.rebuild_exception('{"exc_type": "Lost", "exc_message": [1, "b"]}', None)
    assert str(unknown) == "Lost: (1, 'b')"
