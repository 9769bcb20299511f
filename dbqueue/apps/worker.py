"""The worker, under the module name of `celery.apps.worker`."""

from __future__ import annotations

from dbqueue.services.workers import Worker

__all__ = ["Worker"]
