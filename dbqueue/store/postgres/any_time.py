"""Any time of PostgreSQL's as a datetime; psycopg fails of the whole answer where one is out of Python's calendar."""

from __future__ import annotations

from typing import Any, Final

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap, Loader
from psycopg.pq import Format

from dbqueue.store.values import FIRST, LAST

_TYPE: Final = "timestamptz"


def any_time_adapters() -> AdaptersMap:
    """What lets connections made with it (`context`) read such times as one of the ends (see `store.values`).

    They share it: whose own adapters are changed holds a copy of all that psycopg knows.
    """
    adapters = AdaptersMap(psycopg.adapters)
    for each in (_Text, _Binary):
        adapters.register_loader(_TYPE, each)
    return adapters


class _AnyTime(Loader):
    def __init__(self, oid: int, context: Any = None) -> None:
        super().__init__(oid, context)
        quick = psycopg.adapters.get_loader(oid, self.format)  # in C, where psycopg has that
        assert quick is not None
        self._quick = quick(oid, context).load

    def load(self, data: Buffer) -> Any:
        try:
            return self._quick(data)
        except (psycopg.DataError, OverflowError):
            return FIRST if self._is_early(bytes(data)) else LAST

    def _is_early(self, data: bytes) -> bool:
        raise NotImplementedError


class _Text(_AnyTime):
    format = Format.TEXT

    def _is_early(self, data: bytes) -> bool:
        return data.startswith((b"-", b"0001-")) or data.endswith(b"BC")  # -infinity; the first year in another zone


class _Binary(_AnyTime):
    format = Format.BINARY

    def _is_early(self, data: bytes) -> bool:
        return data[0] >= 0x80  # microseconds since 2000, with a sign
