"""Values and serializers as data."""

from __future__ import annotations

import base64
import contextlib
import enum
import gc
import json
import os
import subprocess
import sys
import types
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, ClassVar, NamedTuple, NoReturn
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dbqueue import codec, errors
from dbqueue.codec import nesting, typed_values
from tests.unit.awkward_values import LIMIT, Hostile, circular, deep, dumps


def there_and_back(value: Any) -> Any:
    return codec.loads(dumps(value))


@pytest.fixture(autouse=True)
def registrations(monkeypatch: pytest.MonkeyPatch) -> None:
    for table in ("_by_class", "_by_name"):
        monkeypatch.setattr(typed_values, table, {})
    monkeypatch.setattr(typed_values, "_native_forms", set())


class Pair(NamedTuple):
    x: int
    y: int


# -- round trips

text = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
offsets = st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone)
zones = st.none() | st.just(UTC) | offsets
atoms = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | text
    | st.binary()
    | st.dates()
    | st.times()
    | st.datetimes(timezones=zones)
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
)
hashables = st.recursive(
    atoms,
    lambda inner: st.frozensets(inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=5,
)
keys = text | st.sampled_from(["__type__", "__value__"])
values = st.recursive(
    atoms | st.sets(hashables, max_size=4) | st.frozensets(hashables, max_size=4),
    lambda inner: st.lists(inner) | st.dictionaries(keys, inner),
    max_leaves=20,
)


@example(datetime(2000, 1, 1, tzinfo=timezone(timedelta(microseconds=1))))
@example(datetime.min.replace(tzinfo=timezone(timedelta(microseconds=1))))
@example(datetime.max.replace(tzinfo=timezone(timedelta(microseconds=-1))))
@given(values)
def test_values_come_back_with_their_types(value: Any) -> None:
    returned = there_and_back(value)
    assert returned == value
    assert type(returned) is type(value)


@given(values)
def test_no_text_has_what_postgresql_refuses(value: Any) -> None:
    encoded = dumps(value)
    json.loads(encoded, parse_constant=pytest.fail)
    encoded.encode()
    assert "\0" not in json.dumps(json.loads(encoded), ensure_ascii=False).replace("\\\\u0000", "")


@given(st.dictionaries(st.sampled_from(["__type__", "__value__", "x"]), st.just("datetime") | st.integers()))
def test_a_dict_that_looks_like_an_envelope_is_unharmed(value: dict[str, Any]) -> None:
    assert there_and_back([value, {"in": (value,)}]) == [value, {"in": [value]}]


def test_a_lookalike_inside_a_lookalike() -> None:
    inner = {"__type__": "decimal", "__value__": "1"}
    value = {"__type__": inner, "__value__": [inner, datetime(2026, 1, 1, tzinfo=UTC)]}
    assert there_and_back(value) == value


LOOKALIKE = {"__type__": "decimal", "__value__": "1"}


@dataclass
class Holder:
    held: Any


class Held(enum.Enum):
    LOOKALIKE = (LOOKALIKE,)


class Own:
    def __json__(self) -> Any:
        return [LOOKALIKE]


@pytest.mark.parametrize(
    ("value", "returned"),
    [(Holder([LOOKALIKE]), {"held": [LOOKALIKE]}), (Held.LOOKALIKE, [LOOKALIKE]), (Own(), [LOOKALIKE])],
)
def test_a_lookalike_inside_an_object(value: Any, returned: Any) -> None:
    assert there_and_back(value) == returned


def test_a_lookalike_inside_an_object_of_a_registered_type() -> None:
    codec.register_type(Holder)
    assert there_and_back(Holder([LOOKALIKE])) == Holder([LOOKALIKE])


def test_the_text_is_compact_and_readable() -> None:
    assert dumps([1, {"jméno": "Žluťoučký"}]) == '[1,{"jméno":"Žluťoučký"}]'


@pytest.mark.parametrize(("empty", "text"), [({}, "{}"), ([], "[]"), ((), "[]"), ("", '""'), (0, "0"), (None, "null")])
def test_empty_values(empty: Any, text: str) -> None:
    assert dumps(empty) == text


def test_tuples_and_plain_keys_are_as_in_celery() -> None:
    assert there_and_back((1, (2,), Pair(3, 4))) == [1, [2], [3, 4]]
    assert there_and_back({1: "a", 1.5: "b", False: "c", None: "d"}) == {
        "1": "a",
        "1.5": "b",
        "false": "c",
        "null": "d",
    }
    assert there_and_back(OrderedDict(b=1, a=2)) == {"b": 1, "a": 2}


@pytest.mark.parametrize(
    ("stored", "value"),
    [
        (
            '{"__type__": "datetime", "__value__": "2026-01-02T03:04:05+00:00"}',
            datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        ),
        ('{"__type__": "datetime", "__value__": "2026-01-02T03:04:05Z"}', datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ('{"__type__": "date", "__value__": "2026-01-02"}', date(2026, 1, 2)),
        ('{"__type__": "date", "__value__": "2026-01-02T00:00:00"}', date(2026, 1, 2)),
        ('{"__type__": "time", "__value__": "03:04:05.000006"}', time(3, 4, 5, 6)),
        ('{"__type__": "decimal", "__value__": "1.10"}', Decimal("1.10")),
        ('{"__type__": "uuid", "__value__": {"hex": "00000000000000000000000000000007"}}', UUID(int=7)),
        ('{"__type__": "bytes", "__value__": "é"}', "é".encode()),
        ('{"__type__": "base64", "__value__": "gA=="}', b"\x80"),
    ],
)
def test_what_celery_wrote_is_read(stored: str, value: Any) -> None:
    assert codec.loads(stored) == value


def test_bytes_are_written_as_celery_does_except_nul() -> None:
    assert json.loads(dumps(b"abc")) == {"__type__": "bytes", "__value__": "abc"}
    assert json.loads(dumps(b"\x80")) == {"__type__": "base64", "__value__": "gA=="}
    assert json.loads(dumps(b"a\0")) == {"__type__": "base64", "__value__": base64.b64encode(b"a\0").decode()}


ENCODE_SETS = """
from dbqueue import codec
value = [set(map(str, range(50))), {1, "1", (2, "b"), (2, "a"), None, frozenset("abc"), frozenset("cde"), b"x"}]
print(codec.dumps(value, what="sets", max_bytes=10_000))
"""


def test_sets_are_written_in_one_order_by_every_process() -> None:
    def encoded(seed: str) -> bytes:
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        return subprocess.run(
            [sys.executable, "-c", ENCODE_SETS], env=environment, capture_output=True, check=True
        ).stdout

    assert encoded("1") == encoded("2") != b""


def test_subclasses_of_known_types() -> None:
    class Moment(datetime):
        pass

    class Word(str):
        __slots__ = ()

    assert there_and_back(Moment(2026, 1, 2)) == datetime(2026, 1, 2)  # noqa: DTZ001 - naive stays naive
    assert there_and_back([Word("x")]) == ["x"]


def test_nat_is_refused() -> None:
    class NaT(datetime):
        def __eq__(self, other: object) -> bool:
            return False

        def __ne__(self, other: object) -> bool:
            return True

        __hash__ = datetime.__hash__

    with pytest.raises(errors.EncodeError, match="NaT"):
        dumps([NaT(1, 1, 1)])


# -- enums, dataclasses, registered types


class Colour(enum.Enum):
    RED = (255, 0, 0)


class Level(enum.IntEnum):
    LOW = 1


class Mode(str, enum.Enum):  # noqa: UP042 - the form that programs of before 3.11 use
    FAST = "fast"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


@dataclass
class Point:
    x: int
    at: datetime


@dataclass(frozen=True)
class Frozen:
    x: int
    seen: list[int] = field(default_factory=list, init=False)
    kinds: ClassVar[int] = 3


def test_plain_enums_and_dataclasses_become_plain_values() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    assert there_and_back([Colour.RED, Level.LOW, Mode.FAST]) == [[255, 0, 0], 1, "fast"]
    assert [type(value) for value in there_and_back([Level.LOW, Mode.FAST])] == [int, str]
    assert there_and_back(Point(1, at)) == {"x": 1, "at": at}
    assert there_and_back({Mode.FAST: 1, Level.LOW: 2}) == {"fast": 1, "1": 2}


def test_registered_types_come_back() -> None:
    for cls in (Colour, Level, Mode, Rights, Point, Frozen):
        assert codec.register_type(cls) is cls
    frozen = Frozen(3)
    frozen.seen.append(9)
    value = [
        Colour.RED,
        Level.LOW,
        Mode.FAST,
        Rights.READ | Rights.WRITE,
        Point(2, datetime(2026, 1, 1, tzinfo=UTC)),
        frozen,
        {"in": Mode.FAST},
        {Mode.FAST, Colour.RED},
    ]
    returned = there_and_back(value)
    assert returned == value
    assert [type(item) for item in returned] == [type(item) for item in value]
    assert type(returned[6]["in"]) is Mode


def test_lookalikes_are_unharmed_beside_registered_natives() -> None:
    codec.register_type(Mode)
    value = {"__type__": Mode.FAST, "__value__": {"__type__": 1, "__value__": 2}}
    assert there_and_back(value) == value
    assert there_and_back((Mode.FAST, LOOKALIKE)) == [Mode.FAST, LOOKALIKE]


def test_a_row_of_before_a_field_was_added_is_read() -> None:
    codec.register_type(Frozen, "frozen")
    assert codec.loads('{"__type__": "frozen", "__value__": {"x": 3}}') == Frozen(3)


def test_a_given_form_serves_subclasses_and_a_derived_one_does_not() -> None:
    class Money:
        def __init__(self, amount: int) -> None:
            self.amount = amount

    class Euro(Money):
        pass

    @dataclass
    class Deep(Point):
        z: int

    codec.register_type(Money, "money", encode=lambda money: money.amount, decode=Money)
    codec.register_type(Point)
    assert there_and_back(Euro(5)).amount == 5
    assert there_and_back(Deep(1, datetime(2026, 1, 1, tzinfo=UTC), 3))["z"] == 3


def test_refused_registrations() -> None:
    class Opaque:
        pass

    functions: list[dict[str, Any]] = [{}, {"encode": str}, {"decode": str}]
    for given_functions in functions:
        with pytest.raises(errors.ImproperlyConfigured, match="both encode and decode"):
            codec.register_type(Opaque, **given_functions)
    with pytest.raises(errors.ImproperlyConfigured, match="dbqueue's own"):
        codec.register_type(Point, "datetime")
    codec.register_type(Point, "p")
    again: Any
    elsewhere: Any
    again, elsewhere = (dataclass(type("Point", (), {"__module__": module})) for module in (__name__, "elsewhere"))
    assert codec.register_type(again, "p") is again  # a module that is loaded again
    for other in (Frozen, elsewhere):
        with pytest.raises(errors.ImproperlyConfigured, match="already"):
            codec.register_type(other, "p")


def test_objects_with_a_json_method() -> None:
    class Own:
        def __json__(self) -> Any:
            return {"when": date(2026, 1, 1)}

    assert there_and_back(Own()) == {"when": date(2026, 1, 1)}


def test_lazy_strings_of_django(monkeypatch: pytest.MonkeyPatch) -> None:
    class Promise:
        def __str__(self) -> str:
            return "přeloženo"

    module = types.ModuleType("django.utils.functional")
    module.Promise = Promise  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "django.utils.functional", module)
    assert there_and_back([Promise()]) == ["přeloženo"]


# -- refusals


class Raising:
    def __init__(self, exc: BaseException) -> None:
        self.exc = exc

    def __json__(self) -> NoReturn:
        raise self.exc


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (float("nan"), "NaN"),
        ([float("inf")], "NaN"),
        ({"k": -float("inf")}, "NaN"),
        ({float("nan"): 1}, "NaN"),
        ("a\0b", "NUL"),
        ({"a\0": 1}, "NUL"),
        ("\\\0", "NUL"),
        ("\\\\\0", "NUL"),
        ("\ud800", "surrogate"),
        ({"\udfff": 1}, "surrogate"),
        (circular(), "refers to itself"),
        pytest.param(deep(), "nested too deeply", id="deep"),
        ({(1, 2): 3}, "keys must be"),
        (object(), r"builtins\.object has no JSON form"),
        ([1, {2: {object}}], r"builtins\.type has no JSON form"),
        pytest.param(10**5000, "ValueError", id="a long integer"),
        (Raising(ZeroDivisionError("oops")), "ZeroDivisionError: oops"),
        (Raising(Hostile()), "Hostile: <Hostile>"),
        (Raising(BaseException("bare")), "bare"),
        (lambda: 1, "has no JSON form"),
    ],
)
def test_what_json_cannot_carry_is_refused_with_its_reason(value: Any, reason: str) -> None:
    with pytest.raises(errors.EncodeError, match=reason) as caught:
        dumps(value)
    assert str(caught.value).startswith("arguments of proj.add: ")
    assert not isinstance(caught.value, errors.PayloadTooLarge)


