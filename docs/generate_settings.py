"""Writes docs/settings.md from dbqueue/settings/calls.py and running.py: `python docs/generate_settings.py`.

A test compares the two, so the page cannot fall behind the code.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dbqueue.settings import GROUPS, Setting
from dbqueue.settings.celery import WITHOUT_MEANING

PAGE: Final = Path(__file__).with_name("settings.md")

HEAD: Final = """\
# Settings

<!-- Made by docs/generate_settings.py from dbqueue/settings/calls.py and running.py: change that, and run it. -->

Names and meanings are Celery's unless a line says otherwise. There are six ways to set them:

| way | example |
|---|---|
| one by one | `app.conf.timezone = "Europe/Oslo"` |
| many at once | `app.conf.update(timezone="Europe/Oslo", task_default_queue="shop")` |
| from a module | `app.config_from_object("config")`, or the module itself |
| from some of a module | `app.config_from_object("config", namespace="CELERY")` reads `CELERY_TIMEZONE = ...` |
| from a module that a variable names | `app.config_from_envvar("SHOP_CONFIG")` |
| from the environment | `DBQUEUE_TIMEZONE=Europe/Oslo` |

Where one is set twice, the strongest counts: a flag of the command line, then the environment's
`DBQUEUE_...`, then code (the last one), then the default. Each value is checked when it is set; one that
cannot work raises `ImproperlyConfigured`, which says what the setting takes. An unknown name is kept, with
a warning that names the nearest known one. Examples of every way are in `examples/configuration/`.

"""

TAIL: Final = """\
## Celery's settings without a meaning here

These are accepted, so that a ported configuration loads, with one warning that gives the reason.

| reason | settings |
|---|---|
"""


def page() -> str:
    """The text of the page."""
    parts = [HEAD]
    for title, settings in GROUPS.items():
        rows = "".join(row(setting) for setting in settings)
        parts.append(f"## {title}\n\n| setting | default | takes | meaning |\n|---|---|---|---|\n{rows}")
    reasons: dict[str, list[str]] = {}
    for name, reason in WITHOUT_MEANING.items():
        reasons.setdefault(reason, []).append(f"`{name}`")
    rows = "".join(f"| {cell(reason)} | {', '.join(sorted(names))} |\n" for reason, names in reasons.items())
    parts.append(TAIL + rows)
    return "\n".join(parts)


def row(setting: Setting) -> str:
    """The setting's line in its table."""
    cells = f"`{setting.name}`", f"`{setting.default!r}`", cell(setting.kind.description), cell(setting.doc)
    return f"| {' | '.join(cells)} |\n"


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    PAGE.write_text(page())
