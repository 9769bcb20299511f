"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.servers import Servers, libpq
from dbqueue.version import __version__


def describe(servers: Servers, peers: dict[str, str]) -> dict[str, Any]:
    """The machine, the versions and the settings that matter, and one line of them."""
    with psycopg.connect(libpq(servers.postgres)) as connection:
        shown = {
            name: connection.execute(f"SHOW {name}".encode()).fetchone()
            for name in ("server_version", "fsync", "synchronous_commit")
        }
    settings = {name: value[0] for name, value in shown.items() if value}
    versions = {
        "dbqueue": __version__,
        "Python": platform.python_version(),
        "PostgreSQL": settings.pop("server_version"),
        "SQLAlchemy": metadata.version("SQLAlchemy"),
        "psycopg": metadata.version("psycopg"),
        **peers,
    }
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    about: dict[str, Any] = {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "system": platform.platform(),
        "postgres_settings": settings,
        "versions": versions,
        "summary": f"{os.cpu_count()} cores ({_processor()}), {listed}",
    }
    return about


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
