"""Rows as anybody may write them who may write to the table: nasty values for every column that takes them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

DEEP = "[" * 1500 + "]" * 1500
JSON = [
    "null", "7", '"text"', "[]", "{}", DEEP, '{"a":' * 1500 + "1" + "}" * 1500, "1e999", "9" * 5000,
    '["\\ud800"]', '{"\\u0000": "\\u0000"}', '{"__type__": "datetime", "__value__": "x"}', '["stamps"]', "[1, 2, 3]",
    '{"stamps": 1}', '{"stamps": {"a": [[]]}, "stamped_headers": 5}', '{"value": 1}', '{"value": 1, "value": 2}',
]  # fmt: skip
RESULTS = [
    '{"exc_type": 5, "exc_message": {"a": 1}, "exc_module": []}', '{"exc_type": "system", "exc_module": "os"}',
    '{"exc_type": "ValueError", "exc_message": "x", "exc_module": "builtins"}', '{"exc_type": "", "exc_module": "."}',
    '{"exc_type": "SystemExit", "exc_message": [1], "exc_module": "builtins"}', '{"current": 1e999, "total": "9"}',
    '{"exc_type": "UnicodeDecodeError", "exc_message": [1], "exc_module": "builtins"}', '{"current": 1, "total": 0}',
]  # fmt: skip
"""What a run may have left, and has not."""
OPTIONS = [
    f'{{"{name}": {value}}}'
    for name in (
        "time_limit",
        "soft_time_limit",
        "shadow",
        "argsrepr",
        "rejections",
        "join",
        "signature",
        "group_index",
    )
    for value in ("null", "true", '"x"', "-1", "1e999", "9" * 400, "[]", DEEP, '"\\ud800"')
]
LATER = [
    f'{{"{name}": {value}}}'
    for name in ("delay_seconds", "expires_seconds")
    for value in ('"x"', "true", "1e300", "1e-300", "1e999", "9" * 400, "null", "[]", '"\\u0000"', DEEP)
]
"""Options that count where a predecessor ends."""
NAMES = ["", " ", "'; DROP TABLE dbqueue_jobs; --", "%s%(id)s:id{x}", "*", "!a", "line\nbreak", "\x1b[31m", "\ufffd"]
LONG = "x" * 2000
COLUMNS: dict[str, list[Any]] = {
    "id": [*NAMES, LONG],
    "task": [*NAMES, LONG, "os.system", "sample"],
    "queue": [*NAMES, LONG],
    "priority": [-32768, 32767],
    "retries": [-(2**31), 2**31 - 1],
    "losses": [-(2**31), 2**31 - 1],
    "args": JSON,
    "kwargs": JSON,
    "headers": JSON,
    "options": [*JSON, *OPTIONS, *LATER],
    "content_type": [*NAMES, "pickle", "application/json", "application/x-python-serialize"],
    "content": [b"", b"\xff\x00", b"[[], {}]"],
    "parent_id": [*NAMES, LONG],
    "root_id": [*NAMES, LONG],
    "group_id": [*NAMES, LONG],
    "redeliver": [False],
    "inputs": [True],
    "successors": [True],
    "waits_for": [-(2**31), 2**31 - 1],
    "workflow_id": [*NAMES, LONG],
    "limit_key": [*NAMES, LONG, "task:sample.echo", "task:"],
}


class NoText(NamedTuple):
    """Text of SQLite's that is none."""

    data: bytes


ANYTHING: list[Any] = [
    "abc",
    "",
    1.5,
    2**62,
    b"\x00\xff",
    NoText(b"a\xff"),
    NoText(b'["\xff"]'),
    NoText(b'{"\xff": 1}'),
]
"""What SQLite keeps in any column."""
TIMES: dict[str, list[Any]] = {
    "postgresql": ["infinity", "-infinity", "9999-12-31", "0001-01-01 BC", "294276-12-31", "4713-01-01 BC"],
    "sqlite": ["infinity", "9999-12-31 00:00:00.000", "0000-00-00", "zzz", "!", "5", *ANYTHING],
}
TIME_COLUMNS = ("ready_at", "created_at", "expires_at", "eta")

Row = Mapping[str, Any]


def rows(dialect: str) -> Iterable[Row]:
    """What to write; with an id that says what it is, where the id itself is none of these."""
    for number, columns in enumerate(_columns(dialect)):
        told = ", ".join(f"{name}={str(value)[:40]}" for name, value in columns.items())
        yield {"id": f"{number} {told}", "task": "sample.echo", "args": '["hostile"]'} | columns


def _columns(dialect: str) -> Iterable[dict[str, Any]]:
    times = dict.fromkeys(TIME_COLUMNS, TIMES[dialect])
    more = ANYTHING if dialect == "sqlite" else []
    own = {name: [*values, *(each for each in more if each not in values)] for name, values in COLUMNS.items()}
    for name, values in (own | times).items():
        for value in values:
            # An eta is not after the time when the job is due.
            yield {name: value, "ready_at": value} if name == "eta" else {name: value}
    held = {"held_at": "2026-01-01 00:00:00.000", "limit_key": "k", "blocked_reason": "limit", "ready_at": None}
    ids = [b"held", NoText(b"held\xff")] if more else []
    for name, values in {name: own[name] for name in ("limit_key", "queue", "priority", "task")}.items():
        yield from (held | {name: value} for value in values)
    yield from (held | {"id": each} for each in ids)
    yield from (held | {"held_at": each} for each in TIMES[dialect])
    yield {"task": "sample.die", "args": '["exit"]', "losses": 2**31 - 1}
    yield {"task": "sample.backing_off", "args": '["/dev/null"]', "retries": 2**31 - 1}


