"""The application, under the module name of `celery.app.base`."""

from __future__ import annotations

from dbqueue.app import Celery, DBQueue

__all__ = ["Celery", "DBQueue"]
