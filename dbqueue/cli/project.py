"""`[tool.dbqueue]` of the current folder's pyproject.toml: what options are where neither flag nor environment says.

    [tool.dbqueue]
    app = "shop"

    [tool.dbqueue.worker]
    loglevel = "info"
    queues = ["shop", "mail"]

Names are those of the long options, of `dbqueue` itself or of the command in the table's name. They become click's
`default_map`, which stands where this should: below flags and environment, above defaults.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from dbqueue.settings.setting import ENVIRONMENT_PREFIX

FILE: Final = "pyproject.toml"
TABLE: Final = "tool.dbqueue"

_VARIABLES: Final = {
    "concurrency": ("WORKER_CONCURRENCY",),
    "pool": ("WORKER_POOL",),
    "include": ("INCLUDE",),
    "time_limit": ("TASK_TIME_LIMIT",),
    "soft_time_limit": ("TASK_SOFT_TIME_LIMIT",),
    "max_tasks_per_child": ("WORKER_MAX_TASKS_PER_CHILD",),
    "max_memory_per_child": ("WORKER_MAX_MEMORY_PER_CHILD",),
    "task_events": ("WORKER_SEND_TASK_EVENTS",),
    "database": ("DATABASE_URL", "BROKER_URL"),
}
"""Options that are a setting too: its variable of the environment is stronger than the table."""


def project_table() -> dict[str, Any]:
    """The table; empty where there is none. Raises UsageError for a file that cannot be read."""
    try:
        text = Path(FILE).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise click.UsageError(f"{FILE} cannot be read: {error}") from error
    if TABLE not in text:
        return {}
    import tomllib

    try:
        table = tomllib.loads(text).get("tool", {}).get("dbqueue", {})
    except tomllib.TOMLDecodeError as error:
        raise click.UsageError(f"{FILE} cannot be read: {error}") from error
    if not isinstance(table, dict):
        raise click.UsageError(f"[{TABLE}] in {FILE} must be a table")
    return table


def option_defaults(
    command: click.Command, table: Mapping[str, Any], commands: Mapping[str, Any], path: str = TABLE
) -> dict[str, Any]:
    """The table by the names of the command's parameters; what is said of its sub-`commands` stays as it is.

    Raises UsageError for a name that is neither.
    """
    parameters = {name: each for each in command.params for name in each.opts if name.startswith("--")}
    found: dict[str, Any] = {}
    for name, value in table.items():
        if name in commands:
            if not isinstance(value, dict):
                raise click.UsageError(f"[{path}.{name}] in {FILE} must be a table of options")
            found[name] = value
            continue
        parameter = parameters.get("--" + name.replace("_", "-"))
        if parameter is None or parameter.name is None:
            raise click.UsageError(f"[{path}] in {FILE} has {name!r}, and there is no option or command of this name")
        if not any(os.environ.get(ENVIRONMENT_PREFIX + each) for each in _VARIABLES.get(parameter.name, ())):
            found[parameter.name] = _value(parameter, value)
    return found


def _value(parameter: click.Parameter, value: Any) -> Any:
    """Lists for options that may be given more than once; for others the text with commas that a person types."""
    if isinstance(parameter, click.Option) and parameter.multiple:
        return value if isinstance(value, list) else [value]
    return ",".join(map(str, value)) if isinstance(value, list) else value


def named_in_table(error: click.BadParameter) -> bool:
    """Whether the value that is wrong came from the table."""
    if error.ctx is None or error.param is None or error.param.name is None:
        return False
    return error.ctx.get_parameter_source(error.param.name) is click.core.ParameterSource.DEFAULT_MAP