def taken(dialect: str) -> Iterable[Row]:
    """Rows as only a worker is to write them: of jobs that run, that have ended, or that try again."""
    more = ANYTHING if dialect == "sqlite" else []
    results = {name: [*JSON, *RESULTS, *more] for name in ("result", "meta")}
    texts = {name: [*NAMES, LONG, *more] for name in ("traceback", "state", "worker")}
    times = dict.fromkeys(("created_at", "started_at", "finished_at"), TIMES[dialect])
    ended = {"finished_at": "2026-01-01 00:00:00.000", "started_at": "2026-01-01 00:00:00.000", "ready_at": None}
    running = {"worker": "gone#1", "lease": "00000000-0000-0000-0000-000000000000", "ready_at": None}
    number = 0
    for name, values in (results | texts | times).items():
        for value in values:
            for status in ("SUCCESS", "FAILURE", "REVOKED", "STARTED", "RETRY"):
                if name == "finished_at" and status in ("STARTED", "RETRY"):
                    continue
                number += 1
                own = {"STARTED": running, "RETRY": {}}.get(status, ended)
                row = {"id": f"taken {number} {status} {name}={str(value)[:40]}", "task": "sample.echo"}
                yield row | own | {"status": status, name: value}
    for content_type in [*NAMES, "pickle", "application/json", "application/x-python-serialize"]:
        told = {"content_type": content_type}
        yield (
            {"id": f"taken {content_type}", "task": "x", "status": "SUCCESS", "result_content": b"\xff"}
            | ended
            | {"result": json.dumps(told)}
        )


def workflows(dialect: str) -> Iterable[tuple[Row, Row, str]]:
    """A job, one that waits for it, and the event that it waits for."""
    options = [*JSON, *LATER, *(ANYTHING if dialect == "sqlite" else ())]
    number = 0
    for columns in [{"options": each} for each in options] + [{"args": '[{"a":'}] * (dialect == "sqlite"):
        for event in ("success", "error", "end"):
            for task in ("sample.echo", "sample.absent"):
                number += 1
                own = {"options": columns["options"]} if "options" in columns else {}
                first = {"id": f"first {number}", "task": task, "args": '["first"]', "successors": True} | columns
                second = {"id": f"second {number} {event} {str(columns)[:40]}", "task": "sample.echo", "args": '["x"]'}
                blocked = {
                    "ready_at": None,
                    "blocked_reason": "predecessors",
                    "waits_for": 1,
                    "inputs": event == "error",
                }
                yield first, second | blocked | own, event


def schedules(dialect: str) -> Iterable[Row]:
    """Periodic tasks."""
    columns: dict[str, list[Any]] = {
        "schedule": [*NAMES, LONG, "every 1e999 seconds", "* * * * *", f"every {'9' * 400} seconds", "30 7 31 2 *"],
        "timezone": [*NAMES, LONG, "../../etc/passwd"],
        "args": JSON,
        "kwargs": JSON,
        "options": JSON,
    }
    columns |= dict.fromkeys(("next_due_at", "last_due_at"), TIMES[dialect])
    for name, values in columns.items():
        for number, value in enumerate(values):
            yield {"name": f"{name} {number}", "task": "sample.echo", "schedule": "every 3600 seconds"} | {name: value}


def workers(dialect: str) -> Iterable[Row]:
    """Registrations of workers that are none."""
    more = ANYTHING if dialect == "sqlite" else []
    columns: dict[str, list[Any]] = {
        "lease_seconds": [1e20, -1e20, float("inf"), float("-inf"), *(more or [float("nan")])],
        "heartbeat_at": TIMES[dialect],
        "started_at": TIMES[dialect],
        "queues": [*JSON, '["*"]', '[["a"]]', *more],
        "pid": [-(2**31), *more],
        "concurrency": [-(2**31), *more],
    } | {name: [*NAMES, LONG, *more] for name in ("name", "hostname", "pool", "version")}
    for number, (name, value) in enumerate((name, value) for name, values in columns.items() for value in values):
        yield {
            "id": f"x#{number}", "name": "x", "hostname": "x", "pid": 1, "pool": "solo", "concurrency": 1,
            "queues": "[]", "version": "0", "lease_seconds": 100_000.0,
        } | {name: value}  # fmt: skip


def commands(dialect: str) -> Iterable[Row]:
    """Commands to workers."""
    more = ANYTHING if dialect == "sqlite" else []
    destinations = [*JSON, *more, '{"pattern": 5}', '{"pattern": "(", "matcher": "pcre"}', '{"workers": 5}']
    columns: dict[str, list[Any]] = {
        "destination": destinations,
        "body": [*JSON, *more],
        "method": [*NAMES, LONG, *more],
        "created_at": TIMES[dialect],
    }
    for name, values in columns.items():
        for number, value in enumerate(values):
            row = {"id": f"{name} {number}", "method": "query_task", "body": '{"ids": [[]]}'}
            yield row | {"expires_at": "9999-12-31 00:00:00.000", name: value}


def events(dialect: str) -> Iterable[Row]:
    """What monitors are told."""
    names = ("hostname", "uuid", "timestamp", "name", "freq", "parent_id", "event", "_children", "as_dict")
    values = ("null", "true", '"x"', "-1", "1e300", "1e999", "9" * 400, "[]", "{}", '"\\ud800"', '"line\\nbreak"')
    types = ("worker-heartbeat", "task-sent", "task-received", "task-event", "task-_cluster", "task-info", "x", "-")
    for type_ in types:
        for name in names:
            for value in values:
                yield {"body": f'{{"type": "{type_}", "hostname": "h", "uuid": "u", "{name}": {value}}}'}
    for body in [*JSON, *(ANYTHING if dialect == "sqlite" else ()), '{"type": 5}', '{"type": []}']:
        yield {"body": body}