@pytest.mark.parametrize("user_text", ["\\u0000", "\\\\u0000", 'a\\u0000"', "\\\\\\u0000"])
def test_the_escape_for_nul_as_plain_text_is_allowed(user_text: str) -> None:
    assert there_and_back([user_text]) == [user_text]


@pytest.mark.parametrize("exc", [KeyboardInterrupt(), SystemExit(1), errors.SoftTimeLimitExceeded()])
def test_interrupts_pass_through_encoding(exc: BaseException) -> None:
    with pytest.raises(type(exc)):
        dumps(Raising(exc))


def test_an_exception_without_arguments_that_says_only_its_name_gets_none() -> None:
    described, _ = codec.describe_exception(errors.SoftTimeLimitExceeded(), max_bytes=1000)
    assert repr(codec.rebuild_exception(described, None)) == "SoftTimeLimitExceeded()"


def test_the_limit_is_in_bytes() -> None:
    assert dumps("é" * 4, max_bytes=10) == '"éééé"'
    with pytest.raises(errors.PayloadTooLarge, match="max_payload_bytes=9") as caught:
        dumps("é" * 4, max_bytes=9)
    assert (caught.value.size, caught.value.limit, caught.value.what) == (10, 9, "arguments of proj.add")


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "{",
        "[1,]",
        "[1] [2]",
        '{"a": 1}}',
        "NaN",
        "[Infinity]",
        "nul",
        "[" * 100_000,
        "1" * 5000,
        '{"__type__": "unheard.of", "__value__": 1}',
        '{"__type__": 5, "__value__": 1}',
        '[{"__type__": "datetime", "__value__": "2026-01-01"}, NaN]',
        '{"__type__": ["datetime"], "__value__": 1}',
        '{"__type__": null, "__value__": 1}',
        '{"__type__": "datetime", "__value__": "yesterday"}',
        '{"__type__": "datetime", "__value__": 5}',
        '{"__type__": "decimal", "__value__": "x"}',
        '{"__type__": "uuid", "__value__": {"int": 5}}',
        '{"__type__": "base64", "__value__": "%%%"}',
        '{"__type__": "set", "__value__": [{}]}',
        '{"__type__": "timedelta", "__value__": [1e300]}',
        '{"__type__": "dict", "__value__": [1]}',
        None,
        5,
    ],
)
def test_whatever_cannot_be_read_is_a_decode_error(stored: Any) -> None:
    with pytest.raises(errors.DecodeError):
        codec.loads(stored)


