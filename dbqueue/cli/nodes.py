"""`multi`'s words as nodes: names and ranges, options for all of them and for some.

    3 -c 2 -Q:1 images -Q:2,3 data        three nodes, celery1 to celery3
    web mail -c:mail 1 -l info            two nodes, by name

An option that is followed by a colon is for the nodes that are named after it, by number (from 1,
ranges as in 1-3), or by name. `%n`, `%h`, `%i` and `%I` in file names are filled in for each node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import click

from dbqueue.cli.log_options import filled

RANGE_PREFIX: Final = "celery"
"""How nodes are called that are only counted."""
OWN: Final = ("--prefix", "--suffix", "--range-prefix", "--executable", "--cmd")
"""Options of `multi` itself that take a value."""
OTHERWISE: Final = {"-L": "-l"}
"""Options that Celery's guide to `multi` writes in another way than workers know them."""

Given = list[tuple[str, str | None]]
"""Options in the order in which they were typed; None where one takes no value."""


@dataclass(frozen=True, slots=True)
class Node:
    """One worker to be: its full name, and its options on the command line of `worker`."""

    name: str
    options: tuple[str, ...]
    pidfile: str
    """With its placeholders filled in."""


@dataclass(slots=True)
class Words:
    """What was typed after the command of `multi`."""

    names: list[str] = field(default_factory=list)
    common: Given = field(default_factory=list)
    some: dict[str, Given] = field(default_factory=dict)
    own: dict[str, str] = field(default_factory=dict)
    rest: list[str] = field(default_factory=list)
    """What follows `--`, for every node."""


def takes_value(command: click.Command) -> dict[str, bool]:
    """The options of a command, and whether each takes a value."""
    return {
        name: not getattr(parameter, "is_flag", False)
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for name in (*parameter.opts, *parameter.secondary_opts)
    }


def read(words: Sequence[str], known: Mapping[str, bool]) -> Words:
    """Sort the words. Raises UsageError for an option that `known` does not have."""
    found, left = Words(), list(words)
    while left:
        word = left.pop(0)
        if word == "--":
            found.rest, left = left, []
        elif not word.startswith("-") or word == "-":
            found.names.append(word)
        else:
            option, target, value = _option(word, known)
            if option in OWN or known[option]:
                if value is None and not left:
                    raise click.UsageError(f"the option {option} needs a value")
                value = left.pop(0) if value is None else value
            if option in OWN:
                found.own[option] = value or ""
            elif target is None:
                found.common.append((option, value))
            else:
                for each in target.split(","):
                    found.some.setdefault(each, []).append((option, value))
    return found


def _option(word: str, known: Mapping[str, bool]) -> tuple[str, str | None, str | None]:
    """Its name, whom it is for, and its value where that is in the same word."""
    head, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
    option, colon, target = head.partition(":")
    option = OTHERWISE.get(option, option)
    given: str | None = value if equals else None
    if option not in known and not option.startswith("--") and option[:2] in known:  # -c3, -lINFO
        option, given = option[:2], option[2:] + colon + target
        colon = ""
    if option not in known and option not in OWN:
        raise click.UsageError(f"no such option of `dbqueue worker`: {option}")
    return option, target if colon else None, given


def nodes(words: Words, *, host: str, pidfile: str, logfile: str) -> list[Node]:
    """The nodes that the words name. Raises UsageError for options of a node that is not among them."""
    names = _names(words, host)
    per_node = _per_node(words.some, names)
    made = []
    for name in names:
        options = [*words.common, *per_node[name]]
        chosen = {option: value for option, value in options if value is not None}
        for option, default in (("--pidfile", pidfile), ("--logfile", logfile)):
            if option not in chosen and not (option == "--logfile" and "-f" in chosen):
                options.append((option, default))
                chosen[option] = default
        flat = [text for option, value in options for text in _typed(option, value)]
        made.append(Node(name, (*flat, *words.rest, "-n", name), filled(chosen["--pidfile"], name)))
    return made


def _typed(option: str, value: str | None) -> Iterable[str]:
    if value is None:
        return (option,)
    return (f"{option}={value}",) if option.startswith("--") else (option, value)


def _names(words: Words, host: str) -> list[str]:
    names, prefix = words.names, words.own.get("--prefix", "")
    if len(names) == 1 and names[0].isdigit():
        names = [str(number) for number in range(1, int(names[0]) + 1)]
        prefix = words.own.get("--range-prefix", prefix or RANGE_PREFIX)
    if not names:
        raise click.UsageError("which nodes? Give their names, or their number: `dbqueue multi start 3`")
    suffix = words.own.get("--suffix", host).strip("\"'")
    full = [f"{prefix}{name}" for name in names]
    return [name if "@" in name or not suffix else f"{name}@{suffix}" for name in full]


def _per_node(some: Mapping[str, Given], names: Sequence[str]) -> dict[str, Given]:
    chosen: dict[str, Given] = {name: [] for name in names}
    for target, options in some.items():
        for name in _meant(target, names):
            chosen[name] += options
    return chosen


def _meant(target: str, names: Sequence[str]) -> list[str]:
    """The nodes that a number, a range of numbers or a name stands for."""
    for name in names:
        if target in (name, name.partition("@")[0]):
            return [name]
    first, dash, last = target.partition("-")
    if first.isdigit() and (last.isdigit() if dash else True):
        numbers = range(int(first), int(last if dash else first) + 1)
        if all(1 <= number <= len(names) for number in numbers):
            return [names[number - 1] for number in numbers]
    raise click.UsageError(f"there is no node {target!r} among {', '.join(names)}")
