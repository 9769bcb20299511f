"""What a command's exit code says."""

from __future__ import annotations

from typing import Final

OK: Final = 0
FAILURE: Final = 1
USAGE: Final = 2
"""The command line, a setting or the application's name cannot be right."""
NOT_MIGRATED: Final = 3
"""The tables are missing, too old or too new."""
NOBODY_ANSWERED: Final = 69
"""No worker is there; Celery's code (EX_UNAVAILABLE of sysexits.h)."""
