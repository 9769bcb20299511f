"""Remote control, under the module name of `celery.app.control`."""

from __future__ import annotations

from dbqueue.control import Control
from dbqueue.inspection import Inspect

__all__ = ["Control", "Inspect"]