@given(st.text() | st.recursive(st.none() | st.text(), lambda x: st.dictionaries(keys, x)).map(json.dumps))
def test_loads_raises_nothing_else(stored: str) -> None:
    with contextlib.suppress(errors.DecodeError):
        codec.loads(stored)


@pytest.mark.parametrize("stored", ["[" * 100_000, '{"__type__": ' * 100_000, "[" * 501 + "]" * 501])
def test_what_is_nested_too_deeply_is_told_as_that(stored: str) -> None:
    with pytest.raises(errors.DecodeError, match="nested too deeply"):
        codec.loads(stored)


def test_what_was_written_can_be_read_whatever_is_put_around_it() -> None:
    written = dumps(deep(399))
    assert codec.loads("[" * 100 + written + "]" * 100)
    with pytest.raises(errors.EncodeError, match="nested too deeply"):
        dumps(deep(400))
    with pytest.raises(errors.EncodeError, match="more than 400"):  # and not by a walk of Python's own before
        dumps([{"__type__": "x", "__value__": 1}, deep(600)])
    brackets_in_strings = [["[" * 1000, '"[{' * 1000, "\\" * 3 + '"' + "{" * 1000]] * 150
    assert there_and_back(brackets_in_strings) == brackets_in_strings


@given(
    st.recursive(
        st.integers() | st.text('[]{}"\\\n\u2028x', max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('[]{}"\\', max_size=3), inner, max_size=3),
    )
)
def test_the_depth_of_a_text_is_that_of_its_value(value: Any) -> None:
    def depth(part: Any) -> int:
        inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else None
        return 0 if inner is None else 1 + max(map(depth, inner), default=0)

    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        assert not nesting.is_deeper(text, depth(value))
        assert nesting.is_deeper(text, depth(value) - 1)


