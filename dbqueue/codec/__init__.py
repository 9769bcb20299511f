"""Values as text and bytes and back, and exceptions as data.

    json_text.py, typed_values.py   JSON, and the types that it does not have
    serializers.py                  the other forms, and compression
    payloads.py, plain.py           arguments and results of rows
    exceptions.py, cautious.py      failures, whatever their own code does
    nesting.py                      how deep is too deep

All that a job stores goes through here: arguments, results and failures.
"""

from __future__ import annotations

from dbqueue.codec.exceptions import describe_exception, rebuild_exception, shown_exception
from dbqueue.codec.json_text import dumps, loads
from dbqueue.codec.serializers import (
    COMPRESSIONS,
    JSON_CONTENT_TYPE,
    SERIALIZERS,
    Serializer,
    check_accepted,
    decode,
    encode,
    encode_as,
    register_serializer,
    serializer,
)
from dbqueue.codec.typed_values import register_type

__all__ = [
    "COMPRESSIONS",
    "JSON_CONTENT_TYPE",
    "SERIALIZERS",
    "Serializer",
    "check_accepted",
    "decode",
    "describe_exception",
    "dumps",
    "encode",
    "encode_as",
    "loads",
    "rebuild_exception",
    "register_serializer",
    "register_type",
    "serializer",
    "shown_exception",
]

SERIALIZERS["json"] = Serializer("json", JSON_CONTENT_TYPE, dumps, loads)
