"""The settings, and finding an application by its name, under the module name of `celery.app.utils`."""

from __future__ import annotations

from dbqueue.app.loading import find_app
from dbqueue.conf import Settings
from dbqueue.services.bugreport import bugreport

__all__ = ["Settings", "bugreport", "find_app"]
