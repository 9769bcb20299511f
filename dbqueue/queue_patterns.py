"""Names of queues with a star in them: `reports.*` stands for each queue whose name begins with `reports.`"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from functools import lru_cache


def is_pattern(name: str) -> bool:
    """Whether the name stands for many: it has a star, which stands for any text."""
    return "*" in name


@lru_cache(maxsize=1024)
def star_pattern(pattern: str) -> re.Pattern[str]:
    """The regular expression for the whole of a name; everything but the star is itself."""
    return re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL)


def matches(name: str, chosen: Iterable[str]) -> bool:
    """Whether the name is one of these, or fits one of them that is a pattern."""
    return any(name == each or (is_pattern(each) and star_pattern(each).fullmatch(name) is not None) for each in chosen)


def resolve(chosen: Iterable[str], present: Collection[str], excluded: Collection[str] = ()) -> list[str]:
    """The queues that `chosen` stands for: plain names, and for a pattern those of `present` that fit it, by name.

    In the order of `chosen`, each once. Of what a pattern stands for none is there that `excluded` names or fits; a
    name in full is meant as it is.
    """
    names: dict[str, None] = {}
    for each in chosen:
        if is_pattern(each):
            fitting = (name for name in present if star_pattern(each).fullmatch(name) and not matches(name, excluded))
            names.update(dict.fromkeys(sorted(fitting)))
        else:
            names[each] = None
    return list(names)