def test_sets_in_sets_take_the_time_of_their_size() -> None:
    """Encoded again at each level, these would take longer than the earth has been there."""
    value: Any = 1
    for _ in range(60):
        value = frozenset({value, "x"})
    assert there_and_back(value) == value
    assert codec.describe_exception(ValueError(value), max_bytes=LIMIT)
    mixed = {(1, 2), "a", 3, None, b"x", frozenset({(4, "y")})}
    assert there_and_back(mixed) == mixed


def test_reading_never_comes_near_the_limit_of_recursion() -> None:
    """A finalizer that runs meanwhile has room: one that needs a hundred frames, wherever the collection comes.

    (It came as each list was made until Python 3.11; later ones collect between bytecodes only.)
    """
    failed: list[Any] = []

    class Held:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            down(100)

    def down(frames: int) -> None:
        if frames:
            down(frames - 1)

    hook, sys.unraisablehook = sys.unraisablehook, failed.append
    thresholds = gc.get_threshold()
    try:
        for lists in range(50, 1_000, 50):
            gc.set_threshold(lists)
            for text in ("[" * 5_000, "[" * 500 + "]" * 500):
                gc.collect()
                Held()
                with contextlib.suppress(errors.DecodeError):
                    codec.loads(text)
    finally:
        gc.set_threshold(*thresholds)
        sys.unraisablehook = hook
    assert failed == []


