"""Prints the oldest versions that pyproject.toml allows, as constraints for pip: `python lower_bounds.py > file`.

Of what an application gets with dbqueue and its extras, not of what the tests use.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
_BOUND = re.compile(r"(?P<name>[\w-]+)(\[[\w,-]+\])?>=(?P<version>[\d.]+)$")


def constraints() -> Iterator[str]:
    """`name==version` for each dependency; ValueError for one whose lower bound cannot be read."""
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    for dependency in chain(project["dependencies"], *project["optional-dependencies"].values()):
        if ";" in dependency:  # of another system
            continue
        bound = _BOUND.match(dependency)
        if bound is None:
            raise ValueError(f"{dependency!r} has no lower bound: write it as name>=version")
        yield f"{bound['name']}=={bound['version']}"


if __name__ == "__main__":
    print("\n".join(dict.fromkeys(constraints())))  # noqa: T201
