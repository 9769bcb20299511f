"""The examples of a Markdown page, and what is to be done with each.

A fence's language says how it is run:

    python    in the page's own Python process, one after the other; `await` is allowed
    pycon     as `python`, typed at the prompt; the answers must be those of the page (`...` is anything)
    sql       statement by statement on the page's database; the last one's rows are not compared
    console   each line after `$ ` in a shell; what follows it must be what it prints (`...` is anything)

A comment on the line before a fence changes that, unseen by readers:

    <!-- test: file NAME -->      written to NAME in the page's folder, and not run
    <!-- test: sqlite -->         only where the page runs on SQLite; `postgresql` likewise
    <!-- test: background -->     the command is not waited for: it runs until the page's end
    <!-- test: log -->            these lines must be in the log of the last background command (`...` is anything)
    <!-- test: raises NAME -->    the block must end with this exception
    <!-- test: returns N -->      the command's exit code is N, not 0
    <!-- test: skip REASON -->    not run

A comment of several lines that begins with `<!-- test: hidden` holds Python that is run and not shown.

`postgresql://localhost/shop` (with any driver's name) is the page's database, whatever it really is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TESTED: Final = ("python", "pycon", "sql", "console")
DIRECTIVES: Final = ("file", "log", "sqlite", "postgresql", "background", "raises", "returns", "skip", "hidden")

_FENCE: Final = re.compile(
    r"(?P<marks>(?:^<!-- test: [^\n]*? -->\n+)*)^(?P<ticks>```+)(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=ticks)$"
    r"|^<!-- test: hidden\n(?P<hidden>.*?)^-->$",
    re.MULTILINE | re.DOTALL,
)
_MARK: Final = re.compile(r"<!-- test: (\w+)\s*(.*?) -->")


@dataclass(frozen=True, slots=True)
class Block:
    """One fence: `line` is that of its first line of text in the page."""

    line: int
    language: str
    text: str
    marks: dict[str, str]

    def runs_on(self, dialect: str) -> bool:
        wanted = {"sqlite", "postgresql"} & set(self.marks)
        return "skip" not in self.marks and (not wanted or dialect in wanted)


def blocks(page: Path) -> list[Block]:
    """The page's fences in a tested language, in their order."""
    text = page.read_text()
    found = []
    for match in _FENCE.finditer(text):
        hidden = match["hidden"] is not None
        marks = {} if hidden else dict(_MARK.findall(match["marks"]))
        unknown = set(marks) - set(DIRECTIVES)
        line = text.count("\n", 0, match.start("hidden" if hidden else "text")) + 1
        if unknown:
            raise ValueError(f"{page.name}:{line}: unknown test directive {', '.join(unknown)}")
        language = "python" if hidden else match["language"]
        if language in TESTED or {"file", "log"} & set(marks):
            found.append(Block(line, language, match["hidden"] if hidden else match["text"], marks))
    return found
