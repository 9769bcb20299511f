"""The beat, under the module name of `celery.apps.beat`."""

from __future__ import annotations

from dbqueue.services.beats import BeatService as Beat

__all__ = ["Beat"]