def test_an_error_of_decoding_quotes_no_data() -> None:
    with pytest.raises(errors.DecodeError) as caught:
        codec.loads('{"__type__": "datetime", "__value__": "secret"}')
    assert "secret" not in str(caught.value)


# -- serializers


def test_the_serializers() -> None:
    assert codec.serializer("json").content_type == "application/json"
    assert codec.serializer("json").loads(codec.serializer("json").dumps([1], what="x", max_bytes=10)) == [1]
    with pytest.raises(errors.ImproperlyConfigured, match=r"'pickel'; known: .*json"):
        codec.serializer("pickel")


@pytest.mark.parametrize(
    ("content_type", "accepted", "allowed"),
    [
        (None, ["json"], True),
        (None, ["application/json"], True),
        ("application/json", ["json"], True),
        ("application/json", {"application/json", "yaml"}, True),
        ("application/x-python-serialize", ["json"], False),
        ("application/x-python-serialize", ["json", "application/x-python-serialize"], True),
        (None, ["yaml"], False),
        (None, [], False),
        ("json", ["json"], False),
    ],
)
def test_accepted_content(content_type: str | None, accepted: Any, allowed: bool) -> None:
    if allowed:
        codec.check_accepted(content_type, accepted)
    else:
        with pytest.raises(errors.ContentDisallowed):
            codec.check_accepted(content_type, accepted)
