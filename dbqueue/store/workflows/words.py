"""The words in which the databases differ, where a statement of workflows is the same on both but for them.

The text names the word (`{among}`, `{lock}`, ...), and `POSTGRES` and `SQLITE` give it. Lists of ids are arrays on
PostgreSQL and JSON on SQLite (`Store.listed`); pairs are a JSON object on both.
"""

from __future__ import annotations

from typing import Any, Final

from dbqueue.store.base import Store
from dbqueue.store.statements import Statement
from dbqueue.workflows import DELAY, EXPIRY

# A row's options may be any JSON on PostgreSQL, of which `->>` refuses some texts; and anything at all on SQLite.
# What is no number of seconds, or too large a one, counts for nothing.
# E'...' means the same where `standard_conforming_strings` is off, also for a caller whose transaction this is in.
_POSTGRES_OPTIONS: Final = r"(CASE WHEN CAST(options AS text) !~ E'\\\\u(0000|[dD][89a-fA-F])' THEN options END)"


def _sqlite_json(column: str) -> str:
    return f"(CASE WHEN typeof({column}) = 'text' AND json_valid({column}) THEN json({column}) END)"


def _postgres_seconds(name: str) -> str:
    value = f"{_POSTGRES_OPTIONS} ->> '{name}'"
    number = "'^-?[0-9]{1,10}([.][0-9]+)?(e-[0-9]{1,2})?$'"
    return f"make_interval(secs => CASE WHEN ({value}) ~ {number} THEN CAST({value} AS float8) END)"


def _sqlite_seconds(name: str) -> str:
    value = f"({_sqlite_json('options')} ->> '{name}')"
    return f"(CASE WHEN typeof({value}) IN ('integer', 'real') AND abs({value}) < 1e10 THEN {value} END || ' seconds')"


POSTGRES: Final = {
    "among": '= ANY(CAST(:ids AS text[]) COLLATE "C")',
    "given": "unnest(CAST(:ids AS text[])) AS b(id)",
    "pairs": "json_each_text(CAST(:pairs AS json)) AS p(key, value)",
    "c": ' COLLATE "C"',
    # Row by row, by the index, whatever the planner thinks: OFFSET keeps it from turning the join round. It thinks
    # that the edges are none, for one, where the table was looked through just after its last workflow was pruned.
    "each": "CROSS JOIN LATERAL (SELECT ctid, * FROM ",
    "each_or_none": "LEFT JOIN LATERAL (SELECT * FROM ",
    "out_of_b": 'e WHERE e.predecessor = b.id COLLATE "C" OFFSET 0) AS e',
    "into_b": 'e WHERE e.successor = b.id COLLATE "C" OFFSET 0) AS e',
    "at_start": "p WHERE p.id = e.predecessor OFFSET 0) AS p",
    "at_start_or_none": "p WHERE p.id = e.predecessor OFFSET 0) AS p ON true",
    "at_end": "s WHERE s.id = e.successor OFFSET 0) AS s",
    # Edges are never changed, so their addresses hold. `successor = ANY(...)` might read the whole primary key.
    "address": "ctid",
    "any_of": "= ANY(ARRAY",
    "end": ")",
    "lock": "FOR UPDATE",
    "moment": "coalesce(CAST(:now AS timestamptz), now())",
    "options": _POSTGRES_OPTIONS,
    "due": "greatest(eta, coalesce(CAST(:now AS timestamptz), now())"
    f" + coalesce({_postgres_seconds(DELAY)}, interval '0'))",
    "lapse": f"coalesce(coalesce(CAST(:now AS timestamptz), now()) + {_postgres_seconds(EXPIRY)}, expires_at)",
    "json_from": "CAST(",
    "json_to": " AS json)",
    "lease": "CAST(:lease AS uuid)",
    "asked": "coalesce(CAST(:eta AS timestamptz), now() + make_interval(secs => CAST(:delay_seconds AS float8)))",
    "expiry": "coalesce(CAST(:expires_at AS timestamptz),"
    " now() + make_interval(secs => CAST(:expires_seconds AS float8)), expires_at)",
    "greatest": "greatest",
    # `greatest` passes over what is NULL. What ended at `surplus_at` is too much, too.
    "before": "greatest(coalesce(CAST(:now AS timestamptz), now()) - make_interval(secs => CAST(:seconds AS float8)),"
    " CAST(:surplus_at AS timestamptz) + interval '1 microsecond')",
    "clock": "now()",
    "index": "CAST(split_part(trim(both '[]' from place), ',', 1) AS integer)",
    "bytes_of_input": "octet_length(input)",
    "bytes_of_content": "octet_length(content)",
    "object": "json_build_object",
    "args": "p.args",
    "kwargs": "p.kwargs",
    "headers": "p.headers",
    "result": "p.result",
}
SQLITE: Final = {
    "among": "IN (SELECT value FROM json_each(:ids))",
    "given": "(SELECT value AS id FROM json_each(:ids)) AS b",
    "pairs": "json_each(:pairs) AS p",
    "c": "",
    # SQLite keeps the order of a CROSS JOIN, whatever an ANALYZE has left behind.
    "each": "CROSS JOIN ",
    "each_or_none": "LEFT JOIN ",
    "out_of_b": "e ON e.predecessor = b.id",
    "into_b": "e ON e.successor = b.id",
    "at_start": "p ON p.id = e.predecessor",
    "at_start_or_none": "p ON p.id = e.predecessor",
    "at_end": "s ON s.id = e.successor",
    "address": "rowid",
    "any_of": "IN",
    "end": "",
    "lock": "",
    "moment": "coalesce(:now, strftime('%Y-%m-%d %H:%M:%f', 'now'))",
    "options": _sqlite_json("options"),
    "due": "max(coalesce(eta, ''), strftime('%Y-%m-%d %H:%M:%f', coalesce(:now, 'now'),"
    f" coalesce({_sqlite_seconds(DELAY)}, '0 seconds')))",
    "lapse": f"coalesce(strftime('%Y-%m-%d %H:%M:%f', coalesce(:now, 'now'), {_sqlite_seconds(EXPIRY)}), expires_at)",
    "json_from": "",
    "json_to": "",
    "lease": ":lease",
    "asked": "coalesce(:eta, strftime('%Y-%m-%d %H:%M:%f', 'now', :delay_seconds || ' seconds'))",
    "expiry": "coalesce(:expires_at, strftime('%Y-%m-%d %H:%M:%f', 'now', :expires_seconds || ' seconds'), expires_at)",
    "greatest": "max",
    "before": "max(coalesce(strftime('%Y-%m-%d %H:%M:%f', coalesce(:now, 'now'), (-:seconds) || ' seconds'), ''),"
    " coalesce(:surplus_at || '0', ''))",
    "clock": "strftime('%Y-%m-%d %H:%M:%f', 'now')",
    "index": "CAST(substr(place, 2) AS integer)",
    "bytes_of_input": "length(CAST(input AS BLOB))",  # of a text it is the number of characters
    "bytes_of_content": "length(content)",
    "object": "json_object",
    **{name: _sqlite_json(f"p.{name}") for name in ("args", "kwargs", "headers", "result")},
}


def statement(store: Store, template: str, **parameters: Any) -> Statement:
    """A statement in the words of the database; collections of ids become what the database takes for a list."""
    values = {name: store.listed(value) if name == "ids" else value for name, value in parameters.items()}
    return Statement(store.text(template), values)


def flag(option: Any) -> bool:
    """A boolean that `->>` read from JSON: a text on PostgreSQL, a number on SQLite."""
    return bool(option) and option != "false"
