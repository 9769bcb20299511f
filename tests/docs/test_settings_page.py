"""docs/settings.md is what docs/generate_settings.py makes of the code as it is."""

from __future__ import annotations

import runpy
from pathlib import Path

from dbqueue.settings import SETTINGS

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_page_is_up_to_date() -> None:
    generated = runpy.run_path(str(DOCS / "generate_settings.py"))["page"]()
    written = (DOCS / "settings.md").read_text()
    assert written == generated, "run `python docs/generate_settings.py`"


def test_every_setting_has_its_line() -> None:
    written = (DOCS / "settings.md").read_text()
    assert [name for name in SETTINGS if f"\n| `{name}` |" not in written] == []
