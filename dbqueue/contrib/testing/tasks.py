"""The task that Celery's testing programs import, so that their application has it."""

from __future__ import annotations

from dbqueue.shared import shared_task


@shared_task(name="celery.ping")
def ping() -> str:
    """`pong`."""
    return "pong"
